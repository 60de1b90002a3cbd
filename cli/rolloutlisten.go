package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/rollout/answer"
	"github.com/seakeep/seakeep/rollout/engine"
)

// rolloutListen is where a run answers others: Argo Rollouts' web metrics, Flagger's webhooks, scripts.
type rolloutListen struct {
	address                     string
	certFile, keyFile, clientCA string
}

func (l *rolloutListen) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&l.address, "listen", "", "answer others at this `address`, as 127.0.0.1:7460; beyond loopback only with mutual TLS (default: answer nobody)")
	flags.StringVar(&l.certFile, "tls-cert", "", "with --listen: the serving certificate's `file`")
	flags.StringVar(&l.keyFile, "tls-key", "", "with --listen: its key's `file`")
	flags.StringVar(&l.clientCA, "client-ca", "", "with --listen: `file` with the authority of those who may ask")
	_ = cmd.RegisterFlagCompletionFunc("listen", cobra.NoFileCompletions)
}

func (l *rolloutListen) check() error {
	if l.address == "" {
		if l.certFile+l.keyFile+l.clientCA != "" {
			return usageError(errors.New("--tls-cert, --tls-key and --client-ca go with --listen"), rolloutHint)
		}
		return nil
	}
	if _, _, err := net.SplitHostPort(l.address); err != nil {
		return usageError(fmt.Errorf("--listen must be host:port, got %q", l.address), rolloutHint)
	}
	secured := l.certFile != "" && l.keyFile != "" && l.clientCA != ""
	if !secured && (l.certFile+l.keyFile+l.clientCA != "" || !v1alpha1.IsLoopback(l.address)) {
		return usageError(fmt.Errorf("--listen %s needs --tls-cert, --tls-key and --client-ca: what runs where is nobody else's", l.address), rolloutHint)
	}
	return nil
}

// serve answers until the context ends. It returns once it listens; wait waits for its end.
func (l *rolloutListen) serve(ctx context.Context, view func() engine.View, maxAge time.Duration, log *slog.Logger) (address string, wait func(), err error) {
	listener, err := net.Listen("tcp", l.address)
	if err != nil {
		return "", nil, fmt.Errorf("listening at %s: %w", l.address, err)
	}
	server := &http.Server{
		Handler: answer.Handler(view, maxAge, time.Now), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	if l.certFile != "" {
		if server.TLSConfig, err = l.tls(); err != nil {
			_ = listener.Close()
			return "", nil, err
		}
		listener = tls.NewListener(listener, server.TLSConfig)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Warn("Nobody is answered any more", "err", err)
		}
	}()
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	return listener.Addr().String(), func() {
		stop()
		_ = server.Close()
		<-ended
	}, nil
}

func (l *rolloutListen) tls() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(l.certFile, l.keyFile)
	if err != nil {
		return nil, usageError(fmt.Errorf("reading the serving certificate: %w", err), "")
	}
	data, err := os.ReadFile(l.clientCA)
	if err != nil {
		return nil, usageError(fmt.Errorf("reading the clients' authority: %w", err), "")
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, usageError(fmt.Errorf("%s holds no certificate", l.clientCA), "")
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12}, nil
}
