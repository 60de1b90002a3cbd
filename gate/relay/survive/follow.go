package survive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

const (
	// wholeFor bounds a request that ends and a watch's first byte: an API server ends its own after a minute.
	wholeFor = 90 * time.Second
	// againAfter and againMost bound how soon a resource that cannot be followed is tried again. Gates are few.
	againAfter = 500 * time.Millisecond
	againMost  = 5 * time.Second
)

// kubeSystem is the namespace whose UID says which cluster this is.
const kubeSystem = "https://upstream.invalid/api/v1/namespaces/kube-system"

// asked is the gate's own way upstream as a follower uses it: bounded in time, and telling the outage what comes of it.
type asked struct{ store *Store }

// RoundTrip implements http.RoundTripper.
func (a asked) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(r.Context())
	limit := time.AfterFunc(wholeFor, cancel)
	response, err := a.store.upstream.RoundTrip(r.WithContext(ctx))
	switch {
	case err != nil && r.Context().Err() == nil:
		a.store.Failed(err)
	case err == nil && response.StatusCode >= 500: // perhaps a balancer in front of nothing; the probe finds out
		a.store.Failed(errUnable)
	case err == nil:
		a.store.Answered()
	}
	if err != nil {
		limit.Stop()
		cancel()
		return nil, err
	}
	if r.URL.Query().Get("watch") != "" {
		limit.Stop()
	}
	response.Body = &limited{ReadCloser: response.Body, end: func() { limit.Stop(); cancel() }}
	return response, nil
}

type limited struct {
	io.ReadCloser
	end func()
}

func (l *limited) Close() error {
	defer l.end()
	return l.ReadCloser.Close()
}

// config is that of the follower's clients.
func (s *Store) config() *rest.Config {
	return &rest.Config{Host: "https://upstream.invalid", QPS: -1, UserAgent: "seakeep-gate-relay"}
}

// follow keeps one resource up to date until the context ends.
func (s *Store) follow(ctx context.Context, name string, k *kept) {
	backoff := wait.Backoff{Duration: againAfter, Factor: 2, Steps: 100, Cap: againMost}
	said := ""
	for {
		began := time.Now()
		err := s.followOnce(ctx, name, k)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > time.Minute {
			backoff = wait.Backoff{Duration: againAfter, Factor: 2, Steps: 100, Cap: againMost}
		}
		if err != nil && err.Error() != said {
			said = err.Error()
			s.log.Warn("Cannot follow a resource for an outage; trying on", "resource", name, "reason", err)
		}
		pause := backoff.Step()
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause/2 + rand.N(pause)):
		}
	}
}

var errNotLocal = errors.New("an aggregated API server serves it: it is not kept")

// followOnce follows the resource until that fails.
func (s *Store) followOnce(ctx context.Context, name string, k *kept) error {
	if err := s.sameCluster(ctx); err != nil {
		return err
	}
	found, err := s.discover(ctx, name)
	if err != nil {
		return err
	}
	if !s.reviewer.Local(ctx, found.Group, found.Version) {
		k.drop()
		return errNotLocal
	}
	k.become(found)
	lister, expected, err := s.listerWatcher(found)
	if err != nil {
		return err
	}
	reflector := cache.NewReflectorWithOptions(lister, expected, k, cache.ReflectorOptions{
		Name:    "relay/" + name,
		Backoff: &wait.Backoff{Duration: againAfter, Factor: 2, Jitter: 1, Steps: 100, Cap: againMost},
	})
	return reflector.ListAndWatchWithContext(ctx)
}

// listerWatcher reads protobuf into types for what is built in, JSON for the rest.
func (s *Store) listerWatcher(k *kind) (cache.ListerWatcher, any, error) {
	gv := schema.GroupVersion{Group: k.Group, Version: k.Version}
	client := &http.Client{Transport: asked{s}}
	if !k.builtIn() {
		resources, err := dynamic.NewForConfigAndClient(s.config(), client)
		if err != nil {
			return nil, nil, fmt.Errorf("making the client for %s: %w", k.Resource, err)
		}
		resource := resources.Resource(gv.WithResource(k.Resource))
		expected := &unstructured.Unstructured{}
		expected.SetGroupVersionKind(k.gvk())
		return &cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return resource.List(ctx, o) },
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				return resource.Watch(ctx, o)
			},
		}, expected, nil
	}
	config := s.config()
	config.GroupVersion, config.NegotiatedSerializer = &gv, scheme.Codecs.WithoutConversion()
	config.ContentType = runtime.ContentTypeProtobuf
	config.AcceptContentTypes = runtime.ContentTypeProtobuf
	config.APIPath = "/apis"
	if gv.Group == "" {
		config.APIPath = "/api"
	}
	typed, err := rest.RESTClientForConfigAndClient(config, client)
	if err != nil {
		return nil, nil, fmt.Errorf("making the client for %s: %w", k.Resource, err)
	}
	expected, err := k.empty()
	if err != nil {
		return nil, nil, err
	}
	return cache.NewFilteredListWatchFromClient(typed, k.Resource, metav1.NamespaceAll, func(*metav1.ListOptions) {}), expected, nil
}

// discover asks the API server for the preferred version and the kind of "plural.group".
func (s *Store) discover(ctx context.Context, name string) (*kind, error) {
	plural, group, _ := strings.Cut(name, ".")
	version, path := "v1", "/api/"
	if group != "" {
		path = "/apis/" + group + "/"
		var found metav1.APIGroup
		if err := s.get(ctx, "/apis/"+group, &found); err != nil {
			return nil, fmt.Errorf("discovering group %s: %w", group, err)
		}
		version = found.PreferredVersion.Version
	}
	var resources metav1.APIResourceList
	if err := s.get(ctx, path+version, &resources); err != nil {
		return nil, fmt.Errorf("discovering %s: %w", name, err)
	}
	for _, r := range resources.APIResources {
		if r.Name == plural {
			if group == "" && r.Kind == "Secret" {
				return nil, errSecrets
			}
			return &kind{Group: group, Version: version, Resource: plural, Kind: r.Kind, Namespaced: r.Namespaced}, nil
		}
	}
	return nil, fmt.Errorf("the API server has no %s in version %s", name, version)
}

// get reads a JSON document.
func (s *Store) get(ctx context.Context, path string, into any) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://upstream.invalid"+path, nil)
	if err != nil {
		return err
	}
	r.Header.Set("Accept", "application/json")
	response, err := asked{s}.RoundTrip(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the API server answered %s", response.Status)
	}
	return json.NewDecoder(io.LimitReader(response.Body, 16<<20)).Decode(into)
}

// sameCluster reads which cluster this is, and forgets everything that was kept of another.
func (s *Store) sameCluster(ctx context.Context) error {
	var namespace metav1.PartialObjectMetadata
	if err := s.get(ctx, strings.TrimPrefix(kubeSystem, "https://upstream.invalid"), &namespace); err != nil {
		return fmt.Errorf("reading which cluster this is: %w", err)
	}
	uid := string(namespace.UID)
	if uid == "" {
		return errors.New("reading which cluster this is: namespace kube-system has no UID")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cluster == uid {
		return nil
	}
	if s.cluster != "" {
		s.log.Error("What was kept is another cluster's and was dropped", "kept", s.cluster, "cluster", uid)
		for _, k := range s.kept {
			k.drop()
		}
		s.grants.clear()
	}
	s.cluster = uid
	return nil
}
