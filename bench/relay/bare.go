package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/seakeep/seakeep/bench/door"
	"github.com/seakeep/seakeep/lab"
)

// bareName is what a hit costs at least in this language: a server of net/http alone that writes bytes it was given, through
// TLS and HTTP/2 as the gate does, and asks nobody who wants them. It is no rival, but the floor.
const bareName = "bare"

// bareArg makes this program that server.
const bareArg = "bare"

// gzipped says that what the server is given is compressed.
const gzipped = "gzipped"

// bareAnswer is what it answers everything with.
type bareAnswer struct {
	body   []byte
	packed bool
}

func bareMain(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet(bareArg, flag.ContinueOnError)
	listen, cert, key := flags.String("listen", "", "`address`"), flags.String("cert", "", "`file`"), flags.String("key", "", "`file`")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var answer atomic.Pointer[bareAnswer]
	answer.Store(&bareAnswer{})
	server := &http.Server{Addr: *listen, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			answer.Store(&bareAnswer{body, r.URL.Query().Has(gzipped)})
			return
		}
		a := answer.Load()
		if a.packed {
			w.Header().Set("Content-Encoding", "gzip")
		}
		_, _ = w.Write(a.body)
	})}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if err := server.ListenAndServeTLS(*cert, *key); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (r *rig) startBare(ctx context.Context) error {
	address, err := door.Address(r.lab)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	keys := r.lab.PKI()
	r.urls[bareName], err = door.Start(ctx, r.lab, address, lab.ProcessSpec{Name: bareName, Path: filepath.Clean(self), Args: []string{
		bareArg, "-listen", address, "-cert", keys.ServingCert, "-key", keys.ServingKey,
	}})
	return err
}

// give makes the bare server answer what the API server does.
func (r *rig) give(ctx context.Context, transport *http.Transport, e encoding) error {
	body, _, err := r.hit(ctx, transport, e, directName)
	if err != nil {
		return err
	}
	url := r.urls[bareName]
	if e.encoding == "gzip" {
		url += "?" + gzipped
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(bytes.Clone(body)))
	if err != nil {
		return err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return errors.New("the bare server took nothing: " + response.Status)
	}
	return nil
}
