package dhcp

import (
	"context"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"

	"clonecast/internal/await"
	"clonecast/internal/netboot"
	"clonecast/internal/nettest"
)

// inNetwork gives the test a network namespace of its own with two ends of a
// cable: "server" has 10.99.0.1/24, "client" has no address. Sockets belong to
// the namespace of the thread that makes them, so the test makes them itself.
func inNetwork(t *testing.T) {
	t.Helper()
	nettest.Isolate(t,
		"ip link set lo up",
		"ip link add server type veth peer name client",
		"ip addr add 10.99.0.1/24 dev server",
		"ip link set server up",
		"ip link set client up",
	)
}

func start4(t *testing.T, c Config, observe func(Event)) {
	t.Helper()
	h, err := NewHandler(c, &ReservationTable{}, &MemoryLeases{}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	o := Options{Interface: "server", Log: slog.New(slog.DiscardHandler), Observe: observe}
	s, err := Open(ctx, h, o)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Open(ctx, h, o); err == nil {
		t.Errorf("ports bound twice: %v", again)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
}

func newClient(t *testing.T) *nclient4.Client {
	t.Helper()
	retries := int(await.Limit / (2 * time.Second))
	c, err := nclient4.New("client", nclient4.WithTimeout(2*time.Second), nclient4.WithRetry(retries))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// The DHCP client of the appliance gets a lease over a real network.
func TestServerLeases(t *testing.T) {
	inNetwork(t)
	events := make(chan Event, 100)
	start4(t, fullConfig(), func(e Event) { events <- e })
	lease, err := newClient(t).Request(t.Context(), withPXE(netboot.UEFI64))
	if err != nil {
		t.Fatal(err)
	}
	got := ipOf(lease.ACK.YourIPAddr)
	if !prefix("10.99.0.0/24").Contains(got) || lease.ACK.BootFileName != "snponly.efi" {
		t.Errorf("ACK of %s with %q", got, lease.ACK.BootFileName)
	}
	for answer := ""; answer != "ACK"; { // a busy machine makes the client ask twice
		e := <-events
		if e.Client.Arch != netboot.UEFI64 || e.Err != nil || e.Answer != "OFFER" && e.Answer != "ACK" {
			t.Fatalf("event %+v", e)
		}
		answer = e.Answer
	}
}

// A proxy offers no address, and hears its own interface only.
func TestServerProxy(t *testing.T) {
	inNetwork(t)
	c := proxyConfig()
	c.Address = prefix("10.99.0.1/24")
	start4(t, c, nil)
	client := newClient(t)
	offer, err := client.DiscoverOffer(t.Context(), withPXE(netboot.BIOS))
	if err != nil {
		t.Fatal(err)
	}
	if !offer.YourIPAddr.IsUnspecified() || offer.BootFileName != "undionly.kpxe" {
		t.Errorf("offer of %s with %q", offer.YourIPAddr, offer.BootFileName)
	}
	ip := net.IPv4(10, 99, 0, 1)
	conn, err := net.DialUDP("udp4", &net.UDPAddr{IP: ip}, &net.UDPAddr{IP: ip, Port: PXEPort})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	request := message(mac(1), dhcpv4.MessageTypeRequest, withPXE(netboot.BIOS))
	if _, err := conn.Write(request.ToBytes()); err != nil {
		t.Fatal(err)
	}
	// It came over lo, not over the server's interface: nobody may answer it.
	if err := conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 1500)); err == nil {
		t.Errorf("%d bytes came over an interface that is not the server's", n)
	}
}
