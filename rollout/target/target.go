// Package target holds what a rollout steps, one package for each kind of thing: daemonset, deployment, manifests, kruise. What
// they have in common, which is what is pinned when a run starts, is here.
package target

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/rollout/jail"
)

// FieldManager owns the fields that a rollout writes, and RunAnnotation, on what is changed, names the run.
const (
	FieldManager  = "seakeep-rollout"
	RunAnnotation = "seakeep.dev/rollout"
)

// Pins are the revisions of one cluster as they were pinned when its change began. A run steps between these two and knows no
// other: "the second newest" is somebody else's after two changes, and the history limit may have pruned it.
type Pins struct {
	// Object is the UID of the object that changes, "" while it does not exist.
	Object string `json:"object,omitempty"`
	// Stable and Update name the revisions, as pods are labelled with them. Update is "" until the change is written, Stable
	// for what is new.
	Stable string `json:"stable,omitempty"`
	Update string `json:"update,omitempty"`
	// Before is what there was, After what is to be, as the API server fills it in: pod templates, or for manifests lists of
	// objects.
	Before json.RawMessage `json:"before,omitempty"`
	After  json.RawMessage `json:"after,omitempty"`
	// Strategy is the update strategy that was there before; null when it is left as it is.
	Strategy json.RawMessage `json:"strategy,omitempty"`
	// Beside are the pins of the manifests that go before a workload.
	Beside *Pins `json:"beside,omitempty"`
}

// What stops a run: it is no longer the one that changes the object.
var (
	// ErrForeign says that somebody else changed it in the middle of the run.
	ErrForeign = errors.New("somebody else changed it")
	// ErrGone says that it, or its namespace, was deleted in the middle of the run.
	ErrGone = errors.New("it was deleted")
	// ErrNothing says that there is nothing to roll out: the change is there already.
	ErrNothing = errors.New("there is nothing to roll out")
)

// NextTemplate is the new pod template of a workload, as the rollout says it: whole, or as a patch of the one there is.
func NextTemplate(change v1alpha1.WorkloadChange, before *corev1.PodTemplateSpec) (*corev1.PodTemplateSpec, error) {
	after := new(corev1.PodTemplateSpec)
	if change.Template != nil {
		data, err := json.Marshal(change.Template)
		if err == nil {
			err = Strict(data, after)
		}
		if err != nil {
			return nil, fmt.Errorf("template: %w", err)
		}
		return after, nil
	}
	old, err := json.Marshal(before)
	if err != nil {
		return nil, err
	}
	patch, err := json.Marshal(change.Patch)
	if err != nil {
		return nil, err
	}
	merged, err := strategicpatch.StrategicMergePatch(old, patch, corev1.PodTemplateSpec{})
	if err == nil {
		err = Strict(merged, after)
	}
	if err != nil {
		return nil, fmt.Errorf("patch: %w", err)
	}
	return after, nil
}

// Strict decodes JSON and refuses fields that the type does not have.
func Strict(data []byte, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return fmt.Errorf("is no %s: %w", reflect.TypeOf(into).Elem().Name(), err)
	}
	return nil
}

// Revision names what is pinned, where the cluster has no name for it.
func Revision(pinned json.RawMessage) string {
	sum := sha256.Sum256(pinned)
	return hex.EncodeToString(sum[:5])
}

// Writers names who last wrote an object besides the rollout, for people.
func Writers(fields []metav1.ManagedFieldsEntry) string {
	latest, at := "nobody says who wrote it", time.Time{}
	for _, m := range fields {
		if m.Subresource == "" && m.Manager != FieldManager && m.Time != nil && m.Time.After(at) {
			latest, at = "last written by "+m.Manager, m.Time.Time
		}
	}
	return latest
}

// Pinned refuses an object that is not, or is no longer, the one that was pinned; err is what reading it said. What names it for
// people.
func (p Pins) Pinned(what string, object metav1.Object, err error) error {
	switch {
	case apierrors.IsNotFound(err):
		return fmt.Errorf("%s: %w", what, ErrGone)
	case err != nil:
		return err
	case string(object.GetUID()) != p.Object:
		return fmt.Errorf("%s is another object of the same name: %w", what, ErrGone)
	case object.GetDeletionTimestamp() != nil:
		return fmt.Errorf("%s is being deleted: %w", what, ErrGone)
	}
	return nil
}

// NeitherTemplate is why an object that somebody else changed is refused most often.
const NeitherTemplate = "has a pod template that is neither the one from before nor the new one"

// Foreign is ErrForeign with what is foreign about an object, and who wrote it last.
func Foreign(what, why string, object metav1.Object) error {
	return fmt.Errorf("%s %s (%s): %w", what, why, Writers(object.GetManagedFields()), ErrForeign)
}

// Account is whom pods of a namespace run as, namespace/name.
func Account(namespace string, spec corev1.PodSpec) string {
	return namespace + "/" + cmp.Or(spec.ServiceAccountName, "default")
}

// Describe adds to a component what its pinned template says: whom it runs as, and whether it is spared.
func (p Pins) Describe(c *jail.Component) error {
	var after corev1.PodTemplateSpec
	if err := json.Unmarshal(p.After, &after); err != nil {
		return fmt.Errorf("reading the pinned template of %s %s/%s: %w", c.Kind, c.Namespace, c.Name, err)
	}
	c.ServiceAccount = Account(c.Namespace, after.Spec)
	c.Protected = jail.Protected(c.Namespace, c.Name, after.Spec)
	return nil
}

// Verbs are the rights to do this to a resource.
func Verbs(of authorizationv1.ResourceAttributes, verbs ...string) []authorizationv1.ResourceAttributes {
	var rights []authorizationv1.ResourceAttributes
	for _, of.Verb = range verbs {
		rights = append(rights, of)
	}
	return rights
}
