package transparency_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/lab"
)

// answer is everything a client can see of one.
type answer struct {
	status  int
	header  http.Header
	trailer http.Header
	body    []byte
}

// side is one of the two ways to the API server.
type side struct {
	host   string
	proto  string // what is to be spoken; "": what comes of it
	client *http.Client
	header http.Header // sent with every request: a token
	vars   map[string]string
}

// send sends the step as it is written: no cleaning of paths, no sorting of queries, no header but the file's.
func (s *side) send(t *testing.T, step *step) *answer {
	t.Helper()
	target := expand(step.target, s.vars)
	path, query, asked := strings.Cut(target, "?")
	u := &url.URL{Scheme: "https", Host: s.host, Opaque: path, RawQuery: query, ForceQuery: asked && query == ""}
	if strings.HasPrefix(path, "//") {
		u.Opaque, u.Path = "", path // an opaque part that begins so would be taken for a host
	}
	request := (&http.Request{Method: step.method, URL: u, Host: "the.one.host", Header: http.Header{"User-Agent": {"transparency"}}}).WithContext(t.Context())
	maps.Copy(request.Header, s.header)
	for name, values := range step.header {
		for _, value := range values {
			request.Header.Add(name, expand(value, s.vars))
		}
	}
	if step.hasBody {
		body := step.body
		if len(body) < 1<<16 {
			body = expand(body, s.vars)
		}
		request.Body, request.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
	}
	response, err := s.client.Do(request)
	if err != nil {
		t.Errorf("%s %s: %v", step.method, target, err)
		return &answer{}
	}
	defer response.Body.Close()
	if s.proto != "" && response.Proto != s.proto {
		t.Errorf("%s %s is answered in %s, and the test is about %s", step.method, target, response.Proto, s.proto)
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Errorf("%s %s: reading the answer: %v", step.method, target, err)
	}
	return &answer{response.StatusCode, response.Header, response.Trailer, body}
}

// differing are the headers that two answers to one request do not share, whoever gives them, and framing, which is each
// connection's own.
var differing = map[string]string{
	"Date":     "when the API server answered",
	"Audit-Id": "one for each request, unless the client names it",
	// net/http counts an answer's length for its handler when all of it fits a buffer: 2 KiB in HTTP/1.1 and 4 KiB in
	// HTTP/2. So it depends on the protocol that the API server is spoken to whether the client is told. What is read is
	// compared; and where both sides tell, the length too.
	"Content-Length": "whether it is told, not how much it is",
}

// compare returns how the answers differ, "" when they do not.
func compare(t *testing.T, direct, gate *answer, mask func(string) string) string {
	t.Helper()
	header := func(a *answer) http.Header {
		h := a.header.Clone()
		if sharing() != "" {
			// A shared answer was read under the gate's own flow schema, and a shared watch under none of its own.
			h.Del("X-Kubernetes-Pf-Flowschema-Uid")
			h.Del("X-Kubernetes-Pf-Prioritylevel-Uid")
		}
		for name := range differing {
			if values := h.Values(name); len(values) != 1 && name != "Content-Length" {
				h.Set(name, fmt.Sprintf("BUG: %d of them", len(values))) // it must be there all the same
				continue
			}
			h.Del(name)
		}
		for _, values := range h {
			for i := range values {
				values[i] = mask(values[i])
			}
		}
		return h
	}
	type visible struct {
		Status          int
		Header, Trailer http.Header
	}
	diff := cmp.Diff(visible{direct.status, header(direct), direct.trailer}, visible{gate.status, header(gate), gate.trailer})
	if d, g := direct.header.Get("Content-Length"), gate.header.Get("Content-Length"); d != "" && g != "" && d != g && mask("masked") == "masked" {
		diff += fmt.Sprintf("Content-Length: %s direct, %s through the gate\n", d, g)
	}
	if d, g := []byte(mask(string(content(t, direct)))), []byte(mask(string(content(t, gate)))); !bytes.Equal(d, g) {
		at := 0
		for at < min(len(d), len(g)) && d[at] == g[at] {
			at++
		}
		around := func(b []byte) []byte { return b[max(0, at-80):min(len(b), at+160)] }
		diff += fmt.Sprintf("bodies of %d and %d bytes differ from byte %d on:\n-direct %q\n+gate   %q\n", len(d), len(g), at, around(d), around(g))
	}
	return diff
}

