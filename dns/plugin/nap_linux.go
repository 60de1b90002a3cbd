package plugin

import (
	"time"

	"golang.org/x/sys/unix"
)

// nap stops the calling thread for about d.
func nap(d time.Duration) error {
	t := unix.NsecToTimespec(d.Nanoseconds())
	return unix.Nanosleep(&t, nil)
}
