package dhcp

import (
	"errors"
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
		return nil, errors.New("client is on no configured subnet")
	}
	switch q.kind {
	case dhcpv4.MessageTypeDiscover:
		ip, ok := p.offer(q.mac, q.wish, now)
		if !ok {
			return nil, errExhausted
		}
		e.IP = ip
		return h.lease(q, p, dhcpv4.MessageTypeOffer, ip), nil
	case dhcpv4.MessageTypeRequest:
		return h.request(q, p, now, e)
	case dhcpv4.MessageTypeInform:
		m := h.answer(q, dhcpv4.MessageTypeAck)
		p.subnet.describe(m)
		h.boot(q, m)
		return m, nil
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
	var err error
	if p.needsSave(lease) {
		// The lease is given all the same: a room without addresses is worse than
		// an address that is forgotten at the next restart.
		err = h.store.Save(lease)
	}
	return h.lease(q, p, dhcpv4.MessageTypeAck, ip), err
}

// proxy answers beside the site's DHCP server: only boot clients, no address.
func (h *Handler) proxy(q request) *dhcpv4.DHCPv4 {
	if q.kind != dhcpv4.MessageTypeDiscover {
		return nil
	}
	return h.bootOnly(q, dhcpv4.MessageTypeOffer)
}

// bootServer answers on port 4011, where PXE clients that have an address ask
// the boot server that they chose.
func (h *Handler) bootServer(q request) *dhcpv4.DHCPv4 {
	if q.kind != dhcpv4.MessageTypeRequest && q.kind != dhcpv4.MessageTypeInform {
		return nil
	}
	return h.bootOnly(q, dhcpv4.MessageTypeAck)
}

func (h *Handler) bootOnly(q request, kind dhcpv4.MessageType) *dhcpv4.DHCPv4 {
	if q.client.Kind == netboot.NoBoot {
		return nil
	}
	m := h.answer(q, kind)
	if !h.boot(q, m) {
		return nil
	}
	m.UpdateOption(dhcpv4.OptClassIdentifier(q.client.Kind.String()))
	if q.client.Kind == netboot.PXEClient {
		// PXE_DISCOVERY_CONTROL = 8: no menu and no boot server discovery, load the
		// boot file named here (PXE specification 2.1 §2.4.1).
		m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionVendorSpecificInformation, []byte{6, 1, 8, 255}))
	}
	return m
}

// lease is an OFFER or ACK with an address.
func (h *Handler) lease(q request, p *pool, kind dhcpv4.MessageType, ip netip.Addr) *dhcpv4.DHCPv4 {
	m := h.answer(q, kind)
	m.YourIPAddr = ip.AsSlice()
	m.UpdateOption(dhcpv4.OptIPAddressLeaseTime(p.subnet.leaseTime()))
	p.subnet.describe(m)
	if r, ok := h.reserved.ByMAC(q.mac); ok && r.Hostname != "" && len(r.Hostname) <= 63 {
		m.UpdateOption(dhcpv4.OptHostName(r.Hostname))
	}
	h.boot(q, m)
	if q.client.Kind == netboot.HTTPClient {
		m.UpdateOption(dhcpv4.OptClassIdentifier(q.client.Kind.String()))
	}
	if q.client.IPXE {
		// iPXE's own option 175, sub-option 176: do not wait for a proxyDHCP server.
		m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(175), []byte{176, 1, 1}))
	}
	return m
}

// describe adds the options that every client on the subnet gets.
func (s Subnet) describe(m *dhcpv4.DHCPv4) {
	m.UpdateOption(dhcpv4.OptSubnetMask(net.CIDRMask(s.Prefix.Bits(), 32)))
	if len(s.Routers) > 0 {
		m.UpdateOption(dhcpv4.OptRouter(ips(s.Routers)...))
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

// boot adds the boot file, if the client wants one and there is one.
func (h *Handler) boot(q request, m *dhcpv4.DHCPv4) bool {
	if q.client.Kind == netboot.NoBoot {
		return false
	}
	file, err := h.config.Programs.BootFile(q.client, h.config.HTTP)
	if err != nil {
		return false
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
	return true
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
	m.UpdateOption(dhcpv4.OptServerIdentifier(h.config.Address.Addr().AsSlice()))
	for _, code := range []dhcpv4.OptionCode{dhcpv4.OptionRelayAgentInformation, dhcpv4.OptionClientIdentifier} {
		if b := q.packet.Options.Get(code); len(b) > 0 {
			m.UpdateOption(dhcpv4.OptGeneric(code, b))
		}
	}
	return m
}

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