// content is what is compared of a body: its bytes, except for CBOR, whose maps the API server writes in an order it draws
// anew each time (that is faster); of those, what they say.
func content(t *testing.T, a *answer) []byte {
	t.Helper()
	if !strings.Contains(a.header.Get("Content-Type"), "cbor") {
		return a.body
	}
	var said bytes.Buffer
	for items := cbor.NewDecoder(bytes.NewReader(a.body)); ; {
		var item any
		if err := items.Decode(&item); errors.Is(err, io.EOF) {
			return said.Bytes()
		} else if err != nil {
			t.Errorf("the answer is no CBOR: %v", err)
			return a.body
		}
		fmt.Fprintln(&said, item) // which sorts maps
	}
}

func unmasked(s string) string { return s }

// masks are what differs between two writes of one object.
var masks = []struct{ pattern, with string }{
	{`written-(direct|passed)`, "written-masked"},
	{`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`, "a UID"},
	{`"resourceVersion":"\d+"`, `"resourceVersion":"masked"`},
	{`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`, "a time"},
}

func masked(s string) string {
	for _, m := range masks {
		s = regexp.MustCompile(m.pattern).ReplaceAllString(s, m.with)
	}
	return s
}

// reads runs a step direct, through the gate and direct again, at the same time, and compares. When the API server does
// not answer itself twice alike something else changed the world meanwhile, and the step is run again; so it is when only
// the gate's answer differs, a few times, for the change may have come between.
func reads(t *testing.T, direct, gate *side, step *step) {
	if step.until {
		within(t, "the expected status", func() bool { return slices.Contains(step.statuses, direct.send(t, step).status) })
	}
	var first, through, second *answer
	diff := ""
	for range 5 {
		var all sync.WaitGroup
		all.Go(func() { first = direct.send(t, step) })
		all.Go(func() { through = gate.send(t, step) })
		all.Go(func() { second = direct.send(t, step) })
		all.Wait()
		if t.Failed() {
			return
		}
		if err := step.expect(first); err != nil {
			t.Fatal(err)
		}
		if diff = compare(t, first, second, unmasked); diff != "" {
			diff = "direct and direct again (-first +second):\n" + diff
			continue
		}
		if diff = compare(t, first, through, unmasked); diff == "" {
			check(t, step.keep(first, direct.vars))
			check(t, step.keep(through, gate.vars))
			return
		}
		diff = "direct and through the gate (-direct +gate):\n" + diff
	}
	t.Fatal(diff)
}

// writes runs a step once on either side.
func writes(t *testing.T, direct, gate *side, step *step) {
	t.Helper()
	d := direct.send(t, step)
	g := gate.send(t, step)
	if t.Failed() {
		return
	}
	if err := step.expect(d); err != nil {
		t.Fatal(err)
	}
	if diff := compare(t, d, g, masked); diff != "" {
		t.Errorf("-direct +gate:\n%s", diff)
	}
	check(t, step.keep(d, direct.vars))
	check(t, step.keep(g, gate.vars))
}

// controlPlane is the API server everything here is about, with CBOR on, and compaction every few seconds so that tokens
// expire while one looks.
func controlPlane(t *testing.T, more ...string) *lab.Lab {
	return lab.Start(t, lab.Options{Nodes: 1, Pods: 1, ExtraArgs: map[string][]string{lab.KindAPIServer: append([]string{
		"--feature-gates=CBORServingAndStorage=true", "--etcd-compaction-interval=3s",
		"--watch-cache-sizes=limitranges#0", // what a watch from long ago is told is etcd's word then
	}, more...)}})
}

func TestReads(t *testing.T)  { differential(t, controlPlane(t)) }
func TestWrites(t *testing.T) { differentialWrites(t, controlPlane(t)) }

