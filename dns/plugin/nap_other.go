//go:build !linux

package plugin

import "time"

func nap(d time.Duration, _ bool) { time.Sleep(d) }
