package onlabs

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seakeep/seakeep/cli"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/rollout/engine"
	"github.com/seakeep/seakeep/rollout/journal"
	"github.com/seakeep/seakeep/rollout/rollouttest"
	"github.com/seakeep/seakeep/rollout/verdict"
)

// spawnRollout starts `rollout run` as a process; ended is told its exit.
func (r *rolloutRig) spawnRollout(args ...string) (child *exec.Cmd, ended <-chan error) {
	r.t.Helper()
	return r.spawn(append(r.args(append([]string{"run"}, args...)...), "--lease", "3s", "--timeout", "1s")...)
}

// killOver starts `rollout run` again and again and kills each at an instant drawn from a seed, until one comes to its end before
// that. It returns how many were killed.
func (r *rolloutRig) killOver(random *rand.Rand, want int, args ...string) (killed int) {
	r.t.Helper()
	for killed < 60 {
		child, ended := r.spawnRollout(args...)
		select {
		case err := <-ended:
			code := cli.ExitOK
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				code = exit.ExitCode()
			}
			// Who dies between the end of the run and his own leaves nothing to be done, and the next one says so.
			if code != want && (code != cli.ExitUsage || !r.status("killed").Phase.Over()) {
				r.t.Fatalf("ended with %v, want code %d", err, want)
			}
			return killed
		// A new process waits for the lease of the one before, 3 s; the rest of the time it works.
		case <-time.After(time.Duration(random.IntN(6500)) * time.Millisecond):
			_ = child.Process.Kill()
			<-ended
			killed++
		}
	}
	r.t.Fatal("it does not come to its end")
	return 0
}

// rolloutAudit is a request in the audit log of a lab, after it was answered.
type rolloutAudit struct {
	Stage, Verb, UserAgent string
	User                   struct{ Username string }
	ObjectRef              struct{ Resource, Namespace, Name, Subresource string }
	ResponseStatus         struct{ Code int }
}

// audit reads the requests of a client.
func (r *rolloutRig) audit(cluster, client string) []rolloutAudit {
	r.t.Helper()
	f, err := os.Open(r.labs[cluster].AuditLog(0))
	if err != nil {
		r.t.Fatal(err)
	}
	defer f.Close()
	var all []rolloutAudit
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		var e rolloutAudit
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			continue // the last line is being written
		}
		if e.Stage == "ResponseComplete" && strings.HasPrefix(e.UserAgent, client) {
			all = append(all, e)
		}
	}
	if err := lines.Err(); err != nil {
		r.t.Fatal(err)
	}
	return all
}

// deletes are how often each pod was deleted by a client; names are never used twice.
func (r *rolloutRig) deletes(cluster, client string) map[string]int {
	r.t.Helper()
	deleted := map[string]int{}
	for _, e := range r.audit(cluster, client) {
		if e.Verb == "delete" && e.ObjectRef.Resource == "pods" && e.ObjectRef.Subresource == "" && e.ResponseStatus.Code < 300 {
			deleted[e.ObjectRef.Namespace+"/"+e.ObjectRef.Name]++
		}
	}
	return deleted
}

// onceEach wants as many pods deleted by rollouts, none of them twice.
func (r *rolloutRig) onceEach(cluster string, want int) {
	r.t.Helper()
	deleted := r.deletes(cluster, "seakeep-rollout/")
	for pod, times := range deleted {
		if times > 1 {
			r.t.Errorf("%s: pod %s was deleted %d times", cluster, pod, times)
		}
	}
	if len(deleted) != want {
		r.t.Errorf("%s: %d pods were deleted, want %d", cluster, len(deleted), want)
	}
}

// TestRolloutKilledAtAnyInstant kills the process over and over, forth and back. Each that follows goes on where it was, and no
// pod is deleted twice.
func TestRolloutKilledAtAnyInstant(t *testing.T) {
	const seed = 20241211
	random := rand.New(rand.NewPCG(seed, seed))
	r := newRolloutRig(t, 4, 9)
	for cluster, client := range r.clients {
		rollouttest.DaemonSet(t, client, "telemetry", "killed", r.sizes[cluster])
	}
	file := r.rollout("killed", agent2, "")
	killed := r.killOver(random, cli.ExitOK, "-f", file)
	t.Logf("killed %d times on the way forth", killed)
	if killed < 3 {
		t.Error("too few deaths to say anything")
	}
	r.want("killed", map[string]int{agent2: 4}, map[string]int{agent2: 9})
	for cluster, nodes := range r.sizes {
		r.onceEach(cluster, nodes)
	}
	id := r.status("killed").ID
	r.run(cli.ExitOK, "rollback", "killed")
	killed = r.killOver(random, cli.ExitFindings, "--continue", id)
	t.Logf("killed %d times on the way back", killed)
	if v := r.status("killed"); v.Phase != journal.RolledBack {
		t.Errorf("it ended as %s: %s", v.Phase, v.Message)
	}
	r.want("killed", map[string]int{agent1: 4}, map[string]int{agent1: 9})
	for cluster, nodes := range r.sizes {
		r.onceEach(cluster, 2*nodes)
	}
}

// private holds the state folder against its modes, and what is not in the journal against secrets.
func (r *rolloutRig) private(secrets ...string) {
	r.t.Helper()
	var names []string
	err := filepath.WalkDir(filepath.Join(r.dir, "state"), func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // written at this moment, under another name
		}
		if err != nil {
			return err
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 {
			r.t.Errorf("%s has the mode %v", path, info.Mode())
		}
		if e.IsDir() {
			return nil
		}
		names = append(names, e.Name())
		data, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, secret := range secrets {
			if strings.Contains(string(data), secret) {
				r.t.Errorf("%s has a secret", path)
			}
		}
		return nil
	})
	if err != nil || len(names) < 3 {
		r.t.Errorf("in the state folder are %v, %v", names, err)
	}
}

