package lab

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// Ports are chosen below the kernel's usual range for outgoing connections (32768 and up). From inside it, a port
// whose server is down can be taken by any outgoing connection, even one to that very port, which TCP connects to
// itself: the API server could then not come back.
const (
	firstPort = 20000
	lastPort  = 32000
)

// ports hands out loopback ports that are free when asked for. Until they are released no other lab of this machine is handed the
// same, in whatever process it is: seconds lie between a port's choice and its server, and as many while a server is down.
type ports struct {
	mu sync.Mutex
	// marks are what says that a port is taken, by port: sockets in Linux' abstract namespace (unix(7)), which no two can be bound to,
	// and which go with their process. They are as wide as ports are, the network namespace. Nobody listens on them.
	marks map[int]int
}

func (p *ports) next() (int, error) {
	for range 1000 {
		port := firstPort + rand.IntN(lastPort-firstPort)
		if err := p.claim(port); !errors.Is(err, errPortTaken) {
			return port, err
		}
	}
	return 0, errors.New("finding a free port: none of 1000 tried is free")
}

var errPortTaken = errors.New("is taken")

// claim hands out a given port; errPortTaken when somebody must make room.
func (p *ports) claim(port int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	mark, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("marking port %d as taken: %w", port, err)
	}
	err = unix.Bind(mark, &unix.SockaddrUnix{Name: fmt.Sprintf("@seakeep-lab/port/%d", port)})
	switch {
	case errors.Is(err, unix.EADDRINUSE), err == nil && !portFree(port):
		err = fmt.Errorf("port %d on 127.0.0.1 %w", port, errPortTaken)
	case err != nil:
		err = fmt.Errorf("marking port %d as taken: %w", port, err)
	}
	if err != nil {
		_ = unix.Close(mark)
		return err
	}
	if p.marks == nil {
		p.marks = map[int]int{}
	}
	p.marks[port] = mark
	return nil
}

// release lets others have the ports.
func (p *ports) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, mark := range p.marks {
		_ = unix.Close(mark)
	}
	p.marks = nil
}

// portFree says whether a server could listen there now, on TCP and UDP.
func portFree(port int) bool {
	listener, err := net.Listen("tcp", loopback(port))
	if err != nil {
		return false
	}
	_ = listener.Close()
	conn, err := net.ListenPacket("udp", loopback(port))
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
