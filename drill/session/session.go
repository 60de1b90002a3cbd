// Package session is what the actions that speak to the API server share: connections as somebody, with the paths of
// what they will need looked up beforehand.
package session

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/drill"
	"github.com/seakeep/seakeep/drill/apicall"
	"github.com/seakeep/seakeep/drill/objects"
)

// UserAgent is how the drill's engineers introduce themselves: as what they would use.
const UserAgent = "kubectl/v1.36.3 (seakeep-drill)"

const lookupTimeout = 15 * time.Second

// Open returns connections as an identity ("" is Admin) and the paths of the objects, which the observer looks up.
func Open(target drill.Target, as v1alpha1.DrillIdentity, refs []objects.Ref) (*apicall.Caller, []string, error) {
	observer, err := As(target, v1alpha1.AsObserver)
	if err != nil {
		return nil, nil, err
	}
	defer observer.Close()
	ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
	defer cancel()
	paths := make([]string, len(refs))
	for i, ref := range refs {
		if paths[i], err = objects.Path(ctx, observer, ref); err != nil {
			return nil, nil, err
		}
	}
	if as == "" {
		as = v1alpha1.AsAdmin
	}
	caller, err := As(target, as)
	return caller, paths, err
}

// As returns connections as an identity.
func As(target drill.Target, as v1alpha1.DrillIdentity) (*apicall.Caller, error) {
	config, err := target.Config(as)
	if err != nil {
		return nil, fmt.Errorf("loading the credentials of %s: %w", as, err)
	}
	return apicall.New(config, UserAgent)
}

// Message is what an API server's answer says, shortened.
func Message(body []byte) string {
	var status metav1.Status
	text := string(body)
	if err := json.Unmarshal(body, &status); err == nil && status.Message != "" {
		text = status.Message
	}
	if len(text) > 200 {
		text = text[:200] + "…"
	}
	return text
}