// TestRolloutKilledKeepsTheTimeBefore kills the process with the change on some nodes. The next one compares with what was before
// the change, from the file; one whose file was lost cannot.
func TestRolloutKilledKeepsTheTimeBefore(t *testing.T) {
	r := newRolloutRig(t, 1, 4)
	for cluster, client := range r.clients {
		rollouttest.DaemonSet(t, client, "telemetry", "kept", r.sizes[cluster])
	}
	// Bounds that a machine which tests share stays within: what it is slow at is not the change's.
	file := r.rollout("kept", agent2, "")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	// A metric's secrets, in the Rollout and in a file beside it, are its server's to know and nobody else's.
	const inRollout, inFile = "s3cret-of-the-rollout", "s3cret-of-the-file"
	var told atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.Header.Get("X-Key") == inRollout && q.Header.Get("Authorization") == inFile {
			told.Add(1)
		}
		http.Error(w, "no", http.StatusForbidden)
	}))
	defer server.Close()
	token := r.write("token", inFile+"\n")
	metric := fmt.Sprintf(`{name: secret, dryRun: true, successCondition: "true", provider: {web: {url: "%s/?token=%s", headers: [{key: X-Key, value: %[2]s}, {key: Authorization, valueFrom: {file: %[3]s}}]}}}`, server.URL, inRollout, filepath.Base(token)) // beside the Rollout, also when it is not named again
	r.write("kept.yaml", strings.Replace(string(data), "controlPlane: {mode: Disabled}",
		"metrics: ["+metric+"]\n  controlPlane: {growth: 100, maxReadLatency: 5m, maxListLatency: 5m, maxWriteLatency: 5m, maxEtcdLatency: 5m, maxRejectedRatio: 1, maxCPU: 1, maxMemory: 1, maxInFlight: 1}", 1))
	state := filepath.Join(r.dir, "state")
	var view engine.View
	// large is what was looked at on the large cluster since a time, once it has the change.
	large := func(since time.Time) *verdict.Look {
		runs, err := journal.Views(state)
		if err != nil {
			t.Fatal(err)
		}
		if len(runs) == 0 {
			return nil
		}
		view = engine.View{}
		if err := journal.ReadView(state, runs[0], &view); err != nil {
			t.Fatal(err)
		}
		for _, stage := range view.Stages {
			for _, leg := range stage.Legs {
				if leg.Cluster == "large" && leg.Look != nil && leg.Look.At.After(since) && len(leg.Exposed) > 0 {
					return leg.Look
				}
			}
		}
		return nil
	}
	const cpu = "processors in use"
	figures := func(look *verdict.Look) (now, before bool) {
		for _, f := range look.Findings {
			for _, figure := range f.Figures {
				now = now || figure.Name == cpu
				before = before || figure.Name == cpu+" before"
			}
		}
		return now, before
	}
	comparing := func(since time.Time, want bool) {
		t.Helper()
		testkit.Within(t, fmt.Sprintf("a look that compares with before the change: %t", want), 90*time.Second, func() bool {
			look := large(since)
			if look == nil {
				return false
			}
			now, before := figures(look)
			return now && before == want
		})
	}
	began := time.Now()
	child, ended := r.spawnRollout("-f", file)
	comparing(began, true)
	if look := large(began); !slices.ContainsFunc(look.Findings, func(f verdict.Finding) bool { return f.Check == "controlPlane.etcdLeader" && f.Verdict == verdict.Pass }) {
		t.Errorf("nothing is said of etcd's leader: %+v", look.Findings)
	}
	shown := r.run(cli.ExitOK, "status", "kept", "-o", "json") + r.run(cli.ExitOK, "status", "kept") + r.run(cli.ExitOK, "history")
	if !strings.Contains(shown, "query.secret") || strings.Contains(shown, "s3cret-") || told.Load() == 0 {
		t.Errorf("the metric was asked with its headers %d times, and this is shown:\n%s", told.Load(), shown)
	}
	r.private(inRollout, inFile)
	r.run(cli.ExitOK, "pause", "kept") // what is held still is looked at
	killed := func() time.Time {
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		<-ended
		return time.Now()
	}
	at := killed()
	readings := journal.ReadingsFile(state, view.ID)
	f, err := os.OpenFile(readings, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"cluster":"large","at":"20`); err != nil { // as a death in the midst of a write leaves it
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	child, ended = r.spawnRollout("--continue", view.ID)
	comparing(at, true)
	at = killed()
	if err := os.Remove(readings); err != nil {
		t.Fatal(err)
	}
	child, ended = r.spawnRollout("--continue", view.ID)
	comparing(at, false)
	killed()
	// The journal has what the Rollout says, and not what is in the file that it names.
	j, err := journal.Open(state)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := j.Load(view.ID)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal([]any{kept.Run, kept.Plan, kept.Clusters})
	if err != nil || !strings.Contains(string(text), inRollout) || strings.Contains(string(text), inFile) {
		t.Errorf("the journal has other secrets than the Rollout's own: %v", err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	// A line that no process has written: refused by its name, before anything moves.
	if err := os.WriteFile(readings, []byte("{}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := r.run(cli.ExitUsage, "run", "--continue", view.ID); !strings.Contains(out, readings+": line 1: cluster must be") {
		t.Errorf("printed:\n%s", out)
	}
}
