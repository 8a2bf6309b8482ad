package dhcp

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"clonecast/internal/netboot"
)

// errExhausted is what the operator must hear about.
var errExhausted = errors.New("DHCP range is exhausted")

// full answers as the only DHCP server.
func (h *Handler) full(q request, now time.Time, e *Event) (*dhcpv4.DHCPv4, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.poolFor(q)
	if p == nil {
		return nil, fmt.Errorf("no addresses for %s: it is in no network that is configured (--network)", h.place(q))
	}
	switch q.kind {
	case dhcpv4.MessageTypeDiscover:
		ip, ok := p.offer(q.mac, q.wish, now)
		if !ok && len(p.slots) == 0 {
			return nil, fmt.Errorf("no addresses in %s but reserved ones: it has no range", p.subnet.Prefix)
		}
		if !ok {
			return nil, errExhausted
		}
		e.IP = ip
		return h.lease(q, p, dhcpv4.MessageTypeOffer, ip)
	case dhcpv4.MessageTypeRequest:
		return h.request(q, p, now, e)
	case dhcpv4.MessageTypeInform:
		m := h.answer(q, dhcpv4.MessageTypeAck)
		p.subnet.describe(m, q.relay)
		return m, h.boot(q, m)
	case dhcpv4.MessageTypeRelease:
		if l, ok := p.release(q.mac, q.ciaddr, now); ok {
			return nil, h.store.Save(l)
		}
	case dhcpv4.MessageTypeDecline:
		if !p.decline(q.mac, q.wish, now) {
			return nil, errors.New("DECLINE of an address that is not the client's, or too many of them")
		}
		e.IP = q.wish
	}
	return nil, nil
}

// request answers a DHCPREQUEST in each of its four meanings (RFC 2131 §4.3.2):
// after an offer, after a reboot, to renew, to rebind.
func (h *Handler) request(q request, p *pool, now time.Time, e *Event) (*dhcpv4.DHCPv4, error) {
	ip := q.wish
	if !ip.IsValid() {
		ip = q.ciaddr
	}
	if !ip.IsValid() {
		return nil, errors.New("REQUEST names no address")
	}
	lease, ok := p.bind(q.mac, ip, hostname(q.packet), now)
	if !ok {
		return h.answer(q, dhcpv4.MessageTypeNak), nil
	}
	e.IP = ip
	var saved error
	if p.needsSave(lease) {
		// The lease is given all the same: a room without addresses is worse than
		// an address that is forgotten at the next restart.
		saved = h.store.Save(lease)
	}
	m, err := h.lease(q, p, dhcpv4.MessageTypeAck, ip)
	return m, errors.Join(saved, err)
}

// proxy answers beside the site's DHCP server: only boot clients, no address.
func (h *Handler) proxy(q request) (*dhcpv4.DHCPv4, error) {
	if q.kind != dhcpv4.MessageTypeDiscover {
		return nil, nil
	}
	m, err := h.bootOnly(q, dhcpv4.MessageTypeOffer)
	if m != nil && q.relay.IsValid() {
		m.SetBroadcast() // a relay has no address to which it could send this
	}
	return m, err
}

// bootServer answers PXE clients that have an address and ask the boot server that they chose, at port 4011.
func (h *Handler) bootServer(q request) (*dhcpv4.DHCPv4, error) {
	if q.kind != dhcpv4.MessageTypeRequest && q.kind != dhcpv4.MessageTypeInform {
		return nil, nil
	}
	return h.bootOnly(q, dhcpv4.MessageTypeAck)
}

// discovery tells whether a client asks all boot servers at once for an entry of a PXE menu: as it has an address
// already and names no server, this is no request for a lease (PXE specification 2.1 §2.4.3).
func (q request) discovery() bool {
	return q.client.Kind == netboot.PXEClient && q.item != nil && q.ciaddr.IsValid() && !q.server.IsValid() &&
		!q.wish.IsValid() && (q.kind == dhcpv4.MessageTypeRequest || q.kind == dhcpv4.MessageTypeInform)
}

