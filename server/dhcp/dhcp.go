// Package dhcp answers the DHCP requests of PCs that boot over the network,
// either as the subnet's only server (Full) or beside the site's own (Proxy).
//
// Three parts stay apart: the Server owns the sockets of one interface, the
// Handler turns a packet into a reply, and the backend knows reservations and
// remembers leases.
//
//	Full    addresses, lease times and boot files, to everybody (port 67)
//	Proxy   only boot files, only to PXEClient and HTTPClient (ports 67 and 4011);
//	        the address comes from the site's server (PXE specification 2.1 §2.2)
//
// A machine is its MAC address: the firmware, iPXE and the system on the disk
// send different client identifiers but shall get one address. Dynamic addresses
// are chosen by a hash of the MAC, so they are mostly stable even without a
// lease table. An offer holds its address for half a minute and gives way to
// others when the range is exhausted, so a flood of requests costs no memory
// and keeps nobody out for long.
//
// Not guaranteed: nobody is authenticated, DHCP has no means for it. Addresses
// are not probed by ping or ARP; one that somebody configured by hand inside the
// range is found by the client (DHCPDECLINE) and avoided for ten minutes.
//
// RFC 2131, 2132, 3046 (relays), 4578 (PXE), 6842; UEFI specification 2.10 §24.7.
package dhcp

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"clonecast/internal/netboot"
)

// Mode is what clonecast does about DHCP.
type Mode string

// The modes.
const (
	Off   Mode = "off"
	Proxy Mode = "proxy"
	Full  Mode = "full"
)

// Ports are where DHCP and PXE boot servers listen, and where clients do.
const (
	ServerPort = 67
	ClientPort = 68
	PXEPort    = 4011
)

// Config is what the Handler answers with.
type Config struct {
	Mode     Mode
	Address  netip.Prefix     // of the server on its interface, "10.99.0.1/24"
	HTTP     string           // base URL of plain HTTP boot, "http://10.99.0.1"
	Programs netboot.Programs // boot program of each architecture

	Subnets []Subnet // Full: the networks that get addresses

	// Networks lists further networks whose relays and clients are answered;
	// those of Address and Subnets always are, and in mode Proxy private
	// addresses. Nobody else gets a reply, so a forged sender cannot point the
	// server at a stranger.
	Networks []netip.Prefix
}

// Subnet is a network that gets its addresses from this server.
type Subnet struct {
	Prefix      netip.Prefix
	First, Last netip.Addr // dynamic range; both unset: reservations only
	Routers     []netip.Addr
	DNS         []netip.Addr
	NTP         []netip.Addr
	Domain      string
	LeaseTime   time.Duration // 0: one hour
}

// maxLease keeps a mistyped lease time from binding addresses for ever.
const maxLease = 365 * 24 * time.Hour

// MaxRange is the largest dynamic range of a subnet.
const MaxRange = 1 << 14

// Validate tells what is wrong with c.
func (c Config) Validate() error {
	switch c.Mode {
	case Off:
		return nil
	case Proxy, Full:
	default:
		return fmt.Errorf("DHCP mode %q is none of off, proxy, full", c.Mode)
	}
	if !c.Address.IsValid() || !c.Address.Addr().Is4() {
		return errors.New("DHCP needs the server's IPv4 address and prefix")
	}
	if _, err := c.Programs.BootFile(netboot.Client{IPXE: true}, c.HTTP); err != nil || c.HTTP == "" {
		return fmt.Errorf("boot URL %q: empty or too long", c.HTTP)
	}
	if c.Mode == Full && len(c.Subnets) == 0 {
		return errors.New("DHCP mode full needs a subnet")
	}
	for i, s := range c.Subnets {
		if err := s.validate(); err != nil {
			return fmt.Errorf("subnet %s: %w", s.Prefix, err)
		}
		for _, other := range c.Subnets[:i] {
			if s.Prefix.Overlaps(other.Prefix) {
				return fmt.Errorf("subnets %s and %s overlap", other.Prefix, s.Prefix)
			}
		}
	}
	return nil
}

func (s Subnet) validate() error {
	switch {
	case !s.Prefix.IsValid() || !s.Prefix.Addr().Is4() || s.Prefix.Bits() > 30:
		return errors.New("not an IPv4 network of at least four addresses")
	case s.LeaseTime < 0 || s.LeaseTime > 0 && s.LeaseTime < time.Minute || s.LeaseTime > maxLease:
		return fmt.Errorf("lease time %s is not between a minute and a year", s.LeaseTime)
	case len(s.Routers) > 8 || len(s.DNS) > 8 || len(s.NTP) > 8 || len(s.Domain) > 253:
		return errors.New("more routers, name servers or letters than a packet carries")
	case !s.First.IsValid() && !s.Last.IsValid():
		return nil
	case !s.Prefix.Contains(s.First) || !s.Prefix.Contains(s.Last) || s.Last.Less(s.First):
		return fmt.Errorf("range %s to %s is not inside", s.First, s.Last)
	case number(s.Last)-number(s.First) >= MaxRange:
		return fmt.Errorf("range %s to %s has more than %d addresses", s.First, s.Last, MaxRange)
	}
	return nil
}

// usable tells whether a host may have ip: inside the network, neither its
// first (network) nor its last address (broadcast).
func (s Subnet) usable(ip netip.Addr) bool {
	if !s.Prefix.Contains(ip) {
		return false
	}
	host := number(ip) & (1<<(32-s.Prefix.Bits()) - 1)
	return host != 0 && host != 1<<(32-s.Prefix.Bits())-1
}

func (s Subnet) leaseTime() time.Duration {
	if s.LeaseTime == 0 {
		return time.Hour
	}
	return s.LeaseTime
}

// number gives an IPv4 address as an integer.
func number(ip netip.Addr) uint32 {
	b := ip.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

// address is the inverse of number.
func address(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}
