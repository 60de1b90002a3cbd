//go:build !linux

package plugin

import "time"

func nap(d time.Duration) error {
	time.Sleep(d)
	return nil
}
