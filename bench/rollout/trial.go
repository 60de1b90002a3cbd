package main

import (
	"embed"
	"fmt"
	"path"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// effect is what a change does once it runs.
type effect struct {
	// Kind is one of those below.
	Kind effectKind `json:"kind"`
	// Rate is requests a second of each exposed node, for Lists, Gets and Watches; milliseconds of delay for SlowWebhook.
	Rate float64 `json:"rate,omitempty"`
}

type effectKind string

// What changes do. A simulated node has no processes: what a kubelet would report of a crash, or of a node that runs out of
// memory, is reported for it; all else is done.
const (
	// crashLoop reports a container that restarts and is not ready.
	crashLoop effectKind = "CrashLoop"
	// neverReady reports a container that runs and is not ready.
	neverReady effectKind = "NeverReady"
	// lateReady reports one that is ready after two seconds.
	lateReady effectKind = "LateReady"
	// breakDNS ends the DNS server that would run on the exposed node.
	breakDNS effectKind = "BreakDNS"
	// lists LIST all pods of the cluster, gets GET one node each, both with the component's own token.
	lists effectKind = "Lists"
	gets  effectKind = "Gets"
	// watches opens watches and never closes them.
	watches effectKind = "LeakWatches"
	// slowWebhook registers an admission webhook that takes its time.
	slowWebhook effectKind = "SlowWebhook"
	// sickNode reports memory pressure on exposed nodes, sickNeighbours that other pods there are not ready.
	sickNode       effectKind = "SickNode"
	sickNeighbours effectKind = "SickNeighbours"
)

var effectKinds = []effectKind{crashLoop, neverReady, lateReady, breakDNS, lists, gets, watches, slowWebhook, sickNode, sickNeighbours}

// trial is one change: a file of the folder trials.
type trial struct {
	// Name and Title are for people.
	Name  string `json:"name"`
	Title string `json:"title"`
	// Class is what kind of harm it does; good ones do none.
	Class string `json:"class"`
	// Nodes is how many nodes the change is let onto.
	Nodes   int      `json:"nodes"`
	Effects []effect `json:"effects,omitempty"`
}

// good is the class of changes that do no harm.
const good = "good"

func (t trial) bad() bool { return t.Class != good }

//go:embed trials/*.yaml
var files embed.FS

// loadTrials reads every trial, in the files' order.
func loadTrials() ([]trial, error) {
	entries, err := files.ReadDir("trials")
	if err != nil {
		return nil, err
	}
	var all []trial
	for _, e := range entries {
		data, err := files.ReadFile(path.Join("trials", e.Name()))
		if err != nil {
			return nil, err
		}
		var t trial
		if err := yaml.UnmarshalStrict(data, &t); err != nil {
			return nil, fmt.Errorf("reading the trial %s: %w", e.Name(), err)
		}
		if t.Name != strings.TrimSuffix(e.Name(), ".yaml") || t.Title == "" || t.Class == "" || t.Nodes < 1 {
			return nil, fmt.Errorf("the trial %s needs its file's name, a title, a class and nodes", e.Name())
		}
		for _, one := range t.Effects {
			if !slices.Contains(effectKinds, one.Kind) {
				return nil, fmt.Errorf("the trial %s: no effect is called %q", e.Name(), one.Kind)
			}
		}
		all = append(all, t)
	}
	return all, nil
}
