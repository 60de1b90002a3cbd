// Package remove is the action that deletes one object, as somebody: the rollback that could not be done.
package remove

import (
	"context"
	"fmt"
	"net/http"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/drill"
	"github.com/seakeep/seakeep/drill/apicall"
	"github.com/seakeep/seakeep/drill/objects"
	"github.com/seakeep/seakeep/drill/session"
)

type action struct {
	caller *apicall.Caller
	ref    objects.Ref
	path   string
}

// New looks up the object's path.
func New(spec v1alpha1.DeleteAction, env drill.Env) (drill.Action, error) {
	ref := objects.Ref{APIVersion: spec.APIVersion, Kind: spec.Kind, Namespace: spec.Namespace, Name: spec.Name}
	caller, paths, err := session.Open(env.Target, spec.As, []objects.Ref{ref})
	if err != nil {
		return nil, err
	}
	return &action{caller: caller, ref: ref, path: paths[0]}, nil
}

var options = []byte(`{"apiVersion":"v1","kind":"DeleteOptions","propagationPolicy":"Background"}`)

// Do implements drill.Action. Gone is done: the answer to an earlier attempt may have been lost.
func (a *action) Do(ctx context.Context) error {
	code, body, err := a.caller.Do(ctx, http.MethodDelete, a.path, apicall.JSON, options)
	switch {
	case err != nil:
		return fmt.Errorf("deleting %s: %w", a.ref, err)
	case code == http.StatusOK || code == http.StatusAccepted || code == http.StatusNotFound:
		return nil
	default:
		return fmt.Errorf("deleting %s: answered %d: %s", a.ref, code, session.Message(body))
	}
}
