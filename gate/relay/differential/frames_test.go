package differential

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/gate/relay/frame"
	"github.com/seakeep/seakeep/lab"
)

const (
	table         = "application/json;as=Table;v=v1;g=meta.k8s.io"
	partial       = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
	partialProto  = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
	partialLists  = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
	partialListsP = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
)

const widgets = `{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"widgets.frame.example.com"},
"spec":{"group":"frame.example.com","scope":"Namespaced","names":{"plural":"widgets","singular":"widget","kind":"Widget","listKind":"WidgetList"},
"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}]}}`

func widget(i int, text string) string {
	return fmt.Sprintf(`{"apiVersion":"frame.example.com/v1","kind":"Widget","metadata":{"name":"w-%d","annotations":{"k8s.io/initial-events-end":"true"}},
"data":{"metadata":{"resourceVersion":"1"}},"text":%q}`, i, text)
}

// server is the real API server, asked without a library between.
type server struct {
	t      *testing.T
	client *http.Client
	url    string
	typed  *kubernetes.Clientset
}

func newServer(t *testing.T) *server {
	config := lab.Start(t, lab.Options{}).RESTConfig(lab.Masters)
	transport, err := rest.TransportFor(config)
	check(t, err)
	typed, err := kubernetes.NewForConfig(config)
	check(t, err)
	return &server{t: t, client: &http.Client{Transport: transport}, url: config.Host, typed: typed}
}

// do asks and returns the whole answer.
func (s *server) do(method, path, accept, encoding, body string) (*http.Response, []byte) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, strings.NewReader(body))
	check(s.t, err)
	r.Header.Set("Accept", accept)
	r.Header.Set("Accept-Encoding", encoding)
	r.Header.Set("Content-Type", "application/json")
	if method == http.MethodPatch {
		r.Header.Set("Content-Type", string(types.MergePatchType))
	}
	response, err := s.client.Do(r)
	check(s.t, err)
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	check(s.t, err)
	return response, b
}

func (s *server) made(method, path, body string) {
	s.t.Helper()
	if response, b := s.do(method, path, frame.JSON, "identity", body); response.StatusCode/100 != 2 {
		s.t.Fatalf("%s %s: %s", method, path, b)
	}
}

// establish makes the kind and waits until it is served.
func (s *server) establish() {
	s.t.Helper()
	s.made(http.MethodPost, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", widgets)
	for s.t.Context().Err() == nil {
		response, _ := s.do(http.MethodGet, "/apis/frame.example.com/v1/namespaces/default/widgets?limit=1", frame.JSON, "identity", "")
		if response.StatusCode == http.StatusOK {
			return
		}
	}
}

var resources = []struct {
	path    string
	accepts []string // "" when the resource is not served so
	lists   []string
}{
	{"/api/v1/namespaces/default/configmaps", []string{frame.JSON, frame.Protobuf, table, partial, partialProto}, []string{frame.JSON, frame.Protobuf, table, partialLists, partialListsP}},
	{"/apis/frame.example.com/v1/namespaces/default/widgets", []string{frame.JSON, table, partial, partialProto}, []string{frame.JSON, table, partialLists, partialListsP}},
}

// TestFrames reads every encoding of the real API server, of whatever minor it is, with gate/relay/frame and as its own library
// does. It is here and not there, where the fuzz tests are: they would instrument the lab and all that it needs.
func TestFrames(t *testing.T) {
	s := newServer(t)
	s.establish()
	text := strings.Repeat("naïve ☃ \u2028 <&> \"quoted\" \\ }{ ", 3000) // long enough to be compressed
	for i := range 3 {
		s.made(http.MethodPost, resources[1].path, widget(i, text))
		_, err := s.typed.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("c-%d", i), Annotations: map[string]string{metav1.InitialEventsAnnotationKey: "true"}},
			Data:       map[string]string{"text": text},
		}, metav1.CreateOptions{})
		check(t, err)
	}
	for _, resource := range resources {
		for _, accept := range resource.lists {
			t.Run("LIST "+resource.path+" "+accept, func(t *testing.T) { lists(t, s, resource.path, accept) })
		}
		for _, accept := range resource.accepts {
			t.Run("WATCH "+resource.path+" "+accept, func(t *testing.T) { watches(t, s, resource.path, accept) })
		}
	}
	// The kind was made after version 1, so that nothing is known of what was then.
	for _, accept := range resources[1].accepts {
		t.Run("too old: "+accept, func(t *testing.T) {
			response, b := s.do(http.MethodGet, resources[1].path+"?watch=1&resourceVersion=1&timeoutSeconds=5", accept, "identity", "")
			got := scanned(t, response.Header.Get("Content-Type"), b)
			if len(got) != 1 || got[0].Type != frame.Error || got[0].Code != http.StatusGone {
				t.Errorf("got %+v, want one error with code 410", got)
			}
		})
	}
}

