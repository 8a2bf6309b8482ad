package dhcp

import (
	"bytes"
	"errors"
	"log/slog"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"clonecast/internal/netboot"
	"clonecast/server/sparse"
)

// These tests hold what PCs, ROMs and networks of real rooms do.

func withOption(code uint8, value string) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(code), []byte(value)))
}

// iPXE is what its features say: one without HTTP is firmware like any other.
func TestIPXEFeatures(t *testing.T) {
	const script, program = "http://10.99.0.2:8080/boot/ipxe", "undionly.kpxe"
	for name, test := range map[string]struct{ class, features, file string }{
		"with HTTP":          {"iPXE", "\x13\x01\x01\x18\x01\x01", script},
		"without HTTP":       {"iPXE", "\x21\x01\x01\x11\x01\x01", program},
		"HTTP switched off":  {"iPXE", "\x13\x01\x00", program},
		"padded, with end":   {"iPXE", "\x00\x00\x13\x01\x01\xff\x99", script},
		"HTTP after the end": {"iPXE", "\x18\x01\x01\xff\x13\x01\x01", program},
		"no features sent":   {"iPXE", "", script},
		"damaged":            {"iPXE", "\x18\x05\x01", script},
		"RFC 3004":           {"\x04iPXE", "\x13\x01\x01", script},
		"RFC 3004, second":   {"\x03abc\x04iPXE", "\x13\x01\x01", script},
		"gPXE":               {"gPXE", "\x13\x01\x01", program},
		"HTTP without class": {"", "\x13\x01\x01", program},
		"class is longer":    {"iPXE2", "\x13\x01\x01", program},
	} {
		h, _ := newTestHandler(t, proxyConfig())
		m := message(mac(1), dhcpv4.MessageTypeDiscover, withPXE(netboot.BIOS))
		if test.class != "" {
			m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionUserClassInformation, []byte(test.class)))
		}
		if test.features != "" {
			m.UpdateOption(dhcpv4.OptGeneric(optionIPXE, []byte(test.features)))
		}
		if got, _, _ := exchange(t, h, start, m); got == nil || got.BootFileName != test.file {
			t.Errorf("%s: %v, want %s", name, got, test.file)
		}
	}
}

// A name read as a C string, from its option on, is the name.
func TestNamesAsCStrings(t *testing.T) {
	for _, c := range []Config{proxyConfig(), fullConfig()} {
		h, _ := newTestHandler(t, c)
		m := message(mac(1), dhcpv4.MessageTypeDiscover, withPXE(netboot.BIOS),
			withOption(82, "\x01\x04eth1"), withOption(61, "\x01abcdef"))
		reply, _ := h.Handle(start, Packet{Data: m.ToBytes(), Port: ServerPort})
		for what, want := range map[string]string{
			"C\x0dundionly.kpxe": "undionly.kpxe", "B\x09" + c.Address.Addr().String(): c.Address.Addr().String(),
		} {
			at := bytes.Index(reply.Data, []byte(what))
			if at < 0 {
				t.Errorf("%s: option %q is missing in %q", c.Mode, what, reply.Data)
				continue
			}
			if got, _, _ := bytes.Cut(reply.Data[at+2:], []byte{0}); string(got) != want {
				t.Errorf("%s: as a C string %q, want %q", c.Mode, got, want)
			}
		}
		if end := bytes.TrimRight(reply.Data, "\x00"); !bytes.HasSuffix(end, []byte("\x52\x06\x01\x04eth1\xff")) {
			t.Errorf("the relay's option is not the last one: %q", end)
		}
	}
}

