package dhcp

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"clonecast/internal/netboot"
)

var start = time.Date(2026, 9, 1, 8, 0, 0, 0, time.UTC)

func ip(s string) netip.Addr       { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// mac gives a different unicast address for each n.
func mac(n int) MAC { return MAC{0x52, 0x54, 0, byte(n >> 16), byte(n >> 8), byte(n)} }

func fullConfig() Config {
	return Config{
		Mode: Full, Address: prefix("10.99.0.1/24"), HTTP: "http://10.99.0.1", Programs: netboot.DefaultPrograms(),
		Subnets: []Subnet{
			{
				Prefix: prefix("10.99.0.0/24"), First: ip("10.99.0.100"), Last: ip("10.99.0.109"),
				Routers: []netip.Addr{ip("10.99.0.254")}, DNS: []netip.Addr{ip("10.99.0.53")}, Domain: "school.example",
			},
			{Prefix: prefix("10.98.0.0/24"), First: ip("10.98.0.10"), Last: ip("10.98.0.20")},
		},
	}
}

func newTestHandler(t *testing.T, c Config, reserved ...Reservation) (*Handler, *MemoryLeases) {
	t.Helper()
	table := &ReservationTable{}
	if err := table.Replace(reserved); err != nil {
		t.Fatal(err)
	}
	store := &MemoryLeases{}
	h, err := NewHandler(c, table, store, start)
	if err != nil {
		t.Fatal(err)
	}
	return h, store
}

func message(m MAC, kind dhcpv4.MessageType, options ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	p, err := dhcpv4.New(append([]dhcpv4.Modifier{
		dhcpv4.WithHwAddr(net.HardwareAddr(m[:])), dhcpv4.WithMessageType(kind),
	}, options...)...)
	if err != nil {
		panic(err)
	}
	return p
}

// exchange sends m to port 67 and reads the answer; nil without one.
func exchange(t *testing.T, h *Handler, at time.Time, m *dhcpv4.DHCPv4) (*dhcpv4.DHCPv4, netip.AddrPort, Event) {
	t.Helper()
	return exchangeOn(t, h, at, m, ServerPort, "0.0.0.0:68")
}

func exchangeOn(
	t *testing.T, h *Handler, at time.Time, m *dhcpv4.DHCPv4, port uint16, from string,
) (*dhcpv4.DHCPv4, netip.AddrPort, Event) {
	t.Helper()
	reply, event := h.Handle(at, Packet{Data: m.ToBytes(), From: netip.MustParseAddrPort(from), Port: port})
	if reply == nil {
		return nil, netip.AddrPort{}, event
	}
	answer, err := dhcpv4.FromBytes(reply.Data)
	if err != nil {
		t.Fatalf("the answer does not parse: %v", err)
	}
	if answer.TransactionID != m.TransactionID {
		t.Fatalf("answer to transaction %v, want %v", answer.TransactionID, m.TransactionID)
	}
	return answer, reply.To, event
}

// lease goes through DISCOVER and REQUEST; the result is invalid when refused.
func lease(t *testing.T, h *Handler, at time.Time, m MAC) netip.Addr {
	t.Helper()
	offer, _, _ := exchange(t, h, at, message(m, dhcpv4.MessageTypeDiscover))
	if offer == nil {
		return netip.Addr{}
	}
	ack, _, _ := exchange(t, h, at, message(m, dhcpv4.MessageTypeRequest,
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(offer.ServerIdentifier())),
		dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(offer.YourIPAddr))))
	if ack == nil || ack.MessageType() != dhcpv4.MessageTypeAck {
		return netip.Addr{}
	}
	return ipOf(ack.YourIPAddr)
}

func withPXE(arch netboot.Arch) dhcpv4.Modifier {
	return func(m *dhcpv4.DHCPv4) {
		class := "PXEClient:Arch:00000:UNDI:002001"
		if arch.HTTP() {
			class = "HTTPClient:Arch:00016:UNDI:003001"
		}
		m.UpdateOption(dhcpv4.OptClassIdentifier(class))
		m.UpdateOption(dhcpv4.OptClientArch(iana.Arch(arch)))
		m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionClientMachineIdentifier, append([]byte{0}, "0123456789abcdef"...)))
	}
}

func withIPXE() dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionUserClassInformation, []byte("iPXE")))
}

func withIP(code dhcpv4.OptionCode, addr string) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptGeneric(code, ip(addr).AsSlice()))
}

func withClientIP(addr string) dhcpv4.Modifier {
	return func(m *dhcpv4.DHCPv4) { m.ClientIPAddr = ip(addr).AsSlice() }
}

func withRelay(addr string) dhcpv4.Modifier {
	return func(m *dhcpv4.DHCPv4) { m.GatewayIPAddr = ip(addr).AsSlice() }
}
