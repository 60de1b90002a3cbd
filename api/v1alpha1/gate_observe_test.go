package v1alpha1

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func wantViolations(t *testing.T, errs field.ErrorList, want ...string) {
	t.Helper()
	if len(errs) != len(want) {
		t.Errorf("%d violations, want %d: %v", len(errs), len(want), errs)
	}
	for i, w := range want {
		if i < len(errs) && !strings.Contains(errs[i].Error(), w) {
			t.Errorf("violation %v, want %q", errs[i], w)
		}
	}
}

func TestGateTracingValidation(t *testing.T) {
	rate := func(n int32) *int32 { return &n }
	for name, test := range map[string]struct {
		tracing GateTracing
		want    []string
	}{
		"defaults":         {GateTracing{Endpoint: "https://collector:4318"}, nil},
		"loopback":         {GateTracing{Endpoint: "http://127.0.0.1:4318"}, nil},
		"loopback, IPv6":   {GateTracing{Endpoint: "http://[::1]:4318/v1/traces"}, nil},
		"nothing":          {GateTracing{}, []string{"endpoint"}},
		"no scheme":        {GateTracing{Endpoint: "collector:4318"}, []string{"endpoint"}},
		"plain":            {GateTracing{Endpoint: "http://collector:4318"}, []string{"loopback"}},
		"gRPC":             {GateTracing{Endpoint: "grpc://collector:4317"}, []string{"OTLP over HTTP"}},
		"a password":       {GateTracing{Endpoint: "https://u:hidden@collector"}, []string{"without user"}},
		"a CA for nothing": {GateTracing{Endpoint: "http://localhost:4318", CAFile: "/ca"}, []string{"caFile"}},
		"too many":         {GateTracing{Endpoint: "https://c", SamplingRatePerMillion: rate(1_000_001)}, []string{"samplingRatePerMillion"}},
		"fewer than none":  {GateTracing{Endpoint: "https://c", SamplingRatePerMillion: rate(-1)}, []string{"samplingRatePerMillion"}},
		"none":             {GateTracing{Endpoint: "https://c", SamplingRatePerMillion: rate(0)}, nil},
		"half a switch":    {GateTracing{Endpoint: "https://c", ClientSampling: "on"}, []string{"clientSampling"}},
	} {
		t.Run(name, func(t *testing.T) {
			test.tracing.setDefaults()
			errs := test.tracing.validate(field.NewPath("tracing"))
			wantViolations(t, errs, test.want...)
			if len(errs) > 0 && strings.Contains(errs.ToAggregate().Error(), "hidden") {
				t.Error("the message shows the password")
			}
		})
	}
}

func TestGateAccessLogValidation(t *testing.T) {
	ratio := func(r float64) *float64 { return &r }
	for name, test := range map[string]struct {
		log  GateAccessLog
		want []string
	}{
		"defaults":        {GateAccessLog{File: "/var/log/seakeep/access.log"}, nil},
		"stdout":          {GateAccessLog{File: Stdout, SampleRatio: ratio(0)}, nil},
		"all":             {GateAccessLog{File: Stdout, SampleRatio: ratio(1)}, nil},
		"nowhere":         {GateAccessLog{}, []string{"file"}},
		"relative":        {GateAccessLog{File: "access.log"}, []string{"absolute"}},
		"a folder":        {GateAccessLog{File: "/var/log/"}, []string{"absolute"}},
		"more than all":   {GateAccessLog{File: Stdout, SampleRatio: ratio(1.5)}, []string{"sampleRatio"}},
		"not a number":    {GateAccessLog{File: Stdout, SampleRatio: ratio(math.NaN())}, []string{"sampleRatio"}},
		"unbounded":       {GateAccessLog{File: Stdout, MaxLinesPerSecond: -1}, []string{"maxLinesPerSecond"}},
		"slower than 0":   {GateAccessLog{File: Stdout, Always: GateAccessLogAlways{SlowerThan: &metav1.Duration{}}}, []string{"slowerThan"}},
		"slower than 1 h": {GateAccessLog{File: Stdout, Always: GateAccessLogAlways{SlowerThan: &metav1.Duration{Duration: time.Hour}}}, []string{"slowerThan"}},
		"switches":        {GateAccessLog{File: Stdout, Always: GateAccessLogAlways{Errors: "yes", Rejections: "no"}}, []string{"errors", "rejections"}},
	} {
		t.Run(name, func(t *testing.T) {
			test.log.setDefaults()
			wantViolations(t, test.log.validate(field.NewPath("accessLog")), test.want...)
		})
	}
}

// No configuration lets system:masters in without saying so.
func TestMastersAreRefusedUnlessAcknowledged(t *testing.T) {
	for name, test := range map[string]struct {
		groups []string
		allow  Switch
		want   []string
		refuse bool
	}{
		"default":              {nil, "", nil, true},
		"an empty list":        {[]string{}, "", []string{"allowMasters"}, false},
		"another list":         {[]string{"system:nodes"}, "", []string{"allowMasters"}, false},
		"another spelling":     {[]string{"System:Masters", "system:masters "}, "", []string{"allowMasters"}, false},
		"a longer list":        {[]string{"system:nodes", "system:masters"}, "", nil, true},
		"acknowledged":         {nil, Enabled, nil, false},
		"acknowledged, others": {[]string{"system:nodes"}, Enabled, nil, false},
		"contradictory":        {[]string{"system:masters"}, Enabled, []string{"must not contain"}, true},
		"half acknowledged":    {nil, "true", []string{"allowMasters"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			c := GateConfiguration{Identity: GateIdentity{RefuseGroups: test.groups, AllowMasters: test.allow}}
			c.SetDefaults()
			wantViolations(t, c.Identity.validateMasters(field.NewPath("identity")), test.want...)
			if got := slices.Contains(c.Identity.RefuseGroups, "system:masters"); got != test.refuse {
				t.Errorf("system:masters refused: %t, want %t", got, test.refuse)
			}
		})
	}
}
