package admin

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// socket is the unix socket, and the lock that says its gate is alive.
type socket struct {
	*net.UnixListener
	lock *os.File
}

// listenSocket opens the socket with mode 0600. A socket file that a gate left when it was killed is replaced; one on
// which a gate answers is not.
func listenSocket(path string) (*socket, error) {
	lock, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	// The lock ends with the process, however it ends; that makes looking and replacing one step.
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return nil, errors.New("another gate has it open: give each gate a socket of its own")
	}
	l, err := replaceSocket(path)
	if err != nil {
		lock.Close()
		return nil, err
	}
	return &socket{UnixListener: l, lock: lock}, nil
}

func replaceSocket(path string) (*net.UnixListener, error) {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case info.Mode().Type() != fs.ModeSocket:
		return nil, fmt.Errorf("there is a file that is not a socket (%v): move it away", info.Mode())
	default:
		if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
			conn.Close()
			return nil, errors.New("something answers on it already")
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("removing what a dead gate left: %w", err)
		}
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	// Between the two calls others could connect; localActor looks at who they are.
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Close removes the socket and then gives up the lock.
func (s *socket) Close() error {
	return errors.Join(s.UnixListener.Close(), ignoreClosed(s.lock.Close()))
}

func ignoreClosed(err error) error {
	if errors.Is(err, fs.ErrClosed) {
		return nil // http.Server closes its listeners more than once
	}
	return err
}

// peer is a process at the other end of the socket.
type peer struct{ uid, pid int64 }

type peerKey struct{}

func peerOf(conn net.Conn) (peer, error) {
	local, ok := conn.(*net.UnixConn)
	if !ok {
		return peer{}, errors.New("not a unix socket")
	}
	raw, err := local.SyscallConn()
	if err != nil {
		return peer{}, err
	}
	var cred *unix.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) {
		cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return peer{}, err
	}
	if failed != nil {
		return peer{}, failed
	}
	return peer{uid: int64(cred.Uid), pid: int64(cred.Pid)}, nil
}

// localActor recognises a caller on the socket by what the kernel says of it: root, or the gate's own user.
func localActor(r *http.Request) (actor, error) {
	p, ok := r.Context().Value(peerKey{}).(peer)
	if !ok {
		return actor{}, errors.New("the kernel did not say who is calling")
	}
	if p.uid != 0 && p.uid != int64(os.Geteuid()) {
		return actor{}, fmt.Errorf("uid %d is neither root nor the gate's user", p.uid)
	}
	return actor{name: fmt.Sprintf("uid %d, pid %d", p.uid, p.pid)}, nil
}

// remoteActor recognises a caller by its certificate's common name.
func remoteActor(allowed []string) func(*http.Request) (actor, error) {
	return func(r *http.Request) (actor, error) {
		if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
			return actor{}, errors.New("a client certificate is required")
		}
		subject := r.TLS.VerifiedChains[0][0].Subject
		if subject.CommonName == "" || !slices.Contains(allowed, subject.CommonName) {
			return actor{}, fmt.Errorf("%q is not among admin.remote.allowedNames", subject.CommonName)
		}
		return actor{name: fmt.Sprintf("%s from %s", subject.CommonName, r.RemoteAddr), user: subject.CommonName, groups: subject.Organization}, nil
	}
}

// listenRemote opens the mTLS listener. Its files are read again at every handshake, of which there are few, so that a
// renewed certificate needs no restart; one that cannot be read leaves the last good one in use.
func listenRemote(config *v1alpha1.GateAdminRemote, log *slog.Logger) (net.Listener, error) {
	material, err := newMaterial(config, log)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", config.Address)
	if err != nil {
		return nil, err
	}
	return tls.NewListener(l, &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{"http/1.1"},
		GetConfigForClient: material.config,
	}), nil
}
