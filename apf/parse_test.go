package apf

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
)

func TestParseOriginal(t *testing.T) {
	o := Original{Shares: 30, Lendable: 33, AutoUpdate: "true", WroteShares: 603}
	if got, err := parseOriginal(o.text()); err != nil || got != o {
		t.Errorf("%+v, %v", got, err)
	}
	for name, text := range map[string]string{
		"not JSON":         "30",
		"negative shares":  `{"shares":-1}`,
		"lends too much":   `{"lendable":101}`,
		"no truth value":   `{"autoUpdate":"perhaps"}`,
		"too large":        `{"shares":3000000000}`,
		"longer than that": `{"autoUpdate":"` + strings.Repeat("x", 2000) + `"}`,
	} {
		if got, err := parseOriginal(text); err == nil {
			t.Errorf("%s: taken as %+v", name, got)
		}
	}
}

func FuzzParseOriginal(f *testing.F) {
	f.Add(Original{Shares: 30, Lendable: 33, AutoUpdate: "true", WroteShares: 603}.text())
	f.Add("{}")
	f.Fuzz(func(t *testing.T, text string) {
		o, err := parseOriginal(text)
		if err != nil {
			return
		}
		if again, err := parseOriginal(o.text()); err != nil || again != o {
			t.Errorf("%q is read as %+v, and that as %+v, %v", text, o, again, err)
		}
	})
}

const gatePage = `# HELP seakeep_gate_admit_limit_seats Seats.
# TYPE seakeep_gate_admit_limit_seats gauge
seakeep_gate_admit_limit_seats 42.5
seakeep_gate_admit_limit_seats_other 7
process_cpu_seconds_total 1
`

func TestParseLimit(t *testing.T) {
	for name, tc := range map[string]struct {
		text string
		want float64
	}{
		"one":        {gatePage, 42.5},
		"by a label": {"seakeep_gate_admit_limit_seats{a=\"b\"} 1\nseakeep_gate_admit_limit_seats{a=\"c\"} 2\n", 3},
		"nothing":    {"seakeep_gate_admit_limit_seats 0\n", 0},
	} {
		if got, err := parseLimit(strings.NewReader(tc.text)); err != nil || got != tc.want {
			t.Errorf("%s: %v, %v, want %v", name, got, err, tc.want)
		}
	}
	for name, text := range map[string]string{
		"another program": "process_cpu_seconds_total 1\n", "not a number": "seakeep_gate_admit_limit_seats NaN\n",
		"below nothing": "seakeep_gate_admit_limit_seats -1\n", "without end": "seakeep_gate_admit_limit_seats +Inf\n", "no value": "seakeep_gate_admit_limit_seats \n",
		"too many": strings.Repeat("seakeep_gate_admit_limit_seats 1\n", maxLimitLines+1),
	} {
		if got, err := parseLimit(strings.NewReader(text)); err == nil {
			t.Errorf("%s: taken as %v", name, got)
		}
	}
}

func FuzzParseLimit(f *testing.F) {
	f.Add(gatePage)
	f.Add("seakeep_gate_admit_limit_seats{")
	f.Fuzz(func(t *testing.T, text string) {
		if got, err := parseLimit(strings.NewReader(text)); err == nil && (!(got >= 0) || math.IsInf(got, 0)) {
			t.Errorf("%q is read as %v", text, got)
		}
	})
}

func TestJailValidate(t *testing.T) {
	good := Jail{User: "alice", For: time.Minute}
	for name, tc := range map[string]struct {
		change func(*Jail)
		want   string
	}{
		"good":                     {func(*Jail) {}, ""},
		"nobody":                   {func(j *Jail) { j.User = "" }, "got 0"},
		"two":                      {func(j *Jail) { j.Group = "dev" }, "got 2"},
		"half a service account":   {func(j *Jail) { j.User, j.ServiceAccount = "", "telemetry" }, "namespace/name"},
		"all of a namespace":       {func(j *Jail) { j.User, j.ServiceAccount = "", "monitoring/*" }, ""},
		"forever":                  {func(j *Jail) { j.For = 25 * time.Hour }, "1s to 24h"},
		"no verb":                  {func(j *Jail) { j.Verbs = []string{"LIST"} }, "a verb must be"},
		"masters":                  {func(j *Jail) { j.User, j.Group, j.System = "", "system:masters", true }, "exempt"},
		"DNS":                      {func(j *Jail) { j.User, j.ServiceAccount = "", "kube-system/coredns" }, "lives by it"},
		"DNS as a user":            {func(j *Jail) { j.User = "system:serviceaccount:kube-system:coredns" }, "lives by it"},
		"DNS all the same":         {func(j *Jail) { j.User, j.ServiceAccount, j.System = "", "kube-system/coredns", true }, ""},
		"the scheduler":            {func(j *Jail) { j.User = "system:kube-scheduler" }, "lives by it"},
		"a node":                   {func(j *Jail) { j.User = "system:node:a" }, "lives by it"},
		"everybody":                {func(j *Jail) { j.User, j.Group = "", "system:authenticated" }, "lives by it"},
		"another service account":  {func(j *Jail) { j.User = "system:serviceaccount:monitoring:telemetry" }, ""},
		"a namespace's accounts":   {func(j *Jail) { j.User, j.Group = "", "system:serviceaccounts:monitoring" }, ""},
		"all service accounts":     {func(j *Jail) { j.User, j.Group = "", "system:serviceaccounts" }, "lives by it"},
		"a reason of many letters": {func(j *Jail) { j.Reason = strings.Repeat("x", 2000) }, "kilobyte"},
	} {
		t.Run(name, func(t *testing.T) {
			jail := good
			tc.change(&jail)
			err := jail.Validate()
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("want %q, got %v", tc.want, err)
			}
			if strings.Contains(tc.want, "lives by") && !errors.Is(err, ErrSystem) {
				t.Errorf("want ErrSystem, got %v", err)
			}
		})
	}
}

func FuzzJailName(f *testing.F) {
	f.Add("system:serviceaccount:monitoring:telemetry", "list")
	f.Add("ÄÖ@example.com", "")
	f.Add("---", "get")
	f.Fuzz(func(t *testing.T, user, verb string) {
		name := Jail{User: user, Verbs: []string{verb}}.Name()
		if errs := validation.IsDNS1123Subdomain(name); len(errs) > 0 {
			t.Errorf("%q: %v", name, errs)
		}
		if other := (Jail{Group: user, Verbs: []string{verb}}).Name(); other == name {
			t.Errorf("a user and a group have the same name %s", name)
		}
	})
}
