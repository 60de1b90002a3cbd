// Package changed finds the pods that an update of the fixtures' agent brought. What a change does to its nodes follows them:
// as it comes to more, and as it is taken back.
package changed

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/drill"
	"github.com/seakeep/seakeep/drill/apicall"
	"github.com/seakeep/seakeep/drill/fixtures"
	"github.com/seakeep/seakeep/drill/session"
)

// lookEvery is how often it is looked where a change runs: as often as a kubelet reports of a pod that has just started.
const lookEvery = 300 * time.Millisecond

// Change is what one step brought.
type Change struct {
	// Caller is the observer's, for what is written about its pods and nodes too.
	Caller *apicall.Caller
	// Namespace is the fixtures'.
	Namespace string
	version   string
}

// By returns the change that the step of this name brings.
func By(step string, env drill.Env) (*Change, error) {
	for i := range env.Drill.Timeline {
		s := &env.Drill.Timeline[i]
		if s.Name == step && s.Action.Update != nil {
			return Of(s.Action.Update.Version, env)
		}
	}
	return nil, fmt.Errorf("BUG: %q passed validation as a step that does an update", step)
}

// Of returns the change to a version of the agent.
func Of(version string, env drill.Env) (*Change, error) {
	caller, err := session.As(env.Target, v1alpha1.AsObserver)
	if err != nil {
		return nil, err
	}
	return &Change{Caller: caller, Namespace: env.Drill.Fixtures.Namespace, version: version}, nil
}

// Pods returns those that run the change and are not to be deleted.
func (c *Change) Pods(ctx context.Context) ([]corev1.Pod, error) {
	all, err := c.Agents(ctx)
	var ours []corev1.Pod
	for _, p := range all {
		if c.Runs(p) {
			ours = append(ours, p)
		}
	}
	return ours, err
}

// Agents returns all pods of the agent, of any version, that are not to be deleted.
func (c *Change) Agents(ctx context.Context) ([]corev1.Pod, error) {
	all, err := c.List(ctx, "/api/v1/namespaces/"+c.Namespace+"/pods?labelSelector="+fixtures.AgentSelector)
	var alive []corev1.Pod
	for _, p := range all {
		if p.DeletionTimestamp == nil {
			alive = append(alive, p)
		}
	}
	return alive, err
}

// Runs is true when a pod of the agent runs the change.
func (c *Change) Runs(p corev1.Pod) bool {
	return len(p.Spec.Containers) > 0 && p.Spec.Containers[0].Image == fixtures.AgentImage(c.version)
}

// List returns the pods of a path.
func (c *Change) List(ctx context.Context, path string) ([]corev1.Pod, error) {
	code, body, err := c.Caller.Do(ctx, http.MethodGet, path, "", nil)
	if err != nil {
		return nil, fmt.Errorf("listing pods: %w", err)
	}
	if code != http.StatusOK {
		return nil, fmt.Errorf("listing pods: answered %d: %s", code, session.Message(body))
	}
	var list corev1.PodList
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf("listing pods: %w", err)
	}
	return list.Items, nil
}

// ReportPod writes a pod's status, as its kubelet would.
func (c *Change) ReportPod(ctx context.Context, p *corev1.Pod) error {
	p.APIVersion, p.Kind = "v1", "Pod"
	body, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return c.write(ctx, http.MethodPut, "/api/v1/namespaces/"+p.Namespace+"/pods/"+p.Name+"/status", apicall.JSON, body)
}

// ReportNode changes a node's status, as its kubelet would.
func (c *Change) ReportNode(ctx context.Context, name string, condition corev1.NodeCondition) error {
	body, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": []corev1.NodeCondition{condition}}})
	if err != nil {
		return err
	}
	return c.write(ctx, http.MethodPatch, "/api/v1/nodes/"+name+"/status", apicall.StrategicPatch, body)
}

// Delete deletes a pod, if it is still this one.
func (c *Change) Delete(ctx context.Context, p *corev1.Pod) error {
	body := fmt.Appendf(nil, `{"apiVersion":"v1","kind":"DeleteOptions","preconditions":{"uid":%q}}`, p.UID)
	return c.write(ctx, http.MethodDelete, "/api/v1/namespaces/"+p.Namespace+"/pods/"+p.Name, apicall.JSON, body)
}

// write takes an object that is gone, or another by now, for written: whoever follows looks again.
func (c *Change) write(ctx context.Context, method, path, contentType string, body []byte) error {
	code, answer, err := c.Caller.Do(ctx, method, path, contentType, body)
	switch {
	case err != nil:
		return fmt.Errorf("%s %s: %w", method, path, err)
	case code < 300, code == http.StatusNotFound, code == http.StatusConflict:
		return nil
	}
	return fmt.Errorf("%s %s: answered %d: %s", method, path, code, session.Message(answer))
}

// Report is told of a change's pods again and again, and at the end once, that there are none. It is never told twice at a time.
type Report func(context.Context, []corev1.Pod) error

// reporting is the action that reports of a change until the run is over.
type reporting struct {
	change *Change
	report Report
	beside func(drill.Beside)
}

// Reporting is the action that reports of a change's pods, and of their nodes, from the time it is done until the run is over.
func Reporting(c *Change, env drill.Env, report Report) drill.Action {
	return &reporting{change: c, report: report, beside: env.Beside}
}

// Do implements drill.Action: it begins to report.
func (r *reporting) Do(context.Context) error {
	r.beside(drill.Beside{
		While: r.follow,
		Undo: func(ctx context.Context) error {
			defer r.change.Caller.Close()
			return r.report(ctx, nil)
		},
	})
	return nil
}

// follow reports until the context ends. What cannot be read or written is tried again: an API server that is down is what a drill may
// be about.
func (r *reporting) follow(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		if pods, err := r.change.Pods(ctx); err == nil {
			_ = r.report(ctx, pods)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Nodes are those that these pods are on.
func Nodes(pods []corev1.Pod) map[string]bool {
	nodes := map[string]bool{}
	for _, p := range pods {
		if p.Spec.NodeName != "" {
			nodes[p.Spec.NodeName] = true
		}
	}
	return nodes
}

// SetReady says whether a pod and its containers are ready.
func SetReady(p *corev1.Pod, ready bool) {
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	for i := range p.Status.Conditions {
		if c := &p.Status.Conditions[i]; c.Type == corev1.PodReady || c.Type == corev1.ContainersReady {
			c.Status = status
		}
	}
	for i := range p.Status.ContainerStatuses {
		p.Status.ContainerStatuses[i].Ready = ready
	}
}
