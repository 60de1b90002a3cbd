package limit

import (
	"fmt"
	"math"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

func FuzzCompileRule(f *testing.F) {
	f.Add("list", "pods/log", "10.0.0.0/8", "a*", 1.0, 1)
	f.Add("watch", "*", "::/0", "?", math.Inf(1), 0)
	f.Fuzz(func(t *testing.T, verb, res, cidr, glob string, rate float64, concurrency int) {
		spec := v1alpha1.LimitRule{Name: "r", Action: v1alpha1.LimitThrottle, Match: v1alpha1.LimitMatch{
			Verbs: []string{verb}, Resources: []string{res}, SourceCIDRs: []string{cidr}, Users: []string{glob}, UserAgents: []string{glob}},
			Throttle: &v1alpha1.Throttle{RequestsPerSecond: &rate, Concurrency: &concurrency}}
		spec.SetDefaults()
		errs := v1alpha1.ValidateLimitRules([]v1alpha1.LimitRule{spec}, field.NewPath("limits"))
		r, err := compileRule(&spec, nil, nil)
		if err != nil {
			if len(errs) == 0 {
				t.Fatalf("what validates does not compile: %v", err)
			}
			return
		}
		s := newSubject(request(glob))
		r.match.match(&s)
		if len(errs) > 0 {
			return
		}
		e := New(Options{})
		if err := e.Configure([]v1alpha1.LimitRule{spec}, nil); err != nil {
			t.Fatal(err)
		}
		p, rejection := e.Admit(request(glob), nil)
		if (p == nil) == (rejection == nil) {
			t.Fatal("not exactly one answer")
		}
		if p != nil {
			p.Done()
		}
	})
}

func BenchmarkAdmit(b *testing.B) {
	c := newClock()
	rules := make([]v1alpha1.LimitRule, 0, 50)
	for i := range 49 {
		rules = append(rules, throttle(fmt.Sprint("rule-", i), v1alpha1.LimitMatch{
			Users: []string{fmt.Sprintf("system:serviceaccount:team-%d:*", i)}, Verbs: []string{"list", "get"}, SourceCIDRs: []string{"10.0.0.0/8"}},
			v1alpha1.Throttle{RequestsPerSecond: one(1.0)}))
	}
	rules = append(rules, throttle("last", v1alpha1.LimitMatch{}, v1alpha1.Throttle{RequestsPerSecond: one(1e6), Burst: one(10_000_000), Concurrency: one(1000), BytesPerSecond: quantity("1Gi")}))
	e := engine(b, c, rules...)
	f := request("system:serviceaccount:monitoring:telemetry")
	b.ReportAllocs()
	for b.Loop() {
		p, r := e.Admit(f, nil)
		if r != nil {
			b.Fatal(r.Reason)
		}
		p.Done()
		c.now = c.now.Add(time.Microsecond)
	}
}
