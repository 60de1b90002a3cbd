package v1alpha1

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func TestGateClampValidation(t *testing.T) {
	for name, test := range map[string]struct {
		clamp GateClamp
		want  []string
	}{
		"defaults":           {GateClamp{}, nil},
		"all of it":          {GateClamp{Mode: PolicyEnforce, HeadroomPercent: 30, Capacity: 40, Nodes: 5000, Exempt: []CallerMatch{{Users: []string{"a*"}, ServiceAccountNamespaces: []string{"b"}}}}, nil},
		"disabled":           {GateClamp{Mode: PolicyDisabled}, nil},
		"no such mode":       {GateClamp{Mode: "On"}, []string{"mode"}},
		"more than all":      {GateClamp{HeadroomPercent: 101}, []string{"headroomPercent"}},
		"less than none":     {GateClamp{HeadroomPercent: -1}, []string{"headroomPercent"}},
		"for ever":           {GateClamp{Duration: &metav1.Duration{Duration: 25 * time.Hour}}, []string{"ends by itself"}},
		"a moment":           {GateClamp{Duration: &metav1.Duration{Duration: time.Second}}, []string{"duration"}},
		"negative capacity":  {GateClamp{Capacity: -1}, []string{"capacity"}},
		"negative nodes":     {GateClamp{Nodes: -1}, []string{"nodes"}},
		"everyone is exempt": {GateClamp{Exempt: []CallerMatch{{}}}, []string{"except everyone"}},
		"a glob for a namespace": {GateClamp{Exempt: []CallerMatch{{ServiceAccountNamespaces: []string{"team-*"}}}},
			[]string{"exact name"}},
		"an empty user": {GateClamp{Exempt: []CallerMatch{{Users: []string{""}}}}, []string{"must not be empty"}},
	} {
		t.Run(name, func(t *testing.T) {
			test.clamp.setDefaults()
			before := test.clamp
			test.clamp.setDefaults()
			if before.Mode != test.clamp.Mode || before.Duration != test.clamp.Duration {
				t.Error("defaults are not idempotent")
			}
			wantViolations(t, test.clamp.validate(field.NewPath("clamp")), test.want...)
		})
	}
}

func TestGateBudgetsValidation(t *testing.T) {
	for name, test := range map[string]struct {
		budgets GateBudgets
		want    []string
	}{
		"defaults":     {GateBudgets{}, nil},
		"all of it":    {GateBudgets{Mode: PolicyEnforce, Default: "seats=2", Max: "seats-per-node=0.1,seats=10", User: "me"}, nil},
		"no such mode": {GateBudgets{Mode: "enforce"}, []string{"mode"}},
		"nonsense":     {GateBudgets{Default: "2"}, []string{"seats=NUMBER"}},
		"too much":     {GateBudgets{Max: "seats=1000000"}, []string{"max"}},
		"too often":    {GateBudgets{Refresh: &metav1.Duration{Duration: time.Second}}, []string{"refresh"}},
	} {
		t.Run(name, func(t *testing.T) {
			test.budgets.setDefaults()
			wantViolations(t, test.budgets.validate(field.NewPath("budgets")), test.want...)
		})
	}
}

func TestModes(t *testing.T) {
	concurrency := 1
	throttle := &Throttle{Concurrency: &concurrency}
	for name, test := range map[string]struct {
		rules []LimitRule
		want  []string
	}{
		"shadow":             {[]LimitRule{{Name: "a", Action: LimitThrottle, Throttle: throttle, Mode: Shadow}}, nil},
		"a shadow allows":    {[]LimitRule{{Name: "a", Action: LimitAllow, Mode: Shadow}}, []string{"turns nobody away"}},
		"disabled":           {[]LimitRule{{Name: "a", Action: LimitDeny, Mode: "Disabled"}}, []string{"mode"}},
		"behind a shadow":    {[]LimitRule{{Name: "a", Action: LimitDeny, Mode: Shadow}, {Name: "b", Action: LimitDeny}}, nil},
		"behind one that is": {[]LimitRule{{Name: "a", Action: LimitDeny}, {Name: "b", Action: LimitDeny, Mode: Shadow}}, []string{"can never match"}},
	} {
		t.Run(name, func(t *testing.T) {
			for i := range test.rules {
				test.rules[i].SetDefaults()
			}
			wantViolations(t, ValidateLimitRules(test.rules, field.NewPath("limits")), test.want...)
		})
	}
	for name, test := range map[string]struct {
		rule EmergencyRule
		want []string
	}{
		"shadow":             {EmergencyRule{Action: EmergencyBlock, Match: LimitMatch{Users: []string{"a"}}, Mode: Shadow}, nil},
		"passthrough":        {EmergencyRule{Action: EmergencyPassthrough, Mode: Shadow}, []string{"turns nobody away"}},
		"neither nor":        {EmergencyRule{Action: EmergencyPassthrough, Mode: "Trial"}, []string{"mode"}},
		"as it always was":   {EmergencyRule{Action: EmergencyPassthrough}, nil},
		"enforced, in words": {EmergencyRule{Action: EmergencyPassthrough, Mode: Enforce}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			test.rule.Reason, test.rule.Duration.Duration = "r", time.Minute
			wantViolations(t, test.rule.Validate(), test.want...)
		})
	}
}