// TestOverload is what the API server itself says when a priority level of its priority and fairness is full.
func TestOverload(t *testing.T) {
	l := controlPlane(t)
	n := gatetest.Open(t, l, gatetest.Options{})
	w := prepare(t, l)
	for name, v := range variants(t, n, w) {
		t.Run(name, func(t *testing.T) {
			w.hold(t, l)
			direct, gate := v.sides(n, w.vars, w.vars)
			for _, s := range readTraffic(t, "testdata/overload.traffic") {
				for _, step := range s.steps {
					t.Run(fmt.Sprintf("line %d", step.line), func(t *testing.T) { reads(t, direct, gate, step) })
				}
			}
		})
	}
}

// TestUpstreamWithoutHTTP2 is the same against an API server that speaks HTTP/1.1 only.
func TestUpstreamWithoutHTTP2(t *testing.T) {
	l := controlPlane(t, "--disable-http2-serving")
	t.Run("reads", func(t *testing.T) { differential(t, l) })
	t.Run("writes", func(t *testing.T) { differentialWrites(t, l) })
}

func differential(t *testing.T, l *lab.Lab) {
	n := gatetest.Open(t, l, gatetest.Options{More: "defaultLimits: Disabled\n" + sharing()})
	w := prepare(t, l)
	scenarios := readTraffic(t, "testdata/reads.traffic")
	for name, v := range variants(t, n, w) {
		t.Run(name, func(t *testing.T) {
			for _, s := range scenarios {
				t.Run(s.name, func(t *testing.T) {
					direct, gate := v.sides(n, w.vars, w.vars)
					for _, step := range s.steps {
						t.Run(fmt.Sprintf("line %d", step.line), func(t *testing.T) { reads(t, direct, gate, step) })
					}
				})
			}
		})
	}
}

func differentialWrites(t *testing.T, l *lab.Lab) {
	n := gatetest.Open(t, l, gatetest.Options{More: "defaultLimits: Disabled\n" + sharing()})
	w := prepare(t, l)
	scenarios := readTraffic(t, "testdata/writes.traffic")
	for i, name := range slices.Sorted(maps.Keys(variants(t, n, w))) {
		v := variants(t, n, w)[name]
		t.Run(name, func(t *testing.T) {
			directly, gated := maps.Clone(w.vars), maps.Clone(w.vars)
			directly["ns"], gated["ns"] = fmt.Sprintf("written-direct-%d", i), fmt.Sprintf("written-passed-%d", i)
			w.namespace(t, directly["ns"])
			w.namespace(t, gated["ns"])
			for _, s := range scenarios {
				t.Run(s.name, func(t *testing.T) {
					direct, gate := v.sides(n, directly, gated)
					for _, step := range s.steps {
						t.Run(fmt.Sprintf("line %d", step.line), func(t *testing.T) { writes(t, direct, gate, step) })
					}
				})
			}
		})
	}
}

// variant is how a client connects and what it shows.
type variant struct {
	http2 bool
	certs []tls.Certificate
	token string
}

func variants(t *testing.T, n *gatetest.Lane, w *world) map[string]variant {
	t.Helper()
	admin := []tls.Certificate{n.Certificate(lab.Admin)}
	return map[string]variant{
		"HTTP1.1 with a certificate": {certs: admin},
		"HTTP2 with a certificate":   {http2: true, certs: admin},
		"HTTP1.1 with a token":       {token: w.token},
		"HTTP2 with a token":         {http2: true, token: w.token},
	}
}

func (v variant) sides(n *gatetest.Lane, directly, gated map[string]string) (direct, gate *side) {
	header := http.Header{}
	if v.token != "" {
		header.Set("Authorization", "Bearer "+v.token)
	}
	client := n.HTTP(v.http2, v.certs...)
	client.Timeout = time.Minute
	proto := "HTTP/1.1"
	if v.http2 {
		proto = "HTTP/2.0" // with the gate, whatever the API server speaks
	}
	return &side{host: strings.TrimPrefix(n.Lab.APIServerURL(0), "https://"), client: client, header: header, vars: maps.Clone(directly)},
		&side{host: strings.TrimPrefix(n.URL, "https://"), proto: proto, client: client, header: header, vars: maps.Clone(gated)}
}
