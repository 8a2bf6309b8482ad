package radv

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"testing"
	"time"

	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

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
	packets, err := net.ListenPacket("ip6:ipv6-icmp", "fe80::2%client")
	if err != nil {
		t.Fatal(err)
	}
	defer packets.Close()
	conn := ipv6.NewPacketConn(packets)
	if err := conn.SetControlMessage(ipv6.FlagHopLimit, true); err != nil {
		t.Fatal(err)
	}
	ask := func(hops int) (string, int) {
		t.Helper()
		// The multicast hop limit is what counts: ff02::2 is a group.
		if err := conn.SetMulticastHopLimit(hops); err != nil {
			t.Fatal(err)
		}
		to := &net.IPAddr{IP: net.ParseIP("ff02::2"), Zone: "client"}
		// The kernel makes the interface's routes a moment after its carrier is there.
		for attempt := 0; ; attempt++ {
			_, err := conn.WriteTo([]byte{solicitation, 0, 0, 0, 0, 0, 0, 0}, nil, to)
			if err == nil {
				break
			}
			if !errors.Is(err, unix.ENETUNREACH) || attempt == 100 {
				t.Fatal(err)
			}
			time.Sleep(50 * time.Millisecond)
		}
		buf := make([]byte, 1500)
		for end := time.Now().Add(300 * time.Millisecond); ; {
			if err := conn.SetReadDeadline(end); err != nil {
				t.Fatal(err)
			}
			n, control, _, err := conn.ReadFrom(buf)
			if err != nil {
				return "", 0
			}
			if buf[0] == advertisement {
				return string(buf[:2]) + "??" + string(buf[4:n]), control.HopLimit
			}
		}
	}
	want := "\x86\x00??" + "\x00\x00\x00\x00" + "\x00\x00\x00\x00" + "\x00\x00\x00\x00" + "\x01\x01\x52\x54\x00\x00\x00\x01"
	got, hops := ask(255)
	for attempt := 0; got == "" && attempt < 20; attempt++ { // the server's end may be ready a little later
		got, hops = ask(255)
	}
	if got != want || hops != hopLimit {
		t.Errorf("advertisement %q with hop limit %d, want %q", got, hops, want)
	}
	for { // late answers to the questions before
		if err := conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := conn.ReadFrom(make([]byte, 1500)); err != nil {
			break
		}
	}
	if got, _ := ask(64); got != "" {
		t.Errorf("a forwarded solicitation was answered: %q", got)
	}
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
