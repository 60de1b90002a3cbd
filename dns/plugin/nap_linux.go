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
// which wakes another thread to look for work, or waits for the network and a timer, twice for each nap; that was most of
// what a query cost. A goroutine that became ready meanwhile is taken over by another processor. Where there is no other
// one, all who are ready have their turn before, and if others may wait for the network (shared), it is the ordinary way.
func nap(d time.Duration, shared bool) {
	if processors() == 1 {
		if shared {
			time.Sleep(d)
			return
		}
		runtime.Gosched()
	}
	t := unix.NsecToTimespec(d.Nanoseconds())
	_, _, _ = unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&t)), 0, 0)
}
