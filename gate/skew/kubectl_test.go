package skew

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// scene is invocations of kubectl in one namespace, one after the other, each both ways at the same time.
type scene struct {
	name  string // part of a namespace's name
	files map[string]string
	steps []step
}

// step is one invocation. In all of its text, $NS stands for the namespace, $NODE for a node of the way's own, $POD for the
// name of the streams' node (see kubelet), $TOKEN for a token of the namespace's default ServiceAccount, $CSR for a
// certificate request, $CERT and $KEY for files of a certificate.
type step struct {
	run   string // kubectl's arguments; '…' keeps blanks
	code  int    // the exit code wanted on both ways: without it, a typing error would fail both ways alike and pass
	stdin string
	env   []string
	// settle says that the output tells of waiting, or comes in no order, so that no two runs are alike: only the exit code
	// is compared.
	settle bool
	// eventually says that the step is repeated until it has the exit code wanted: what it asks for reaches the authorizer
	// some time after it was written.
	eventually bool
	until      string // see invocation
	act        func(ctx context.Context, output string) (string, error)
	ends       bool
}

// scenes are in the order of play: the last one changes what kinds there are.
func scenes() []scene {
	return slices.Concat(objectScenes, workloadScenes, clusterScenes, streamScenes, []scene{customResources})
}

// local are the verbs that talk to no API server, with the reason: there is nothing a gate could change.
var local = map[string]string{
	"completion":   "prints a script; what that script asks for is __complete, which is played",
	"config":       "reads and writes kubeconfig files",
	"kuberc":       "reads and writes kubectl's preferences",
	"alpha kuberc": "reads and writes kubectl's preferences",
	"alpha":        "a group of verbs",
	"plugin":       "looks for programs on the machine",
	"options":      "prints help",
}

func TestKubectl(t *testing.T) {
	r := open(t)
	var own [2][]string
	for i, w := range r.ways {
		own[i] = append(own[i], w.prefix, "<way>-", w.url, "<server>", strings.TrimPrefix(w.url, "https://"), "<server>", w.dir, "<dir>")
	}
	outcomes := newRecord(t, r)
	for _, s := range scenes() {
		t.Run(s.name, func(t *testing.T) { play(t, r, s, own, outcomes) })
	}
	t.Run("every verb is played", func(t *testing.T) { everyVerb(t, r, outcomes) })
	outcomes.write(t)
}

// play plays a scene and compares.
func play(t *testing.T, r *rig, s scene, own [2][]string, outcomes *record) {
	var fill [2]*strings.Replacer
	var namespaces [2]string
	csr := request(t)
	for i, w := range r.ways {
		namespaces[i] = r.namespace(t, w, s.name)
		p := r.lab.PKI()
		fill[i] = strings.NewReplacer("$NS", namespaces[i], "$NODE", w.node, "$POD", nodeStreams, "$CSR", csr, "$TOKEN", r.token(t, namespaces[i]),
			"$CERT", p.ServingCert, "$KEY", p.ServingKey)
		for name, text := range s.files {
			check(t, os.MkdirAll(filepath.Dir(filepath.Join(w.dir, name)), 0o700))
			check(t, os.WriteFile(filepath.Join(w.dir, name), []byte(fill[i].Replace(text)), 0o600))
		}
	}
	for number, step := range s.steps {
		t.Run(fmt.Sprintf("%02d %s", number, step.run), func(t *testing.T) {
			var got [2]result
			var errs [2]error
			var both sync.WaitGroup
			for i, w := range r.ways {
				v := invocation{stdin: fill[i].Replace(step.stdin), env: step.env, until: fill[i].Replace(step.until), act: step.act, ends: step.ends}
				for _, word := range words(step.run) {
					v.args = append(v.args, fill[i].Replace(word))
				}
				both.Go(func() {
					for began := time.Now(); ; {
						got[i], errs[i] = r.run(t.Context(), w, namespaces[i], v)
						if !step.eventually || errs[i] != nil || got[i].Code == step.code || time.Since(began) > patience {
							return
						}
					}
				})
			}
			both.Wait()
			for i, w := range r.ways {
				if errs[i] != nil {
					t.Error(errs[i])
					continue
				}
				if got[i].Code != step.code && step.until == "" {
					t.Errorf("%s: exit code %d, want %d\n%s%s", w.name, got[i].Code, step.code, got[i].Stdout, got[i].Stderr)
				}
				names := own[i]
				if strings.Contains(step.run, "$NODE") {
					names = append(slices.Clone(names), w.node, "<node>")
				}
				for _, text := range []*string{&got[i].Stdout, &got[i].Stderr, &got[i].Answer} {
					*text = normalise(*text, names...)
				}
				if step.until != "" && !step.ends {
					got[i].Code = 0 // kubectl takes the signal as an exit or as a death, as it comes
				}
				if step.settle {
					got[i].Stdout, got[i].Stderr = "", ""
				}
			}
			if diff := cmp.Diff(got[0], got[1]); diff != "" {
				t.Errorf("kubectl %s (-direct +gate):\n%s", step.run, diff)
			}
			outcomes.add(s.name, step, got[0], !t.Failed())
		})
	}
}

