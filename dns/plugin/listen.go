package plugin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/coredns/coredns/plugin/pkg/reuseport"

	"github.com/seakeep/seakeep/dns/plugin/control"
)

// listeners are the addresses other than DNS that a handler serves: /state, and the operator's socket.
type listeners struct {
	servers []*http.Server
	serving sync.WaitGroup
	ending  []func()
}

// listen opens what the options ask for. The TCP address may be open already, in the instance that a reload replaces.
func (h *Handler) listen() (*listeners, error) {
	l := &listeners{}
	if h.options.state != "" {
		tcp, err := reuseport.Listen("tcp", h.options.state)
		if err != nil {
			return nil, fmt.Errorf("listening for /state: %w", err)
		}
		l.serve(tcp, control.StateHandler(h.data, h.now))
	}
	if h.options.socket != "" {
		unix, err := listenUnix(h.options.socket)
		if err != nil {
			l.close()
			return nil, fmt.Errorf("listening on socket %s: %w", h.options.socket, err)
		}
		l.serve(unix, control.Handler(h.data, h.now))
	}
	if o := h.options.relay; o != nil {
		tcp, err := reuseport.Listen("tcp", o.address)
		if err != nil {
			l.close()
			return nil, fmt.Errorf("listening for clients of the relay: %w", err)
		}
		l.serveRelay(tcp, o.to, o.access)
	}
	return l, nil
}

// listenUnix listens on a socket that only this user may open. An older one in its place is replaced, as a reload does.
func listenUnix(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	// Bound under another name and then moved: at no time is it there with rights for others.
	next := path + ".next"
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: next, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // the name may be the next instance's by then
	if err := errors.Join(os.Chmod(next, 0o600), os.Rename(next, path)); err != nil {
		_ = l.Close()
		return nil, err
	}
	return l, nil
}

func (l *listeners) serve(on net.Listener, handler http.Handler) {
	s := &http.Server{Handler: handler, ReadTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: 30 * time.Second, MaxHeaderBytes: 16 << 10}
	l.servers = append(l.servers, s)
	l.serving.Go(func() {
		if err := s.Serve(on); !errors.Is(err, http.ErrServerClosed) {
			log.Errorf("Serving %s ended: %v", on.Addr(), err)
		}
	})
}

func (l *listeners) close() {
	for _, end := range l.ending {
		end()
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for _, s := range l.servers {
		if s.Shutdown(ctx) != nil {
			_ = s.Close()
		}
	}
	l.serving.Wait()
}
