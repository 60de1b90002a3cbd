package jail

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/rollout/verdict"
)

var update = flag.Bool("update", false, "write what was decided into the transcripts")

// TestTranscripts plays the transcripts of testdata and compares what was decided with what stands there. A line is a command;
// what came of it stands below, indented:
//
//	ladder RUNG … [hitStable=POLICY] [mode=MODE]
//	TIME VERDICT [attributed] [failing] [load] [protected] [reduced=R] [fails=RUNG]
//
// At each line rungs are taken until there is nothing to do; fails makes the named one fail. Gate and freeze hit the update only,
// apf and rbac the stable revision too.
func TestTranscripts(t *testing.T) { testkit.Transcripts(t, *update, play) }

var epoch = time.Unix(1.7e9, 0)

func infos(names []v1alpha1.RungName) []Info {
	all := make([]Info, len(names))
	for i, n := range names {
		all[i] = Info{Name: n, HitsStable: n == v1alpha1.RungAPF || n == v1alpha1.RungRBAC, ReducesLoad: n != v1alpha1.RungRevert}
	}
	return all
}

func play(t *testing.T, script []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	var spec v1alpha1.RolloutLadder
	var rungs []Info
	var taken []Taken
	lines := bufio.NewScanner(bytes.NewReader(script))
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, "\t") {
			continue
		}
		fmt.Fprintln(&out, line)
		words := strings.Fields(line)
		if len(words) == 0 || words[0] == "#" {
			continue
		}
		if words[0] == "ladder" {
			taken = nil
			spec = v1alpha1.RolloutLadder{
				Mode: v1alpha1.LadderAutomatic, HitStable: v1alpha1.StableWhenControlPlaneFails,
				EffectWithin: &metav1.Duration{Duration: 15 * time.Second}, EffectiveReduction: 0.95,
			}
			var names []v1alpha1.RungName
			for _, w := range words[1:] {
				name, value, option := strings.Cut(w, "=")
				switch {
				case !option:
					names = append(names, v1alpha1.RungName(w))
				case name == "hitStable":
					spec.HitStable = v1alpha1.StablePolicy(value)
				case name == "mode":
					spec.Mode = v1alpha1.LadderMode(value)
				}
			}
			rungs = infos(names)
			continue
		}
		at, err := time.ParseDuration(words[0])
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		s := Situation{Now: epoch.Add(at), Verdict: verdict.Verdict(words[1])}
		fails := ""
		for _, w := range words[2:] {
			name, value, _ := strings.Cut(w, "=")
			switch name {
			case "attributed":
				s.Attributed = true
			case "failing":
				s.ControlPlaneFails, s.Load = true, true
			case "load":
				s.Load = true
			case "protected":
				s.Protected = "it is the network"
			case "reduced":
				s.Measured = true
				s.Reduced, _ = strconv.ParseFloat(value, 64)
			case "fails":
				fails = value
			default:
				t.Fatalf("%q is not known", w)
			}
		}
		for {
			s.Taken = taken
			d := Next(spec, rungs, s)
			if d.Do != "" {
				one := Taken{Name: d.Do, At: s.Now}
				if string(d.Do) == fails {
					one.Err = "it did not work"
				}
				taken = append(taken, one)
				fmt.Fprintf(&out, "\t%s: %s%s\n", d.Do, d.Why, map[bool]string{true: " (it did not work)"}[one.Err != ""])
				continue
			}
			for _, p := range d.Passed {
				fmt.Fprintf(&out, "\tpassed over %s\n", p)
			}
			if d.Wait > 0 {
				fmt.Fprintf(&out, "\twait %s: %s\n", d.Wait, d.Why)
			} else {
				fmt.Fprintf(&out, "\tdone %t: %s\n", d.Done, d.Why)
			}
			break
		}
	}
	return out.Bytes()
}

// fake is a rung that does what it is told.
type fake struct {
	name          v1alpha1.RungName
	err           error
	done, undone  int
	proved        error
	hits, reduces bool
}

func (f *fake) Name() string                           { return string(f.name) }
func (f *fake) HitsStable() bool                       { return f.hits }
func (f *fake) ReducesLoad() bool                      { return f.reduces }
func (f *fake) Prove(context.Context, Component) error { return f.proved }
func (f *fake) Do(context.Context, Component, string, time.Duration) error {
	f.done++
	return f.err
}
func (f *fake) Undo(context.Context, Component) error { f.undone++; return nil }

func ladderOf(t *testing.T, rungs ...Rung) *Ladder {
	spec := v1alpha1.RolloutLadder{}
	for _, r := range rungs {
		spec.Rungs = append(spec.Rungs, v1alpha1.RolloutRung{Name: v1alpha1.RungName(r.Name())})
	}
	spec.SetDefaults()
	return &Ladder{Spec: spec, Rungs: rungs, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
}

func TestClimbGivesEachRungItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := &fake{name: v1alpha1.RungGate, reduces: true}
		apf := &fake{name: v1alpha1.RungAPF, reduces: true, hits: true}
		revert := &fake{name: v1alpha1.RungRevert}
		pages := 0
		l := ladderOf(t, Freeze{}, gate, apf, revert, Emergency{Tell: func(string) error { pages++; return nil }})
		started := time.Now()
		taken, last := l.Climb(t.Context(), Component{Cluster: "c"}, "it fails", func(context.Context) Situation {
			s := Situation{Now: time.Now(), Verdict: verdict.Fail, Attributed: true, ControlPlaneFails: true, Load: true, Measured: true}
			if apf.done > 0 && time.Since(started) > 18*time.Second {
				s.Reduced = 0.99
			}
			return s
		})
		var names []v1alpha1.RungName
		for _, k := range taken {
			names = append(names, k.Name)
		}
		if diff := cmp.Diff([]v1alpha1.RungName{"freeze", "gate", "apf", "revert"}, names); diff != "" || !last.Done || pages > 0 {
			t.Errorf("%+v, %d pages (-want +got):\n%s", last, pages, diff)
		}
		if at := taken[2].At.Sub(started); at != 15*time.Second {
			t.Errorf("apf came after %s, the gate had 15s", at)
		}
		if at := taken[3].At.Sub(started); at > 20*time.Second {
			t.Errorf("the revert came after %s", at)
		}
		if err := l.Undo(t.Context(), Component{}); err != nil || gate.undone != 1 || apf.undone != 1 {
			t.Errorf("undone %d and %d times, %v", gate.undone, apf.undone, err)
		}
	})
}

