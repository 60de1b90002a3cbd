// Package credentials makes the certificates that relays and their clients know each other by: an authority of their own,
// so that nobody who merely has a certificate of the cluster reads where every pod is. `seakeep-dns relay-certificates` is
// its command. It needs no cluster.
package credentials

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/seakeep/seakeep/internal/pki"
)

// The names in the certificates: what clients verify a relay by (tls_servername), and whom a relay lets in (allow).
const (
	ServerName = "seakeep-dns-relay"
	ClientName = "seakeep-dns-client"
)

// Names of the files. The authority's key is for renewals, and belongs to nobody who runs.
const (
	caCert, caKey         = "ca.crt", "ca.key"
	relayCert, relayKey   = "relay.crt", "relay.key"
	clientCert, clientKey = "client.crt", "client.key"
)

// defaultDays is long, because a certificate that ends in an outage cannot be renewed through the cluster.
const (
	defaultDays = 1825
	maxDays     = 3650
)

const usage = `Makes the certificates of relays and of their clients, in a folder. An authority that is there already is used again,
so that what is renewed is trusted by what is not yet.

Example:
  seakeep-dns relay-certificates deploy/dns/certificates

Flags:
  --days NUMBER   how long the certificates are good for (default 1825, at most 3650)
`

// Is says whether the arguments are the sub-command.
func Is(args []string) bool { return len(args) > 0 && args[0] == "relay-certificates" }

// Main runs the sub-command and returns the exit code: 0, 1 on failure, 2 on wrong usage.
func Main(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("seakeep-dns relay-certificates", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	days := flags.Int("days", defaultDays, "")
	err := flags.Parse(args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, usage)
		return 0
	case err == nil && flags.NArg() != 1:
		err = fmt.Errorf("one folder must be named, got %d", flags.NArg())
	case err == nil && (*days < 1 || *days > maxDays):
		err = fmt.Errorf("days must be 1–%d, got %d", maxDays, *days)
	}
	if err != nil {
		fmt.Fprintf(stderr, "error: %v\nhint: see seakeep-dns relay-certificates --help\n", err)
		return 2
	}
	if err := Write(flags.Arg(0), time.Duration(*days)*24*time.Hour); err != nil {
		fmt.Fprintf(stderr, "error: %v\nhint: name a folder that you may write to, without files of another origin\n", err)
		return 1
	}
	fmt.Fprintf(stdout, "%s: certificates of relays and clients, good for %d days; keep %s, and keep it to yourself\n", flags.Arg(0), *days, caKey)
	return 0
}

// Write writes the files into the folder, which it makes; keys are their owner's alone.
func Write(folder string, lifetime time.Duration) error {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return fmt.Errorf("making the certificates' folder: %w", err)
	}
	file := func(name string) string { return filepath.Join(folder, name) }
	ca, err := authority(file(caCert), file(caKey))
	if err != nil {
		return err
	}
	for _, p := range []struct {
		spec      pki.Spec
		cert, key string
	}{
		{pki.Spec{CommonName: ServerName, DNSNames: []string{ServerName}, Server: true, Lifetime: lifetime}, relayCert, relayKey},
		{pki.Spec{CommonName: ClientName, Client: true, Lifetime: lifetime}, clientCert, clientKey},
	} {
		pair, err := ca.Issue(p.spec)
		if err != nil {
			return err
		}
		if err := pair.Write(file(p.cert), file(p.key)); err != nil {
			return err
		}
	}
	return nil
}

// authority is the one that is there, or a new one, which outlives every certificate it may sign for years.
func authority(cert, key string) (*pki.CA, error) {
	ca, err := pki.LoadCA(cert, key)
	if err == nil {
		return ca, nil
	}
	if _, missing := os.Stat(cert); !errors.Is(missing, fs.ErrNotExist) {
		return nil, fmt.Errorf("using the authority that is there: %w", err)
	}
	if ca, err = pki.NewCA("seakeep-dns relays", 2*maxDays*24*time.Hour); err != nil {
		return nil, err
	}
	pair := &pki.Pair{Cert: ca.Cert, Key: ca.Key}
	return ca, pair.Write(cert, key)
}
