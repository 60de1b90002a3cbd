package onlabs

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/seakeep/seakeep/cli"
	"github.com/seakeep/seakeep/rollout/journal"
	"github.com/seakeep/seakeep/rollout/plan"
	"github.com/seakeep/seakeep/rollout/rollouttest"
)

func TestRolloutOnLabs(t *testing.T) {
	r := newRolloutRig(t, 4, 6)
	for _, name := range []string{"good", "stuck"} {
		for cluster, client := range r.clients {
			rollouttest.DaemonSet(t, client, "telemetry", name, r.sizes[cluster])
		}
	}
	good := r.rollout("good", agent2, "")
	var p plan.Plan
	if err := json.Unmarshal([]byte(r.run(cli.ExitOK, "run", "-f", good, "--dry-run", "-o", "json")), &p); err != nil || p.Largest != "large" || len(p.Stages) != 3 {
		t.Errorf("planned %+v, %v", p, err)
	}
	out := r.run(cli.ExitOK, "run", "-f", good)
	if !strings.Contains(out, "COMPLETED") {
		t.Errorf("printed:\n%s", out)
	}
	r.want("good", map[string]int{agent2: 4}, map[string]int{agent2: 6})
	if v := r.status("good"); v.Phase != journal.Completed || len(v.Stages[2].Legs[0].Exposed) != 6 || v.Stages[2].Legs[0].Look.Verdict != "Pass" {
		t.Errorf("the status is %+v", v)
	}
	if out := r.run(cli.ExitOK, "watch", "good"); !strings.Contains(out, "[##########]") {
		t.Errorf("watch draws:\n%s", out)
	}
	// What is there already is refused before anything is written.
	if out := r.run(cli.ExitUsage, "run", "-f", good); !strings.Contains(out, "has this template already") {
		t.Errorf("printed:\n%s", out)
	}
	r.run(cli.ExitUsage, "pause", "good")

	// A pod that no node has room for never becomes ready: the second node is not touched.
	stuck := r.stuck("onFailure: {rungs: [{name: freeze}, {name: apf}, {name: revert}]}\n")
	out = r.run(cli.ExitFindings, "run", "-f", stuck)
	if !strings.Contains(out, "ROLLEDBACK") || !strings.Contains(out, "with 1 of 4 nodes exposed") {
		t.Errorf("printed:\n%s", out)
	}
	r.want("stuck", map[string]int{agent1: 4}, map[string]int{agent1: 6})
	if out := r.run(cli.ExitOK, "history"); strings.Count(out, "\n") != 3 || !strings.Contains(out, "RolledBack") {
		t.Errorf("the history is:\n%s", out)
	}
	// A completed run can be taken back.
	v := r.status("good")
	id, carried := v.ID, time.Since(v.Written) < 30*time.Second // a process that ended so lately is taken for one that goes on
	if out := r.run(cli.ExitOK, "rollback", "good", "--reason", "a test"); !strings.Contains(out, "--continue "+id) && !carried {
		t.Errorf("printed:\n%s", out)
	}
	r.run(cli.ExitFindings, "run", "--continue", id)
	r.want("good", map[string]int{agent1: 4}, map[string]int{agent1: 6})
}
