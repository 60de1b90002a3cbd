package credentials

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/seakeep/seakeep/dns/relay"
	"github.com/seakeep/seakeep/internal/pki"
)

// A relay with the one half lets a client with the other half in, by the names they have, and still does when either was renewed.
func TestTheyKnowEachOther(t *testing.T) {
	old := filepath.Join(t.TempDir(), "certificates")
	if err := Write(old, time.Hour); err != nil {
		t.Fatal(err)
	}
	renewed := filepath.Join(t.TempDir(), "renewed")
	if err := os.CopyFS(renewed, os.DirFS(old)); err != nil {
		t.Fatal(err)
	}
	if err := Write(renewed, 2*time.Hour); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{caCert, caKey} {
		before, _ := os.ReadFile(filepath.Join(old, name))
		if after, err := os.ReadFile(filepath.Join(renewed, name)); err != nil || !bytes.Equal(before, after) {
			t.Errorf("%s is another one after a renewal (%v)", name, err)
		}
	}
	for what, pair := range map[string][2]string{"the first": {old, old}, "a renewed relay": {renewed, old}, "a renewed client": {old, renewed}} {
		handshake(t, what, pair[0], pair[1])
	}
	for _, name := range []string{caKey, relayKey, clientKey} {
		if info, err := os.Stat(filepath.Join(old, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s is %v (%v), want mode 0600", name, info, err)
		}
	}
}

func handshake(t *testing.T, what, server, client string) {
	t.Helper()
	access := relay.Access{
		CertFile: filepath.Join(server, relayCert), KeyFile: filepath.Join(server, relayKey), ClientCAFile: filepath.Join(server, caCert), Allow: []string{ClientName},
	}
	if err := access.Validate("192.0.2.1:9443"); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", access.TLS())
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	accepted := make(chan error, 1)
	var peer *x509.Certificate
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			defer conn.Close()
			if err = conn.(*tls.Conn).HandshakeContext(t.Context()); err == nil {
				peer = conn.(*tls.Conn).ConnectionState().PeerCertificates[0]
			}
		}
		accepted <- err
	}()
	pair, err := pki.LoadPair(filepath.Join(client, clientCert), filepath.Join(client, clientKey))
	if err != nil {
		t.Fatal(err)
	}
	roots, err := pki.LoadPool(filepath.Join(client, caCert))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := (&tls.Dialer{NetDialer: &net.Dialer{}, Config: &tls.Config{Certificates: []tls.Certificate{pair.TLS()}, RootCAs: roots, ServerName: ServerName}}).
		DialContext(t.Context(), "tcp", listener.Addr().String())
	if err != nil {
		t.Fatalf("%s: the client does not know the relay: %v", what, err)
	}
	defer conn.Close()
	if err := <-accepted; err != nil || peer.Subject.CommonName != ClientName {
		t.Errorf("%s: the relay does not know the client: %v, %v", what, peer, err)
	}
}

func TestUsage(t *testing.T) {
	foreign := t.TempDir()
	if err := os.WriteFile(filepath.Join(foreign, caCert), []byte("not a certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		args []string
		code int
		want string
	}{
		"help":           {[]string{"--help"}, 0, "Example:"},
		"made":           {[]string{filepath.Join(t.TempDir(), "new")}, 0, "good for 1825 days"},
		"no folder":      {nil, 2, "error: one folder must be named, got 0"},
		"no days":        {[]string{"--days", "0", "x"}, 2, "error: days must be 1–3650, got 0"},
		"an unknown one": {[]string{"--hours", "1", "x"}, 2, "hint: see seakeep-dns relay-certificates --help"},
		"a foreign CA":   {[]string{foreign}, 1, "error: using the authority that is there: "},
	} {
		t.Run(name, func(t *testing.T) {
			var out, errs strings.Builder
			if code := Main(append([]string{"relay-certificates"}, tc.args...), &out, &errs); code != tc.code || !strings.Contains(out.String()+errs.String(), tc.want) {
				t.Errorf("ends with %d: %s%s, want %d with %q", code, out.String(), errs.String(), tc.code, tc.want)
			}
		})
	}
}
