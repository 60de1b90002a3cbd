// Package batch reads and writes UDP in batches: one system call takes in, or sends, up to as many datagrams as wait.
//
// Sockets are opened in the SO_REUSEPORT group of an address that somebody else already listens on, and the kernel is
// told to give the group's datagrams to them alone. So a server that owns its listener can be stood in front of without
// its knowledge, and it gets everything again the moment the sockets are closed, by any death.
package batch

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Size of the buffer of a datagram: no larger query is of use to a DNS server, and what is longer is cut.
const bufferSize = 2048

// controlSize holds the local address of a datagram: a header of 16 bytes and an in6_pktinfo of 20, aligned.
const controlSize = 40

// Options of the sockets of one address.
type Options struct {
	// Sockets to open, ≥ 1: one for each goroutine that reads. The first gets all datagrams until Steer says otherwise.
	Sockets int
	// Before is how many sockets are in the address's group already. They get nothing while these are open.
	Before int
	// ReceiveBuffer of each socket in bytes, as far as the system allows; 0 leaves the system's default.
	ReceiveBuffer int
}

// Listen opens the sockets of the address, host:port. The caller must be the user that opened the group.
func Listen(addr string, o Options) (_ []*Conn, err error) {
	var conns []*Conn
	defer func() {
		if err != nil {
			for _, c := range conns {
				_ = c.Close()
			}
		}
	}()
	for range o.Sockets {
		c, err := listen(addr, o.ReceiveBuffer)
		if err != nil {
			return nil, fmt.Errorf("listening on %s beside another socket: %w", addr, err)
		}
		conns = append(conns, c)
	}
	if err := conns[0].Steer(o.Before, 1); err != nil {
		return nil, fmt.Errorf("steering the datagrams of %s: %w", addr, err)
	}
	return conns, nil
}

// Conn is one socket. Each of Read and Write is for one goroutine; WriteOne is for any number.
type Conn struct {
	udp   *net.UDPConn
	raw   syscall.RawConn
	read  *vector
	write *vector
	local bool // the address is a wildcard, so each datagram's local address is kept to be answered from
}

func listen(addr string, receive int) (*Conn, error) {
	var failed error
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		err := raw.Control(func(fd uintptr) {
			failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
			if failed == nil && receive > 0 && unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receive) != nil {
				// Without CAP_NET_ADMIN, as much as net.core.rmem_max allows.
				failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, receive)
			}
		})
		return errors.Join(err, failed)
	}}
	packets, err := lc.ListenPacket(context.Background(), "udp", addr)
	if err != nil {
		return nil, err
	}
	c := &Conn{udp: packets.(*net.UDPConn)}
	if c.raw, err = c.udp.SyscallConn(); err != nil {
		return nil, err
	}
	if bound := c.udp.LocalAddr().(*net.UDPAddr); bound.IP.IsUnspecified() {
		c.local = true
		err := c.raw.Control(func(fd uintptr) {
			// A socket of one family refuses the other's option.
			four := unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
			six := unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
			if four != nil && six != nil {
				failed = four
			}
		})
		if err := errors.Join(err, failed); err != nil {
			_ = c.udp.Close()
			return nil, fmt.Errorf("asking for the local addresses of datagrams: %w", err)
		}
	}
	return c, nil
}

// Steer gives the group's datagrams to n of its sockets, those behind the first ones, at random: DNS knows no order of
// datagrams. It may be called again with another n at any time. If the group has fewer sockets than that, the kernel
// spreads over all, as without.
func (c *Conn) Steer(first, n int) error {
	const randomNumber = 0xfffff000 + 56 // SKF_AD_OFF + SKF_AD_RANDOM of linux/filter.h
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: randomNumber},
		{Code: unix.BPF_ALU | unix.BPF_MOD | unix.BPF_K, K: uint32(n)},     //nolint:gosec // a few sockets
		{Code: unix.BPF_ALU | unix.BPF_ADD | unix.BPF_K, K: uint32(first)}, //nolint:gosec // a few sockets
		{Code: unix.BPF_RET | unix.BPF_A},
	}
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	var failed error
	err := c.raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF, &prog)
	})
	return errors.Join(err, failed)
}

// Message is one datagram and the address it came from, in the form that the system gave and takes.
type Message struct {
	Data    []byte
	peer    [unix.SizeofSockaddrInet6]byte
	peerLen uint32
	control [controlSize]byte
	ctrlLen uint64
}

// Peer is the address the datagram came from.
func (m *Message) Peer() netip.AddrPort {
	port := uint16(m.peer[2])<<8 | uint16(m.peer[3])
	if family := *(*uint16)(unsafe.Pointer(&m.peer[0])); family == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(m.peer[4:8])), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(m.peer[8:24])).Unmap(), port)
}

// Reply returns a message to where m came from, from the address it was sent to.
func (m *Message) Reply(data []byte) Message {
	r := *m
	r.Data = data
	return r
}

// mmsghdr is the kernel's.
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
	_   [4]byte
}

// vector is the memory of one batch of system calls.
type vector struct {
	headers []mmsghdr
	iovs    []unix.Iovec
}

func newVector(n int) *vector {
	return &vector{headers: make([]mmsghdr, n), iovs: make([]unix.Iovec, n)}
}

func (v *vector) set(i int, m *Message, data []byte, control bool) {
	v.iovs[i] = unix.Iovec{}
	if len(data) > 0 {
		v.iovs[i].Base = &data[0]
		v.iovs[i].SetLen(len(data))
	}
	h := &v.headers[i].hdr
	*h = unix.Msghdr{Name: &m.peer[0], Namelen: m.peerLen, Iov: &v.iovs[i], Iovlen: 1}
	if control {
		h.Control, h.Controllen = &m.control[0], m.ctrlLen
	}
	v.headers[i].n = 0
}