// words splits a command line at blanks outside of '…'.
func words(line string) []string {
	var out []string
	var word strings.Builder
	quoted, begun := false, false
	for _, c := range line {
		switch {
		case c == '\'':
			quoted, begun = !quoted, true
		case c == ' ' && !quoted:
			if begun {
				out = append(out, word.String())
			}
			word.Reset()
			begun = false
		default:
			word.WriteRune(c)
			begun = true
		}
	}
	if begun {
		out = append(out, word.String())
	}
	return out
}

// everyVerb compares the scenes with what kubectl itself says it can do, so that a new minor's new verb is noticed.
func everyVerb(t *testing.T, r *rig, outcomes *record) {
	var played []string
	for _, s := range scenes() {
		for _, step := range s.steps {
			played = append(played, strings.Join(words(step.run), " "))
		}
	}
	verbs := verbsOf(t, r, nil)
	for _, verb := range verbs {
		outcomes.lines = append(outcomes.lines, "kubectl has the verb "+verb)
		isPlayed := slices.ContainsFunc(played, func(line string) bool { return line == verb || strings.HasPrefix(line, verb+" ") })
		isLocal := slices.ContainsFunc(slices.Collect(maps.Keys(local)), func(known string) bool {
			return verb == known || known != "alpha" && strings.HasPrefix(verb, known+" ")
		})
		if !isPlayed && !isLocal {
			t.Errorf("kubectl %s is played in no scene", verb)
		}
	}
	if len(verbs) < 60 {
		t.Errorf("kubectl names %d verbs, and must have more: its help is no longer understood: %v", len(verbs), verbs)
	}
}

var helpLine = regexp.MustCompile(`^  ([a-z][a-z-]+) {2,}\S`)

// verbsOf lists the verbs below the given ones, from kubectl's help.
func verbsOf(t *testing.T, r *rig, path []string) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), r.kubectl, append(slices.Clone(path), "--help")...).Output()
	check(t, err)
	var verbs []string
	inCommands := false
	for line := range strings.Lines(string(out)) {
		if !strings.HasPrefix(line, " ") {
			if text := strings.TrimSpace(line); text != "" {
				inCommands = strings.HasSuffix(text, ":") && (strings.Contains(text, "Commands"))
			}
			continue
		}
		found := helpLine.FindStringSubmatch(line)
		if !inCommands || found == nil {
			continue
		}
		verb := append(slices.Clone(path), found[1])
		verbs = append(verbs, strings.Join(verb, " "))
		verbs = append(verbs, verbsOf(t, r, verb)...)
	}
	return verbs
}
