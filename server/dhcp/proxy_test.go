package dhcp

import (
	"bytes"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"clonecast/internal/netboot"
)

func proxyConfig() Config {
	return Config{
		Mode: Proxy, Address: prefix("10.99.0.2/24"), HTTP: "http://10.99.0.2:8080",
		Programs: netboot.DefaultPrograms(), Networks: nil,
	}
}

func TestProxyAnswersBootClientsOnly(t *testing.T) {
	tests := map[string]struct {
		m     *dhcpv4.DHCPv4
		port  uint16
		from  string
		kind  dhcpv4.MessageType
		file  string
		class string
	}{
		"discover, BIOS": {
			message(mac(1), dhcpv4.MessageTypeDiscover, withPXE(netboot.BIOS)), ServerPort, "0.0.0.0:68",
			dhcpv4.MessageTypeOffer, "undionly.kpxe", "PXEClient",
		},
		"discover, HTTP": {
			message(mac(1), dhcpv4.MessageTypeDiscover, withPXE(netboot.UEFI64HTTP)), ServerPort, "0.0.0.0:68",
			dhcpv4.MessageTypeOffer, "http://10.99.0.2:8080/boot/programs/snponly.efi", "HTTPClient",
		},
		"boot server request": {
			message(mac(1), dhcpv4.MessageTypeRequest, withPXE(netboot.UEFI64), withClientIP("10.99.0.50")),
			PXEPort, "10.99.0.50:68",
			dhcpv4.MessageTypeAck, "snponly.efi", "PXEClient",
		},
		"iPXE at 4011, knows another server": {
			message(mac(1), dhcpv4.MessageTypeRequest, withPXE(netboot.BIOS), withIPXE(),
				withIP(dhcpv4.OptionServerIdentifier, "10.99.0.1")),
			PXEPort, "10.99.0.50:68", dhcpv4.MessageTypeAck, "http://10.99.0.2:8080/boot/ipxe", "PXEClient",
		},
		"ordinary discover": {m: message(mac(1), dhcpv4.MessageTypeDiscover), port: ServerPort, from: "0.0.0.0:68"},
		"ordinary at 4011":  {m: message(mac(1), dhcpv4.MessageTypeRequest), port: PXEPort, from: "10.99.0.50:68"},
		"request on 67": {m: message(mac(1), dhcpv4.MessageTypeRequest, withPXE(netboot.BIOS)),
			port: ServerPort, from: "0.0.0.0:68"},
		"no program": {m: message(mac(1), dhcpv4.MessageTypeDiscover, withPXE(netboot.UEFIARM64)),
			port: ServerPort, from: "0.0.0.0:68"},
		"stranger at 4011": {m: message(mac(1), dhcpv4.MessageTypeRequest, withPXE(netboot.BIOS)),
			port: PXEPort, from: "8.8.8.8:68"},
		"broadcast as sender": {m: message(mac(1), dhcpv4.MessageTypeRequest, withPXE(netboot.BIOS)),
			port: PXEPort, from: "10.99.0.255:68"},
		"no sender's address": {m: message(mac(1), dhcpv4.MessageTypeRequest, withPXE(netboot.BIOS)),
			port: PXEPort, from: "0.0.0.0:68"},
		"relay from elsewhere": {
			m:    message(mac(1), dhcpv4.MessageTypeDiscover, withPXE(netboot.BIOS), withRelay("192.0.2.1")),
			port: ServerPort, from: "192.0.2.1:67"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			h, _ := newTestHandler(t, proxyConfig())
			got, to, event := exchangeOn(t, h, start, test.m, test.port, test.from)
			if kindOf(got) != test.kind {
				t.Fatalf("answer %v, want %v (%+v)", kindOf(got), test.kind, event)
			}
			if got == nil {
				return
			}
			if got.BootFileName != test.file || got.ClassIdentifier() != test.class || !got.YourIPAddr.IsUnspecified() {
				t.Errorf("file %q class %q address %s, want %q %q and none",
					got.BootFileName, got.ClassIdentifier(), got.YourIPAddr, test.file, test.class)
			}
			if test.port == PXEPort && to.String() != test.from {
				t.Errorf("answer to %s, want %s", to, test.from)
			}
			if got.Options.Has(dhcpv4.OptionIPAddressLeaseTime) || got.ServerIdentifier().String() != "10.99.0.2" {
				t.Errorf("not a proxy's answer:\n%s", got.Summary())
			}
		})
	}
}

// The reply of a proxy, byte for byte: firmware is picky about it.
func TestProxyOfferBytes(t *testing.T) {
	h, _ := newTestHandler(t, proxyConfig())
	m := message(MAC{0x52, 0x54, 0, 0x12, 0x34, 0x56}, dhcpv4.MessageTypeDiscover, withPXE(netboot.BIOS),
		dhcpv4.WithTransactionID(dhcpv4.TransactionID{1, 2, 3, 4}))
	m.SetBroadcast()
	reply, _ := h.Handle(start, Packet{Data: m.ToBytes(), Port: ServerPort})
	want := "\x02\x01\x06\x00\x01\x02\x03\x04\x00\x00\x80\x00" + strings.Repeat("\x00", 8) +
		"\x0a\x63\x00\x02" + strings.Repeat("\x00", 4) +
		"\x52\x54\x00\x12\x34\x56" + strings.Repeat("\x00", 10+64) + "undionly.kpxe" + strings.Repeat("\x00", 128-13) +
		"\x63\x82\x53\x63" + "\x2b\x04\x06\x01\x08\xff" + "\x35\x01\x02" + "\x36\x04\x0a\x63\x00\x02" + "\x3c\x09PXEClient" +
		"\x61\x11\x000123456789abcdef" + "\x43\x0dundionly.kpxe\x00" + "\x42\x0910.99.0.2\x00" + "\xff"
	want += strings.Repeat("\x00", max(0, 300-len(want)))
	if !bytes.Equal(reply.Data, []byte(want)) {
		t.Errorf("reply\n%q\nwant\n%q", reply.Data, want)
	}
}

func TestOff(t *testing.T) {
	h, _ := newTestHandler(t, Config{Mode: Off})
	m := message(mac(1), dhcpv4.MessageTypeDiscover, withPXE(netboot.BIOS))
	if answer, _, _ := exchange(t, h, start, m); answer != nil {
		t.Error("mode off answered")
	}
}
