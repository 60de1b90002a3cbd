package v1alpha1

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// judged is what the analysis's own parts need to be checked together.
type judged struct {
	interval time.Duration // 0: a minute
	analysis RolloutAnalysis
	bake     RolloutBake
	gate     RolloutScaleGate
	ladder   RolloutLadder
}

func (j *judged) validate() field.ErrorList {
	if j.interval == 0 {
		j.interval = time.Minute
	}
	for range 2 { // idempotent
		j.analysis.setDefaults(j.interval)
		j.bake.setDefaults(&j.analysis, j.interval)
		j.gate.setDefaults()
		j.ladder.setDefaults()
	}
	errs := j.analysis.validate(j.interval, field.NewPath("analysis"))
	errs = append(errs, j.bake.validate(&j.analysis, j.interval, field.NewPath("bake"))...)
	errs = append(errs, j.gate.validate(field.NewPath("scaleGate"))...)
	return append(errs, j.ladder.validate(field.NewPath("onFailure"))...)
}

func TestRolloutAnalysisDefaultsAreValid(t *testing.T) {
	var j judged
	if errs := j.validate(); len(errs) > 0 {
		t.Error(errs.ToAggregate())
	}
	if got := j.bake.MinDuration.Duration; got != 10*time.Minute {
		t.Errorf("the default bake is %s", got)
	}
	j = judged{bake: RolloutBake{CacheTTLs: []RolloutCacheTTL{{Name: "java", TTL: metav1.Duration{Duration: 20 * time.Minute}}}}}
	if errs := j.validate(); len(errs) > 0 || j.bake.MinDuration.Duration != 43*time.Minute {
		t.Errorf("with a cache of 20 minutes the default bake is %s, want twice that and three looks: %v", j.bake.MinDuration.Duration, errs.ToAggregate())
	}
}

