// Package multicast runs multicast sessions on real sockets.
//
// The protocol is docs/multicast.md; its two ends are the state machines in the child packages sender and
// receiver. This package gives them a clock, sockets and workers:
//
//	Session  binds the sockets and drives a sender until the session is over
//	Send     announces a session and serves its receivers over HTTPS
//	Find     waits for an announcement and gets the session's description
//	Offered  takes a session that a server describes
//	Receive  joins, drives a receiver, rebuilds, verifies and hands out blocks
//
// Packets go in batches: the kernel cuts one large send into packets (UDP_SEGMENT) and joins
// packets that arrive (UDP_GRO) where it can. Rebuilding, verifying and writing happen in
// workers, so that the socket is always read.
//
// Without a server the two ends know each other by a pairing: a code that the sender shows, or a key
// file that both have. There is no session without one.
package multicast

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"clonecast/internal/multicast/blocks"
	"clonecast/internal/multicast/packet"
)

// announceGroups are where senders without a server announce their sessions: a group of our own, and the one that every
// host hears, because a switch may have forgotten who wants ours.
var announceGroups = []netip.AddrPort{
	netip.MustParseAddrPort("239.255.67.67:9067"),
	netip.MustParseAddrPort("224.0.0.1:9067"),
}

// dataPort is the UDP port of sessions; each has a group address of its own.
const dataPort = 9068

// groupOf gives a session its address in 239.255.128.0/18, organisation-local.
func groupOf(session uint64) netip.AddrPort {
	addr := netip.AddrFrom4([4]byte{239, 255, 128 | byte(session>>8)&63, 1 + byte(session%254)})
	return netip.AddrPortFrom(addr, dataPort)
}

// Description is what a session offers. Details are for whoever knows what to do with the payload.
type Description struct {
	Session uint64          `json:"session,string"`
	Group   netip.AddrPort  `json:"group"`
	Control netip.AddrPort  `json:"control"` // where reports go
	Payload int64           `json:"payload"`
	Details json.RawMessage `json:"details"`
}

// Progress is how far a session is. It is called as work goes on and must be fast.
type Progress func(done, total int64)

// SendSummary is what a sender did, or has done so far.
type SendSummary struct {
	State     packet.State // waiting, running or ended
	Payload   int64        // bytes
	FirstPass int64        // bytes of the payload that were sent as a whole
	Wire      uint64       // bytes
	Rate      float64      // bytes per second on the wire, lately
	MaxRate   float64      // bytes per second that it may send
	Seconds   float64      // of the data phase: until the last receiver was done or had left
	Blocks    int
	Repair    uint64 // symbols sent because somebody lacked them
	Receivers []ReceiverSummary
}

// ReceiverSummary is what became of one receiver.
type ReceiverSummary struct {
	Receiver uint32  `json:"receiver"`
	Address  string  `json:"address"`
	State    string  `json:"state"`
	Cause    string  `json:"cause,omitempty"`  // why it left the group, for programs
	Reason   string  `json:"reason,omitempty"` // in words
	Hint     string  `json:"hint,omitempty"`
	Loss     float64 `json:"loss"`
	Needed   int64   `json:"bytes_needed"`
	Finished int64   `json:"bytes_finished"`
	Fetched  int64   `json:"fetched_unicast"` // bytes

	Paths []string `json:"paths"` // by which ways packets get to it
}

// ReceiveSummary is what a receiver did.
type ReceiveSummary struct {
	Payload int64 // bytes that were needed
	Written int64 // bytes that were verified and written
	Wire    uint64
	Seconds float64 // from the first data packet on
	Blocks  int
	Rebuilt int // source symbols made from parity
	Loss    float64
	Fetched int64 // bytes of Written that came by unicast
	State   packet.State
	Reason  packet.Reason
	Paths   packet.Paths // by which ways packets arrived
}

// localAddress finds the IPv4 address of an interface that packets of a session fit through.
func localAddress(name string) (*net.Interface, netip.Addr, error) {
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return nil, netip.Addr{}, fmt.Errorf("interface %s: %w", name, err)
	}
	if err := fitting(ifi); err != nil {
		return nil, netip.Addr{}, err
	}
	addrs, err := addresses(ifi)
	if err == nil && len(addrs) == 0 {
		err = fmt.Errorf("interface %s has no IPv4 address", name)
	}
	if err != nil {
		return nil, netip.Addr{}, err
	}
	return ifi, addrs[0], nil
}

// routeTo finds the interface and the address that packets to an address leave by.
func routeTo(to netip.AddrPort) (*net.Interface, netip.Addr, error) {
	conn, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(to)) // sends nothing
	if err != nil {
		return nil, netip.Addr{}, fmt.Errorf("find the network interface to %v: %w", to.Addr(), err)
	}
	defer conn.Close()
	own := conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
	all, err := net.Interfaces()
	if err != nil {
		return nil, netip.Addr{}, err
	}
	for i := range all {
		if addrs, err := addresses(&all[i]); err == nil && slices.Contains(addrs, own) {
			return &all[i], own, fitting(&all[i])
		}
	}
	return nil, netip.Addr{}, fmt.Errorf("find the network interface to %v: none has the address %v", to.Addr(), own)
}

// addresses lists the IPv4 addresses of an interface.
func addresses(ifi *net.Interface) (out []netip.Addr, err error) {
	addrs, err := ifi.Addrs()
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", ifi.Name, err)
	}
	for _, a := range addrs {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil && prefix.Addr().Is4() {
			out = append(out, prefix.Addr())
		}
	}
	return out, nil
}

// fitting refuses an interface that a session's packets do not fit through.
func fitting(ifi *net.Interface) error {
	if need := packet.MaxSize + 28; ifi.MTU < need {
		return fmt.Errorf("interface %s has an MTU of %d, a session needs %d", ifi.Name, ifi.MTU, need)
	}
	return nil
}

// clock gives the state machines their time.
type clock struct{ start time.Time }

func (c clock) now() time.Duration { return time.Since(c.start) }

// keys are those of one receiver.
func receiverKeys(secret []byte, session uint64, chacha bool) (up, down *packet.Key, err error) {
	if up, err = packet.NewKey(secret, session, packet.PurposeUp, chacha); err != nil {
		return nil, nil, err
	}
	down, err = packet.NewKey(secret, session, packet.PurposeDown, chacha)
	return up, down, err
}

func blocksBytes(geo blocks.Geometry, set *blocks.Set) int64 {
	n := int64(set.Len()) * blocks.Size
	if last := geo.Count() - 1; set.Has(last) {
		n -= blocks.Size - int64(geo.Length(last))
	}
	return n
}
