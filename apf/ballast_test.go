package apf

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/seakeep/seakeep/apf/plan"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
)

func TestBallastOnALab(t *testing.T) {
	r := start(t, lab.Options{Nodes: 5, Pods: 300, Bounds: map[string]lab.Bounds{lab.KindAPIServer: {CPU: 0.5}}})
	stock := r.specs()
	if seats := r.seats(); seats != (plan.Seats{Least: 598, Most: 600}) {
		t.Errorf("the API server has 600 seats, inferred %+v", seats)
	}
	var clients []*kubernetes.Clientset
	for i := range 4 {
		clients = append(clients, r.user(fmt.Sprint("storm-", i)))
	}
	const wanted = 12
	open, _ := r.peak(clients, 3*wanted)
	t.Logf("without a ballast the storm uses %v seats", open)

	w := r.writer("one")
	for _, step := range []int{200, 100, 50, 25, wanted} {
		if err := w.Apply(t.Context(), r.plan(step)); err != nil {
			t.Fatal(err)
		}
	}
	p := r.plan(wanted)
	// Its own figures, once the API server has them.
	r.seats()
	limits := r.about().Seats
	sum := 0.0
	for _, row := range p.Rows {
		if limits[row.Name] != float64(row.SeatsAfter) {
			t.Errorf("%s: planned %d seats, the API server says %v", row.Name, row.SeatsAfter, limits[row.Name])
		}
		switch row.Role {
		case plan.RoleElse:
			sum += limits[row.Name]
		case plan.RoleProtected:
			if limits[row.Name] < float64(row.SeatsBefore) {
				t.Errorf("%s had %d seats and has %v", row.Name, row.SeatsBefore, limits[row.Name])
			}
		}
	}
	if sum > wanted || sum < float64(wanted-p.Error) {
		t.Errorf("everyone else has %v seats, wanted %d with at most %d less", sum, wanted, p.Error)
	}
	held, answered := r.peak(clients, 1e9)
	t.Logf("with a ballast that leaves %d the storm uses up to %v seats; %d LISTs were answered", p.Else, held, answered)
	if held > wanted || open <= 2*wanted {
		t.Errorf("the storm used %v seats before and %v with %d wanted", open, held, wanted)
	}
	if answered == 0 {
		t.Error("nothing was answered at all")
	}

	t.Run("the API server leaves the edits alone", func(t *testing.T) {
		edited := r.specs()
		// It looks over its own levels at every start, and each minute after.
		server, _ := r.lab.Process(lab.KindAPIServer)
		if err := server.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		testkit.Within(t, "the API server answers", time.Minute, func() bool {
			_, err := r.client.Discovery().ServerVersion()
			return err == nil
		})
		hook := func() bool {
			ok, err := r.client.Discovery().RESTClient().Get().AbsPath("/readyz/poststarthook/priority-and-fairness-config-producer").DoRaw(t.Context())
			return err == nil && string(ok) == "ok"
		}
		testkit.Within(t, "the API server has looked over its levels", time.Minute, hook)
		r.seats()
		if diff := cmp.Diff(edited, r.specs()); diff != "" {
			t.Errorf("the API server changed what was edited (-written +found):\n%s", diff)
		}
		if got := r.about().Seats[plan.Ballast]; got < 300 {
			t.Errorf("after the restart the ballast has %v seats", got)
		}
	})

	t.Run("another process restores from the cluster alone", func(t *testing.T) {
		restored, err := r.writer("another").Restore(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(Restored{Ballast: true, Levels: []string{"node-high", "system", "leader-election"}, Left: []string{}}, restored); diff != "" {
			t.Errorf("restored (-want +got):\n%s", diff)
		}
		r.wantStock(stock)
		if r.seats(); r.about().Seats["workload-low"] != 245 {
			t.Errorf("workload-low has %v seats again", r.about().Seats["workload-low"])
		}
	})

	t.Run("the journal knows what the cluster has lost", func(t *testing.T) {
		if err := w.Apply(t.Context(), r.plan(100)); err != nil {
			t.Fatal(err)
		}
		strip := []byte(`{"metadata":{"annotations":{"` + originalKey + `":null}}}`)
		if _, err := r.client.FlowcontrolV1().PriorityLevelConfigurations().Patch(t.Context(), "system", types.MergePatchType, strip, metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Restore(t.Context()); err != nil {
			t.Fatal(err)
		}
		after := r.specs()
		got := after["level system"].([]any)[2].(flowcontrolv1.PriorityLevelConfigurationSpec)
		if got.Limited == nil || *got.Limited.NominalConcurrencyShares != 30 || *got.Limited.LendablePercent != 33 {
			t.Errorf("system was not restored: %+v", got.Limited)
		}
		r.wantStock(stock)
	})

	t.Run("what somebody else changed is theirs", func(t *testing.T) {
		if err := w.Apply(t.Context(), r.plan(100)); err != nil {
			t.Fatal(err)
		}
		patch := func(shares int) {
			t.Helper()
			body := fmt.Appendf(nil, `{"spec":{"limited":{"nominalConcurrencyShares":%d,"lendablePercent":33}}}`, shares)
			if _, err := r.client.FlowcontrolV1().PriorityLevelConfigurations().Patch(t.Context(), "system", types.MergePatchType, body, metav1.PatchOptions{FieldManager: "an-admin"}); err != nil {
				t.Fatal(err)
			}
		}
		patch(77)
		var foreign *ForeignError
		if err := w.Apply(t.Context(), r.plan(50)); !errors.As(err, &foreign) || !strings.Contains(err.Error(), "an-admin") {
			t.Errorf("want a ForeignError that names an-admin, got %v", err)
		}
		restored, err := w.Restore(t.Context())
		if err != nil || !cmp.Equal(restored.Left, []string{"system"}) {
			t.Errorf("restored %+v, %v", restored, err)
		}
		if now := r.state(); len(now.Edited) > 0 || now.Ballast > 0 {
			t.Errorf("left behind: %+v", now.Edited)
		}
		if got := levelOf(r.state().objects["system"]).Shares; got != 77 {
			t.Errorf("system has %d shares, the admin wanted 77", got)
		}
		patch(30)
	})
}
