package analysis

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/rollout/engine"
	"github.com/seakeep/seakeep/rollout/verdict"
)

// course judges looks a minute apart on a cluster whose change comes after half an hour, and another without it. levels are what
// each has at a minute.
func course(t *testing.T, minutes int, levels func(cluster string, minute int) map[string]float64) (last verdict.Look, at int) {
	t.Helper()
	start := time.Unix(1.7e9, 0)
	now := start
	answered := verdict.Asked{Check: verdict.CheckReady, Asked: 1, Answered: 1}
	a := v1alpha1.RolloutAnalysis{Slow: v1alpha1.RolloutSlowAnalysis{Interval: &metav1.Duration{Duration: 10 * time.Minute}}}
	a.DNS.Mode, a.Probes.Mode, a.Workload.Mode = v1alpha1.Disabled, v1alpha1.Disabled, v1alpha1.Disabled
	a.SetDefaults(time.Minute)
	nowhere := []Endpoint{{Name: "s", URL: "https://127.0.0.1:1"}}
	analyst, err := New(Options{
		Analysis: a, Interval: time.Minute, Now: func() time.Time { return now },
		Clusters: []Cluster{{Name: "with", Config: &rest.Config{Host: "https://127.0.0.1:1"}, Servers: nowhere}, {Name: "without", Config: &rest.Config{Host: "https://127.0.0.1:2"}, Servers: nowhere}},
		Replay: func(cluster string) (Record, bool) {
			return Record{Cluster: cluster, At: now, Levels: levels(cluster, int(now.Sub(start)/time.Minute)), Asked: map[string]verdict.Asked{verdict.CheckReady: answered}}, true
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	const arrives = 30
	for minute := range minutes {
		now = start.Add(time.Duration(minute) * time.Minute)
		if _, err := analyst.Look(t.Context(), engine.Exposure{Cluster: "without"}); err != nil {
			t.Fatal(err)
		}
		e := engine.Exposure{Cluster: "with"}
		if minute >= arrives {
			e.Step, e.Planned, e.Exposed, e.Since = 1, 1, []string{"n"}, start.Add(arrives*time.Minute)
		}
		if last, err = analyst.Look(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		if last.Verdict == verdict.Fail {
			return last, minute - arrives
		}
	}
	return last, minutes - arrives
}

func quiet() map[string]float64 {
	return map[string]float64{checkReadLatency: 0.02, checkWriteLatency: 0.03, checkRejected: 0, checkCPU: 0.2, checkResident: 4e8, checkInFlight: 0.01, checkEtcdLatency: 0.003, checkWatches: 300, checkObjects: 1000}
}

func TestCourses(t *testing.T) {
	for name, tc := range map[string]struct {
		levels     func(cluster string, minute int) map[string]float64
		want       verdict.Verdict
		check      string
		within     int // minutes after the change
		attributed bool
	}{
		"quiet": {func(string, int) map[string]float64 { return quiet() }, verdict.Pass, "", 0, false},
		"a leak of watches, hours before anything fails": {func(c string, m int) map[string]float64 {
			l := quiet()
			if c == "with" && m >= 30 {
				l[checkWatches] += float64(m-30) * 4
			}
			return l
		}, verdict.Fail, "slow." + checkWatches, 45, true},
		"both clusters grow": {func(c string, m int) map[string]float64 {
			l := quiet()
			l[checkWatches] += float64(m) * 4
			return l
		}, verdict.Pass, "", 0, false},
		"writes get slower, within the bound": {func(c string, m int) map[string]float64 {
			l := quiet()
			if c == "with" && m >= 30 {
				l[checkWriteLatency] = 0.6
			}
			return l
		}, verdict.Fail, checkWriteLatency, 12, true},
		"writes get slow, and few make a percentile every third look": {func(c string, m int) map[string]float64 {
			l := quiet()
			delete(l, checkWriteLatency)
			if m%3 == 0 {
				l[checkWriteLatency] = 0.03
				if c == "with" && m >= 30 {
					l[checkWriteLatency] = 2
				}
			}
			return l
		}, verdict.Fail, checkWriteLatency, 7, true},
		"writes get slower everywhere": {func(c string, m int) map[string]float64 {
			l := quiet()
			if m >= 30 {
				l[checkWriteLatency] = 0.6
			}
			return l
		}, verdict.Pass, "", 0, false},
		"one look of three is bad": {func(c string, m int) map[string]float64 {
			l := quiet()
			if c == "with" && m >= 30 && m%3 == 0 {
				l[checkReadLatency] = 2
			}
			return l
		}, verdict.Unknown, "", 0, false},
		"the processors are used up": {func(c string, m int) map[string]float64 {
			l := quiet()
			if c == "with" && m >= 30 {
				l[checkCPU] = 0.95
			}
			return l
		}, verdict.Fail, checkCPU, 3, true},
	} {
		t.Run(name, func(t *testing.T) {
			look, took := course(t, 180, tc.levels)
			if tc.want != verdict.Fail {
				if look.Verdict == verdict.Fail || tc.want == verdict.Pass && look.Verdict != verdict.Pass {
					t.Errorf("%s after %d min: %s", look.Verdict, took, look.Why())
				}
				return
			}
			if look.Verdict != verdict.Fail || !strings.HasPrefix(look.Why(), tc.check+":") || took > tc.within || look.Attributed() != tc.attributed {
				t.Errorf("%s after %d min, attributed %t: %s; want %s within %d", look.Verdict, took, look.Attributed(), look.Why(), tc.check, tc.within)
			}
		})
	}
}

// Two API servers behind one address answer in turn: a counter of one must not be taken from the other's.
func TestSeveralAPIServersBehindOneAddress(t *testing.T) {
	asked := 0
	started := time.Now()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++
		one, cpu := asked%2, 100+0.1*float64(asked)
		if one == 1 {
			cpu = 9000 + 0.1*float64(asked)
		}
		fmt.Fprintf(w, `process_cpu_seconds_total %g
process_resident_memory_bytes 4e8
process_start_time_seconds %d
go_sched_gomaxprocs_threads 2
apiserver_current_inflight_requests{request_kind="mutating"} 1
apiserver_request_total{code="200",verb="GET",resource="pods"} %d
apiserver_request_duration_seconds_bucket{verb="GET",le="+Inf"} %d
kubernetes_build_info{git_version="v1.36.3"} 1
`, cpu, 1_700_000_000+1000*one, 100*asked, 100*asked)
	}))
	defer server.Close()
	c, err := open(Cluster{Name: "c", Config: &rest.Config{Host: server.URL}, Servers: []Endpoint{{Name: "lb", URL: server.URL, Client: server.Client()}}}, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	looks := 0
	for range 8 {
		// Each reading is 10 s after the one before.
		looks++
		p := c.readServers(t.Context(), func() time.Time { return started.Add(time.Duration(looks) * 10 * time.Second) })
		if len(p.troubles) > 0 {
			t.Fatal(p.troubles)
		}
		if cpu, ok := p.levels[checkCPU]; looks > 2 && (!ok || cpu > 0.01) {
			t.Errorf("look %d: processors %v of them (known %t), it uses 0.5 %%", looks, cpu, ok)
		}
	}
}

// Ten writes between two readings are no percentile, and twenty between three are.
func TestPercentilesWaitForRequests(t *testing.T) {
	readings := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fast, all := 1000, 1000+10*readings
		readings++
		fmt.Fprintf(w, `process_cpu_seconds_total %d
process_resident_memory_bytes 4e8
process_start_time_seconds 1700000000
apiserver_current_inflight_requests{request_kind="mutating"} 1
apiserver_request_duration_seconds_bucket{verb="PATCH",le="0.1"} %d
apiserver_request_duration_seconds_bucket{verb="PATCH",le="1"} %d
apiserver_request_duration_seconds_bucket{verb="PATCH",le="+Inf"} %d
kubernetes_build_info{git_version="v1.36.3"} 1
`, readings, fast, all, all)
	}))
	defer server.Close()
	c, err := open(Cluster{Name: "c", Config: &rest.Config{Host: server.URL}, Servers: []Endpoint{{Name: "s", URL: server.URL, Client: server.Client()}}}, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	var known []bool
	for range 7 {
		p := c.readServers(t.Context(), time.Now)
		v, ok := p.levels[checkWriteLatency]
		known = append(known, ok)
		if ok && v < 0.9 {
			t.Errorf("the 99th percentile is %v s, all writes take nearly 1 s", v)
		}
	}
	if diff := cmp.Diff([]bool{false, false, true, false, true, false, true}, known); diff != "" {
		t.Errorf("known at a reading (-want +got):\n%s", diff)
	}
}
