package listen

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"

	"clonecast/internal/await"
)

var one, two = netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")

func TestListener(t *testing.T) {
	l, err := Open(t.Context(), []netip.Addr{one, two}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), []netip.Addr{two}, l.Port()); err == nil {
		t.Error("the port was bound twice")
	}
	answer := make(chan error)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				answer <- err
				return
			}
			_, _ = io.WriteString(c, c.LocalAddr().String())
			c.Close()
		}
	}()
	expect := func(a netip.Addr, want bool) {
		t.Helper()
		at := netip.AddrPortFrom(a, uint16(l.Port())).String()
		if !await.True(func() bool {
			c, err := net.Dial("tcp", at)
			if err != nil {
				return !want
			}
			defer c.Close()
			b, err := io.ReadAll(c)
			return want && err == nil && string(b) == at
		}) {
			t.Errorf("%s answers: %v, want %v", at, !want, want)
		}
	}
	expect(one, true)
	expect(two, true)
	if err := l.Follow(t.Context(), []netip.Addr{two}); err != nil {
		t.Fatal(err)
	}
	expect(one, false)
	expect(two, true)
	stranger := netip.MustParseAddr("192.0.2.77")
	if err := l.Follow(t.Context(), []netip.Addr{stranger, one, two}); err == nil {
		t.Error("an address that is not ours was bound")
	}
	expect(one, true)
	expect(two, true)
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := <-answer; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v", err)
	}
	if err := l.Follow(t.Context(), []netip.Addr{one}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Follow after Close: %v", err)
	}
	if _, err := Open(t.Context(), []netip.Addr{one, stranger}, 0); err == nil {
		t.Error("opened at an address that is not ours")
	}
}
