package tokens

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/google/renameio/v2"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/internal/config"
)

const (
	// refreshEvery is how often an issuer's key set is fetched, ±20 % so that a fleet of gates does not ask at once.
	// Issuers publish a key hours before they sign with it.
	refreshEvery = 10 * time.Minute
	// retryFirst doubles up to refreshEvery while the issuer does not answer.
	retryFirst   = 5 * time.Second
	fetchTimeout = 10 * time.Second
)

// Run keeps the keys current until ctx is done: it reloads files that change and refreshes key sets from their
// issuers. Keys that cannot be read or fetched leave the last good ones in use. The caller owns the goroutine; Run
// leaves none behind. It is to be called once.
func (v *Verifier) Run(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	watcher := config.NewWatcher(v.files())
	v.reload() // what changed between New and here
	for _, issuer := range v.opts.OIDC {
		if issuer.JWKSURL != "" {
			running.Go(func() { v.refresh(ctx, issuer) })
		}
	}
	watcher.Run(ctx, v.reload)
}

func (v *Verifier) files() []string {
	var files []string
	if sa := v.opts.ServiceAccounts; sa != nil {
		files = append(files, sa.KeyFiles...)
	}
	for _, issuer := range v.opts.OIDC {
		files = append(files, issuer.JWKSFile)
	}
	return files
}

// reload swaps the whole ring, which also makes every cached result stale: a key taken out of its file must not keep
// naming people.
func (v *Verifier) reload() {
	v.reloading.Lock()
	defer v.reloading.Unlock()
	keys, err := readKeys(&v.opts, v.keys.Load())
	if err != nil {
		v.opts.Log.Warn("Keeping the last good token keys", "err", err)
	}
	v.keys.Store(keys)
}

// refresh fetches one issuer's key set again and again.
func (v *Verifier) refresh(ctx context.Context, issuer v1alpha1.OIDCIssuer) {
	retry := retryFirst
	for {
		wait := refreshEvery
		if err := v.fetch(ctx, issuer); err != nil {
			if ctx.Err() != nil {
				return
			}
			wait, retry = retry, min(2*retry, refreshEvery)
			v.opts.Log.Warn("Keeping the issuer's last good keys", "issuer", issuer.IssuerURL, "retryIn", wait, "err", err)
		} else {
			retry = retryFirst
		}
		timer := time.NewTimer(time.Duration(float64(wait) * (0.8 + 0.4*rand.Float64())))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// fetch brings the issuer's key set into its file. A set that cannot be parsed is not written, so the file is always
// the last good one, over a restart too.
func (v *Verifier) fetch(ctx context.Context, issuer v1alpha1.OIDCIssuer) error {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	client, err := issuerClient(issuer.CAFile)
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, issuer.JWKSURL, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("fetching issuer keys: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("fetching issuer keys from %s: status %s", issuer.JWKSURL, response.Status)
	}
	data, err := io.ReadAll(io.LimitReader(response.Body, maxKeyFileBytes+1))
	if err != nil {
		return fmt.Errorf("fetching issuer keys from %s: %w", issuer.JWKSURL, err)
	}
	if len(data) > maxKeyFileBytes {
		return fmt.Errorf("fetching issuer keys from %s: the answer must not be larger than %d bytes", issuer.JWKSURL, maxKeyFileBytes)
	}
	if _, err := parseKeySet(data); err != nil {
		return fmt.Errorf("fetching issuer keys from %s: %w", issuer.JWKSURL, err)
	}
	if current, err := readBounded(issuer.JWKSFile); err == nil && string(current) == string(data) {
		return nil
	}
	if err := renameio.WriteFile(issuer.JWKSFile, data, 0o644); err != nil {
		return fmt.Errorf("writing issuer keys: %w", err)
	}
	v.reload()
	return nil
}

// issuerClient trusts the given CA only, or the system's; it does not follow redirects away from HTTPS.
func issuerClient(caFile string) (*http.Client, error) {
	transport := &http.Transport{
		Proxy:           http.ProxyFromEnvironment,
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
	}
	if caFile != "" {
		data, err := readBounded(caFile)
		if err != nil {
			return nil, fmt.Errorf("reading the issuer's CA: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(data) {
			return nil, fmt.Errorf("reading the issuer's CA: %s holds no PEM certificate", caFile)
		}
		transport.TLSClientConfig.RootCAs = pool
	}
	return &http.Client{
		Transport: transport,
		CheckRedirect: func(request *http.Request, via []*http.Request) error {
			if request.URL.Scheme != "https" || len(via) > 3 {
				return errors.New("a redirect must stay on https, three at most")
			}
			return nil
		},
	}, nil
}
