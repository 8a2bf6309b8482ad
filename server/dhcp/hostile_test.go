package dhcp

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"clonecast/internal/netboot"
)

func discover() []byte {
	return message(mac(1), dhcpv4.MessageTypeDiscover, withPXE(netboot.BIOS), withIPXE()).ToBytes()
}

func TestHostilePackets(t *testing.T) {
	change := func(f func([]byte) []byte) []byte { return f(discover()) }
	set := func(at int, v byte) []byte { return change(func(b []byte) []byte { b[at] = v; return b }) }
	options := func(s string) []byte {
		return change(func(b []byte) []byte { return append(b[:240:240], s...) })
	}
	tests := map[string][]byte{
		"empty":                    nil,
		"too long":                 make([]byte, maxPacket+1),
		"reply":                    set(0, 2),
		"token ring":               set(1, 6),
		"hlen 0":                   set(2, 0),
		"hlen 255":                 set(2, 255),
		"hops 255":                 set(3, 255),
		"group address":            set(28, 1),
		"zero address":             change(func(b []byte) []byte { clear(b[28:34]); return b }),
		"cookie":                   set(236, 0),
		"no options":               change(func(b []byte) []byte { return b[:240] }),
		"option beyond the end":    options("\x35\x01\x01\x3c\xffPXEClient"),
		"length missing":           options("\x35\x01\x01\x3c"),
		"message type of length 0": options("\x35\x00\xff"),
		"message type of length 2": options("\x35\x02\x01\x01\xff"),
		"overload":                 options("\x34\x01\x03\xff"),
	}
	for n := range minPacket {
		tests[fmt.Sprintf("cut at %d", n)] = discover()[:n]
	}
	for name, data := range tests {
		h, _ := newTestHandler(t, fullConfig())
		if reply, _ := h.Handle(start, Packet{Data: data, Port: ServerPort}); reply != nil {
			t.Errorf("%s: answered", name)
		}
	}
}

// Texts of the client reach the Event in no form (log, web page).
func TestEventHoldsNoClientText(t *testing.T) {
	h, _ := newTestHandler(t, fullConfig())
	evil := strings.Repeat("<b>\x00\x1b[2J", 20)
	m := message(mac(1), dhcpv4.MessageTypeDiscover,
		dhcpv4.WithOption(dhcpv4.OptClassIdentifier(evil)),
		dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionClientSystemArchitectureType, []byte(evil))),
		dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionClientMachineIdentifier, []byte(evil))))
	_, _, e := exchange(t, h, start, m)
	for _, s := range []string{e.Message, e.UUID, e.Answer, e.BootFile, e.Client.Arch.String(), e.MAC.String()} {
		if strings.ContainsAny(s, "<\x00\x1b") {
			t.Errorf("event has %q", s)
		}
	}
}

func TestConfigRejects(t *testing.T) {
	tests := map[string]func(*Config){
		"mode":          func(c *Config) { c.Mode = "on" },
		"no address":    func(c *Config) { c.Address = netip.Prefix{} },
		"no URL":        func(c *Config) { c.HTTP = "" },
		"long URL":      func(c *Config) { c.HTTP = "http://" + strings.Repeat("a", 120) },
		"no subnet":     func(c *Config) { c.Subnets = nil },
		"overlap":       func(c *Config) { c.Subnets[1] = c.Subnets[0] },
		"range outside": func(c *Config) { c.Subnets[0].Last = ip("10.99.1.5") },
		"range upside":  func(c *Config) { c.Subnets[0].Last = ip("10.99.0.99") },
		"half a range":  func(c *Config) { c.Subnets[0].First = netip.Addr{} },
		"tiny network":  func(c *Config) { c.Subnets[0].Prefix = prefix("10.99.0.0/31") },
		"short lease":   func(c *Config) { c.Subnets[0].LeaseTime = time.Second },
		"many routers":  func(c *Config) { c.Subnets[0].Routers = make([]netip.Addr, 9) },
		"range over limit": func(c *Config) {
			c.Subnets[0] = Subnet{Prefix: prefix("10.99.0.0/16"), First: ip("10.99.0.1"), Last: ip("10.99.255.1")}
		},
	}
	for name, change := range tests {
		c := fullConfig()
		change(&c)
		if err := c.Validate(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := fullConfig().Validate(); err != nil {
		t.Error(err)
	}
}

func FuzzHandle(f *testing.F) {
	f.Add(discover(), uint16(ServerPort), true)
	f.Add(message(mac(1), dhcpv4.MessageTypeRequest, withClientIP("10.99.0.100")).ToBytes(), uint16(ServerPort), true)
	f.Add(message(mac(1), dhcpv4.MessageTypeRequest, withPXE(netboot.UEFI64)).ToBytes(), uint16(PXEPort), false)
	decline := message(mac(1), dhcpv4.MessageTypeDecline, withIP(dhcpv4.OptionRequestedIPAddress, "10.99.0.100"))
	f.Add(decline.ToBytes(), uint16(ServerPort), true)
	f.Fuzz(func(t *testing.T, data []byte, port uint16, full bool) {
		c := proxyConfig()
		if full {
			c = fullConfig()
		}
		h, _ := newTestHandler(t, c, Reservation{MAC: mac(1), IP: ip("10.99.0.105")})
		for n := range 3 { // the second finds the table changed by the first
			p := Packet{Data: data, From: netip.MustParseAddrPort("10.99.0.50:68"), Port: port}
			reply, event := h.Handle(start.Add(time.Duration(n)*time.Minute), p)
			if event.Err != nil && strings.Contains(event.Err.Error(), "panicked") {
				t.Fatal(event.Err)
			}
			if reply == nil {
				continue
			}
			if len(reply.Data) > maxPacket {
				t.Fatalf("answer of %d bytes", len(reply.Data))
			}
			answer, err := dhcpv4.FromBytes(reply.Data)
			if err != nil {
				t.Fatal(err)
			}
			if answer.YourIPAddr.String() == "10.99.0.1" || !full && !answer.YourIPAddr.IsUnspecified() {
				t.Fatalf("handed out %s", answer.YourIPAddr)
			}
		}
	})
}
