package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

const (
	// askers are the clients that saturate a server, each with an address and a socket of its own.
	askers = 16
	// givenUp is when an asker no longer waits for the rest of its answers. It is long beside what a queue of all their
	// queries takes, and short beside a turn.
	givenUp = 100 * time.Millisecond
)

// saturate asks as fast as a server answers: each asker sends its next queries when it has the answers to the last. dnsperf
// sends one query with each system call, and on one CPU needs longer for it than a fast server on another for its answer.
func saturate(ctx context.Context, s *server, services int, during time.Duration) (perSecond float64, err error) {
	to, err := netip.ParseAddrPort(s.address)
	if err != nil {
		return 0, err
	}
	var answered atomic.Int64
	var asking sync.WaitGroup
	errs := make([]error, askers)
	began := time.Now()
	for i := range askers {
		asking.Go(func() {
			errs[i] = asker(ctx, netip.AddrFrom4([4]byte{127, 0, 3, byte(i + 1)}), to, i, services, began.Add(during), &answered)
		})
	}
	asking.Wait()
	return float64(answered.Load()) / time.Since(began).Seconds(), errors.Join(append(errs, ctx.Err())...)
}

func asker(ctx context.Context, from netip.Addr, to netip.AddrPort, number, services int, end time.Time, answered *atomic.Int64) error {
	conn, err := dial(from, to)
	if err != nil {
		return err
	}
	defer conn.Close()
	buffer := make([]byte, 2048)
	var packets []byte
	for first := number * segments; time.Now().Before(end) && ctx.Err() == nil; first += askers * segments {
		var size int
		if packets, size, err = train(packets[:0], first, services); err != nil {
			return err
		}
		if first == number*segments {
			if err := segmented(conn, size); err != nil {
				return err
			}
		}
		if _, err := conn.Write(packets); err != nil && !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("asking: %w", err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(givenUp)); err != nil {
			return err
		}
		for range segments {
			n, err := conn.Read(buffer)
			if err != nil {
				break // what was lost is not waited for
			}
			if good(buffer[:n]) {
				answered.Add(1)
			}
		}
	}
	return nil
}

func good(answer []byte) bool {
	return len(answer) >= 12 && answer[3]&0xf == dns.RcodeSuccess && binary.BigEndian.Uint16(answer[6:]) > 0
}

// train appends as many queries as one system call sends, all of one length.
func train(to []byte, first, services int) (packets []byte, size int, err error) {
	for i := range segments {
		packet, err := query(uint16(first+i), (first+i)%services)
		if err != nil {
			return nil, 0, err
		}
		to, size = append(to, packet...), len(packet)
	}
	return to, size, nil
}

// segmented makes the kernel cut each write into datagrams of a size (UDP_SEGMENT).
func segmented(conn *net.UDPConn, size int) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("preparing a client: %w", err)
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, size) })
	if err = errors.Join(err, failed); err != nil {
		return fmt.Errorf("preparing a client: %w", err)
	}
	return nil
}
