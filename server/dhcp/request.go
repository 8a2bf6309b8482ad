package dhcp

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"clonecast/internal/netboot"
)

// Limits of a packet that is worth an answer.
const (
	minPacket = 240  // fixed part and magic cookie
	maxPacket = 1500 // an Ethernet frame
	maxHops   = 16   // RFC 1542 §4.1.1
	minRoom   = 548  // bytes that every client takes: 576 with the headers (RFC 2131 §2)
	maxEcho   = 255  // bytes of an option that is echoed
)

// request is a packet from a client as far as the Handler looks at it.
type request struct {
	packet *dhcpv4.DHCPv4
	kind   dhcpv4.MessageType
	mac    MAC
	ciaddr netip.Addr // address that the client has
	wish   netip.Addr // option 50
	server netip.Addr // option 54
	relay  netip.Addr // giaddr
	link   netip.Addr // the client's network, where a relay names it apart from itself
	asked  netip.Addr // as whom a relay wants us to appear to the client
	item   []byte     // choice of a PXE menu
	client netboot.Client
}

// parse reads a packet and checks all that the answers rely on.
func parse(data []byte) (request, error) {
	if len(data) < minPacket || len(data) > maxPacket {
		return request{}, fmt.Errorf("packet of %d bytes", len(data))
	}
	// The codec cuts longer hardware addresses and reads no op code; so check first.
	if op, htype, hlen, hops := data[0], data[1], data[2], data[3]; op != byte(dhcpv4.OpcodeBootRequest) ||
		htype != byte(iana.HWTypeEthernet) || hlen != 6 || hops > maxHops {
		return request{}, fmt.Errorf("not an Ethernet client's request: op %d, type %d, length %d, hops %d",
			op, htype, hlen, hops)
	}
	m, err := dhcpv4.FromBytes(append(slices.Clone(data), byte(dhcpv4.OptionEnd))) // some ROMs write no end mark
	if err != nil {
		return request{}, fmt.Errorf("parse DHCP packet: %w", err)
	}
	overload(m, data)
	q := request{packet: m, kind: m.MessageType(), mac: MAC(m.ClientHWAddr)}
	if q.mac == (MAC{}) || q.mac[0]&1 != 0 {
		return request{}, errors.New("client address is zero or a group")
	}
	if len(m.Options.Get(dhcpv4.OptionRelayAgentInformation)) > maxEcho ||
		len(m.Options.Get(dhcpv4.OptionClientIdentifier)) > maxEcho {
		return request{}, errors.New("option to echo is longer than 255 bytes")
	}
	q.ciaddr = ipOf(m.ClientIPAddr)
	q.relay = ipOf(m.GatewayIPAddr)
	q.wish = ipOf(m.Options.Get(dhcpv4.OptionRequestedIPAddress))
	q.server = ipOf(m.Options.Get(dhcpv4.OptionServerIdentifier))
	q.client = clientOf(m)
	q.item = netboot.BootItem(m.Options.Get(dhcpv4.OptionVendorSpecificInformation))
	// RFC 3011, and RFC 3527 and 5107 in what the relay adds.
	q.link = ipOf(m.Options.Get(dhcpv4.OptionSubnetSelection))
	if agent := m.RelayAgentInfo(); agent != nil && q.relay.IsValid() {
		if link := ipOf(agent.Get(dhcpv4.LinkSelectionSubOption)); link.IsValid() {
			q.link = link
		}
		q.asked = ipOf(agent.Get(dhcpv4.ServerIdentifierOverrideSubOption))
	}
	return q, nil
}

// overload adds the options that stand in the fields file and sname (RFC 2131 §4.1, option 52).
func overload(m *dhcpv4.DHCPv4, data []byte) {
	where := m.Options.Get(dhcpv4.OptionOptionOverload)
	if len(where) != 1 {
		return
	}
	more := func(field []byte) {
		options := dhcpv4.Options{}
		if options.FromBytes(field) != nil {
			return // damaged: as if it were not there
		}
		for code, value := range options {
			if _, known := m.Options[code]; !known {
				m.Options[code] = value
			}
		}
	}
	if where[0]&1 != 0 {
		more(data[108:236])
	}
	if where[0]&2 != 0 {
		more(data[44:108])
	}
}

// clientOf tells what kind of program sent m.
func clientOf(m *dhcpv4.DHCPv4) netboot.Client {
	kind, arch := netboot.ParseVendorClass(string(m.Options.Get(dhcpv4.OptionClassIdentifier)))
	if list := m.Options.Get(dhcpv4.OptionClientSystemArchitectureType); len(list) >= 2 {
		arch = netboot.Arch(binary.BigEndian.Uint16(list)) // the first is the preferred one
		for ; len(list) >= 2 && !arch.Known(); list = list[2:] {
			if a := netboot.Arch(binary.BigEndian.Uint16(list)); a.Known() {
				arch = a
			}
		}
	}
	ipxe := netboot.IsIPXE(m.Options.Get(dhcpv4.OptionUserClassInformation), m.Options.Get(optionIPXE))
	return netboot.Client{Kind: kind, Arch: arch, IPXE: ipxe}
}

// optionIPXE is iPXE's own: its sub-options say what it can do, and tell it what to do.
const optionIPXE = dhcpv4.GenericOptionCode(175)

// ipOf reads an address; unset, zero, loopback, group and broadcast addresses
// give the invalid one.
func ipOf(b []byte) netip.Addr {
	ip, ok := netip.AddrFromSlice(b)
	if !ok || !ip.Unmap().Is4() {
		return netip.Addr{}
	}
	ip = ip.Unmap()
	if ip.IsUnspecified() || ip.IsMulticast() || ip.IsLoopback() || ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return netip.Addr{}
	}
	return ip
}

// Event is what one packet was about, for logs and for the page that tells why a
// PC does not boot. Its texts are made by this server: they hold nothing that a
// client could choose but numbers.
type Event struct {
	Time     time.Time
	From     netip.AddrPort
	MAC      MAC
	UUID     string // option 97, in hex; empty when absent
	Message  string // "DISCOVER", "REQUEST", …; empty when the packet was not understood
	Client   netboot.Client
	Relay    netip.Addr // invalid: the client is on our own network
	Server   netip.Addr // in a REQUEST: the server that the client chose, maybe not us
	IP       netip.Addr // address that was offered or leased
	Answer   string     // "OFFER", "ACK", "NAK"; empty: no answer
	BootFile string     // what the answer names
	Err      error      // why there is no answer or no boot file in it; nil when none is due
}

func (q request) event(now time.Time, from netip.AddrPort) Event {
	e := Event{
		Time: now, From: from, MAC: q.mac, Message: q.kind.String(),
		Client: q.client, Relay: q.relay, Server: q.server,
	}
	if id, ok := q.guid(); ok {
		e.UUID = hex.EncodeToString(id[1:])
	}
	return e
}

// guid gives option 97 if it is of the only form defined: type 0 and 16 bytes.
func (q request) guid() ([]byte, bool) {
	b := q.packet.Options.Get(dhcpv4.OptionClientMachineIdentifier)
	return b, len(b) == 17 && b[0] == 0
}
