package source

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	mcsv1alpha1 "sigs.k8s.io/mcs-api/pkg/apis/v1alpha1"

	"github.com/seakeep/seakeep/dns/keeper"
	"github.com/seakeep/seakeep/dns/store"
)

const (
	// pageSize bounds the memory of a re-list: a page of endpoint slices with 100 endpoints each is some 10 MB decoded.
	pageSize = 500
	// pageTimeout bounds a request that is no watch. It is the API server's own --request-timeout: later it has given up.
	pageTimeout = time.Minute
)

// Selectors narrow what is read, as the kubernetes plugin's options labels and namespace_labels do. Nil selects all.
type Selectors struct {
	Objects    labels.Selector
	Namespaces labels.Selector
}

// API reads an API server, or whatever speaks like one. It is safe for concurrent use.
type API struct {
	name      string
	pageSize  int
	http      *http.Client
	class     keeper.Class
	selectors Selectors
	clients   [store.KindCount]*rest.RESTClient
	told      *tellTale // by a relay; nil for an API server
}

var (
	_ keeper.Source = (*API)(nil)
	_ keeper.Aged   = (*API)(nil)
)

var schemes = []func(*runtime.Scheme) error{corev1.AddToScheme, discoveryv1.AddToScheme, mcsv1alpha1.Install}

var codecs, parameters = func() (serializer.CodecFactory, runtime.ParameterCodec) {
	s := runtime.NewScheme()
	for _, add := range schemes {
		if err := add(s); err != nil {
			panic("BUG: " + err.Error())
		}
	}
	metav1.AddToGroupVersion(s, schema.GroupVersion{Version: "v1"})
	return serializer.NewCodecFactory(s), runtime.NewParameterCodec(s)
}()

// groups are the API groups of the kinds.
var groups = [store.KindCount]schema.GroupVersion{
	store.Namespaces: corev1.SchemeGroupVersion, store.Services: corev1.SchemeGroupVersion, store.Pods: corev1.SchemeGroupVersion,
	store.EndpointSlices: discoveryv1.SchemeGroupVersion, store.ServiceImports: {Group: mcsv1alpha1.GroupVersion.Group, Version: mcsv1alpha1.GroupVersion.Version},
}

// NewAPI returns a source over the API server of the configuration; it does not connect. All kinds share its connection.
// The configuration's QPS and Burst are not used: a source sends one request a kind at a time.
func NewAPI(config *rest.Config, class keeper.Class, selectors Selectors) (*API, error) {
	var told *tellTale
	if class == keeper.Relay {
		config = rest.CopyConfig(config)
		told = &tellTale{}
		config.Wrap(told.wrap)
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", config.Host, err)
	}
	a := &API{name: config.Host, pageSize: pageSize, http: client, class: class, selectors: selectors, told: told}
	for kind, group := range groups {
		c := rest.CopyConfig(config)
		c.QPS = -1
		c.GroupVersion, c.NegotiatedSerializer = &group, codecs.WithoutConversion()
		c.APIPath = "/apis"
		if group.Group == "" {
			c.APIPath = "/api"
		}
		// Kinds that a CRD defines exist as JSON only.
		c.ContentType, c.AcceptContentTypes = runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf+","+runtime.ContentTypeJSON
		if store.Kind(kind) == store.ServiceImports {
			c.ContentType, c.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
		}
		if a.clients[kind], err = rest.RESTClientForConfigAndClient(c, client); err != nil {
			return nil, fmt.Errorf("connecting to %s: %w", config.Host, err)
		}
	}
	return a, nil
}

// Close gives up idle connections. It is to be called when nothing uses the source any more.
func (a *API) Close() { a.http.CloseIdleConnections() }

// Name implements keeper.Source.
func (a *API) Name() string { return a.name }

// Class implements keeper.Source.
func (a *API) Class() keeper.Class { return a.class }

// Age implements keeper.Aged: 0 for an API server, and what it says for a relay.
func (a *API) Age(kind store.Kind) time.Duration { return a.told.age(kind) }

func (a *API) get(kind store.Kind) *rest.Request {
	return a.clients[kind].Get().Resource(kind.String()).MaxRetries(0) // the keeper retries, with its own back-off
}

// Cluster implements keeper.Source.
func (a *API) Cluster(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, pageTimeout)
	defer cancel()
	ns, err := a.kubeSystem(ctx, "")
	if err != nil {
		return "", fmt.Errorf("reading the cluster's identity from %s: %w", a.name, translate(store.Namespaces, err))
	}
	return string(ns.UID), nil
}

// List implements keeper.Source. Without a resource version the answer is as recent as etcd's; the pages after the
// first are of the first's version.
func (a *API) List(ctx context.Context, kind store.Kind, each func(store.Object) error) (string, error) {
	options := a.options(kind)
	options.Limit = int64(a.pageSize)
	for {
		page, err := a.page(ctx, kind, &options)
		if err != nil && options.Continue != "" && apierrors.IsResourceExpired(err) {
			// Not a version somebody watches from is gone, but this list's token: it was read too slowly.
			return "", fmt.Errorf("listing %s of %s: the continue token expired: %s", kind, a.name, err)
		}
		if err != nil {
			return "", fmt.Errorf("listing %s of %s: %w", kind, a.name, translate(kind, err))
		}
		list, err := meta.ListAccessor(page)
		if err != nil {
			return "", fmt.Errorf("listing %s of %s: %w", kind, a.name, err)
		}
		err = meta.EachListItem(page, func(o runtime.Object) error {
			if converted := convert(o); converted != nil {
				return each(converted)
			}
			return nil
		})
		if err != nil {
			return "", err
		}
		if options.Continue = list.GetContinue(); options.Continue == "" {
			return list.GetResourceVersion(), nil
		}
	}
}