// What takes load away is done even when the disk is full; what writes is not done off the record.
func TestStepRecordsBefore(t *testing.T) {
	for _, tc := range []struct {
		rung *fake
		want int
	}{{&fake{name: v1alpha1.RungAPF, reduces: true}, 1}, {&fake{name: v1alpha1.RungRevert}, 0}} {
		l := ladderOf(t, Freeze{}, tc.rung)
		l.Record = func(Taken, bool) error { return errors.New("no space left") }
		_, taken := l.Step(t.Context(), Component{}, Situation{Now: epoch, Verdict: verdict.Fail, Attributed: true, ControlPlaneFails: true, Load: true, Taken: []Taken{{Name: v1alpha1.RungFreeze, At: epoch}}}, "x")
		if tc.rung.done != tc.want || taken == nil {
			t.Errorf("%s was done %d times, want %d: %+v", tc.rung.name, tc.rung.done, tc.want, taken)
		}
	}
}

func TestProveNamesWhatIsMissing(t *testing.T) {
	l := ladderOf(t, Freeze{}, &fake{name: v1alpha1.RungAPF, proved: errors.New("forbidden")})
	l.Spec.Rungs = append(l.Spec.Rungs, v1alpha1.RolloutRung{Name: v1alpha1.RungGate, Optional: true})
	proofs, err := l.Prove(t.Context(), Component{Cluster: "big"}, time.Second)
	if !errors.Is(err, ErrUnproved) || !strings.Contains(err.Error(), "cluster big, rung apf: forbidden") || strings.Contains(err.Error(), "gate") {
		t.Errorf("the error is %v", err)
	}
	if len(proofs) != 3 || proofs[2].Why == "" {
		t.Errorf("proofs %+v", proofs)
	}
}

func TestProtected(t *testing.T) {
	host := func(p string) corev1.Volume {
		return corev1.Volume{VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: p}}}
	}
	for name, tc := range map[string]struct {
		namespace, name string
		spec            corev1.PodSpec
		want            bool
	}{
		"a telemetry agent":              {"telemetry", "agent", corev1.PodSpec{}, false},
		"a node exporter":                {"monitoring", "node-exporter", corev1.PodSpec{HostNetwork: true, Volumes: []corev1.Volume{host("/proc")}, Containers: []corev1.Container{{Image: "quay.io/prometheus/node-exporter:v1"}}}, false},
		"an image called node":           {"web", "front", corev1.PodSpec{Containers: []corev1.Container{{Image: "docker.io/library/node:22"}}}, false},
		"kube-system":                    {"kube-system", "something", corev1.PodSpec{}, true},
		"Cilium elsewhere":               {"network", "cilium", corev1.PodSpec{}, true},
		"Calico by its image":            {"network", "renamed", corev1.PodSpec{Containers: []corev1.Container{{Image: "docker.io/calico/node:v3.30"}}}, true},
		"kube-proxy by its image":        {"network", "renamed", corev1.PodSpec{Containers: []corev1.Container{{Image: "registry.k8s.io/kube-proxy@sha256:0"}}}, true},
		"a CSI driver by name":           {"storage", "acme-csi-node", corev1.PodSpec{}, true},
		"an unknown CNI by its mount":    {"network", "homegrown", corev1.PodSpec{Volumes: []corev1.Volume{host("/etc/cni/net.d")}}, true},
		"an unknown CSI by its mount":    {"storage", "homegrown", corev1.PodSpec{Volumes: []corev1.Volume{host("/var/lib/kubelet/plugins/acme")}}, true},
		"critical on the host's network": {"x", "y", corev1.PodSpec{HostNetwork: true, PriorityClassName: "system-node-critical"}, true},
	} {
		if got := Protected(tc.namespace, tc.name, tc.spec); (got != "") != tc.want {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestPageHasTheCommands(t *testing.T) {
	page := Page(Component{Cluster: "big", Kind: "DaemonSet", Namespace: "telemetry", Name: "agent", ServiceAccount: "telemetry/agent", Rollout: "r-1"}, "p99 is 3s")
	for _, want := range []string{"Cluster big", "p99 is 3s", "block --service-account telemetry/agent", "jail --service-account telemetry/agent", "rollback r-1", "r-1"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q:\n%s", want, page)
		}
	}
}

func FuzzParseCut(f *testing.F) {
	f.Add(`{"rollout":"r","subjects":[{"kind":"ServiceAccount","name":"a","namespace":"b"}]}`)
	f.Add(`{"subjects":null}`)
	f.Fuzz(func(t *testing.T, text string) {
		if was, err := parseCut(text); err == nil && (was.Rollout == "" || len(was.Subjects) == 0) {
			t.Errorf("%q is taken: %+v", text, was)
		}
	})
}
