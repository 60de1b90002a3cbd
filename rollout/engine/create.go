package engine

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/rollout/journal"
	"github.com/seakeep/seakeep/rollout/plan"
)

// Member is a cluster of the fleet, before there is a plan.
type Member struct {
	Labels map[string]string
	Target Target
}

// surveys is how many clusters are surveyed at once.
const surveys = 16

// NewRunID makes the id of a new run of a rollout.
func NewRunID(rollout string, now time.Time) string {
	var random [3]byte
	_, _ = rand.Read(random[:]) // never fails
	return fmt.Sprintf("%.40s-%s-%s", rollout, now.UTC().Format("20060102-150405"), hex.EncodeToString(random[:]))
}

// Plan surveys the clusters that a stage selects and makes the plan. It writes nothing. Everything that is wrong is returned at
// once, with the field or the cluster at fault.
func Plan(ctx context.Context, r *v1alpha1.Rollout, run string, fleet map[string]Member) (*plan.Plan, map[string][]string, error) {
	var clusters []plan.Cluster
	for _, name := range slices.Sorted(maps.Keys(fleet)) {
		clusters = append(clusters, plan.Cluster{Name: name, Labels: fleet[name].Labels})
	}
	errs := make([]error, len(clusters))
	free := make(chan struct{}, surveys)
	var surveying sync.WaitGroup
	for i := range clusters {
		if !selected(r, clusters[i].Labels) {
			continue
		}
		surveying.Go(func() {
			free <- struct{}{}
			defer func() { <-free }()
			nodes, err := fleet[clusters[i].Name].Target.Survey(ctx)
			if err != nil {
				errs[i] = fmt.Errorf("cluster %s: %w", clusters[i].Name, err)
			}
			clusters[i].Nodes = nodes
		})
	}
	surveying.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, nil, err
	}
	p, orders, invalid := plan.Make(r, run, clusters)
	if err := invalid.ToAggregate(); err != nil {
		return nil, nil, err
	}
	return p, orders, nil
}

func selected(r *v1alpha1.Rollout, of map[string]string) bool {
	return slices.ContainsFunc(r.Stages, func(s v1alpha1.RolloutStage) bool {
		selector, err := metav1.LabelSelectorAsSelector(&s.LabelSelector)
		return err == nil && selector.Matches(labels.Set(of))
	})
}

// MixedError says that a run of this rollout is under way which does something else: what a run does is not changed under it.
type MixedError struct {
	// Run is the run's id, and Phase where it stands.
	Run   string
	Phase journal.Phase
}

// Error implements error.
func (e *MixedError) Error() string {
	return fmt.Sprintf("run %s of this rollout is under way (%s) and does something else than the file says now: a run keeps to what it began with", e.Run, e.Phase)
}

// Unfinished finds the run of the rollout that is under way, if there is one. It returns a MixedError when that run does
// something else than the rollout says.
func Unfinished(j *journal.Journal, r *v1alpha1.Rollout) (run *journal.Run, err error) {
	hash, err := journal.Hash(r)
	if err != nil {
		return nil, err
	}
	runs, err := j.Runs()
	if err != nil {
		return nil, err
	}
	for i := range runs {
		if runs[i].Phase.Over() || runs[i].Rollout.Name != r.Name {
			continue
		}
		if runs[i].Hash != hash {
			return nil, &MixedError{Run: runs[i].ID, Phase: runs[i].Phase}
		}
		return &runs[i], nil
	}
	return nil, nil
}

// Record writes a new run into the journal, from where it can be carried out. Origin is nil for a run from a file, folder the one that
// files which the rollout names are in.
func Record(j *journal.Journal, r *v1alpha1.Rollout, origin *journal.Origin, folder string, p *plan.Plan, orders map[string][]string) error {
	hash, err := journal.Hash(r)
	if err != nil {
		return err
	}
	return j.Create(journal.Run{ID: p.Run, Rollout: r, Hash: hash, Origin: origin, Folder: folder, Started: time.Now().UTC(), Phase: journal.Running, Reason: "Started"}, p, orders)
}