// The choice of a PXE menu comes back in the ACK, from port 4011, whether one server was asked or all.
func TestBootItem(t *testing.T) {
	const serverID, wish = dhcpv4.OptionServerIdentifier, dhcpv4.OptionRequestedIPAddress
	const item = "\x47\x04\x80\x00\x00\x00\xff"
	ask := func(options ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
		return message(mac(1), dhcpv4.MessageTypeRequest, append([]dhcpv4.Modifier{
			withPXE(netboot.BIOS), withClientIP("10.99.0.50")}, options...)...)
	}
	for name, test := range map[string]struct {
		m      *dhcpv4.DHCPv4
		port   uint16
		vendor string // of the answer; "": none
	}{
		"asked alone":          {ask(withOption(43, item)), PXEPort, item},
		"all asked":            {ask(withOption(43, item)), ServerPort, item},
		"after other options":  {ask(withOption(43, "\x00\x40\x02ab"+item)), PXEPort, item},
		"none chosen":          {ask(), PXEPort, "\x06\x01\x08\xff"},
		"short item":           {ask(withOption(43, "\x47\x02\x80\x00\xff")), PXEPort, "\x06\x01\x08\xff"},
		"damaged":              {ask(withOption(43, "\x47\x09\x80\x00\xff")), PXEPort, "\x06\x01\x08\xff"},
		"a lease of ours":      {ask(), ServerPort, ""},
		"a lease of the other": {ask(withOption(43, item), withIP(serverID, "10.99.0.9")), ServerPort, ""},
		"after a reboot":       {ask(withOption(43, item), withIP(wish, "10.99.0.9")), ServerPort, ""},
	} {
		h, _ := newTestHandler(t, proxyConfig())
		reply, event := h.Handle(start, Packet{
			Data: test.m.ToBytes(), Port: test.port, From: netip.MustParseAddrPort("10.99.0.50:68")})
		if reply == nil {
			if test.vendor != "" {
				t.Errorf("%s: no answer: %+v", name, event)
			}
			continue
		}
		answer, err := dhcpv4.FromBytes(reply.Data)
		if err != nil {
			t.Fatal(err)
		}
		got := string(answer.Options.Get(dhcpv4.OptionVendorSpecificInformation))
		if got != test.vendor || reply.Port != PXEPort || reply.To.String() != "10.99.0.50:68" ||
			answer.MessageType() != dhcpv4.MessageTypeAck || answer.BootFileName != "undionly.kpxe" {
			t.Errorf("%s: option 43 %q from port %d to %s, want %q\n%s", name, got, reply.Port, reply.To, test.vendor,
				answer.Summary())
		}
	}
}

