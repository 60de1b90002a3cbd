// Package apply is the action that creates or updates objects by server-side apply, as somebody.
package apply

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
	caller    *apicall.Caller
	objects   []object
	target    drill.Target
	manifests []string
}

type object struct {
	ref  objects.Ref
	path string
	body []byte
}

// New reads the manifests and looks up their paths.
func New(spec v1alpha1.ApplyAction, env drill.Env) (drill.Action, error) {
	a := &action{target: env.Target, manifests: spec.Manifests}
	var refs []objects.Ref
	for _, manifest := range spec.Manifests {
		ref, body, err := objects.RefOf(manifest)
		if err != nil {
			return nil, err
		}
		refs = append(refs, ref)
		a.objects = append(a.objects, object{ref: ref, body: body})
	}
	caller, paths, err := session.Open(env.Target, spec.As, refs)
	if err != nil {
		return nil, err
	}
	a.caller = caller
	for i, path := range paths {
		a.objects[i].path = path
	}
	return a, nil
}

// Do implements drill.Action. Objects are applied in order; the first failure ends the attempt. A target that rolls out does
// so instead, and the action is done when it has begun.
func (a *action) Do(ctx context.Context) error {
	if roller, ok := a.target.(drill.RollerOut); ok {
		if taken, err := roller.RollOut(ctx, a.manifests); taken {
			return err
		}
	}
	for _, o := range a.objects {
		code, body, err := a.caller.Do(ctx, http.MethodPatch, o.path+"?fieldManager=seakeep-drill&force=true", apicall.ApplyPatch, o.body)
		if err != nil {
			return fmt.Errorf("applying %s: %w", o.ref, err)
		}
		if code != http.StatusOK && code != http.StatusCreated {
			return fmt.Errorf("applying %s: answered %d: %s", o.ref, code, session.Message(body))
		}
	}
	return nil
}
