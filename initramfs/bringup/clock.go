package bringup

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// SeedEntropy waits until the kernel's random numbers are good. A blocking getrandom
// makes the kernel collect jitter; the non-blocking one that libraries use spins for
// ever on a CPU without RDRAND.
func SeedEntropy() error {
	b := make([]byte, 1)
	for {
		_, err := unix.Getrandom(b, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("seed random numbers: %w", err)
		}
		return nil
	}
}

// SetClock moves the system's clock forward to floor if it is behind: a PC with an empty
// battery believes in the year 2000, and every certificate is from its future.
func SetClock(floor time.Time) error {
	if !time.Now().Before(floor) {
		return nil
	}
	tv := unix.NsecToTimeval(floor.UnixNano())
	if err := unix.Settimeofday(&tv); err != nil {
		return fmt.Errorf("set clock to %s: %w", floor.UTC().Format(time.RFC3339), err)
	}
	return nil
}