func lists(t *testing.T, s *server, path, accept string) {
	for _, encoding := range []string{"identity", "gzip"} {
		response, whole := s.do(http.MethodGet, path, accept, "identity", "")
		want := listVersion(t, whole)
		body := whole
		if encoding == "gzip" {
			response, body = s.do(http.MethodGet, path, accept, encoding, "")
			if got := response.Header.Get("Content-Encoding"); accept != table && !strings.Contains(accept, "Partial") && got != "gzip" {
				t.Fatalf("the answer of %d bytes is not compressed (%q)", len(body), got)
			}
		}
		gzipped := response.Header.Get("Content-Encoding") == "gzip"
		contentType := response.Header.Get("Content-Type")
		sorted := bytes.HasPrefix(whole, []byte(`{"apiVersion"`)) // a custom resource's own list
		var got uint64
		needed := 0
		for n := range len(body) + 1 {
			version, ok, more := frame.ListVersion(contentType, gzipped, body[:n])
			if got, needed = version, n; !more {
				if ok == sorted {
					t.Fatalf("after %d of %d bytes: found %t", n, len(body), ok)
				}
				break
			}
		}
		if sorted {
			if version, ok := frame.ListVersionTail(whole[max(0, len(whole)-frame.TailBytes):]); !ok || version != want {
				t.Errorf("the tail says %d (%t), want %d", version, ok, want)
			}
			continue
		}
		if got != want {
			t.Errorf("%s: version %d, want %d", encoding, got, want)
		}
		if version, ok := frame.ListVersionTail(whole); ok && version != want {
			t.Errorf("the tail says %d, want %d", version, want)
		}
		t.Logf("%s: version %d found in %d of %d bytes", encoding, got, needed, len(body))
	}
}

func listVersion(t *testing.T, body []byte) uint64 {
	t.Helper()
	var list metav1.PartialObjectMetadataList
	if rest, ok := bytes.CutPrefix(body, []byte("k8s\x00")); ok {
		var unknown runtime.Unknown
		check(t, unknown.Unmarshal(rest))
		check(t, list.Unmarshal(unknown.Raw))
	} else {
		check(t, json.Unmarshal(body, &list))
	}
	return number(t, list.ResourceVersion)
}

func number(t *testing.T, version string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(version, 10, 64)
	check(t, err)
	return n
}

