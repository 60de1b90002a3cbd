package apf

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"

	"github.com/seakeep/seakeep/apf/plan"
)

// State is what the cluster has.
type State struct {
	// Now are the levels as they are, the ballast and the jail among them; Before as they would be without Seakeep.
	Now, Before []plan.Level
	// Ballast are the ballast's shares, 0 when there is none.
	Ballast int32
	// Edited are the levels that Seakeep changed.
	Edited []Edit
	// Jails are in force, or over and not yet removed.
	Jails []Jailed

	objects map[string]*flowcontrolv1.PriorityLevelConfiguration
}

// Edit is one level that Seakeep changed.
type Edit struct {
	Level    string   `json:"level"`
	Original Original `json:"original"`
	// Foreign is true when somebody else has changed it since: it is then theirs, and is not restored.
	Foreign bool `json:"foreign,omitempty"`
}

// Read reads the state; journal adds what the cluster itself may have lost, and may be nil.
func Read(ctx context.Context, client kubernetes.Interface, journal map[string]Original) (*State, error) {
	list, err := client.FlowcontrolV1().PriorityLevelConfigurations().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("listing the priority levels: %w", err)
	}
	s := &State{objects: map[string]*flowcontrolv1.PriorityLevelConfiguration{}}
	for i := range list.Items {
		pl := &list.Items[i]
		s.objects[pl.Name] = pl
		level := levelOf(pl)
		s.Now = append(s.Now, level)
		if pl.Name == plan.Ballast {
			if !ours(pl.Labels, partBallast) {
				return nil, fmt.Errorf("the priority level %s is not Seakeep's: it lacks the label %s=%s", pl.Name, managedBy, managedByUs)
			}
			s.Ballast = level.Shares
			continue
		}
		original, edited, err := originalOf(pl, journal)
		if err != nil {
			return nil, err
		}
		if edited {
			e := Edit{Level: pl.Name, Original: original, Foreign: level.Shares != original.WroteShares || level.Lendable != original.WroteLendable}
			s.Edited = append(s.Edited, e)
			if !e.Foreign {
				level.Shares, level.Lendable = original.Shares, original.Lendable
			}
		}
		s.Before = append(s.Before, level)
	}
	if s.Jails, err = readJails(ctx, client); err != nil {
		return nil, err
	}
	byName := func(a, b plan.Level) int { return strings.Compare(a.Name, b.Name) }
	slices.SortFunc(s.Now, byName)
	slices.SortFunc(s.Before, byName)
	return s, nil
}

// originalOf finds what a level was before Seakeep edited it: by its annotation, or where that is gone or unreadable, by the
// journal. A level that was deleted and made again is not the one that was edited, and has no annotation.
func originalOf(pl *flowcontrolv1.PriorityLevelConfiguration, journal map[string]Original) (Original, bool, error) {
	kept, inJournal := journal[pl.Name]
	text, annotated := pl.Annotations[originalKey]
	if !annotated {
		// The journal is written before the edit, so that a level may be in it and untouched. Then there is nothing to undo.
		now := levelOf(pl)
		return kept, inJournal && now.Shares == kept.WroteShares && now.Lendable == kept.WroteLendable, nil
	}
	original, err := parseOriginal(text)
	if err == nil {
		return original, true, nil
	}
	if inJournal {
		return kept, true, nil
	}
	return Original{}, false, fmt.Errorf("reading the annotation %s of the priority level %s: %w", originalKey, pl.Name, err)
}

func readJails(ctx context.Context, client kubernetes.Interface) ([]Jailed, error) {
	list, err := client.FlowcontrolV1().FlowSchemas().List(ctx, metav1.ListOptions{LabelSelector: labels.Set{managedBy: managedByUs, partLabel: partJail}.String()})
	if err != nil {
		return nil, fmt.Errorf("listing the jails: %w", err)
	}
	var jails []Jailed
	for i := range list.Items {
		fs := &list.Items[i]
		j := Jailed{Name: fs.Name, Since: fs.CreationTimestamp.Time, Reason: fs.Annotations[reasonKey]}
		// One whose time cannot be read is over: a jail without an end is what must not be.
		j.Expires, _ = time.Parse(time.RFC3339, fs.Annotations[expiresKey])
		for _, rule := range fs.Spec.Rules {
			for _, subject := range rule.Subjects {
				j.Subjects = append(j.Subjects, describeSubject(subject))
			}
			for _, r := range rule.ResourceRules {
				j.Verbs = append(j.Verbs, r.Verbs...)
			}
		}
		jails = append(jails, j)
	}
	return jails, nil
}
