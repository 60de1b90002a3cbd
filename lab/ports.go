package lab

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

// Ports are chosen below the kernel's usual range for outgoing connections (32768 and up). From inside it, a port
// whose server is down can be taken by any outgoing connection, even one to that very port, which TCP connects to
// itself: the API server could then not come back.
const (
	firstPort = 20000
	lastPort  = 32000
)

// ports hands out loopback ports that are free when asked for and that it has not handed out before.
type ports struct {
	mu     sync.Mutex
	handed map[int]bool
}

func (p *ports) next() (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.handed == nil {
		p.handed = map[int]bool{}
	}
	for range 1000 {
		port := firstPort + rand.IntN(lastPort-firstPort)
		if p.handed[port] || !portFree(port) {
			continue
		}
		p.handed[port] = true
		return port, nil
	}
	return 0, errors.New("finding a free port: none of 1000 tried is free")
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

// claim hands out a given port, or says who must make room.
func (p *ports) claim(port int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.handed == nil {
		p.handed = map[int]bool{}
	}
	if p.handed[port] || !portFree(port) {
		return fmt.Errorf("port %d on 127.0.0.1 is taken", port)
	}
	p.handed[port] = true
	return nil
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
