// Package radv ends iPXE's search for IPv6.
//
// iPXE configures IPv4 and IPv6 side by side and goes on when both are settled.
// On a network without IPv6 routers it asks for one again and again and gives
// up after about 13 seconds, at every start of every PC; no DHCP option ends
// that. One answer does: a router advertisement that says "I am no router"
// (lifetime 0, no prefix, no flags).
//
// The answer goes by unicast to whoever asked, so no other host hears it, and
// changes nothing there either: a lifetime of 0 withdraws only the default route
// through the sender, which never offered one (RFC 4861 §6.3.4). Where real IPv6
// routers answer too, PCs configure themselves from those.
//
// Not guaranteed: switches with RA guard (RFC 6105) drop the answer, and the
// PCs behind them wait as before.
package radv

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/ipv6"

	"clonecast/internal/sockopt"
)

// Types and lengths of RFC 4861 §4.1, §4.2 and §4.6.1.
const (
	solicitation     = 133
	advertisement    = 134
	solicitationSize = 8
	hopLimit         = 255 // proof that no router has forwarded the packet
)

// Server answers router solicitations on one interface.
type Server struct {
	conn  *ipv6.PacketConn
	log   *slog.Logger
	reply []byte
}

// Open joins the group of all routers on the interface.
func Open(ctx context.Context, name string, log *slog.Logger) (*Server, error) {
	iface, err := net.InterfaceByName(name)
	if err != nil {
		return nil, fmt.Errorf("find interface %s: %w", name, err)
	}
	config := net.ListenConfig{Control: sockopt.With(sockopt.Interface(name))}
	packets, err := config.ListenPacket(ctx, "ip6:ipv6-icmp", "::")
	if err != nil {
		return nil, fmt.Errorf("listen for router solicitations on %s: %w", name, err)
	}
	s := &Server{conn: ipv6.NewPacketConn(packets), log: log, reply: build(iface.HardwareAddr)}
	if err := s.prepare(iface); err != nil {
		_ = s.conn.Close()
		return nil, fmt.Errorf("listen for router solicitations on %s: %w", name, err)
	}
	return s, nil
}

func (s *Server) prepare(iface *net.Interface) error {
	var only ipv6.ICMPFilter
	only.SetAll(true)
	only.Accept(ipv6.ICMPTypeRouterSolicitation)
	return errors.Join(
		s.conn.SetICMPFilter(&only),
		s.conn.SetControlMessage(ipv6.FlagHopLimit, true),
		s.conn.SetHopLimit(hopLimit),
		s.conn.JoinGroup(iface, &net.IPAddr{IP: net.ParseIP("ff02::2")}),
	)
}

// build makes the advertisement: no hop limit, flags, lifetimes or timers, but
// the sender's link-layer address. The kernel fills in the checksum.
func build(mac net.HardwareAddr) []byte {
	b := make([]byte, 16)
	b[0] = advertisement
	if len(mac) == 6 {
		b = append(b, 1, 1)
		b = append(b, mac...)
	}
	return b
}

// Serve answers until ctx ends.
func (s *Server) Serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = s.conn.Close() })
	defer stop()
	buf := make([]byte, 1500)
	for {
		n, control, from, err := s.conn.ReadFrom(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil: // the interface went down: it may come back
			s.log.Debug("router solicitation", "error", err)
			time.Sleep(100 * time.Millisecond)
			continue
		}
		ip, ok := from.(*net.IPAddr)
		if !ok || control == nil || !asks(buf[:n], control.HopLimit, ip) {
			continue
		}
		if _, err := s.conn.WriteTo(s.reply, nil, from); err != nil {
			s.log.Debug("router advertisement", "to", from, "error", err)
		}
	}
}

// asks tells whether a packet is a solicitation of a neighbour that can be
// answered by unicast (RFC 4861 §6.1.1).
func asks(packet []byte, hops int, from *net.IPAddr) bool {
	ip, ok := netip.AddrFromSlice(from.IP)
	return ok && ip.IsLinkLocalUnicast() && hops == hopLimit &&
		len(packet) >= solicitationSize && packet[0] == solicitation && packet[1] == 0
}

// Close leaves the group.
func (s *Server) Close() error { return s.conn.Close() }
