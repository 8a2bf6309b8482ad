package dhcp

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"clonecast/internal/netboot"
)

func TestFullBootFiles(t *testing.T) {
	tests := map[string]struct {
		options []dhcpv4.Modifier
		file    string
		class   string
	}{
		"BIOS": {[]dhcpv4.Modifier{withPXE(netboot.BIOS)}, "undionly.kpxe", ""},
		"UEFI": {[]dhcpv4.Modifier{withPXE(netboot.UEFI64)}, "snponly.efi", ""},
		"UEFI HTTP": {[]dhcpv4.Modifier{withPXE(netboot.UEFI64HTTP)},
			"http://10.99.0.1/boot/programs/snponly.efi", "HTTPClient"},
		"iPXE":            {[]dhcpv4.Modifier{withPXE(netboot.BIOS), withIPXE()}, "http://10.99.0.1/boot/ipxe", ""},
		"no program":      {[]dhcpv4.Modifier{withPXE(netboot.UEFIARM64)}, "", ""},
		"ordinary client": {nil, "", ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			h, _ := newTestHandler(t, fullConfig())
			offer, to, event := exchange(t, h, start, message(mac(1), dhcpv4.MessageTypeDiscover, test.options...))
			if offer == nil || offer.MessageType() != dhcpv4.MessageTypeOffer {
				t.Fatalf("no OFFER: %+v", event)
			}
			if offer.BootFileName != test.file || offer.BootFileNameOption() != test.file {
				t.Errorf("boot file %q, option 67 %q, want %q", offer.BootFileName, offer.BootFileNameOption(), test.file)
			}
			if offer.ClassIdentifier() != test.class {
				t.Errorf("option 60 = %q, want %q", offer.ClassIdentifier(), test.class)
			}
			if to.String() != "255.255.255.255:68" || !prefix("10.99.0.0/24").Contains(ipOf(offer.YourIPAddr)) {
				t.Errorf("OFFER of %s went to %s", offer.YourIPAddr, to)
			}
			if offer.Router()[0].String() != "10.99.0.254" || offer.DNS()[0].String() != "10.99.0.53" ||
				offer.DomainName() != "school.example" {
				t.Errorf("subnet's options are missing:\n%s", offer.Summary())
			}
			if test.file != "" && len(offer.Options.Get(dhcpv4.OptionClientMachineIdentifier)) != 17 {
				t.Error("option 97 is not echoed")
			}
		})
	}
}

func TestLeaseLife(t *testing.T) {
	h, store := newTestHandler(t, fullConfig())
	first := lease(t, h, start, mac(1))
	if !first.IsValid() {
		t.Fatal("no lease")
	}
	if again := lease(t, h, start.Add(time.Minute), mac(1)); again != first {
		t.Errorf("second lease %s, want the same %s", again, first)
	}
	renew := message(mac(1), dhcpv4.MessageTypeRequest, withClientIP(first.String()))
	ack, to, _ := exchangeOn(t, h, start.Add(30*time.Minute), renew, ServerPort, first.String()+":68")
	if ack == nil || ack.MessageType() != dhcpv4.MessageTypeAck || to.Addr() != first {
		t.Fatalf("renewal was answered with %v to %s", ack, to)
	}
	saved, _ := store.Load()
	if len(saved) != 1 || saved[0].IP != first || !saved[0].Expires.Equal(start.Add(90*time.Minute)) {
		t.Errorf("store holds %+v", saved)
	}
	exchange(t, h, start, message(mac(2), dhcpv4.MessageTypeRelease, withClientIP(first.String())))
	if len(h.Leases(start)) != 1 {
		t.Error("a stranger released the lease")
	}
	exchange(t, h, start.Add(time.Hour), message(mac(1), dhcpv4.MessageTypeRelease, withClientIP(first.String())))
	if got := h.Leases(start.Add(time.Hour)); len(got) != 0 {
		t.Errorf("after RELEASE: leases %+v", got)
	}
}

