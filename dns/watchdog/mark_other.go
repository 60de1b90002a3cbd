//go:build !linux

package watchdog

import (
	"errors"
	"syscall"
)

const mark = 0x2e01

// markSocket refuses: nftables, for which it is needed, is Linux's.
func markSocket(_, _ string, _ syscall.RawConn) error {
	return errors.New("marks of packets are there on Linux only")
}
