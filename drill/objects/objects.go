// Package objects finds the path of an object at the API server. Paths are looked up before the drill's time runs:
// discovery does not work when it is needed most.
package objects

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/seakeep/seakeep/drill/apicall"
)

// Ref names an object.
type Ref struct {
	APIVersion, Kind, Namespace, Name string
}

// String is "Kind namespace/name".
func (r Ref) String() string {
	if r.Namespace == "" {
		return r.Kind + " " + r.Name
	}
	return r.Kind + " " + r.Namespace + "/" + r.Name
}

// RefOf reads what a manifest names, and returns it with the manifest as JSON.
func RefOf(manifest string) (Ref, []byte, error) {
	data, err := yaml.YAMLToJSONStrict([]byte(manifest))
	if err != nil {
		return Ref{}, nil, fmt.Errorf("reading a manifest: %w", err)
	}
	var meta metav1.PartialObjectMetadata
	if err := json.Unmarshal(data, &meta); err != nil {
		return Ref{}, nil, fmt.Errorf("reading a manifest: %w", err)
	}
	ref := Ref{APIVersion: meta.APIVersion, Kind: meta.Kind, Namespace: meta.Namespace, Name: meta.Name}
	if ref.APIVersion == "" || ref.Kind == "" || ref.Name == "" {
		return Ref{}, nil, fmt.Errorf("reading a manifest: apiVersion, kind and metadata.name are required, got %q", ref)
	}
	return ref, data, nil
}

// Path asks the API server how a kind is called in paths, and returns the object's.
func Path(ctx context.Context, caller *apicall.Caller, ref Ref) (string, error) {
	base := "/apis/" + ref.APIVersion
	if !strings.Contains(ref.APIVersion, "/") {
		base = "/api/" + ref.APIVersion
	}
	code, body, err := caller.Do(ctx, http.MethodGet, base, "", nil)
	if err != nil {
		return "", fmt.Errorf("looking up %s: %w", ref, err)
	}
	if code != http.StatusOK {
		return "", fmt.Errorf("looking up %s: %s answered %d", ref, base, code)
	}
	var list metav1.APIResourceList
	if err := json.Unmarshal(body, &list); err != nil {
		return "", fmt.Errorf("looking up %s: %w", ref, err)
	}
	for _, resource := range list.APIResources {
		if resource.Kind != ref.Kind || strings.Contains(resource.Name, "/") {
			continue
		}
		if resource.Namespaced != (ref.Namespace != "") {
			return "", fmt.Errorf("looking up %s: namespace %q is given, but namespaced is %v", ref, ref.Namespace, resource.Namespaced)
		}
		if resource.Namespaced {
			base += "/namespaces/" + ref.Namespace
		}
		return base + "/" + resource.Name + "/" + ref.Name, nil
	}
	return "", fmt.Errorf("looking up %s: %s has no such kind", ref, ref.APIVersion)
}