func TestLeasesSurviveRestart(t *testing.T) {
	h, store := newTestHandler(t, fullConfig())
	taken := map[netip.Addr]bool{}
	for n := range 5 {
		taken[lease(t, h, start, mac(n+1))] = true
	}
	h, err := NewHandler(fullConfig(), &ReservationTable{}, store, start.Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	for n := range 5 {
		if got := lease(t, h, start.Add(time.Minute), mac(n+100)); !got.IsValid() || taken[got] {
			t.Errorf("after the restart a stranger got %s, leased before: %v", got, taken[got])
		}
	}
	if got := lease(t, h, start.Add(time.Minute), mac(200)); got.IsValid() {
		t.Errorf("the eleventh of ten addresses: %s", got)
	}
	for n := range 5 {
		if got := lease(t, h, start.Add(time.Minute), mac(n+1)); !taken[got] {
			t.Errorf("machine %d moved to %s", n+1, got)
		}
	}
}

func TestExhaustedRange(t *testing.T) {
	h, _ := newTestHandler(t, fullConfig())
	for n := range 10 {
		lease(t, h, start, mac(n))
	}
	_, _, event := exchange(t, h, start, message(mac(50), dhcpv4.MessageTypeDiscover))
	if !errors.Is(event.Err, errExhausted) {
		t.Errorf("event error %v, want %v", event.Err, errExhausted)
	}
	if got := lease(t, h, start.Add(2*time.Hour), mac(50)); !got.IsValid() {
		t.Error("expired leases are not used again")
	}
}

// A flood of DISCOVER takes no address away for good: whoever really wants one
// gets it at once.
func TestFloodOfDiscovers(t *testing.T) {
	h, _ := newTestHandler(t, fullConfig())
	for n := range 20000 {
		now := start.Add(time.Duration(n) * time.Microsecond)
		if offer, _, _ := exchange(t, h, now, message(mac(n+1000), dhcpv4.MessageTypeDiscover)); offer == nil {
			t.Fatalf("DISCOVER %d got no offer", n)
		}
	}
	if got := lease(t, h, start.Add(21*time.Millisecond), mac(1)); !got.IsValid() {
		t.Error("no lease during the flood")
	}
	if n := len(h.pools[0].byMAC); n > 10 {
		t.Errorf("the table remembers %d machines for 10 addresses", n)
	}
}

func TestReservations(t *testing.T) {
	room := []Reservation{
		{MAC: mac(1), IP: ip("10.99.0.105"), Hostname: "r1-pc01"},
		{MAC: mac(2), IP: ip("10.99.0.7"), Hostname: "r1-pc02"},
		{MAC: mac(3), IP: ip("10.77.0.7"), Hostname: "elsewhere"},
		{MAC: mac(4), IP: ip("10.99.0.1"), Hostname: "wants-the-server"},
	}
	h, _ := newTestHandler(t, fullConfig(), room...)
	for n := range 2 {
		if got := lease(t, h, start, room[n].MAC); got != room[n].IP {
			t.Errorf("%s got %s, want %s", room[n].MAC, got, room[n].IP)
		}
	}
	offer, _, _ := exchange(t, h, start, message(mac(1), dhcpv4.MessageTypeDiscover))
	if offer.HostName() != "r1-pc01" {
		t.Errorf("hostname %q", offer.HostName())
	}
	for n := 2; n < 4; n++ { // not in this subnet, or the server's: a dynamic one
		got := lease(t, h, start, room[n].MAC)
		if i, inRange := h.pools[0].index(got); !inRange || got == ip("10.99.0.105") {
			t.Errorf("%s got %s (slot %d)", room[n].MAC, got, i)
		}
	}
	for n := range 20 {
		if got := lease(t, h, start, mac(n+100)); got == ip("10.99.0.105") || got == ip("10.99.0.7") {
			t.Errorf("stranger %d got the reserved %s", n, got)
		}
	}
}

// A reservation made for an address that somebody has a lease on takes effect
// when that lease ends.
func TestReservationOfLeasedAddress(t *testing.T) {
	table := &ReservationTable{}
	h, err := NewHandler(fullConfig(), table, &MemoryLeases{}, start)
	if err != nil {
		t.Fatal(err)
	}
	taken := lease(t, h, start, mac(1))
	if err := table.Replace([]Reservation{{MAC: mac(2), IP: taken}}); err != nil {
		t.Fatal(err)
	}
	if got := lease(t, h, start, mac(2)); !got.IsValid() || got == taken {
		t.Errorf("owner of the reservation got %s while %s is leased", got, taken)
	}
	renew := message(mac(1), dhcpv4.MessageTypeRequest, withClientIP(taken.String()))
	if nak, _, _ := exchange(t, h, start, renew); nak == nil || nak.MessageType() != dhcpv4.MessageTypeNak {
		t.Errorf("renewal of an address reserved for another: %v", nak)
	}
	if got := lease(t, h, start.Add(2*time.Hour), mac(2)); got != taken {
		t.Errorf("after the lease: %s, want %s", got, taken)
	}
}

func TestRequestForms(t *testing.T) {
	h, _ := newTestHandler(t, fullConfig())
	mine := lease(t, h, start, mac(1)).String()
	tests := map[string]struct {
		m    *dhcpv4.DHCPv4
		want dhcpv4.MessageType // none: no answer
	}{
		"reboot, known": {message(mac(1), dhcpv4.MessageTypeRequest, withIP(dhcpv4.OptionRequestedIPAddress, mine)),
			dhcpv4.MessageTypeAck},
		"reboot, elsewhere": {message(mac(1), dhcpv4.MessageTypeRequest,
			withIP(dhcpv4.OptionRequestedIPAddress, "192.168.1.5")), dhcpv4.MessageTypeNak},
		"other's address": {message(mac(2), dhcpv4.MessageTypeRequest,
			withIP(dhcpv4.OptionRequestedIPAddress, mine)), dhcpv4.MessageTypeNak},
		"server's address": {message(mac(2), dhcpv4.MessageTypeRequest,
			withIP(dhcpv4.OptionRequestedIPAddress, "10.99.0.1")), dhcpv4.MessageTypeNak},
		"other server": {message(mac(1), dhcpv4.MessageTypeRequest, withIP(dhcpv4.OptionRequestedIPAddress, mine),
			withIP(dhcpv4.OptionServerIdentifier, "10.99.0.2")), dhcpv4.MessageTypeNone},
		"no address": {message(mac(1), dhcpv4.MessageTypeRequest), dhcpv4.MessageTypeNone},
		"inform":     {message(mac(1), dhcpv4.MessageTypeInform, withClientIP("10.99.0.9")), dhcpv4.MessageTypeAck},
		"answer":     {message(mac(1), dhcpv4.MessageTypeOffer), dhcpv4.MessageTypeNone},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, _, event := exchange(t, h, start, test.m)
			if kind := kindOf(got); kind != test.want {
				t.Errorf("answer %v, want %v (%+v)", kind, test.want, event)
			}
		})
	}
}

