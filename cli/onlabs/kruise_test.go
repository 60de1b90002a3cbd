package onlabs

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/seakeep/seakeep/cli"
	"github.com/seakeep/seakeep/rollout/journal"
	"github.com/seakeep/seakeep/rollout/plan"
	"github.com/seakeep/seakeep/rollout/rollouttest"
)

// advanced writes a Rollout of an image of an Advanced DaemonSet.
func (r *rolloutRig) advanced(name, image string) string {
	r.t.Helper()
	file := r.rollout(name, image, "")
	text, err := os.ReadFile(file)
	if err != nil {
		r.t.Fatal(err)
	}
	return r.write(name+".yaml", strings.Replace(string(text), "  daemonSet:", "  advancedDaemonSet:", 1))
}

// TestRolloutOfAdvancedDaemonSets steps OpenKruise's DaemonSets, whose controller is stood in for: the process is killed over and
// over, forth and back, and no pod is replaced twice; and a change that does not become ready is taken back from one node.
func TestRolloutOfAdvancedDaemonSets(t *testing.T) {
	const seed = 20241211
	random := rand.New(rand.NewPCG(seed, seed))
	r := newRolloutRig(t, 4, 6)
	for cluster, l := range r.labs {
		k := rollouttest.StartKruise(t, l)
		for _, name := range []string{"killed", "stuck"} {
			k.DaemonSet(t, "telemetry", name, r.sizes[cluster], map[string]any{"type": "RollingUpdate", "rollingUpdate": map[string]any{"maxUnavailable": int64(1)}})
		}
	}
	file := r.advanced("killed", agent2)
	var p plan.Plan
	if err := json.Unmarshal([]byte(r.run(cli.ExitOK, "run", "-f", file, "--dry-run", "-o", "json")), &p); err != nil || p.Largest != "large" || len(p.Stages) != 3 {
		t.Errorf("planned %+v, %v", p, err)
	}
	killed := r.killOver(random, cli.ExitOK, "-f", file)
	t.Logf("killed %d times on the way forth", killed)
	r.want("killed", map[string]int{agent2: 4}, map[string]int{agent2: 6})
	id := r.status("killed").ID
	r.run(cli.ExitOK, "rollback", "killed")
	killed = r.killOver(random, cli.ExitFindings, "--continue", id)
	t.Logf("killed %d times on the way back", killed)
	r.want("killed", map[string]int{agent1: 4}, map[string]int{agent1: 6})
	if v := r.status("killed"); v.Phase != journal.RolledBack {
		t.Errorf("it ended as %s: %s", v.Phase, v.Message)
	}
	for cluster, nodes := range r.sizes {
		deleted := r.deletes(cluster, rollouttest.KruiseUserAgent)
		if len(deleted) != 2*nodes {
			t.Errorf("%s: %d pods were replaced there and back, want %d: %v", cluster, len(deleted), 2*nodes, deleted)
		}
	}

	stuck := r.advanced("stuck", agent2)
	text, err := os.ReadFile(stuck)
	if err != nil {
		t.Fatal(err)
	}
	r.write("stuck.yaml", strings.Replace(string(text), `image: "`+agent2+`"`, `image: "`+agent2+`", resources: {requests: {cpu: "9000"}}`, 1)+"onFailure: {rungs: [{name: freeze}, {name: revert}]}\n")
	if out := r.run(cli.ExitFindings, "run", "-f", stuck); !strings.Contains(out, "ROLLEDBACK") || !strings.Contains(out, "with 1 of 4 nodes exposed") {
		t.Errorf("printed:\n%s", out)
	}
	r.want("stuck", map[string]int{agent1: 4}, map[string]int{agent1: 6})
}
