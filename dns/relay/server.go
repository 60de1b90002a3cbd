package relay

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"

	"github.com/seakeep/seakeep/dns/keeper"
	"github.com/seakeep/seakeep/dns/store"
)

// Headers and the annotation of bookmarks that say how old the data may be. The age is a duration and no time, so that
// clocks need not agree; it is HTTP's own header.
const (
	// HeaderAge is the age of the data in whole seconds, rounded up (RFC 9111).
	HeaderAge = "Age"
	// HeaderState is the keeper's state.
	HeaderState = "Seakeep-State"
	// AnnotationAge is on bookmarks: the age in seconds.
	AnnotationAge = "seakeep.dev/age-seconds"
)

const (
	// chunk is what is written at a time.
	chunk = 16 << 10
	// answerFor bounds an answer that is no watch.
	answerFor = 5 * time.Minute
	// waitFor is how long a version that is not there yet is waited for, as API servers do.
	waitFor = 3 * time.Second
)

// Server returns the HTTP server for those who have access. Its listener must be wrapped by access.TLS() where that is
// not nil: call ServeTLS with no files.
func (r *Relay) Server(access Access) *http.Server {
	s := &http.Server{
		Handler: r.Handler(access), TLSConfig: access.TLS(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
	}
	s.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 100}
	return s
}

// Handler answers requests of those who have access.
func (r *Relay) Handler(access Access) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		// A watch is open for an hour; the server's time for reading was for the request, which is read.
		control := http.NewResponseController(w)
		_ = control.SetReadDeadline(time.Time{})
		counted := &counting{ResponseWriter: w, code: http.StatusOK}
		out := &slowWriter{ResponseWriter: counted, control: control, each: r.o.WriteFor}
		verb := verbOther
		defer func() { r.m.requests.WithLabelValues(verb, strconv.Itoa(counted.code)).Inc() }()
		if code := access.check(q); code != 0 {
			reason := metav1.StatusReasonUnauthorized
			if code == http.StatusForbidden {
				reason = metav1.StatusReasonForbidden
			}
			writeStatus(out, &metav1.Status{Status: metav1.StatusFailure, Code: int32(code), Reason: reason, Message: "the relay is not for this client"})
			return
		}
		if q.Method != http.MethodGet {
			writeStatus(out, statusOf(apierrors.NewMethodNotSupported(schema.GroupResource{}, strings.ToLower(q.Method))))
			return
		}
		status := r.data.Status()
		out.Header().Set(HeaderState, string(status.State))
		out.Header().Set(HeaderAge, strconv.FormatInt(int64((status.Age(time.Now())+time.Second-1)/time.Second), 10))
		t, ok := route(q.URL.Path)
		if ok && q.URL.Query().Get("watch") != "" {
			t.watch, _ = strconv.ParseBool(q.URL.Query().Get("watch"))
		}
		verb = t.verb(ok, q.URL.Path)
		gate := r.others
		if t.watch {
			gate = r.watches
		}
		select {
		case gate <- struct{}{}:
			defer func() { <-gate }()
		default:
			writeStatus(out, statusOf(apierrors.NewTooManyRequests("too many requests are under way", 1)))
			return
		}
		if !t.watch {
			out.until = time.Now().Add(answerFor)
		}
		if !ok {
			r.other(out, q)
			return
		}
		if err := r.serve(out, q, t); err != nil {
			writeStatus(out, statusOf(err))
		}
	})
}

// target is what a path asks for.
type target struct {
	kind            store.Kind
	namespace, name string
	watch           bool
}

func (t target) verb(ok bool, path string) string {
	switch {
	case !ok && path == "/snapshot":
		return verbSnapshot
	case !ok:
		return verbOther
	case t.watch:
		return verbWatch
	case t.name != "":
		return verbGet
	}
	return verbList
}

// route reads a path: /api/v1/services, /api/v1/namespaces/a/services/b.
func route(path string) (target, bool) {
	for kind := range store.Kind(store.KindCount) {
		res := &resources[kind]
		rest, ok := strings.CutPrefix(path, res.path()+"/")
		if !ok {
			continue
		}
		parts := strings.Split(rest, "/")
		t := target{kind: kind}
		if res.namespaced && len(parts) >= 3 && parts[0] == "namespaces" {
			t.namespace, parts = parts[1], parts[2:]
			if t.namespace == "" {
				return target{}, false
			}
		}
		if parts[0] != kind.String() || len(parts) > 2 {
			continue
		}
		if len(parts) == 2 {
			if t.name = parts[1]; t.name == "" || res.namespaced && t.namespace == "" {
				return target{}, false
			}
		}
		return t, true
	}
	return target{}, false
}

// serve answers for objects. The error is for the client.
func (r *Relay) serve(w *slowWriter, q *http.Request, t target) error {
	res := &resources[t.kind]
	h := r.kinds[t.kind]
	if h == nil {
		return notServed(res, t)
	}
	query, err := parseQuery(q.URL.Query(), t)
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	form, ok := negotiate(q.Header.Get("Accept"), res.pb)
	if !ok {
		return apierrors.NewGenericServerResponse(http.StatusNotAcceptable, "get", schema.GroupResource{}, "", "only JSON, and protobuf of built-in kinds, are served", 0, true)
	}
	switch {
	case t.watch:
		err = r.watch(w, q, t, query, form)
	case t.name != "":
		err = r.get(w, q, t, query, form)
	default:
		err = r.list(w, q, t, query, form)
	}
	switch {
	case errors.Is(err, errUnknown):
		e := apierrors.NewServiceUnavailable("the relay has no data of this kind yet")
		e.ErrStatus.Details = &metav1.StatusDetails{RetryAfterSeconds: 1}
		return e
	case errors.Is(err, errAbsent):
		return notServed(res, t)
	case errors.Is(err, errExpired):
		return expired()
	}
	return err
}

