package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/dns/keeper"
	"github.com/seakeep/seakeep/dns/snapshot"
	"github.com/seakeep/seakeep/dns/store"
)

const (
	// peerTimeout bounds a fetch: 20 MB, which is 100,000 endpoints, in it is a link of 1.4 Mbit/s.
	peerTimeout = 2 * time.Minute
	// peerHeader is how long a peer may take to begin.
	peerHeader = 10 * time.Second
)

// Peer fetches the whole data of another seakeep-dns, from the listener of its relay.
type Peer struct {
	url      string
	http     *http.Client
	maxBytes int64
	timeout  time.Duration
}

var _ keeper.Fetcher = (*Peer)(nil)

// NewPeer returns a peer at the host of the configuration, whose TLS and token it uses; it does not connect. maxBytes
// bounds what is read; 0 is snapshot.DefaultMaxBytes.
func NewPeer(config *rest.Config, maxBytes int64) (*Peer, error) {
	u, err := url.Parse(config.Host)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || strings.Trim(u.Path, "/") != "" || u.User != nil {
		return nil, fmt.Errorf("a peer is an http or https URL with a host and nothing else, got %q", config.Host)
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("connecting to peer %s: %w", config.Host, err)
	}
	if maxBytes == 0 {
		maxBytes = snapshot.DefaultMaxBytes
	}
	// A peer answers itself or not at all: a redirect would carry the question, and the token, elsewhere.
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Peer{url: u.Scheme + "://" + u.Host, http: client, maxBytes: maxBytes, timeout: peerTimeout}, nil
}

// Close gives up idle connections.
func (p *Peer) Close() { p.http.CloseIdleConnections() }

// Name implements keeper.Fetcher.
func (p *Peer) Name() string { return "peer " + p.url }

// Class implements keeper.Fetcher.
func (p *Peer) Class() keeper.Class { return keeper.Peer }

// Fetch implements keeper.Fetcher. The keeper refuses what is another cluster's.
func (p *Peer) Fetch(ctx context.Context, each func(store.Object) error) (keeper.Origin, error) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	answer, err := p.ask(ctx)
	if err != nil {
		return keeper.Origin{}, fmt.Errorf("asking %s: %w", p.url, err)
	}
	defer answer.Body.Close()
	arrived := time.Now()
	if answer.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 200))
		return keeper.Origin{}, fmt.Errorf("%s answers %d: %s", p.url, answer.StatusCode, strings.TrimSpace(string(text)))
	}
	meta, err := snapshot.Decode(answer.Body, snapshot.DecodeOptions{MaxBytes: p.maxBytes}, each)
	if err != nil {
		return keeper.Origin{}, fmt.Errorf("reading the data of %s: %w", p.url, err)
	}
	if meta.Cluster == "" {
		return keeper.Origin{}, fmt.Errorf("%s does not know its own cluster", p.url)
	}
	origin := originOf(meta)
	// An age does not depend on the two clocks agreeing.
	if seconds, err := strconv.ParseUint(answer.Header.Get(headerAge), 10, 32); err == nil {
		origin.Confirmed = arrived.Add(-time.Duration(seconds) * time.Second)
	}
	if origin.Confirmed.After(arrived) {
		origin.Confirmed = arrived
	}
	return origin, nil
}

// ask returns once the answer begins, or gives up earlier than the whole may take.
func (p *Peer) ask(ctx context.Context) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	late := time.AfterFunc(peerHeader, func() { cancel(errors.New("it does not begin to answer")) })
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+"/snapshot", nil)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	answer, err := p.http.Do(q)
	if !late.Stop() && err == nil {
		answer.Body.Close()
		err = context.Cause(ctx)
	}
	if err != nil {
		defer cancel(nil)
		if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
			err = fmt.Errorf("%w: %w", cause, err)
		}
		return nil, err
	}
	answer.Body = &cancelling{answer.Body, cancel}
	return answer, nil
}

// cancelling ends the request with its answer.
type cancelling struct {
	io.ReadCloser
	cancel context.CancelCauseFunc
}

// Close implements io.Closer.
func (c *cancelling) Close() error {
	c.cancel(nil)
	return c.ReadCloser.Close()
}

func originOf(meta snapshot.Meta) keeper.Origin {
	origin := keeper.Origin{Cluster: meta.Cluster, Confirmed: meta.Confirmed, Modified: meta.Modified}
	for kind := range store.Kind(store.KindCount) {
		origin.Versions[kind] = meta.Kinds[kind.String()].Version
	}
	return origin
}