// Buffers returns n messages to read into.
func Buffers(n int) []Message {
	memory := make([]byte, n*bufferSize)
	ms := make([]Message, n)
	for i := range ms {
		ms[i].Data = memory[i*bufferSize : (i+1)*bufferSize : (i+1)*bufferSize]
	}
	return ms
}

// Read waits for datagrams and takes in as many as wait, at most as many as there are messages. It returns how many;
// their Data has their length. The messages must be those of Buffers.
func (c *Conn) Read(ms []Message) (int, error) {
	if c.read == nil || len(c.read.headers) < len(ms) {
		c.read = newVector(len(ms))
	}
	for i := range ms {
		ms[i].Data = ms[i].Data[:bufferSize]
		ms[i].peerLen, ms[i].ctrlLen = uint32(len(ms[i].peer)), controlSize
		c.read.set(i, &ms[i], ms[i].Data, c.local)
	}
	var n uintptr
	var errno syscall.Errno
	err := c.raw.Read(func(fd uintptr) bool {
		n, errno = retry(unix.SYS_RECVMMSG, fd, c.read.headers[:len(ms)])
		return errno != unix.EAGAIN
	})
	if err != nil {
		return 0, err
	}
	if errno != 0 {
		return 0, os.NewSyscallError("recvmmsg", errno)
	}
	for i := range n {
		h := &c.read.headers[i]
		ms[i].Data = ms[i].Data[:h.n]
		ms[i].peerLen, ms[i].ctrlLen = h.hdr.Namelen, h.hdr.Controllen
		if c.local {
			ms[i].forgetInterface()
		}
	}
	return int(n), nil
}

// forgetInterface turns the local address that came with a datagram into one to send from: by any interface, since the
// way back may be another, except where an address is of its interface only.
func (m *Message) forgetInterface() {
	if m.ctrlLen < unix.SizeofCmsghdr {
		m.ctrlLen = 0
		return
	}
	header := (*unix.Cmsghdr)(unsafe.Pointer(&m.control[0]))
	data := m.control[unix.CmsgLen(0):]
	switch {
	case header.Level == unix.IPPROTO_IP && header.Type == unix.IP_PKTINFO:
		info := (*unix.Inet4Pktinfo)(unsafe.Pointer(&data[0]))
		info.Ifindex = 0
	case header.Level == unix.IPPROTO_IPV6 && header.Type == unix.IPV6_PKTINFO:
		info := (*unix.Inet6Pktinfo)(unsafe.Pointer(&data[0]))
		if !netip.AddrFrom16(info.Addr).IsLinkLocalUnicast() {
			info.Ifindex = 0
		}
	default:
		m.ctrlLen = 0
	}
}

// Write sends the messages. What the system does not take at once is lost, as a datagram may be: a reader that waits for
// a slow link would let everybody else wait with it. It returns how many were sent.
func (c *Conn) Write(ms []Message) (int, error) {
	if len(ms) == 0 {
		return 0, nil
	}
	if c.write == nil || len(c.write.headers) < len(ms) {
		c.write = newVector(max(len(ms), 64))
	}
	return c.send(ms, c.write)
}

// WriteOne sends one message.
func (c *Conn) WriteOne(m Message) error {
	_, err := c.send([]Message{m}, newVector(1))
	return err
}

func (c *Conn) send(ms []Message, v *vector) (int, error) {
	for i := range ms {
		v.set(i, &ms[i], ms[i].Data, c.local && ms[i].ctrlLen > 0)
	}
	sent, skipped := 0, 0
	var last error
	for sent+skipped < len(ms) {
		var n uintptr
		var errno syscall.Errno
		err := c.raw.Write(func(fd uintptr) bool {
			n, errno = retry(unix.SYS_SENDMMSG, fd, v.headers[sent+skipped:len(ms)])
			return true
		})
		if err != nil {
			return sent, err
		}
		sent += int(n)
		if errno != 0 {
			// The first of the rest cannot be sent (its peer is gone, the buffer is full); the others may.
			last = os.NewSyscallError("sendmmsg", errno)
			skipped++
		}
	}
	return sent, last
}

func retry(call, fd uintptr, headers []mmsghdr) (uintptr, syscall.Errno) {
	for {
		n, _, errno := unix.Syscall6(call, fd, uintptr(unsafe.Pointer(&headers[0])), uintptr(len(headers)), unix.MSG_DONTWAIT, 0, 0)
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return 0, errno
		}
		return n, 0
	}
}

// Queue is how many bytes of memory the waiting datagrams take, how many they may, and how many datagrams were lost for
// want of memory since the socket was opened.
func (c *Conn) Queue() (used, limit, lost uint32, err error) {
	var info [9]uint32 // SK_MEMINFO_* of linux/sock_diag.h
	size := uint32(unsafe.Sizeof(info))
	var errno syscall.Errno
	err = c.raw.Control(func(fd uintptr) {
		_, _, errno = unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO,
			uintptr(unsafe.Pointer(&info[0])), uintptr(unsafe.Pointer(&size)), 0)
	})
	if err == nil && errno != 0 {
		err = os.NewSyscallError("getsockopt", errno)
	}
	return info[0], info[1], info[8], err
}

// LocalAddr is the address the socket is bound to.
func (c *Conn) LocalAddr() *net.UDPAddr { return c.udp.LocalAddr().(*net.UDPAddr) }

// Close closes the socket; a Read that waits returns net.ErrClosed.
func (c *Conn) Close() error { return c.udp.Close() }
