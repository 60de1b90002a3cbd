package watchdog

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// mark is on the packets of the watchdog's own questions to the primary, which the redirect must let through: it would
// otherwise see the backup, believe the primary is well, and switch to and fro.
const mark = 0x2e01

func markSocket(_, _ string, c syscall.RawConn) error {
	var err error
	return errors.Join(c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, mark)
	}), err)
}
