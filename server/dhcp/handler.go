package dhcp

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Packet is a datagram as it came in.
type Packet struct {
	Data []byte
	From netip.AddrPort
	Port uint16 // ServerPort or PXEPort: where it came in
}

// Reply is a datagram to send.
type Reply struct {
	Data []byte
	To   netip.AddrPort
	Port uint16 // ServerPort or PXEPort: from where it is sent
}

// Handler decides what to answer. It holds the lease table and no sockets.
type Handler struct {
	config   Config
	networks []netip.Prefix // whom we answer
	reserved Reservations
	store    LeaseStore

	mu    sync.Mutex
	pools []*pool
}

// NewHandler makes a Handler and loads the leases.
func NewHandler(c Config, reserved Reservations, store LeaseStore, now time.Time) (*Handler, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	h := &Handler{config: c, reserved: reserved, store: store}
	h.networks = append(h.networks, c.Networks...)
	h.networks = append(h.networks, c.Address.Masked())
	if c.Mode != Full {
		return h, nil
	}
	leases, err := store.Load()
	if err != nil {
		return nil, fmt.Errorf("load DHCP leases: %w", err)
	}
	for _, s := range c.Subnets {
		p := newPool(s, c.Address.Addr(), reserved)
		for _, l := range leases {
			p.restore(l, now)
		}
		h.pools = append(h.pools, p)
		h.networks = append(h.networks, s.Prefix)
	}
	return h, nil
}

// Leases lists the dynamic leases that hold now.
func (h *Handler) Leases(now time.Time) []Lease {
	h.mu.Lock()
	defer h.mu.Unlock()
	var list []Lease
	for _, p := range h.pools {
		list = append(list, p.leases(now)...)
	}
	return list
}

// Handle decides about one packet. The Event says what was asked and what became
// of it; the Reply is nil when there is nothing to answer. It never panics,
// whatever the packet.
func (h *Handler) Handle(now time.Time, p Packet) (reply *Reply, event Event) {
	// The codec had panics on hostile options before; one packet must not end the service.
	defer func() {
		if r := recover(); r != nil {
			reply, event = nil, Event{Time: now, From: p.From, Err: fmt.Errorf("DHCP codec panicked: %v", r)}
		}
	}()
	q, err := parse(p.Data)
	if err != nil {
		return nil, Event{Time: now, From: p.From, Err: err}
	}
	event = q.event(now, p.From)
	self := h.config.Address.Addr()
	if h.config.Mode != Off && p.Port != PXEPort && q.discovery() {
		p.Port = PXEPort // the client hears nobody else
	}
	var answer *dhcpv4.DHCPv4
	switch {
	case h.config.Mode == Off:
	case p.Port == PXEPort:
		answer, event.Err = h.bootServer(q)
	case q.kind == dhcpv4.MessageTypeRequest && q.server.IsValid() && q.server != self && q.server != q.asked:
		event.Err = h.lost(q, now)
	case h.config.Mode == Proxy:
		answer, event.Err = h.proxy(q)
	default:
		answer, event.Err = h.full(q, now, &event)
	}
	if answer == nil {
		return nil, event
	}
	to, err := h.destination(q, answer, p)
	if err != nil {
		event.Err = err
		return nil, event
	}
	event.Answer = answer.MessageType().String()
	event.BootFile = answer.BootFileName
	return &Reply{Data: encode(answer, q.room()), To: to, Port: p.Port}, event
}

// room is how large an answer may be. What a client says below the least that everybody takes is a mistake.
func (q request) room() int {
	size, err := q.packet.MaxMessageSize()
	if err != nil {
		return minRoom
	}
	return min(max(int(size)-28, minRoom), maxPacket-28) // headers of IP and UDP count
}

// destination tells where an answer goes (RFC 2131 §4.1). Only relays and
// clients of our networks are sent anything but a local broadcast.
func (h *Handler) destination(q request, answer *dhcpv4.DHCPv4, p Packet) (netip.AddrPort, error) {
	to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), ClientPort)
	switch {
	case p.Port == PXEPort:
		to = p.From
	case q.relay.IsValid():
		to = netip.AddrPortFrom(q.relay, ServerPort)
	case q.ciaddr.IsValid() && answer.MessageType() != dhcpv4.MessageTypeNak:
		to = netip.AddrPortFrom(q.ciaddr, ClientPort)
	}
	if to.Addr() == netip.AddrFrom4([4]byte{255, 255, 255, 255}) && p.Port != PXEPort {
		return to, nil
	}
	if !h.ours(to.Addr()) {
		return to, fmt.Errorf("no answer to %s: it is in no network that is configured (--network)", to.Addr())
	}
	return to, nil
}

// ours tells whether ip is a host of a network that we answer. Beside another DHCP server relays and clients at private
// addresses always are: they lie within the site, and the site's DHCP server knows its networks, not we.
func (h *Handler) ours(ip netip.Addr) bool {
	if h.config.Mode == Proxy && (ip.IsPrivate() || shared.Contains(ip)) && !h.broadcast(ip) {
		return true
	}
	for _, n := range h.networks {
		if n.Contains(ip) && ip != h.config.Address.Addr() && (Subnet{Prefix: n}).usable(ip) {
			return true
		}
	}
	return false
}

// broadcast tells whether ip stands for all hosts of a network that we know, or for ourselves.
func (h *Handler) broadcast(ip netip.Addr) bool {
	for _, n := range h.networks {
		if n.Contains(ip) && !(Subnet{Prefix: n}).usable(ip) {
			return true
		}
	}
	return ip == h.config.Address.Addr()
}

// shared is the address space of RFC 6598, private like those of RFC 1918.
var shared = netip.MustParsePrefix("100.64.0.0/10")

// errOther says that a client chose another DHCP server where there should be none.
var errOther = errors.New("another DHCP server hands out addresses on this network: " +
	"use --dhcp proxy, which works beside it, or switch it off")

// lost takes back an offer whose client chose another server.
func (h *Handler) lost(q request, now time.Time) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.pools {
		if i, ok := p.byMAC[q.mac]; ok && p.slots[i].state == offered && p.slots[i].mac == q.mac {
			p.slots[i].expires = now
		}
	}
	if h.config.Mode == Full && !q.relay.IsValid() {
		return errOther
	}
	return nil
}

// place is the address that tells which network a client is on.
func (h *Handler) place(q request) netip.Addr {
	switch {
	case q.link.IsValid():
		return q.link
	case q.relay.IsValid():
		return q.relay
	case q.ciaddr.IsValid():
		return q.ciaddr
	}
	return h.config.Address.Addr()
}

// poolFor finds the subnet that a client is on.
func (h *Handler) poolFor(q request) *pool {
	at := h.place(q)
	for _, p := range h.pools {
		if p.subnet.Prefix.Contains(at) {
			return p
		}
	}
	return nil
}