func (h *Handler) bootOnly(q request, kind dhcpv4.MessageType) (*dhcpv4.DHCPv4, error) {
	if q.client.Kind == netboot.NoBoot {
		return nil, nil
	}
	m := h.answer(q, kind)
	if err := h.boot(q, m); err != nil {
		return nil, err
	}
	m.UpdateOption(dhcpv4.OptClassIdentifier(q.client.Kind.String()))
	switch {
	case q.client.Kind != netboot.PXEClient:
	case kind == dhcpv4.MessageTypeAck && q.item != nil:
		// The client takes the answer only if it names the entry that was chosen.
		vendor := append([]byte{71, byte(len(q.item))}, q.item...)
		m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionVendorSpecificInformation, append(vendor, 255)))
	default:
		// PXE_DISCOVERY_CONTROL = 8: no menu and no boot server discovery, load the
		// boot file named here (PXE specification 2.1 §2.4.1).
		m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionVendorSpecificInformation, []byte{6, 1, 8, 255}))
	}
	return m, nil
}

// lease is an OFFER or ACK with an address. The error tells why it has no boot file.
func (h *Handler) lease(q request, p *pool, kind dhcpv4.MessageType, ip netip.Addr) (*dhcpv4.DHCPv4, error) {
	m := h.answer(q, kind)
	m.YourIPAddr = ip.AsSlice()
	m.UpdateOption(dhcpv4.OptIPAddressLeaseTime(p.subnet.leaseTime()))
	p.subnet.describe(m, q.relay)
	if r, ok := h.reserved.ByMAC(q.mac); ok && r.Hostname != "" && len(r.Hostname) <= 63 {
		m.UpdateOption(dhcpv4.OptHostName(r.Hostname))
	}
	err := h.boot(q, m)
	if q.client.Kind == netboot.HTTPClient {
		m.UpdateOption(dhcpv4.OptClassIdentifier(q.client.Kind.String()))
	}
	if q.client.IPXE {
		// iPXE's own option 175, sub-option 176: do not wait for a proxyDHCP server.
		m.UpdateOption(dhcpv4.OptGeneric(optionIPXE, []byte{176, 1, 1}))
	}
	return m, err
}

// describe adds the options that every client on the subnet gets. Behind a relay that is the way to this server: it is
// the router unless another one is configured.
func (s Subnet) describe(m *dhcpv4.DHCPv4, relay netip.Addr) {
	m.UpdateOption(dhcpv4.OptSubnetMask(net.CIDRMask(s.Prefix.Bits(), 32)))
	switch {
	case len(s.Routers) > 0:
		m.UpdateOption(dhcpv4.OptRouter(ips(s.Routers)...))
	case s.Prefix.Contains(relay):
		m.UpdateOption(dhcpv4.OptRouter(relay.AsSlice()))
	}
	if len(s.DNS) > 0 {
		m.UpdateOption(dhcpv4.OptDNS(ips(s.DNS)...))
	}
	if len(s.NTP) > 0 {
		m.UpdateOption(dhcpv4.OptNTPServers(ips(s.NTP)...))
	}
	if s.Domain != "" {
		m.UpdateOption(dhcpv4.OptDomainName(s.Domain))
	}
}

// boot adds the boot file, if the client wants one. The error tells why there is none.
func (h *Handler) boot(q request, m *dhcpv4.DHCPv4) error {
	if q.client.Kind == netboot.NoBoot {
		return nil
	}
	file, err := h.config.Programs.BootFile(q.client, h.config.HTTP)
	if err != nil {
		return err
	}
	server := h.config.Address.Addr()
	m.ServerIPAddr = server.AsSlice()
	m.BootFileName = file
	m.UpdateOption(dhcpv4.OptBootFileName(file))
	if q.client.Kind == netboot.PXEClient {
		m.UpdateOption(dhcpv4.OptTFTPServerName(server.String()))
	}
	if id, ok := q.guid(); ok {
		m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionClientMachineIdentifier, id))
	}
	return nil
}

