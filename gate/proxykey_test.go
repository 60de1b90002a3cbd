package gate_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/internal/pki"
	"github.com/seakeep/seakeep/lab"
)

// A group that HTTP/1.1 would trim to system:masters does not get as far as a header.
func TestMastersCannotBeSmuggled(t *testing.T) {
	l := cluster(t)
	n := openLane(t, l, "")
	for _, group := range []string{"system:masters", "system:masters ", "\tsystem:masters"} {
		_, err := n.Client(lab.User("mallory", group)).CoreV1().Namespaces().Get(t.Context(), "default", metav1.GetOptions{})
		if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "seakeep gate") {
			t.Errorf("group %q: got %v, want the gate's 403", group, err)
		}
	}
}

// rotation is a front-proxy pair in a folder of its own, to be replaced.
type rotation struct {
	t         *testing.T
	ca        *pki.CA
	cert, key string
}

// write replaces the certificate, the key or both by a new pair's.
func (r *rotation) write(lifetime time.Duration, names ...string) (notAfter time.Time) {
	r.t.Helper()
	pair, err := r.ca.Issue(pki.Spec{CommonName: lab.FrontProxyName, Lifetime: lifetime, Client: true})
	check(r.t, err)
	next := r.t.TempDir()
	check(r.t, pair.Write(filepath.Join(next, "proxy.crt"), filepath.Join(next, "proxy.key")))
	for _, name := range names {
		check(r.t, os.Rename(filepath.Join(next, filepath.Base(name)), name))
	}
	return pair.Cert.NotAfter
}

// The front-proxy pair is replaced under traffic, one file after the other as tools do: no request fails, new connections
// work at every moment, and when the old certificate has expired, which the API server looks at with every request,
// nothing uses it any more.
func TestFrontProxyKeyRotates(t *testing.T) {
	l := cluster(t)
	dir := t.TempDir()
	ca, err := pki.LoadCA(l.PKI().FrontProxyCA, filepath.Join(l.PKI().Dir, "front-proxy-ca.key"))
	check(t, err)
	r := &rotation{t: t, ca: ca, cert: filepath.Join(dir, "proxy.crt"), key: filepath.Join(dir, "proxy.key")}
	const oldLives = 15 * time.Second
	expires := r.write(oldLives, r.cert, r.key)
	file := gatetest.Write(t, l, dir, gatetest.Options{})
	text, err := os.ReadFile(file)
	check(t, err)
	text = []byte(strings.NewReplacer(l.PKI().FrontProxyCert, r.cert, l.PKI().FrontProxyKey, r.key).Replace(string(text)))
	check(t, os.WriteFile(file, text, 0o600))
	n := gatetest.Serve(t, l, file)

	ctx, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	var requests atomic.Int64
	for i := range 4 {
		client := n.Client(lab.Admin)
		clients.Go(func() {
			for ctx.Err() == nil {
				if _, err := client.CoreV1().Namespaces().Get(ctx, "default", metav1.GetOptions{}); err != nil && ctx.Err() == nil {
					t.Errorf("client %d: %v", i, err)
					return
				}
				requests.Add(1)
			}
		})
	}
	defer clients.Wait()
	defer stop()
	newConnection := func(when string) {
		t.Helper()
		if err := watchByWebSocket(t, n); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
	newConnection("before")

	r.write(time.Hour, r.cert) // its key is still the old one's
	eventually(t, "the half pair is refused", func() bool { return reloads(t, n, "refused") > 0 })
	newConnection("half replaced")
	applied := reloads(t, n, "applied")
	r.write(time.Hour, r.cert, r.key)
	eventually(t, "the new pair is in force", func() bool { return reloads(t, n, "applied") > applied })
	newConnection("replaced")

	select {
	case <-time.After(time.Until(expires) + time.Second):
	case <-t.Context().Done():
	}
	newConnection("when the old one has expired")
	before := requests.Load()
	eventually(t, "requests after the old one has expired", func() bool { return requests.Load() > before+20 })
}

func reloads(t *testing.T, n *gatetest.Lane, result string) float64 {
	t.Helper()
	families, err := n.Registry.Gather()
	check(t, err)
	for _, family := range families {
		for _, m := range family.Metric {
			if family.GetName() == "seakeep_gate_config_reloads_total" && m.Label[0].GetValue() == result {
				return m.Counter.GetValue()
			}
		}
	}
	return 0
}

// watchByWebSocket makes a request that has a connection of its own on both sides of the gate.
func watchByWebSocket(t *testing.T, n *gatetest.Lane) error {
	t.Helper()
	raw, err := n.Dial(t.Context(), "tcp", strings.TrimPrefix(n.URL, "https://"))
	check(t, err)
	defer raw.Close()
	roots, err := pki.LoadPool(n.Lab.CAFile())
	check(t, err)
	conn := tls.Client(raw, &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, ServerName: "127.0.0.1", Certificates: []tls.Certificate{n.Certificate(lab.Admin)}})
	check(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	_, err = fmt.Fprint(conn, "GET /api/v1/namespaces?watch=1 HTTP/1.1\r\nHost: gate\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Origin: https://gate\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	check(t, err)
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("got %s", response.Status)
	}
	return nil
}
