// Package await lets tests wait for events.
//
// Its one limit is against a hang: how busy the machine is never decides a test. A test that must see that something
// does not happen waits for something that happens later.
package await

import (
	"context"
	"testing"
	"time"
)

// Limit is how long a test waits before that counts as a hang. What it waits for takes seconds at most on a quiet
// machine.
const Limit = 5 * time.Minute

const interval = 5 * time.Millisecond // between two looks

// True waits until something is so, and tells whether that came before the limit.
func True(so func() bool) bool {
	for end := time.Now().Add(Limit); !so(); time.Sleep(interval) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

// Context ends with the test, or when that hangs.
func Context(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), Limit)
	t.Cleanup(cancel)
	return ctx
}