// watches follows the resource from its initial events through writes, and compares what the scanner finds with what
// the library decodes.
func watches(t *testing.T, s *server, path, accept string) {
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+path+"?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=3", nil)
	check(t, err)
	r.Header.Set("Accept", accept)
	response, err := s.client.Do(r)
	check(t, err)
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Fatal(response.Status)
	}
	for i := range 5 {
		s.made(http.MethodPatch, path+"/"+nameIn(path, 0), fmt.Sprintf(`{"metadata":{"labels":{"round":"%d"}}}`, i))
	}
	s.made(http.MethodPatch, path+"/"+nameIn(path, 1), `{"metadata":{"annotations":{"k8s.io/initial-events-end":null}}}`)
	temporary := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c-9"},"data":{"metadata":"{\"resourceVersion\":\"1\"}"}}`
	if strings.HasSuffix(path, "widgets") {
		temporary = widget(9, "short")
	}
	s.made(http.MethodPost, path, temporary)
	s.made(http.MethodDelete, path+"/"+nameIn(path, 9), "")
	stream, err := io.ReadAll(response.Body)
	check(t, err)
	want := decoded(t, response.Header.Get("Content-Type"), stream)
	got := scanned(t, response.Header.Get("Content-Type"), stream)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the scanner's frames (-library +scanner):\n%s", diff)
	}
	for _, typ := range []frame.Type{frame.Added, frame.Modified, frame.Deleted, frame.Bookmark} {
		if !slices.ContainsFunc(got, func(f found) bool { return f.Type == typ }) {
			t.Errorf("no %s came", typ)
		}
	}
	ends := 1
	if accept == table {
		ends = 0 // the annotation is on the object in the table's row, if anywhere
	}
	if n := len(slices.DeleteFunc(slices.Clone(got), func(f found) bool { return !f.End })); n != ends {
		t.Errorf("%d bookmarks end the initial events, want %d", n, ends)
	}
}

func nameIn(path string, i int) string {
	if strings.HasSuffix(path, "widgets") {
		return fmt.Sprintf("w-%d", i)
	}
	return fmt.Sprintf("c-%d", i)
}

// found is a frame in short.
type found struct {
	Type    frame.Type
	Version uint64
	End     bool
	Code    int
}

func scanned(t *testing.T, contentType string, stream []byte) []found {
	t.Helper()
	var got []found
	for _, size := range []int{len(stream), 1, 3, 4096} {
		s, err := frame.NewScanner(contentType)
		check(t, err)
		var this []found
		for part := range slices.Chunk(stream, size) {
			for f, err := range s.Frames(part) {
				check(t, err)
				this = append(this, found{f.Type, f.Version, f.InitialEventsEnd, f.Code})
			}
		}
		if s.Pending() != 0 {
			t.Errorf("%d bytes are left", s.Pending())
		}
		if got != nil && !slices.Equal(got, this) {
			t.Errorf("in parts of %d bytes other frames are found", size)
		}
		got = this
	}
	return got
}

// decoded reads the stream with the API machinery.
func decoded(t *testing.T, contentType string, stream []byte) []found {
	t.Helper()
	var all []found
	add := func(typ string, meta metav1.ObjectMeta) {
		f := found{Version: number(t, meta.ResourceVersion)}
		for _, known := range []frame.Type{frame.Added, frame.Modified, frame.Deleted, frame.Bookmark} {
			if known.String() == typ {
				f.Type = known
			}
		}
		f.End = f.Type == frame.Bookmark && meta.Annotations[metav1.InitialEventsAnnotationKey] == "true"
		all = append(all, f)
	}
	if strings.HasPrefix(contentType, frame.JSON) {
		decoder := json.NewDecoder(bytes.NewReader(stream))
		for {
			var event struct {
				Type   string
				Object metav1.PartialObjectMetadata
			}
			if err := decoder.Decode(&event); err == io.EOF {
				return all
			} else if err != nil {
				t.Fatal(err)
			}
			add(event.Type, event.Object.ObjectMeta)
		}
	}
	reader := protobuf.LengthDelimitedFramer.NewFrameReader(io.NopCloser(bytes.NewReader(stream)))
	buffer := make([]byte, frame.MaxFrame)
	for {
		n, err := reader.Read(buffer)
		if err == io.EOF {
			return all
		}
		check(t, err)
		var event metav1.WatchEvent
		check(t, event.Unmarshal(buffer[:n]))
		var unknown runtime.Unknown
		check(t, unknown.Unmarshal(event.Object.Raw[4:]))
		var object metav1.PartialObjectMetadata
		check(t, object.Unmarshal(unknown.Raw))
		add(event.Type, object.ObjectMeta)
	}
}