// Relays are answered in both modes, each from its own network.
func TestRelays(t *testing.T) {
	c := proxyConfig()
	c.Networks = []netip.Prefix{prefix("192.0.2.0/24")}
	h, _ := newTestHandler(t, c)
	for relay, answered := range map[string]bool{
		"10.98.0.1": true, "172.20.3.1": true, "192.168.7.254": true, "100.64.1.1": true, "192.0.2.1": true,
		"8.8.8.8": false, "198.51.100.1": false, "10.99.0.255": false, "10.99.0.2": false,
	} {
		m := message(mac(1), dhcpv4.MessageTypeDiscover, withPXE(netboot.BIOS), withRelay(relay))
		got, to, event := exchangeOn(t, h, start, m, ServerPort, relay+":67")
		if (got != nil) != answered || !answered && (event.Err == nil || !strings.Contains(event.Err.Error(), "--network")) {
			t.Errorf("proxy, relay %s: %v, %+v", relay, got, event)
		}
		if got != nil && (to.String() != relay+":67" || !got.IsBroadcast() || got.GatewayIPAddr.String() != relay) {
			t.Errorf("proxy, relay %s: to %s, flags %x", relay, to, got.Flags)
		}
	}

	from := func(relay string, options ...dhcpv4.Modifier) []dhcpv4.Modifier {
		return append([]dhcpv4.Modifier{withRelay(relay)}, options...)
	}
	full := fullConfig()
	full.Subnets = append(full.Subnets, Subnet{
		Prefix: prefix("192.0.2.0/24"), First: ip("192.0.2.10"), Last: ip("192.0.2.20"),
		Routers: []netip.Addr{ip("192.0.2.254")}, DNS: []netip.Addr{ip("192.0.2.53")}, Domain: "b.example",
		LeaseTime: 8 * time.Hour,
	})
	for name, test := range map[string]struct {
		options  []dhcpv4.Modifier
		network  string // "": no answer
		router   string
		identity string
	}{
		"own network": {nil, "10.99.0.0/24", "10.99.0.254", "10.99.0.1"},
		"relay":       {from("10.98.0.1"), "10.98.0.0/24", "10.98.0.1", "10.99.0.1"},
		"configured":  {from("192.0.2.1"), "192.0.2.0/24", "192.0.2.254", "10.99.0.1"},
		"unknown":     {from("10.97.0.1"), "", "", ""},
		"link selection": {
			from("10.98.0.1", withOption(82, "\x05\x04\xc0\x00\x02\x00")), "192.0.2.0/24", "192.0.2.254", "10.99.0.1"},
		"subnet selection": {
			from("10.98.0.1", withOption(118, "\xc0\x00\x02\x00")), "192.0.2.0/24", "192.0.2.254", "10.99.0.1"},
		"identity": {
			from("10.98.0.1", withOption(82, "\x0b\x04\x0a\x62\x00\x01")), "10.98.0.0/24", "10.98.0.1", "10.98.0.1"},
		"82 without a relay": {
			[]dhcpv4.Modifier{withOption(82, "\x05\x04\xc0\x00\x02\x00")}, "10.99.0.0/24", "10.99.0.254", "10.99.0.1"},
	} {
		h, _ := newTestHandler(t, full)
		offer, _, event := exchange(t, h, start, message(mac(1), dhcpv4.MessageTypeDiscover, test.options...))
		if offer == nil {
			if test.network != "" || event.Err == nil || !strings.Contains(event.Err.Error(), "--network") {
				t.Errorf("%s: no answer: %+v", name, event)
			}
			continue
		}
		if test.network == "" || !prefix(test.network).Contains(ipOf(offer.YourIPAddr)) ||
			offer.Router()[0].String() != test.router || offer.ServerIdentifier().String() != test.identity {
			t.Errorf("%s: %s", name, offer.Summary())
		}
		// The REQUEST names whom the OFFER named.
		m := message(mac(1), dhcpv4.MessageTypeRequest, append(test.options,
			dhcpv4.WithOption(dhcpv4.OptServerIdentifier(offer.ServerIdentifier())),
			dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(offer.YourIPAddr)))...)
		ack, _, event := exchange(t, h, start, m)
		if ack == nil || ack.MessageType() != dhcpv4.MessageTypeAck || !ack.YourIPAddr.Equal(offer.YourIPAddr) {
			t.Errorf("%s: REQUEST: %+v", name, event)
		}
		want := time.Hour
		if test.network == "192.0.2.0/24" {
			want = 8 * time.Hour
		}
		if ack != nil && ack.IPAddressLeaseTime(0) != want {
			t.Errorf("%s: lease time %s, want %s", name, ack.IPAddressLeaseTime(0), want)
		}
	}
}

