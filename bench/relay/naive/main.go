// Command naive is the baseline of bench/relay: the group-commit proxy one writes in an afternoon. One LIST runs for a
// key and one waits; an answer is read whole, uncompressed, into memory and written to everyone. It believes whoever came
// first for all who share (their token is not asked about), cancels nothing and bounds nothing.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
)

type batch struct {
	done   chan struct{}
	status int
	header http.Header
	body   []byte
}

type proxy struct {
	upstream  *url.URL
	transport *http.Transport
	mu        sync.Mutex
	waiting   map[string]*batch
	running   map[string]*sync.Mutex
}

func (p *proxy) list(w http.ResponseWriter, r *http.Request) {
	key := r.URL.RequestURI() + " " + r.Header.Get("Accept")
	p.mu.Lock()
	b := p.waiting[key]
	if b == nil {
		b = &batch{done: make(chan struct{}), status: http.StatusBadGateway}
		p.waiting[key] = b
		if p.running[key] == nil {
			p.running[key] = new(sync.Mutex)
		}
		go p.read(b, key, p.running[key], r.URL.RequestURI(), r.Header)
	}
	p.mu.Unlock()
	<-b.done
	for _, name := range []string{"Content-Type", "Retry-After"} {
		if v := b.header.Get(name); v != "" {
			w.Header().Set(name, v)
		}
	}
	w.WriteHeader(b.status)
	_, _ = w.Write(b.body)
}

func (p *proxy) read(b *batch, key string, running *sync.Mutex, uri string, header http.Header) {
	defer close(b.done)
	running.Lock()
	defer running.Unlock()
	p.mu.Lock()
	delete(p.waiting, key) // whoever comes from now on waits for the next
	p.mu.Unlock()
	request, err := http.NewRequest(http.MethodGet, p.upstream.String()+uri, nil)
	if err != nil {
		return
	}
	request.Header.Set("Accept", header.Get("Accept"))
	request.Header.Set("Authorization", header.Get("Authorization"))
	response, err := p.transport.RoundTrip(request)
	if err != nil {
		return
	}
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); err == nil {
		b.status, b.header, b.body = response.StatusCode, response.Header, body
	}
}

func main() {
	listen, upstream := flag.String("listen", "", "`address`"), flag.String("upstream", "", "`URL` of the API server")
	ca, cert, key := flag.String("ca", "", "the API server's CA `file`"), flag.String("cert", "", "serving certificate `file`"), flag.String("key", "", "its key's `file`")
	flag.Parse()
	if err := serve(*listen, *upstream, *ca, *cert, *key); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func serve(listen, upstream, ca, cert, key string) error {
	pem, err := os.ReadFile(ca)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	u, err := url.Parse(upstream)
	if err != nil {
		return err
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true, DisableCompression: true}
	p := &proxy{upstream: u, transport: transport, waiting: map[string]*batch{}, running: map[string]*sync.Mutex{}}
	through := httputil.NewSingleHostReverseProxy(u)
	through.Transport, through.FlushInterval = transport, -1
	return http.ListenAndServeTLS(listen, cert, key, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/pods") && r.URL.Query().Get("watch") == "" {
			p.list(w, r)
			return
		}
		through.ServeHTTP(w, r)
	}))
}
