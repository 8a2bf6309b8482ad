package link

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"clonecast/internal/await"
)

// Sockets belong to the namespace of their thread: the test runs in a process that has one of its own.
func inNamespace(t *testing.T) bool {
	t.Helper()
	const mark = "CLONECAST_TEST_NAMESPACE"
	if os.Getenv(mark) != "" {
		return true
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), mark+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS")) {
		t.Errorf("in a network namespace (root is needed): %v\n%s", err, out)
	}
	return false
}

func ip(t *testing.T, line string) {
	t.Helper()
	if b, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s (iproute2 is needed)", line, err, b)
	}
}

func TestFollow(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	states := make(chan State, 100)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		Follow(ctx, "br0", State{}, slog.New(slog.DiscardHandler), func(s State) { states <- s })
		close(done)
	}()
	var last State
	step := func(what string, want func(State) bool, lines ...string) {
		t.Helper()
		for _, line := range lines {
			ip(t, line)
		}
		if !await.True(func() bool {
			select {
			case last = <-states:
				return want(last)
			default:
				return false
			}
		}) {
			t.Fatalf("%s: last told %+v", what, last)
		}
		if now, err := Read("br0"); err != nil || !now.Equal(last) {
			t.Errorf("%s: %+v, %v, told %+v", what, now, err, last)
		}
	}
	step("it comes", func(s State) bool { return s.Up && s.Address().String() == "10.99.0.1/24" },
		"link add br0 type bridge", "address add 10.99.0.1/24 dev br0", "link set br0 up")
	first := last.Index
	step("a second address", func(s State) bool { return len(s.IPs()) == 2 && s.Address().String() == "10.99.0.1/24" },
		"address add 10.50.0.1/16 dev br0")
	step("down", func(s State) bool { return !s.Up }, "link set br0 down")
	step("up", func(s State) bool { return s.Up }, "link set br0 up")
	step("gone", func(s State) bool { return s.Index == 0 && !s.Address().IsValid() }, "link del br0")
	ip(t, "link add other type bridge") // so that the index is another one
	step("made anew", func(s State) bool { return s.Up && len(s.Addresses) == 1 },
		"link add br0 type bridge", "address add 10.99.0.1/24 dev br0", "link set br0 up")
	if last.Index == first {
		t.Errorf("index %d is the old one", first)
	}
	cancel()
	<-done
}
