package main

import (
	"bytes"
	"embed"
	"fmt"
	"path"
	"strings"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/internal/config"
)

// trial is one change: a Drill that brings a new version of the fixtures' agent to some nodes, and claims that it is stopped, or
// let on.
type trial struct {
	*v1alpha1.Drill
	// class is what kind of harm it does; good ones do none.
	class string
	// update is the step that brings the change.
	update *v1alpha1.DrillStep
	// bad is true when it is to be stopped.
	bad bool
}

// good is the class of changes that do no harm.
const good = "good"

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
		d, _, err := config.LoadKind[*v1alpha1.Drill]("-", bytes.NewReader(data))
		if err != nil {
			return nil, fmt.Errorf("reading the trial %s: %w", e.Name(), err)
		}
		t, err := trialOf(d)
		if err == nil && d.Name != strings.TrimSuffix(e.Name(), ".yaml") {
			err = fmt.Errorf("it is called %s", d.Name)
		}
		if err != nil {
			return nil, fmt.Errorf("the trial %s: %w", e.Name(), err)
		}
		all = append(all, t)
	}
	return all, nil
}

// trialOf reads what makes a Drill a trial.
func trialOf(d *v1alpha1.Drill) (trial, error) {
	t := trial{Drill: d, class: d.Labels["class"]}
	claims := 0
	for _, h := range d.Hypothesis {
		if h.Metric == "stopped" && h.Op == "==" && (h.Value == 0 || h.Value == 1) {
			claims++
			t.bad = h.Value == 1
		}
	}
	for i := range d.Timeline {
		if d.Timeline[i].Action.Update == nil {
			continue
		}
		if t.update != nil {
			return t, fmt.Errorf("it updates in %s and in %s", t.update.Name, d.Timeline[i].Name)
		}
		t.update = &d.Timeline[i]
	}
	switch {
	case t.class == "":
		return t, fmt.Errorf("it has no label class")
	case t.update == nil:
		return t, fmt.Errorf("it updates nothing")
	case claims != 1:
		return t, fmt.Errorf("it must claim once that stopped is 0 or 1, and does so %d times", claims)
	case t.bad != (t.class != good):
		return t, fmt.Errorf("its class is %s, and what it claims is another", t.class)
	}
	return t, nil
}
