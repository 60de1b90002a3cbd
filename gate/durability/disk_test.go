package durability

import (
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/emergency"
)

// fileSize bounds how large the gate's files may grow from now on: 0 is a full disk.
func (r *rig) fileSize(limit uint64) {
	r.t.Helper()
	check(r.t, unix.Prlimit(r.child.Process.Pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: limit, Max: unix.RLIM_INFINITY}, nil))
}

func (r *rig) block(user string) *v1alpha1.EmergencyRuleResult {
	r.t.Helper()
	result, err := r.operator.Set(r.t.Context(), emergency.Block(v1alpha1.LimitMatch{Users: []string{user}}, "a test", time.Hour), false)
	check(r.t, err)
	return result
}

// answers holds that the user gets the code.
func (r *rig) answers(when string, client *http.Client, want int) {
	r.t.Helper()
	if code, body := r.first(client); code != want {
		r.t.Errorf("%s: got %d, want %d: %s", when, code, want, body)
	}
}

// notKept holds that an answer says what is not kept, to the one who acts.
func notKept(t *testing.T, result *v1alpha1.EmergencyRuleResult) {
	t.Helper()
	said := strings.Join(result.Warnings, "\n")
	if result.Durable || !strings.Contains(said, "would not survive a restart") || !strings.Contains(said, "not in the audit log") {
		t.Errorf("durable: %t, warnings: %q; want an answer that says what is not kept", result.Durable, result.Warnings)
	}
}

func (r *rig) warnings() []string {
	r.t.Helper()
	status, err := r.operator.Status(r.t.Context())
	check(r.t, err)
	return status.Warnings
}

// TestFullDisk: the gate serves, rules work, and every answer says what is not kept; with room again all of it is.
func TestFullDisk(t *testing.T) {
	r := newRig(t, fmt.Sprintf("accessLog: {file: %q, sampleRatio: 1}\n", filepath.Join(t.TempDir(), "access.log")))
	first, second, bystander := r.client("first"), r.client("second"), r.client("bystander")
	r.start()
	r.answers("before", bystander, http.StatusOK)
	kept := r.block("first")
	if !kept.Durable || len(kept.Warnings) > 0 {
		t.Fatalf("with room: %+v", kept)
	}

	r.fileSize(0)
	notKept(t, r.block("second"))
	r.answers("a rule that is not kept", second, http.StatusForbidden)
	lifted, err := r.operator.Lift(t.Context(), kept.Rule.ID, "a test")
	check(t, err)
	notKept(t, lifted)
	r.answers("a lift that is not kept", first, http.StatusOK)
	for range 50 {
		r.answers("meanwhile", bystander, http.StatusOK)
	}
	if len(r.warnings()) != 2 {
		t.Errorf("the status says %q", r.warnings())
	}

	// Killed now, the next gate does what the disk holds: what was said not to survive has not.
	r.kill()
	r.saved()
	r.chain()
	r.start()
	r.answers("after kill -9", first, http.StatusForbidden)
	r.answers("after kill -9", second, http.StatusOK)

	// With room again, what was not kept is, without anybody asking.
	r.fileSize(0)
	late := r.block("second")
	notKept(t, late)
	r.fileSize(unix.RLIM_INFINITY)
	eventually(t, "nothing is left to warn of", func() bool { return len(r.warnings()) == 0 })
	r.kill()
	found := false
	for _, e := range r.chain() {
		found = found || e.Event == "set" && e.Rule.ID == late.Rule.ID && e.At != nil
	}
	if !found {
		t.Errorf("setting %s, which came into the audit late, is not in it", late.Rule.ID)
	}
	r.start()
	r.answers("after kill -9", second, http.StatusForbidden)
}

// nobody is an ordinary user for a test that runs as root, whom no file's mode stops.
const nobody = 65534

// asOrdinaryUser lets the gate run as a user for whom a read-only folder is read-only.
func (r *rig) asOrdinaryUser() {
	r.t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	r.env = append(r.env, fmt.Sprintf("%s=%d", playUser, nobody))
	// The keys must be that user's own, in a place it can reach.
	file := filepath.Join(r.dir, "gate.yaml")
	text, err := os.ReadFile(file)
	check(r.t, err)
	p := r.lab.PKI()
	for _, path := range []string{p.ClusterCA, p.FrontProxyCert, p.FrontProxyKey, p.ServiceAccountKey} {
		data, err := os.ReadFile(path)
		check(r.t, err)
		own := filepath.Join(r.dir, filepath.Base(path))
		check(r.t, os.WriteFile(own, data, 0o600))
		text = []byte(strings.ReplaceAll(string(text), path, own))
	}
	check(r.t, os.WriteFile(file, text, 0o600))
	check(r.t, filepath.WalkDir(r.dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chown(path, nobody, nobody)
	}))
	check(r.t, os.Chmod(filepath.Dir(r.dir), 0o711))
}

// freeze makes the state directory and its files read-only, thaw undoes it.
func (r *rig) freeze(dirMode, fileMode os.FileMode) {
	r.t.Helper()
	entries, err := os.ReadDir(r.state)
	check(r.t, err)
	for _, e := range entries {
		check(r.t, os.Chmod(filepath.Join(r.state, e.Name()), fileMode))
	}
	check(r.t, os.Chmod(r.state, dirMode))
}

// TestReadOnlyStateDirectory: what is in it is in force, the gate serves, and says what cannot be kept.
func TestReadOnlyStateDirectory(t *testing.T) {
	r := newRig(t, "")
	r.asOrdinaryUser()
	first, second, bystander := r.client("first"), r.client("second"), r.client("bystander")
	r.start()
	r.answers("before", bystander, http.StatusOK)
	if kept := r.block("first"); !kept.Durable {
		t.Fatalf("%+v", kept)
	}
	r.terminate()

	r.freeze(0o500, 0o400)
	defer r.freeze(0o700, 0o600) // so that the test's folder can be removed
	r.start()
	r.answers("what was kept", first, http.StatusForbidden)
	r.answers("everybody else", bystander, http.StatusOK)
	if said := strings.Join(r.warnings(), "\n"); !strings.Contains(said, "not in the audit log") {
		t.Errorf("the status says %q", said)
	}
	notKept(t, r.block("second"))
	r.answers("a rule that is not kept", second, http.StatusForbidden)

	r.freeze(0o700, 0o600)
	eventually(t, "nothing is left to warn of", func() bool { return len(r.warnings()) == 0 })
	r.kill()
	r.start()
	r.answers("after kill -9", second, http.StatusForbidden)
	r.chain()
}

// TestNoStateDirectory: one that cannot even be made.
func TestNoStateDirectory(t *testing.T) {
	r := newRig(t, "")
	check(t, os.WriteFile(r.state, []byte("not a folder"), 0o600))
	user := r.client("user")
	r.start()
	r.answers("at first", user, http.StatusOK)
	notKept(t, r.block("user"))
	r.answers("a rule that is not kept", user, http.StatusForbidden)
	if !strings.Contains(r.said(), "Serving without a state directory") {
		t.Error("the log does not say it")
	}
	check(t, os.Remove(r.state))
	// What this gate could not read at its start stays a warning: nobody knows what it was.
	eventually(t, "only that is left to warn of", func() bool {
		warnings := r.warnings()
		return len(warnings) == 1 && strings.Contains(warnings[0], "of before the restart are lost")
	})
	r.kill()
	r.start()
	r.answers("after kill -9", user, http.StatusForbidden)
}