// answer is the frame of every reply: what RFC 2131 table 3 copies from the
// request, our identity, and what must be echoed.
func (h *Handler) answer(q request, kind dhcpv4.MessageType) *dhcpv4.DHCPv4 {
	m := &dhcpv4.DHCPv4{
		OpCode:        dhcpv4.OpcodeBootReply,
		HWType:        q.packet.HWType,
		TransactionID: q.packet.TransactionID,
		Flags:         q.packet.Flags,
		ClientHWAddr:  q.packet.ClientHWAddr,
		ClientIPAddr:  net.IPv4zero,
		YourIPAddr:    net.IPv4zero,
		ServerIPAddr:  net.IPv4zero,
		GatewayIPAddr: q.packet.GatewayIPAddr,
		Options:       dhcpv4.Options{},
	}
	if kind == dhcpv4.MessageTypeAck && q.ciaddr.IsValid() {
		m.ClientIPAddr = q.packet.ClientIPAddr
	}
	if kind == dhcpv4.MessageTypeNak && q.relay.IsValid() {
		m.SetBroadcast()
	}
	m.UpdateOption(dhcpv4.OptMessageType(kind))
	self := h.config.Address.Addr()
	if q.asked.IsValid() {
		self = q.asked // renewals come through the relay then (RFC 5107)
	}
	m.UpdateOption(dhcpv4.OptServerIdentifier(self.AsSlice()))
	for _, code := range []dhcpv4.OptionCode{dhcpv4.OptionRelayAgentInformation, dhcpv4.OptionClientIdentifier} {
		if b := q.packet.Options.Get(code); len(b) > 0 {
			m.UpdateOption(dhcpv4.OptGeneric(code, b))
		}
	}
	return m
}

// encode writes an answer so that ROMs read it that take names for C strings: those of options 66 and 67 are followed
// by a pad option, which is a NUL. What the client has no room for is left out, the least needed first.
func encode(m *dhcpv4.DHCPv4, room int) []byte {
	for _, code := range []dhcpv4.OptionCode{
		nil, dhcpv4.OptionNTPServers, dhcpv4.OptionDomainName, dhcpv4.OptionHostName, dhcpv4.OptionDomainNameServer,
		dhcpv4.OptionClientIdentifier,
	} {
		if code != nil {
			m.Options.Del(code)
		}
		if b := marshal(m); len(b) <= room {
			return b
		}
	}
	return marshal(m)
}

func marshal(m *dhcpv4.DHCPv4) []byte {
	last := []dhcpv4.OptionCode{
		dhcpv4.OptionBootfileName, dhcpv4.OptionTFTPServerName, dhcpv4.OptionRelayAgentInformation,
	}
	head := *m
	head.Options = maps.Clone(m.Options)
	for _, code := range last {
		head.Options.Del(code)
	}
	b := bytes.TrimRight(head.ToBytes(), "\x00")
	b = bytes.TrimSuffix(b, []byte{byte(dhcpv4.OptionEnd)})
	for _, code := range last { // the relay's is the very last: RFC 3046 §2.1
		if value := m.Options.Get(code); value != nil {
			b = append(append(b, code.Code(), byte(len(value))), value...)
			if code != dhcpv4.OptionRelayAgentInformation {
				b = append(b, byte(dhcpv4.OptionPad))
			}
		}
	}
	b = append(b, byte(dhcpv4.OptionEnd))
	return append(b, make([]byte, max(0, bootpSize-len(b)))...)
}

// bootpSize is what BOOTP's packets have, and some relays and clients still ask for (RFC 1542 §2.1).
const bootpSize = 300

// hostname gives option 12, cut to what a DNS label holds.
func hostname(m *dhcpv4.DHCPv4) string {
	name := m.Options.Get(dhcpv4.OptionHostName)
	return string(name[:min(len(name), 63)])
}

func ips(list []netip.Addr) []net.IP {
	var out []net.IP
	for _, ip := range list {
		out = append(out, ip.AsSlice())
	}
	return out
}
