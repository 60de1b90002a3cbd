package analysis

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/api"
	promv1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/util/jsonpath"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/rollout/engine"
	"github.com/seakeep/seakeep/rollout/verdict"
)

// Metric is one of the user's metrics, checked and compiled.
type Metric struct {
	Spec       v1alpha1.RolloutMetric
	conditions verdict.Conditions
	path       *jsonpath.JSONPath
	// read reads the file of a header.
	read func(name string) ([]byte, error)
}

// measured are the measurements of one metric on one cluster in the step.
type measured struct {
	taken   []verdict.Measurement
	samples verdict.Groups
	due     time.Time
	trouble string
}

// maxTaken bounds how many measurements are kept; the limits of a metric count over these.
const maxTaken = 10_000

// maxSamples bounds the samples of a comparison.
const maxSamples = 100_000

// askMetrics takes the measurements that are due, side by side, and judges all.
func (a *Analyst) askMetrics(ctx context.Context, c *cluster, e engine.Exposure, now time.Time) []verdict.Finding {
	findings := make([]verdict.Finding, len(a.o.Metrics))
	var all sync.WaitGroup
	for i, m := range a.o.Metrics {
		c.mu.Lock()
		state := c.metrics[m.Spec.Name]
		if state == nil {
			state = &measured{}
			c.metrics[m.Spec.Name] = state
		}
		ready := e.Ready
		if ready.IsZero() {
			ready = e.Since
		}
		done := m.Spec.Count > 0 && counted(state.taken) >= m.Spec.Count
		due := !done && !now.Before(state.due) && !now.Before(ready.Add(m.Spec.InitialDelay.Duration))
		if due {
			// A look that comes a little early is this interval's.
			state.due = now.Add(m.Spec.Interval.Duration - min(m.Spec.Interval.Duration, a.o.Interval)/10)
		}
		c.mu.Unlock()
		all.Go(func() {
			if due {
				a.takeOne(ctx, c, e, m, state, now)
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			findings[i] = m.judge(state, now, a.o.Analysis.MaxDataAge.Duration)
		})
	}
	all.Wait()
	kept := findings[:0]
	for i, f := range findings {
		if a.o.Metrics[i].Spec.DryRun {
			// Shown, and without a say.
			f.Reason = fmt.Sprintf("dry run, would be %s: %s", f.Verdict, f.Reason)
			f.Verdict, f.Critical, f.Attributed = verdict.Pass, false, false
		}
		kept = append(kept, f)
	}
	return kept
}

func counted(all []verdict.Measurement) int {
	n := 0
	for _, m := range all {
		if m.Phase != verdict.PhaseError {
			n++
		}
	}
	return n
}

func (a *Analyst) takeOne(ctx context.Context, c *cluster, e engine.Exposure, m Metric, state *measured, now time.Time) {
	if m.Spec.Compare != nil {
		vector, err := m.vector(ctx, c.Name, now)
		c.mu.Lock()
		exposed := sets.New(e.Exposed...)
		if m.Spec.Compare.By == v1alpha1.CompareClusters {
			c.mu.Unlock()
			exposed = a.exposedClusters()
			c.mu.Lock()
		}
		defer c.mu.Unlock()
		state.trouble = ""
		if err != nil {
			state.trouble = verdict.OneLine(err.Error())
			return
		}
		period := int(now.Sub(e.Since) / max(m.Spec.Interval.Duration, time.Second))
		for _, v := range vector {
			sample := verdict.Sample{Unit: string(v.Metric[model.LabelName(m.Spec.Compare.Label)]), Period: period, Value: float64(v.Value)}
			switch {
			case sample.Unit == "":
				state.trouble = fmt.Sprintf("the query's result has no label %q", m.Spec.Compare.Label)
			case exposed.Has(sample.Unit):
				state.samples.Exposed = append(state.samples.Exposed, sample)
			default:
				state.samples.Control = append(state.samples.Control, sample)
			}
		}
		state.samples.At = now
		state.samples.Exposed = newest(state.samples.Exposed)
		state.samples.Control = newest(state.samples.Control)
		return
	}
	result, err := m.result(ctx, c.Name, now)
	taken := m.conditions.Measure(now, result, err)
	c.mu.Lock()
	defer c.mu.Unlock()
	state.taken = append(state.taken, taken)
	state.taken = state.taken[max(0, len(state.taken)-maxTaken):]
}

func newest(all []verdict.Sample) []verdict.Sample { return all[max(0, len(all)-maxSamples):] }

func (a *Analyst) exposedClusters() sets.Set[string] {
	exposed := sets.New[string]()
	for name, c := range a.clusters {
		c.mu.Lock()
		if !c.exposedAt.IsZero() {
			exposed.Insert(name)
		}
		c.mu.Unlock()
	}
	return exposed
}

func (m Metric) judge(state *measured, now time.Time, maxAge time.Duration) verdict.Finding {
	if m.Spec.Compare == nil {
		return verdict.Judge(&m.Spec, state.taken, now, max(maxAge, 2*m.Spec.Interval.Duration))
	}
	f := verdict.Compare("query."+m.Spec.Name, state.samples, *m.Spec.Compare)
	switch {
	case state.trouble != "":
		f.Verdict, f.Reason, f.Attributed, f.Critical = verdict.Unknown, state.trouble, false, false
	case now.Sub(state.samples.At) > max(maxAge, 2*m.Spec.Interval.Duration) && !state.samples.At.IsZero():
		f.Verdict, f.Fresh, f.Critical = verdict.Unknown, false, false
		f.Reason = fmt.Sprintf("the last measurement is %s old", now.Sub(state.samples.At).Round(time.Second))
	}
	return f
}

// result asks the provider.
func (m Metric) result(ctx context.Context, cluster string, now time.Time) (any, error) {
	if m.Spec.Provider.Web != nil {
		return m.web(ctx, cluster)
	}
	value, err := m.query(ctx, cluster, now)
	if err != nil {
		return nil, err
	}
	switch value := value.(type) {
	case *model.Scalar:
		return float64(value.Value), nil
	case model.Vector:
		values := make([]float64, 0, len(value))
		for _, s := range value {
			values = append(values, float64(s.Value))
		}
		return values, nil
	}
	return nil, fmt.Errorf("the query's result is a %s: it must be a scalar or an instant vector", value.Type())
}

func (m Metric) vector(ctx context.Context, cluster string, now time.Time) (model.Vector, error) {
	value, err := m.query(ctx, cluster, now)
	if err != nil {
		return nil, err
	}
	vector, ok := value.(model.Vector)
	if !ok {
		return nil, fmt.Errorf("the query's result is a %s: to be compared it must be an instant vector", value.Type())
	}
	return vector, nil
}

func (m Metric) query(ctx context.Context, cluster string, now time.Time) (model.Value, error) {
	p := m.Spec.Provider.Prometheus
	headers, err := m.withValues(p.Headers)
	if err != nil {
		return nil, err
	}
	client, err := api.NewClient(api.Config{Address: p.Address, Client: asker(p.Insecure, headers)})
	if err != nil {
		return nil, fmt.Errorf("asking %s: %w", place(p.Address), bare(err))
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(p.Timeout)*time.Second)
	defer cancel()
	value, warnings, _, err := promv1.NewAPI(client).Query(ctx, builtin(p.Query, cluster), now)
	if err != nil {
		return nil, fmt.Errorf("asking %s: %w", place(p.Address), bare(err))
	}
	if value == nil { // JSON, and not of Prometheus
		return nil, fmt.Errorf("asking %s: the answer has no result", place(p.Address))
	}
	// A partial answer is announced as a warning by those that federate (Thanos), and would look like less harm.
	for _, w := range warnings {
		return nil, fmt.Errorf("asking %s: the answer may be incomplete: %s", place(p.Address), w)
	}
	return value, nil
}

// web asks a URL, as Argo's provider of that name does: any 2xx is an answer, which must be JSON.
func (m Metric) web(ctx context.Context, cluster string) (any, error) {
	w := m.Spec.Provider.Web
	ctx, cancel := context.WithTimeout(ctx, time.Duration(w.TimeoutSeconds)*time.Second)
	defer cancel()
	headers, err := m.withValues(w.Headers)
	if err != nil {
		return nil, err
	}
	at := builtin(w.URL, cluster)
	request, err := http.NewRequestWithContext(ctx, w.Method, at, bytes.NewReader([]byte(builtin(w.Body, cluster))))
	if err != nil {
		return nil, fmt.Errorf("asking %s: %w", place(at), bare(err))
	}
	response, err := asker(w.Insecure, headers).Do(request)
	if err != nil {
		return nil, fmt.Errorf("asking %s: %w", place(at), bare(err))
	}
	defer response.Body.Close()
	if response.StatusCode < 200 || response.StatusCode > 299 {
		return nil, fmt.Errorf("%s answers %s", place(at), response.Status)
	}
	var value any
	if err := json.NewDecoder(response.Body).Decode(&value); err != nil {
		return nil, fmt.Errorf("the answer of %s cannot be read as JSON: %w", place(at), err)
	}
	return m.pick(value)
}

// pick takes what the metric's JSONPath names out of an answer.
func (m Metric) pick(value any) (any, error) {
	if m.path == nil {
		return value, nil
	}
	found, err := m.path.FindResults(value)
	if err != nil {
		return nil, fmt.Errorf("finding %s in the answer: %w", m.Spec.Provider.Web.JSONPath, err)
	}
	if len(found) == 0 || len(found[0]) == 0 {
		return nil, errors.New("there is no " + m.Spec.Provider.Web.JSONPath + " in the answer")
	}
	if len(found) == 1 && len(found[0]) == 1 {
		return found[0][0].Interface(), nil
	}
	var values []any
	for _, set := range found {
		for _, v := range set {
			values = append(values, v.Interface())
		}
	}
	return values, nil
}
