package v1alpha1

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

func TestGateConnections(t *testing.T) {
	for name, test := range map[string]struct {
		given, want GateConnections
		wantError   string
	}{
		"nothing is bounded as shipped":  {given: GateConnections{}, want: GateConnections{Max: 20000, MaxPerSource: 10000, MaxStreams: 100}},
		"half is one source's":           {given: GateConnections{Max: 100}, want: GateConnections{Max: 100, MaxPerSource: 50, MaxStreams: 100}},
		"everybody is one source":        {given: GateConnections{Max: 100, MaxPerSource: 100}, want: GateConnections{Max: 100, MaxPerSource: 100, MaxStreams: 100}},
		"too few":                        {given: GateConnections{Max: 15}, want: GateConnections{Max: 15, MaxPerSource: 7, MaxStreams: 100}, wantError: "max"},
		"more for one than for all":      {given: GateConnections{Max: 100, MaxPerSource: 101}, want: GateConnections{Max: 100, MaxPerSource: 101, MaxStreams: 100}, wantError: "maxPerSource"},
		"a negative bound is no way out": {given: GateConnections{Max: -1, MaxStreams: -1}, want: GateConnections{Max: -1, MaxPerSource: 1, MaxStreams: -1}, wantError: "max"},
	} {
		t.Run(name, func(t *testing.T) {
			got := test.given
			got.setDefaults()
			if got != test.want {
				t.Errorf("with defaults %+v, want %+v", got, test.want)
			}
			wantErrors(t, got.validate(field.NewPath("connections")), test.wantError)
		})
	}
}

func TestRequestHeaders(t *testing.T) {
	for name, test := range map[string]struct {
		given     RequestHeaders
		wantError string
	}{
		"the usual ones":       {},
		"others, and several":  {given: RequestHeaders{Usernames: []string{"Company-User", "X-Remote-User"}, ExtraPrefixes: []string{"Company-Extra-"}}},
		"an empty name":        {given: RequestHeaders{Groups: []string{""}}, wantError: "groups[0]"},
		"an underscore":        {given: RequestHeaders{UIDs: []string{"X-Remote-Uid", "company_uid"}}, wantError: "uids[1]"},
		"the client's token":   {given: RequestHeaders{Usernames: []string{"authorization"}}, wantError: "usernames[0]"},
		"a client's own right": {given: RequestHeaders{ExtraPrefixes: []string{"Impersonate-Extra-"}}, wantError: "extraPrefixes[0]"},
	} {
		t.Run(name, func(t *testing.T) {
			headers := test.given.WithDefaults()
			wantErrors(t, headers.validate(field.NewPath("requestHeaders")), test.wantError)
		})
	}
}

func wantErrors(t *testing.T, errs field.ErrorList, want string) {
	t.Helper()
	if got := errs.ToAggregate(); want == "" && got != nil || want != "" && (got == nil || !strings.Contains(got.Error(), want)) {
		t.Errorf("got %v, want an error with %q", got, want)
	}
}