func kindOf(m *dhcpv4.DHCPv4) dhcpv4.MessageType {
	if m == nil {
		return dhcpv4.MessageTypeNone
	}
	return m.MessageType()
}

func TestDecline(t *testing.T) {
	h, _ := newTestHandler(t, fullConfig())
	decline := func(m MAC, addr netip.Addr) {
		exchange(t, h, start, message(m, dhcpv4.MessageTypeDecline, withIP(dhcpv4.OptionRequestedIPAddress, addr.String())))
	}
	bad := lease(t, h, start, mac(1))
	decline(mac(2), bad)
	if h.pools[0].declines != 0 {
		t.Fatal("a stranger declined the address")
	}
	decline(mac(1), bad)
	if got := lease(t, h, start, mac(1)); !got.IsValid() || got == bad {
		t.Errorf("after DECLINE of %s: %s", bad, got)
	}
	decline(mac(1), lease(t, h, start, mac(1)))
	if n := h.pools[0].declines; n != 1 {
		t.Errorf("%d of 10 addresses are out of use, want 1", n)
	}
	for n := range 30 {
		lease(t, h, start.Add(declineTime+time.Second), mac(n+10))
	}
	if n := h.pools[0].declines; n != 0 {
		t.Errorf("%d addresses still out of use after %s", n, declineTime)
	}
}

func TestRelay(t *testing.T) {
	circuit := dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionRelayAgentInformation, []byte{1, 2, 'p', '7'}))
	h, _ := newTestHandler(t, fullConfig())
	relayed := message(mac(1), dhcpv4.MessageTypeDiscover, withRelay("10.98.0.1"), circuit, withPXE(netboot.BIOS))
	offer, to, _ := exchange(t, h, start, relayed)
	if offer == nil || to.String() != "10.98.0.1:67" || !prefix("10.98.0.0/24").Contains(ipOf(offer.YourIPAddr)) {
		t.Fatalf("answer %v to %s", offer, to)
	}
	if got := offer.Options.Get(dhcpv4.OptionRelayAgentInformation); string(got) != "\x01\x02p7" {
		t.Errorf("option 82 echoed as %q", got)
	}
	for _, stranger := range []string{"8.8.8.8", "10.97.0.1", "10.99.0.1", "10.98.0.255", "10.98.0.0"} {
		m := message(mac(2), dhcpv4.MessageTypeDiscover, withRelay(stranger))
		if answer, to, _ := exchange(t, h, start, m); answer != nil {
			t.Errorf("answered relay %s by a packet to %s", stranger, to)
		}
	}
	huge := dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionRelayAgentInformation, make([]byte, 600)))
	answer, _, event := exchange(t, h, start, message(mac(2), dhcpv4.MessageTypeDiscover, huge))
	if answer != nil || event.Err == nil {
		t.Error("answered a request with 600 bytes of option 82")
	}
	inform := message(mac(1), dhcpv4.MessageTypeInform, withClientIP("8.8.8.8"))
	if answer, to, _ := exchange(t, h, start, inform); answer != nil {
		t.Errorf("answered INFORM from a stranger by a packet to %s", to)
	}
}