func notServed(res *resource, t target) error {
	return apierrors.NewGenericServerResponse(http.StatusNotFound, "get", schema.GroupResource{Group: res.group, Resource: t.kind.String()}, t.name, "the relay does not have this kind", 0, true)
}

func expired() error {
	return apierrors.NewResourceExpired("The resource version or continue token is older than what the relay remembers, or of other data")
}

// tooLarge is what client-go and dns/source know a version by that is not reached.
func tooLarge(version, current uint64) error {
	e := apierrors.NewTimeoutError(fmt.Sprintf("Too large resource version: %d, current: %d", version, current), 1)
	e.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: metav1.CauseTypeResourceVersionTooLarge, Message: "Too large resource version"}}
	return e
}

func statusOf(err error) *metav1.Status {
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		s := status.Status()
		return &s
	}
	s := apierrors.NewInternalError(err).Status()
	return &s
}

// other answers what is not about objects.
func (r *Relay) other(w http.ResponseWriter, q *http.Request) {
	switch path := strings.TrimSuffix(q.URL.Path, "/"); path {
	case "/livez":
		fmt.Fprintln(w, "ok")
	case "/readyz", "/healthz":
		if r.newest() == 0 {
			http.Error(w, "there is no data yet", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	case "/version":
		writeJSON(w, version.Info{Major: "1", Minor: "0", GitVersion: "v1.0.0-seakeep-relay"})
	case "/snapshot":
		r.serveSnapshot(w)
	case "/api":
		writeJSON(w, metav1.APIVersions{TypeMeta: metav1.TypeMeta{Kind: "APIVersions"}, Versions: []string{"v1"}})
	case "/apis":
		writeJSON(w, r.groups())
	default:
		if list := r.discover(path); list != nil {
			writeJSON(w, list)
			return
		}
		writeStatus(w, statusOf(apierrors.NewGenericServerResponse(http.StatusNotFound, "get", schema.GroupResource{}, "", "the relay does not serve this path", 0, true)))
	}
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

// has is true for kinds that are there, or may come.
func (r *Relay) has(kind store.Kind) bool {
	h := r.kinds[kind]
	if h == nil {
		return false
	}
	_, _, err := h.get(store.Key{})
	return !errors.Is(err, errAbsent)
}

func (r *Relay) groups() metav1.APIGroupList {
	list := metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}}
	for kind := range store.Kind(store.KindCount) {
		if res := &resources[kind]; res.group != "" && r.has(kind) {
			v := metav1.GroupVersionForDiscovery{GroupVersion: res.groupVersion(), Version: res.version}
			list.Groups = append(list.Groups, metav1.APIGroup{Name: res.group, Versions: []metav1.GroupVersionForDiscovery{v}, PreferredVersion: v})
		}
	}
	return list
}

func (r *Relay) discover(path string) *metav1.APIResourceList {
	var list *metav1.APIResourceList
	for kind := range store.Kind(store.KindCount) {
		res := &resources[kind]
		if res.path() != path || !r.has(kind) {
			continue
		}
		if list == nil {
			list = &metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: res.groupVersion()}
		}
		list.APIResources = append(list.APIResources, metav1.APIResource{
			Name: kind.String(), SingularName: res.singular, Namespaced: res.namespaced, Kind: res.kind, Verbs: metav1.Verbs{"get", "list", "watch"},
			ShortNames: res.shortNames,
		})
	}
	return list
}

// slowWriter gives a client a time for each piece of an answer and not for the whole.
type slowWriter struct {
	http.ResponseWriter
	control *http.ResponseController
	each    time.Duration
	until   time.Time // of the whole answer; zero: none
}

// Write implements io.Writer.
func (w *slowWriter) Write(p []byte) (n int, err error) {
	for piece := range slices.Chunk(p, chunk) {
		deadline := time.Now().Add(w.each)
		if !w.until.IsZero() && deadline.After(w.until) {
			deadline = w.until
		}
		// Without deadlines (a test's recorder) there is nobody to wait for.
		_ = w.control.SetWriteDeadline(deadline)
		m, err := w.ResponseWriter.Write(piece)
		n += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func (w *slowWriter) flush() error {
	_ = w.control.SetWriteDeadline(time.Now().Add(w.each))
	err := w.control.Flush()
	_ = w.control.SetWriteDeadline(time.Time{}) // a watch may be quiet for longer
	return err
}

// counting remembers the status code.
type counting struct {
	http.ResponseWriter
	code int
}

// WriteHeader implements http.ResponseWriter.
func (c *counting) WriteHeader(code int) {
	c.code = code
	c.ResponseWriter.WriteHeader(code)
}

// Unwrap is for http.ResponseController.
func (c *counting) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// follows is true while what the keeper knows moves on.
func follows(s keeper.Status) bool {
	return (s.State == keeper.Live || s.State == keeper.Guarded) && !s.Stale
}