// Firmware whose packets are a little off is served all the same.
func TestOddClients(t *testing.T) {
	raw := func(options string) []byte {
		b := message(mac(1), dhcpv4.MessageTypeDiscover).ToBytes()
		return append(b[:240:240], options...)
	}
	const pxe, discover = "\x3c\x20PXEClient:Arch:00007:UNDI:003016", "\x35\x01\x01"
	for name, test := range map[string]struct{ options, file string }{
		"no end mark":            {discover + pxe, "snponly.efi"},
		"class is a C string":    {discover + "\x3c\x0aPXEClient\x00\xff", "undionly.kpxe"},
		"arch in one byte":       {discover + pxe + "\x5d\x01\x07\xff", "snponly.efi"},
		"arch in three bytes":    {discover + pxe + "\x5d\x03\x00\x07\x00\xff", "snponly.efi"},
		"several archs":          {discover + pxe + "\x5d\x06\x00\x63\x00\x07\x00\x00\xff", "snponly.efi"},
		"arch against class":     {discover + pxe + "\x5d\x02\x00\x00\xff", "undionly.kpxe"},
		"GUID too short":         {discover + pxe + "\x61\x05\x00abcd\xff", "snponly.efi"},
		"no GUID, arch, network": {discover + "\x3c\x09PXEClient\xff", "undionly.kpxe"},
		"small room":             {discover + pxe + "\x39\x02\x00\x10\xff", "snponly.efi"},
		"pads between":           {"\x00\x00" + discover + "\x00" + pxe + "\x00\xff", "snponly.efi"},
		"not BIOS, not x64":      {discover + "\x3c\x20PXEClient:Arch:00011:UNDI:003016" + "\xff", ""},
	} {
		h, _ := newTestHandler(t, proxyConfig())
		reply, event := h.Handle(start, Packet{Data: raw(test.options), Port: ServerPort})
		if reply == nil {
			if test.file != "" || event.Err == nil {
				t.Errorf("%s: no answer: %+v", name, event)
			}
			continue
		}
		if answer, err := dhcpv4.FromBytes(reply.Data); err != nil || answer.BootFileName != test.file {
			t.Errorf("%s: %v, %v, want %s", name, answer, err, test.file)
		}
	}
	// Options in the fields of the header.
	b := raw("\x34\x01\x01" + discover + "\xff")
	copy(b[108:], pxe+"\xff")
	h, _ := newTestHandler(t, proxyConfig())
	if reply, event := h.Handle(start, Packet{Data: b, Port: ServerPort}); reply == nil ||
		!bytes.Contains(reply.Data, []byte("snponly.efi")) {
		t.Errorf("overload: %+v", event)
	}
}

// An answer fits into what the client takes; what it needs to boot is never left out.
func TestRoom(t *testing.T) {
	c := fullConfig()
	c.Subnets[0].Domain = strings.Repeat("a123456789.", 22) + "example"
	c.Subnets[0].NTP = make([]netip.Addr, 8)
	c.Subnets[0].DNS = make([]netip.Addr, 8)
	for i := range 8 {
		c.Subnets[0].NTP[i], c.Subnets[0].DNS[i] = ip("10.99.0.9"), ip("10.99.0.8")
	}
	for size, whole := range map[string]bool{
		"": false, "\x00\x10": false, "\x02\x40": false, "\x05\xc0": true, "\xff\xff": true,
	} {
		h, _ := newTestHandler(t, c)
		m := message(mac(1), dhcpv4.MessageTypeDiscover, withPXE(netboot.UEFI64))
		if size != "" {
			m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionMaximumDHCPMessageSize, []byte(size)))
		}
		reply, _ := h.Handle(start, Packet{Data: m.ToBytes(), Port: ServerPort})
		answer, err := dhcpv4.FromBytes(reply.Data)
		if err != nil {
			t.Fatal(err)
		}
		if !whole && len(reply.Data) > minRoom || (answer.DomainName() != "") != whole ||
			answer.BootFileNameOption() != "snponly.efi" || len(answer.Router()) == 0 || answer.SubnetMask() == nil {
			t.Errorf("size %q: %d bytes\n%s", size, len(reply.Data), answer.Summary())
		}
	}
}

// A server that appears later is named.
func TestOtherServer(t *testing.T) {
	m := message(mac(1), dhcpv4.MessageTypeRequest, withIP(dhcpv4.OptionServerIdentifier, "10.99.0.9"))
	h, _ := newTestHandler(t, fullConfig())
	if _, _, e := exchange(t, h, start, m); !errors.Is(e.Err, errOther) || e.Server != ip("10.99.0.9") {
		t.Errorf("full: %+v", e)
	}
	h, _ = newTestHandler(t, proxyConfig())
	if _, _, e := exchange(t, h, start, m); e.Err != nil {
		t.Errorf("proxy: %+v", e)
	}
}

