package radv

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"clonecast/internal/await"
	"clonecast/internal/nettest"
)

// inNetwork gives the test a network namespace of its own with a cable from
// "server" to "client". Link-local addresses are usable at once (nodad).
func inNetwork(t *testing.T) {
	t.Helper()
	nettest.Isolate(t,
		"ip link add server type veth peer name client",
		"ip link set server address 52:54:00:00:00:01",
		"ip addr add fe80::1/64 dev server nodad",
		"ip addr add fe80::2/64 dev client nodad",
		"ip addr add fe80::3/64 dev client nodad",
		"ip link set server up",
		"ip link set client up",
	)
}

func TestServer(t *testing.T) {
	inNetwork(t)
	ctx, cancel := context.WithCancel(context.Background())
	s, err := Open(ctx, "server", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	}()
	want := "\x86\x00??" + strings.Repeat("\x00", 12) + "\x01\x01\x52\x54\x00\x00\x00\x01"
	neighbour, far := newHost(t, "fe80::2"), newHost(t, "fe80::3")
	if got, hops := neighbour.answered(255); got != want || hops != hopLimit {
		t.Errorf("advertisement %q with hop limit %d, want %q", got, hops, want)
	}
	far.answered(255)
	for range 10 { // forgets late answers
		far.answer(time.Millisecond)
	}
	far.ask(64)
	neighbour.answered(255) // the server has seen the question before, too
	if got, _ := far.answer(time.Millisecond); got != "" {
		t.Errorf("a forwarded solicitation was answered: %q", got)
	}
}

// host is one that asks from an address of its own, where alone it is answered.
type host struct {
	t    *testing.T
	conn *ipv6.PacketConn
}

func newHost(t *testing.T, address string) *host {
	t.Helper()
	packets, err := net.ListenPacket("ip6:ipv6-icmp", address+"%client")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { packets.Close() })
	conn := ipv6.NewPacketConn(packets)
	if err := conn.SetControlMessage(ipv6.FlagHopLimit, true); err != nil {
		t.Fatal(err)
	}
	return &host{t, conn}
}

// ask sends a solicitation with a hop limit.
func (h *host) ask(hops int) {
	h.t.Helper()
	// The multicast hop limit is what counts: ff02::2 is a group.
	if err := h.conn.SetMulticastHopLimit(hops); err != nil {
		h.t.Fatal(err)
	}
	to := &net.IPAddr{IP: net.ParseIP("ff02::2"), Zone: "client"}
	var err error
	// The kernel makes the interface's routes a moment after its carrier is there.
	await.True(func() bool {
		_, err = h.conn.WriteTo([]byte{solicitation, 0, 0, 0, 0, 0, 0, 0}, nil, to)
		return !errors.Is(err, unix.ENETUNREACH)
	})
	if err != nil {
		h.t.Fatal(err)
	}
}

// answer gives the next advertisement and its hop limit, "" if none comes in time.
func (h *host) answer(within time.Duration) (string, int) {
	h.t.Helper()
	buf := make([]byte, 1500)
	if err := h.conn.SetReadDeadline(time.Now().Add(within)); err != nil {
		h.t.Fatal(err)
	}
	for {
		n, control, _, err := h.conn.ReadFrom(buf)
		if err != nil {
			return "", 0
		}
		if buf[0] == advertisement {
			return string(buf[:2]) + "??" + string(buf[4:n]), control.HopLimit
		}
	}
}

// answered asks until it is answered: the server's end of the cable may be ready a little later.
func (h *host) answered(hops int) (got string, hopsOfAnswer int) {
	h.t.Helper()
	await.True(func() bool {
		h.ask(hops)
		got, hopsOfAnswer = h.answer(time.Second)
		return got != ""
	})
	return got, hopsOfAnswer
}

func TestAsks(t *testing.T) {
	good := []byte{solicitation, 0, 0, 0, 0, 0, 0, 0}
	neighbour := &net.IPAddr{IP: net.ParseIP("fe80::2")}
	tests := map[string]struct {
		packet []byte
		hops   int
		from   *net.IPAddr
		want   bool
	}{
		"good":         {good, 255, neighbour, true},
		"forwarded":    {good, 254, neighbour, false},
		"short":        {good[:7], 255, neighbour, false},
		"empty":        {nil, 255, neighbour, false},
		"code":         {[]byte{solicitation, 1, 0, 0, 0, 0, 0, 0}, 255, neighbour, false},
		"other":        {[]byte{advertisement, 0, 0, 0, 0, 0, 0, 0}, 255, neighbour, false},
		"no address":   {good, 255, &net.IPAddr{IP: net.IPv6unspecified}, false},
		"from outside": {good, 255, &net.IPAddr{IP: net.ParseIP("2001:db8::1")}, false},
	}
	for name, test := range tests {
		if got := asks(test.packet, test.hops, test.from); got != test.want {
			t.Errorf("%s: asks = %v, want %v", name, got, test.want)
		}
	}
}
