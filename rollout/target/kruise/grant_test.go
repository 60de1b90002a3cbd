package kruise

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/seakeep/seakeep/rollout/target"
)

// nodesOf reads "a=2 b=1! c= d=1-": the revisions of the pods of nodes; ! is not ready, - is told to end, and ~ is prepared for it.
func nodesOf(text string) []target.OnNode {
	var nodes []target.OnNode
	for _, word := range strings.Fields(text) {
		name, pods, _ := strings.Cut(word, "=")
		n := target.OnNode{Node: &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}}}, Fits: true, Meant: true}
		for _, pod := range strings.FieldsFunc(pods, func(r rune) bool { return r == ',' }) {
			p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"controller-revision-hash": pod[:1]}}}
			if !strings.HasSuffix(pod, "!") {
				p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
			}
			switch pod[len(pod)-1] {
			case '-':
				p.DeletionTimestamp = &metav1.Time{}
			case '~':
				p.Labels["lifecycle.apps.kruise.io/state"] = "PreparingDelete"
			}
			n.Pods = append(n.Pods, p)
		}
		nodes = append(nodes, n)
	}
	return nodes
}

func TestGranting(t *testing.T) {
	for name, test := range map[string]struct {
		nodes, let string
		want       grant
	}{
		"nothing is let":                      {"a=1 b=1 c=1", "", grant{partition: 3, unavailable: 1}},
		"the first wave":                      {"a=1 b=1 c=1", "b", grant{hosts: []string{"b"}, partition: 2, unavailable: 1}},
		"what was moved stays counted":        {"a=2 b=1 c=1 d=1", "b c", grant{hosts: []string{"b", "c"}, partition: 1, unavailable: 2}},
		"what was let and moved is let go":    {"a=2 b=1 c=1", "a b", grant{hosts: []string{"b"}, partition: 1, unavailable: 1}},
		"an old pod is ending":                {"a=1- b=1 c=1", "a b", grant{hosts: []string{"b"}, partition: 1, unavailable: 2}},
		"it is prepared to end by a hook":     {"a=1~ b=1 c=1", "a", grant{partition: 2, unavailable: 1}},
		"a new pod is not ready":              {"a=2! b=1 c=1", "b", grant{hosts: []string{"b"}, partition: 1, unavailable: 2}},
		"a node lost its pod":                 {"a= b=1 c=1", "b", grant{hosts: []string{"b"}, partition: 1, unavailable: 2}},
		"an old pod is not ready, and let":    {"a=1! b=1", "a", grant{hosts: []string{"a"}, partition: 1, unavailable: 1}},
		"an old pod is not ready, elsewhere":  {"a=1! b=1", "b", grant{hosts: []string{"b"}, partition: 1, unavailable: 1}},
		"both on a node":                      {"a=1,2 b=1", "b", grant{hosts: []string{"b"}, partition: 0, unavailable: 1}},
		"everything":                          {"a=2 b=1", "b", grant{hosts: []string{"b"}, partition: 0, unavailable: 1}},
		"a pod of a revision before those":    {"a=0 b=1 c=2", "a", grant{hosts: []string{"a"}, partition: 1, unavailable: 1}},
		"a leak asks for a smaller partition": {"a=2 b=1 c=1 z=2", "b", grant{hosts: []string{"b"}, partition: 1, unavailable: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			let := strings.Fields(test.let)
			got := granting(nodesOf(test.nodes), "2", func(host string) bool { return slices.Contains(let, host) })
			if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(grant{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What letting writes is known for ours, and any less of it is not.
func TestLettingIsOurs(t *testing.T) {
	for name, s := range map[string]strategy{
		"none": letting(strategy{}, nil, everyNode, 1),
		"some": letting(strategy{RollingUpdate: &rollingUpdate{Type: surging}}, []string{"b", "a"}, intstr.FromInt32(3), 2),
	} {
		r := s.RollingUpdate
		if why := r.notOurs(); why != "" || r.Type != standard || *r.Paused != (len(r.hosts()) == 0) || !slices.IsSorted(r.hosts()) {
			t.Errorf("%s: %s: %+v", name, why, r)
		}
	}
	inPlace := letting(strategy{RollingUpdate: &rollingUpdate{Type: "InPlaceIfPossible"}}, []string{"a"}, intstr.FromInt32(3), 2).RollingUpdate
	if inPlace.Type != "InPlaceIfPossible" {
		t.Errorf("how pods are updated became %s", inPlace.Type)
	}
	if g := (grant{partition: 3, unavailable: 2}); !inPlace.suffices(g) || inPlace.suffices(grant{partition: 2, unavailable: 2}) || inPlace.suffices(grant{partition: 3, unavailable: 3}) {
		t.Error("what a grant needs is not told from what it does not")
	}
}
