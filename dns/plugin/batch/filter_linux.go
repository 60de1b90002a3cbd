package batch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Part is the part of one source's datagrams that the kernel lets pass.
type Part struct {
	// Source is an IPv4 address, or the first one of an IPv6 /64, which stands for all of it.
	Source netip.Addr
	Pass   float64
}

// MaxParts is how many sources a filter takes: the offsets of its jumps are of one byte.
const MaxParts = 16

// Filter makes the kernel drop what is not to pass before it takes a place in the socket's queue, on the CPU that
// delivers it. It replaces the filter before; without parts there is none.
func (c *Conn) Filter(parts []Part) error {
	var failed error
	if len(parts) == 0 {
		err := c.raw.Control(func(fd uintptr) {
			if failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0); failed == unix.ENOENT {
				failed = nil
			}
		})
		return errors.Join(err, failed)
	}
	program, err := filter(parts)
	if err != nil {
		return err
	}
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]} //nolint:gosec // bounded by MaxParts
	err = c.raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog)
	})
	if err = errors.Join(err, failed); err != nil {
		return fmt.Errorf("attaching a filter: %w", err)
	}
	return nil
}

// networkHeader is where the IP header begins (SKF_NET_OFF of linux/filter.h): a UDP socket's filter begins to count at
// the UDP header.
const networkHeader = 0xfff00000

func filter(parts []Part) ([]unix.SockFilter, error) {
	if len(parts) > MaxParts {
		return nil, fmt.Errorf("a filter takes %d sources, not %d", MaxParts, len(parts))
	}
	// A random number below the threshold passes.
	decide := func(pass float64) []bpf.Instruction {
		return []bpf.Instruction{
			bpf.LoadExtension{Num: bpf.ExtRand},
			bpf.JumpIf{Cond: bpf.JumpLessThan, Val: uint32(max(0, min(pass, 1)) * math.MaxUint32), SkipFalse: 1},
			bpf.RetConstant{Val: math.MaxUint32},
			bpf.RetConstant{Val: 0},
		}
	}
	const decisions = 4
	four, six := []bpf.Instruction{bpf.LoadAbsolute{Off: networkHeader + 12, Size: 4}}, []bpf.Instruction(nil)
	for _, p := range parts {
		if source := p.Source.Unmap(); source.Is4() {
			a := source.As4()
			four = append(four, bpf.JumpIf{Cond: bpf.JumpEqual, Val: binary.BigEndian.Uint32(a[:]), SkipFalse: decisions})
			four = append(four, decide(p.Pass)...)
			continue
		}
		a := p.Source.As16()
		six = append(six,
			bpf.LoadAbsolute{Off: networkHeader + 8, Size: 4},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: binary.BigEndian.Uint32(a[:]), SkipFalse: decisions + 2},
			bpf.LoadAbsolute{Off: networkHeader + 12, Size: 4},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: binary.BigEndian.Uint32(a[4:]), SkipFalse: decisions})
		six = append(six, decide(p.Pass)...)
	}
	all := bpf.RetConstant{Val: math.MaxUint32}
	four, six = append(four, all), append(six, all)
	program := []bpf.Instruction{
		bpf.LoadAbsolute{Off: networkHeader, Size: 1},
		bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0xf0},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 4 << 4, SkipFalse: uint8(len(four))}, //nolint:gosec // at most 82
	}
	raw, err := bpf.Assemble(append(append(program, four...), six...))
	if err != nil {
		return nil, fmt.Errorf("assembling a filter: %w", err)
	}
	out := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		out[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return out, nil
}
