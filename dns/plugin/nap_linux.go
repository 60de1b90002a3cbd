package plugin

import (
	"runtime"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// processors is how many there were at the first nap.
var processors = sync.OnceValue(func() int { return runtime.GOMAXPROCS(0) })

// nap stops the calling goroutine for about d, with its thread and its processor. The ordinary ways hand the processor on,
// which wakes another thread to look for work, twice for each nap; that was most of what a query cost. A goroutine that
// became ready meanwhile is taken over by another processor, and where there is no other one the ordinary way is taken.
func nap(d time.Duration) {
	if processors() == 1 {
		time.Sleep(d)
		return
	}
	t := unix.NsecToTimespec(d.Nanoseconds())
	_, _, _ = unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&t)), 0, 0)
}
