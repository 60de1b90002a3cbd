package breakglass

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/internal/pki"
)

// reloadEvery is how often the certificate files are read again. Reading four small files is cheaper than being right
// about file notifications on every file system a key may lie on.
const reloadEvery = 2 * time.Second

// Errors of a certificate that was good at the handshake and is not any more. Connections live for hours.
var (
	errDenied  = errors.New("the certificate is on the list of denied serials")
	errExpired = errors.New("the certificate has expired")
	errForeign = errors.New("the certificate's CA is not the break-glass CA any more")
)

// trust is who the lane is and whom it hears: the serving certificate, the break-glass CA and the denied serials.
type trust struct {
	files   v1alpha1.BreakGlassListen
	log     *slog.Logger
	metrics *metrics
	clock   func() time.Time
	// onChange is called after new material is in force, so that open requests of those no longer heard can end.
	onChange func()

	current atomic.Pointer[material]
	failed  [sha256.Size]byte // the contents that were refused last, to say so once
}

// material is one consistent reading of the files. It is immutable.
type material struct {
	serving   tls.Certificate
	clientCAs *x509.CertPool
	caExpiry  time.Time // of the CA certificate that lives longest
	denied    sets.Set[string]
	sum       [sha256.Size]byte
}

// newTrust reads the files; at start, unlike later, a bad one is an error.
func newTrust(files v1alpha1.BreakGlassListen, log *slog.Logger, m *metrics, clock func() time.Time) (*trust, error) {
	t := &trust{files: files, log: log, metrics: m, clock: clock, onChange: func() {}}
	sum, parse, err := t.read()
	if err != nil {
		return nil, err
	}
	first, err := parse()
	if err != nil {
		return nil, err
	}
	first.sum = sum
	t.use(first)
	return t, nil
}

// read reads the files' bytes and returns how to make material of them.
func (t *trust) read() (sum [sha256.Size]byte, parse func() (*material, error), err error) {
	paths := []string{t.files.CertFile, t.files.KeyFile, t.files.ClientCAFile}
	if t.files.DeniedSerialsFile != "" {
		paths = append(paths, t.files.DeniedSerialsFile)
	}
	contents := make([][]byte, 4)
	hash := sha256.New()
	for i, path := range paths {
		if contents[i], err = os.ReadFile(path); err != nil {
			return sum, nil, err
		}
		fmt.Fprintf(hash, "%d:", len(contents[i]))
		hash.Write(contents[i])
	}
	hash.Sum(sum[:0])
	return sum, func() (*material, error) { return t.parse(contents[0], contents[1], contents[2], contents[3]) }, nil
}

func (t *trust) parse(cert, key, ca, denied []byte) (*material, error) {
	serving, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("reading serving certificate %s with key %s: %w", t.files.CertFile, t.files.KeyFile, err)
	}
	now := t.clock()
	if !now.Before(serving.Leaf.NotAfter) {
		return nil, fmt.Errorf("serving certificate %s expired at %s", t.files.CertFile, serving.Leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	cas, err := pki.ParseCerts(ca)
	if err != nil {
		return nil, fmt.Errorf("reading client CA %s: %w", t.files.ClientCAFile, err)
	}
	m := &material{serving: serving, clientCAs: x509.NewCertPool()}
	for _, c := range cas {
		if !c.IsCA {
			return nil, fmt.Errorf("client CA %s holds a certificate that is not a CA (subject %q)", t.files.ClientCAFile, c.Subject)
		}
		m.clientCAs.AddCert(c)
		if c.NotAfter.After(m.caExpiry) {
			m.caExpiry = c.NotAfter
		}
	}
	if !now.Before(m.caExpiry) {
		return nil, fmt.Errorf("client CA %s expired at %s", t.files.ClientCAFile, m.caExpiry.UTC().Format(time.RFC3339))
	}
	if m.denied, err = parseDenied(denied); err != nil {
		return nil, fmt.Errorf("reading denied serials %s: %w", t.files.DeniedSerialsFile, err)
	}
	return m, nil
}

func (t *trust) use(m *material) {
	t.current.Store(m)
	t.metrics.certificateExpiry.WithLabelValues(certificateServing).Set(float64(m.serving.Leaf.NotAfter.Unix()))
	t.metrics.certificateExpiry.WithLabelValues(certificateClientCA).Set(float64(m.caExpiry.Unix()))
}

// reload puts changed files in force and keeps the last good ones when they are bad. Half-written files are bad, and
// are read again at the next tick.
func (t *trust) reload() {
	sum, parse, err := t.read()
	if err == nil {
		if sum == t.current.Load().sum {
			t.failed = [sha256.Size]byte{}
			return
		}
		var next *material
		if next, err = parse(); err == nil {
			next.sum = sum
			t.use(next)
			t.failed = [sha256.Size]byte{}
			t.log.Info("Certificates reloaded", "deniedSerials", next.denied.Len())
			t.onChange()
			return
		}
	}
	t.metrics.reloadFailures.Inc()
	if why := sha256.Sum256([]byte(err.Error())); why != t.failed {
		t.failed = why
		t.log.Error("Keeping the certificates in force: the new files are bad", "reason", err)
	}
}

// run reloads until the context ends.
func (t *trust) run(ctx context.Context) {
	tick := time.NewTicker(reloadEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			t.reload()
		}
	}
}

// check says whether a chain verified at the handshake is still good.
func (t *trust) check(chain []*x509.Certificate) error {
	m, leaf := t.current.Load(), chain[0]
	switch {
	case m.denied.Has(serialText(leaf.SerialNumber)):
		return errDenied
	case !t.clock().Before(leaf.NotAfter):
		return errExpired
	}
	intermediates := x509.NewCertPool()
	for _, c := range chain[1:] {
		intermediates.AddCert(c)
	}
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: m.clientCAs, Intermediates: intermediates, CurrentTime: t.clock(),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return errForeign
	}
	return nil
}

// tlsConfig asks every client for a certificate of the break-glass CA and ends the handshake without one: strangers
// must cost the lane as little as possible. Sessions are not resumed, so that each connection is judged by the CA and
// the list in force.
func (t *trust) tlsConfig(refused func(*x509.Certificate, error)) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			m := t.current.Load()
			return &tls.Config{
				MinVersion:             tls.VersionTLS12,
				NextProtos:             []string{"h2", "http/1.1"},
				Certificates:           []tls.Certificate{m.serving},
				ClientAuth:             tls.RequireAndVerifyClientCert,
				ClientCAs:              m.clientCAs,
				Time:                   t.clock,
				SessionTicketsDisabled: true,
				VerifyConnection: func(state tls.ConnectionState) error {
					if err := t.check(state.PeerCertificates); err != nil {
						refused(state.PeerCertificates[0], err)
						return err
					}
					if c, ok := hello.Conn.(*conn); ok {
						c.authenticated()
					}
					return nil
				},
			}, nil
		},
	}
}