// A PC that gets nothing is in the log once for each cause; a flood of them does not fill it.
func TestRefusalsAreLogged(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	now := start
	s := &Server{log: log, seldom: sparse.New(log, func() time.Time { return now })}
	h, _ := newTestHandler(t, proxyConfig())
	packet := func(m MAC, options ...dhcpv4.Modifier) {
		data := message(m, dhcpv4.MessageTypeDiscover, options...).ToBytes()
		_, e := h.Handle(now, Packet{Data: data, Port: ServerPort})
		s.record(e)
	}
	arm, public := withPXE(netboot.UEFIARM64), withRelay("198.51.100.1")
	for range 5 {
		packet(mac(1), arm)
		packet(mac(2), arm)
		packet(mac(1), withPXE(netboot.BIOS), public)
		packet(mac(3))
		packet(mac(4), withPXE(netboot.BIOS))
	}
	text := out.String()
	for want, times := range map[string]int{
		"level=WARN": 3, "no boot program for UEFI ARM64": 2, "mac=" + mac(1).String(): 2, "198.51.100.1": 1, "--network": 1,
	} {
		if got := strings.Count(text, want); got < times || times > 1 && got != times {
			t.Errorf("%q is there %d times, want %d:\n%s", want, got, times, text)
		}
	}
	out.Reset()
	for n := range 5000 {
		packet(mac(100+n), arm)
	}
	if lines := strings.Count(out.String(), "\n"); lines > 21 {
		t.Errorf("a flood brought %d lines", lines)
	}
	out.Reset()
	now = now.Add(2 * time.Hour)
	if packet(mac(1), arm); !strings.Contains(out.String(), "ARM64") {
		t.Error("hours later the same PC is not in the log")
	}
}

func TestParseSubnet(t *testing.T) {
	got, err := ParseSubnet("10.98.0.0/24, range=10.98.0.100-10.98.0.200,router=10.98.0.1,dns=10.98.0.53,dns=10.98.0.54," +
		"ntp=10.98.0.5,domain=lab.example,lease=8h")
	want := Subnet{
		Prefix: prefix("10.98.0.0/24"), First: ip("10.98.0.100"), Last: ip("10.98.0.200"),
		Routers: []netip.Addr{ip("10.98.0.1")}, DNS: []netip.Addr{ip("10.98.0.53"), ip("10.98.0.54")},
		NTP: []netip.Addr{ip("10.98.0.5")}, Domain: "lab.example", LeaseTime: 8 * time.Hour,
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("ParseSubnet = %+v, %v, want %+v", got, err, want)
	}
	want = Subnet{Prefix: prefix("192.0.2.0/24")}
	if got, err := ParseSubnet("192.0.2.0/24"); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("ParseSubnet = %+v, %v", got, err)
	}
	for text, want := range map[string]string{
		"": "no IPv4 network", "10.98.0.0": "no IPv4 network", "fd00::/64": "no IPv4 network",
		"10.98.0.1/24":                           "write the network",
		"10.98.0.0/31":                           "four addresses",
		"10.98.0.0/24,range=10.98.0.1":           "not of the form",
		"10.98.0.0/24,range=10.97.0.1-10.98.0.5": "not inside",
		"10.98.0.0/24,router=x":                  `"x" is no IPv4 address`,
		"10.98.0.0/24,dns=":                      "no IPv4 address",
		"10.98.0.0/24,lease=3":                   "30m or 12h",
		"10.98.0.0/24,lease=1s":                  "between a minute and a year",
		"10.98.0.0/24,domain=a b":                "letters, digits",
		"10.98.0.0/24,domain=.a":                 "no domain name",
		"10.98.0.0/24,gateway=10.98.0.1":         "none of range, router",
	} {
		if s, err := ParseSubnet(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseSubnet(%q) = %+v, %v, want an error with %q", text, s, err, want)
		}
	}
}

func FuzzParseSubnet(f *testing.F) {
	f.Add("10.98.0.0/24,range=10.98.0.100-10.98.0.200,router=10.98.0.1,dns=10.98.0.53,domain=lab.example,lease=8h")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSubnet(text)
		if err == nil && s.validate() != nil {
			t.Fatalf("ParseSubnet(%q) = %+v", text, s)
		}
	})
}