func (a *API) page(ctx context.Context, kind store.Kind, options *metav1.ListOptions) (runtime.Object, error) {
	ctx, cancel := context.WithTimeout(ctx, pageTimeout)
	defer cancel()
	return a.get(kind).VersionedParams(options, parameters).Do(ctx).Get()
}

// Reached asks whether the server has come as far as a version; the error is keeper.ErrTooNew if not, after
// the three seconds in which a server that merely lags may catch up. A watch would not say so: an API server accepts one from any
// version in the future and then holds every event back until it gets there, which after a restore of etcd from a
// backup is for ever. Reading one object at that version is answered from memory.
//
// A relay that is cut off from its source says the same of versions it will not reach. That is no news of the cluster but
// of the relay, which is then not followed: what we have is newer than what it has.
func (a *API) Reached(ctx context.Context, version string) error {
	ctx, cancel := context.WithTimeout(ctx, pageTimeout)
	defer cancel()
	_, err := a.kubeSystem(ctx, version)
	if err = translate(store.Namespaces, err); errors.Is(err, keeper.ErrTooNew) && a.told.behind() {
		return fmt.Errorf("the relay is cut off and older than what is served (version %s): %s", version, err)
	}
	return err
}

// Watch implements keeper.Source.
func (a *API) Watch(ctx context.Context, kind store.Kind, version string, open func(), each func(keeper.Event) error) error {
	if _, err := strconv.ParseUint(version, 10, 64); err != nil {
		return fmt.Errorf("watching %s of %s: version %q is no number: %w", kind, a.name, version, keeper.ErrGone)
	}
	if err := a.Reached(ctx, version); err != nil {
		return fmt.Errorf("watching %s of %s from version %s: %w", kind, a.name, version, err)
	}
	// Client-go's own bounds: a random end keeps thousands of watches from being opened again together.
	seconds := 300 + rand.Int64N(300)
	options := a.options(kind)
	options.Watch, options.AllowWatchBookmarks, options.ResourceVersion, options.TimeoutSeconds = true, true, version, &seconds
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := a.get(kind).VersionedParams(&options, parameters).Watch(ctx)
	if err != nil {
		return fmt.Errorf("watching %s of %s: %w", kind, a.name, translate(kind, err))
	}
	defer stream.Stop()
	open()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, more := <-stream.ResultChan():
			if !more {
				return ctx.Err()
			}
			if ctx.Err() != nil {
				return ctx.Err() // what came last is the stream being cut off
			}
			event, err := a.event(kind, e)
			if err != nil {
				return err
			}
			if err := each(event); err != nil {
				return err
			}
		}
	}
}

func (a *API) event(kind store.Kind, e watch.Event) (keeper.Event, error) {
	if e.Type == watch.Error {
		return keeper.Event{}, fmt.Errorf("watching %s of %s: %w", kind, a.name, translate(kind, apierrors.FromObject(e.Object)))
	}
	o, err := meta.Accessor(e.Object)
	if err != nil {
		return keeper.Event{}, fmt.Errorf("watching %s of %s: %w", kind, a.name, err)
	}
	event := keeper.Event{Key: store.Key{Namespace: o.GetNamespace(), Name: o.GetName()}, Version: o.GetResourceVersion()}
	switch e.Type {
	case watch.Bookmark:
		event.Type = keeper.Bookmark
		a.told.bookmark(kind, o.GetAnnotations())
		return event, nil
	case watch.Deleted:
		event.Type = keeper.Delete
		event.Object = convert(e.Object)
	default:
		if event.Object = convert(e.Object); event.Object == nil {
			event.Type = keeper.Delete // it is still there, but nothing that DNS shows
		}
	}
	return event, nil
}

func (a *API) options(kind store.Kind) metav1.ListOptions {
	var o metav1.ListOptions
	s := a.selectors.Objects
	// The kubernetes plugin selects imports by the labels of namespaces; what it answers depends on it.
	if kind == store.Namespaces || kind == store.ServiceImports {
		s = a.selectors.Namespaces
	}
	if s != nil {
		o.LabelSelector = s.String()
	}
	if kind == store.Pods {
		o.FieldSelector = "status.phase!=Succeeded,status.phase!=Failed,status.phase!=Unknown"
	}
	return o
}

// translate wraps what the keeper acts on.
func translate(kind store.Kind, err error) error {
	var status apierrors.APIStatus
	switch {
	case apierrors.IsGone(err), apierrors.IsResourceExpired(err):
		return fmt.Errorf("%w: %w", keeper.ErrGone, err)
	case apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge):
		return fmt.Errorf("%w: %w", keeper.ErrTooNew, err)
	case kind == store.ServiceImports && errors.As(err, &status) && status.Status().Code == http.StatusNotFound:
		return fmt.Errorf("%w: %w", keeper.ErrNoKind, err)
	}
	return err
}
