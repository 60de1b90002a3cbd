package plan

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/seakeep/seakeep/internal/testkit"
)

var update = flag.Bool("update", false, "write what is decided now into the transcripts")

// A transcript is a cluster that is told what to do and does it, as a DaemonSet controller and kubelets would:
//
//	order a b c d          the nodes, in their order; each begins with a ready pod of the stable revision
//	install                none has one, and they are enrolled
//	steps 1 3 all          what the steps let
//	budget 1 leak 1        maxUnavailable and maxLeaked
//	forward 0 | back       decides, and carries the moves out: the pods are ending
//	end NODE…              their pods are gone, and the next ones are there, not ready
//	ready NODE…, unready NODE…    the pods are
//	down NODE…, up NODE…   the nodes are
//	gone NODE…             the nodes are no more
//	new NODE…              nodes have come, with a pod of the template in force
//	revert                 the template in force is the stable one again
//
// Each decision is written below its line.
func TestTranscripts(t *testing.T) {
	testkit.Transcripts(t, *update, func(t *testing.T, script []byte) []byte {
		w := &world{t: t, nodes: map[string]*SeenNode{}, template: "new"}
		lines := bufio.NewScanner(bytes.NewReader(script))
		for lines.Scan() {
			if line := lines.Text(); !strings.HasPrefix(line, "> ") {
				w.out.WriteString(line + "\n")
				w.play(strings.Fields(line))
			}
		}
		return w.out.Bytes()
	})
}

type world struct {
	t        *testing.T
	out      bytes.Buffer
	leg      Leg
	order    []string
	nodes    map[string]*SeenNode
	install  bool
	template string
	uids     int
}

func (w *world) pod(node, revision string, ready bool) SeenPod {
	w.uids++
	return SeenPod{Name: "ns/" + node, UID: strconv.Itoa(w.uids), Revision: revision, Ready: ready}
}

func (w *world) play(words []string) {
	if len(words) == 0 || words[0] == "#" {
		return
	}
	args := words[1:]
	each := func(f func(n *SeenNode)) {
		for _, name := range args {
			f(w.nodes[name])
		}
	}
	switch words[0] {
	case "order":
		w.order = args
		for _, name := range args {
			w.nodes[name] = &SeenNode{Name: name, Ready: true, Pods: []SeenPod{w.pod(name, "old", true)}}
		}
	case "install":
		for _, n := range w.nodes {
			n.Pods, n.Enrolment = nil, NotEnrolled
		}
		w.install = true
	case "steps":
		for _, a := range args {
			n, err := strconv.Atoi(a)
			if err != nil {
				n = len(w.order)
			}
			w.leg.Steps = append(w.leg.Steps, Step{Nodes: n, All: err != nil})
		}
	case "budget":
		w.leg.MaxUnavailable, _ = strconv.Atoi(args[0])
		w.leg.MaxLeaked, _ = strconv.Atoi(args[2])
	case "forward":
		step, err := strconv.Atoi(args[0])
		if err != nil {
			w.t.Fatal(err)
		}
		w.decided(NewRoute(w.leg, w.order).Forward(step, w.seen()))
	case "back":
		w.decided(NewRoute(w.leg, w.order).Back(w.seen()))
	case "end":
		each(func(n *SeenNode) {
			n.Pods = nil
			if n.Enrolment != NotEnrolled {
				n.Pods = []SeenPod{w.pod(n.Name, w.template, false)}
			}
		})
	case "ready", "unready":
		each(func(n *SeenNode) {
			for i := range n.Pods {
				n.Pods[i].Ready = words[0] == "ready"
			}
		})
	case "down", "up":
		each(func(n *SeenNode) { n.Ready = words[0] == "up" })
	case "gone":
		for _, name := range args {
			delete(w.nodes, name)
		}
	case "new":
		for _, name := range args {
			w.nodes[name] = &SeenNode{Name: name, Ready: true, Pods: []SeenPod{w.pod(name, w.template, true)}}
		}
	case "revert":
		w.template = "old"
	default:
		w.t.Fatalf("%q is nothing a transcript knows", words[0])
	}
}

func (w *world) seen() Seen {
	seen := Seen{Update: "new", Stable: "old"}
	for _, name := range slices.Sorted(maps.Keys(w.nodes)) {
		n := *w.nodes[name]
		n.Pods = slices.Clone(n.Pods)
		seen.Nodes = append(seen.Nodes, n)
	}
	return seen
}

func (w *world) decided(d Decision) {
	list := func(what string, names []string) string {
		if len(names) == 0 {
			return ""
		}
		return "; " + what + " " + strings.Join(names, " ")
	}
	var moved []string
	for _, m := range d.Moves {
		n := w.nodes[m.Node]
		moved = append(moved, m.Node)
		switch {
		case n.Enrolment == NotEnrolled:
			n.Enrolment = Enrolled
		case n.Enrolment == Enrolled:
			n.Enrolment = NotEnrolled
			for i := range n.Pods {
				n.Pods[i].Terminating = true
			}
		default:
			at := slices.IndexFunc(n.Pods, func(p SeenPod) bool { return p.UID == m.UID })
			if at < 0 || n.Pods[at].Terminating {
				w.t.Errorf("%s: the pod %s is not there, or is ending already", m.Node, m.UID)
				continue
			}
			n.Pods[at].Terminating, n.Pods[at].Ready = true, false
		}
	}
	text := "move " + strings.Join(moved, " ")
	if len(moved) == 0 {
		text = "move nothing"
	}
	text += list("exposed", d.Exposed) + list("leaked", d.Leaked) + list("in flight", d.InFlight) + list("missed", d.Missed)
	if d.Complete {
		text += "; complete"
	}
	if d.Wait != "" {
		text += "; " + d.Wait
	}
	fmt.Fprintf(&w.out, "> %s\n", text)
}