func TestRolloutAnalysisRefuses(t *testing.T) {
	duration := func(d time.Duration) *metav1.Duration { return &metav1.Duration{Duration: d} }
	metric := func(change func(*RolloutMetric)) func(*judged) {
		return func(j *judged) {
			m := RolloutMetric{Name: "m", SuccessCondition: "result > 0", Provider: RolloutMetricProvider{Prometheus: &RolloutPrometheus{Address: "http://prometheus", Query: "up"}}}
			change(&m)
			j.analysis.Metrics = append(j.analysis.Metrics, m)
		}
	}
	for name, tc := range map[string]struct {
		change func(*judged)
		want   string // the field
	}{
		"data that is always too old": {func(j *judged) { j.analysis.MaxDataAge = duration(time.Second) }, "analysis.maxDataAge"},
		"a window of two looks":       {func(j *judged) { j.analysis.Slow.Window = duration(2 * time.Minute) }, "analysis.slow.window"},
		"nothing to look at": {func(j *judged) {
			a := &j.analysis
			a.ControlPlane.Mode, a.DNS.Mode, a.Workload.Mode, a.Probes.Mode = Disabled, Disabled, Disabled, Disabled
		}, "analysis"},
		"more than all processors":          {func(j *judged) { j.analysis.ControlPlane.MaxCPU = 1.5 }, "analysis.controlPlane.maxCPU"},
		"a name for a DNS server":           {func(j *judged) { j.analysis.DNS.Servers = []string{"kube-dns:53"} }, "analysis.dns.servers[0]"},
		"a metric without a name":           {metric(func(m *RolloutMetric) { m.Name = "" }), "analysis.metrics[0].name"},
		"a metric that is always a success": {metric(func(m *RolloutMetric) { m.SuccessCondition = "" }), "analysis.metrics[0].successCondition"},
		"conditions and a comparison":       {metric(func(m *RolloutMetric) { m.Compare = &RolloutMetricCompare{} }), "analysis.metrics[0].compare"},
		"two providers":                     {metric(func(m *RolloutMetric) { m.Provider.Web = &RolloutWeb{URL: "http://x"} }), "analysis.metrics[0].provider"},
		"no query":                          {metric(func(m *RolloutMetric) { m.Provider.Prometheus.Query = " " }), "analysis.metrics[0].provider.prometheus.query"},
		"no scheme":                         {metric(func(m *RolloutMetric) { m.Provider.Prometheus.Address = "prometheus:9090" }), "analysis.metrics[0].provider.prometheus.address"},
		"errors without end":                {metric(func(m *RolloutMetric) { m.ConsecutiveErrorLimit = new(-1) }), "analysis.metrics[0].consecutiveErrorLimit"},
		"less than nothing allowed": {metric(func(m *RolloutMetric) {
			m.SuccessCondition, m.Compare = "", &RolloutMetricCompare{EffectSize: RolloutEffectSize{AllowedIncrease: 0.5}}
		}), "analysis.metrics[0].compare.effectSize.allowedIncrease"},
		"a bake shorter than a cache": {func(j *judged) {
			j.bake = RolloutBake{MinDuration: duration(20 * time.Minute), CacheTTLs: []RolloutCacheTTL{{Name: "nodes", TTL: *duration(20 * time.Minute)}}}
		}, "bake.minDuration"},
		"a detection shorter than it takes": {func(j *judged) { j.bake.DetectionWindow = duration(time.Minute) }, "bake.detectionWindow"},
		"no ConfigMap":                      {func(j *judged) { j.bake.Discover = []string{"coredns"} }, "bake.discover[0]"},
		"an unknown cost":                   {func(j *judged) { j.gate.Metrics = []ScaleGateMetric{"Latency"} }, "scaleGate.metrics[0]"},
		"nothing that has a capacity":       {func(j *judged) { j.gate.Metrics = []ScaleGateMetric{ScaleBytes, ScaleMemory} }, "scaleGate.capacity"},
		"an unknown capacity":               {func(j *judged) { j.gate.Capacity = map[string]float64{"latency": 1} }, "scaleGate.capacity[latency]"},
		"an unknown rung":                   {func(j *judged) { j.ladder.Rungs = []RolloutRung{{Name: RungFreeze}, {Name: "pray"}} }, "onFailure.rungs[1].name"},
		"a ladder upside down": {func(j *judged) {
			j.ladder.Rungs = []RolloutRung{{Name: RungFreeze}, {Name: RungRevert}, {Name: RungAPF}}
		}, "onFailure.rungs[2].name"},
		"no freeze":          {func(j *judged) { j.ladder.Rungs = []RolloutRung{{Name: RungAPF}} }, "onFailure.rungs[0].name"},
		"a jail without end": {func(j *judged) { j.ladder.Duration = duration(48 * time.Hour) }, "onFailure.duration"},
	} {
		t.Run(name, func(t *testing.T) {
			var j judged
			tc.change(&j)
			errs := j.validate()
			fields := make([]string, 0, len(errs))
			for _, err := range errs {
				fields = append(fields, err.Field)
			}
			if diff := cmp.Diff([]string{tc.want}, fields); diff != "" {
				t.Errorf("refused fields (-want +got):\n%s\n%v", diff, errs.ToAggregate())
			}
			for _, err := range errs {
				if strings.TrimSpace(err.Detail) == "" && err.Type != field.ErrorTypeDuplicate {
					t.Errorf("%s: no reason", err.Field)
				}
			}
		})
	}
}

func TestRolloutHeaders(t *testing.T) {
	file := func(name string) *RolloutHeaderSource { return &RolloutHeaderSource{File: name} }
	for name, test := range map[string]struct {
		header RolloutHeader
		want   string
	}{
		"a value": {RolloutHeader{Key: "k", Value: "v"}, ""},
		"a file":  {RolloutHeader{Key: "k", ValueFrom: file("f")}, ""},
		"both":    {RolloutHeader{Key: "k", Value: "v", ValueFrom: file("f")}, "headers[0].value"},
		"neither": {RolloutHeader{Key: "k"}, "headers[0].value"},
		"no name": {RolloutHeader{Value: "v"}, "headers[0].key"},
		"no file": {RolloutHeader{Key: "k", ValueFrom: file("")}, "headers[0].valueFrom.file"},
	} {
		t.Run(name, func(t *testing.T) {
			wantErrors(t, validateHeaders([]RolloutHeader{test.header}, field.NewPath("headers")), test.want)
		})
	}
}
