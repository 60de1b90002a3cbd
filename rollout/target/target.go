// Package target holds what a rollout steps, one package for each kind of thing: daemonset, deployment, manifests, kruise. What
// they have in common, which is what is pinned when a run starts, is here.
package target

import (
	"encoding/json"
	"errors"
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
}

// What stops a run: it is no longer the one that changes the object.
var (
	// ErrForeign says that somebody else changed it in the middle of the run.
	ErrForeign = errors.New("somebody else changed it")
	// ErrGone says that it, or its namespace, was deleted in the middle of the run.
	ErrGone = errors.New("it was deleted")
)
