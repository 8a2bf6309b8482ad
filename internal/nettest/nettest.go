// Package nettest gives a test a network of its own.
package nettest

import (
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Isolate puts the test's goroutine into a new network namespace, in which the given
// commands set up what it needs: "ip link set lo up". It needs root. The thread ends
// with the test, and the namespace with it.
func Isolate(t testing.TB, commands ...string) {
	t.Helper()
	runtime.LockOSThread() // never unlocked: no other goroutine may get this thread
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("make a network namespace: %v (the test needs root)", err)
	}
	for _, line := range commands {
		words := strings.Fields(line)
		if text, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", line, err, text)
		}
	}
}
