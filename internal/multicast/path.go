package multicast

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"clonecast/internal/multicast/igmp"
	"clonecast/internal/multicast/packet"
	"clonecast/internal/multicast/querier"
	"clonecast/internal/sockopt"

	"golang.org/x/net/ipv4"
)

// linkGroup is where probes of link-local multicast go: every host hears it, every switch floods it, and IGMP
// queries go to its address, too.
var linkGroup = netip.AddrPortFrom(igmp.AllSystems, dataPort)

// Querier asks the network who wants which group.
type Querier interface {
	// Hurry asks soon, because a group does not get to somebody who wants it. It is called often.
	Hurry()
}

// openQuerier opens a querier for a session without a server, where that is allowed; where it is not the session works
// as well as the network's switches let it.
func openQuerier(ctx context.Context, ifi *net.Interface, addr netip.Addr, log *slog.Logger) *querier.Server {
	q, err := querier.Open(ctx, ifi.Name, addr, log)
	if err != nil {
		log.Info("this computer does not stand in for an IGMP querier", "cause", err)
		return nil
	}
	return q
}

// linkProbe fills buf with a probe of link-local multicast if one is due, and asks for a query
// where that may help a receiver.
func (s *Session) linkProbe(buf []byte) (batch, error) {
	s.mu.Lock()
	probe, err := s.sender.LinkProbe()
	snooped := s.sender.Snooped()
	s.mu.Unlock()
	if snooped && s.opts.Querier != nil {
		s.opts.Querier.Hurry()
	}
	if probe == nil || err != nil {
		return batch{}, err
	}
	return batch{net.UDPAddrFromAddrPort(linkGroup), append(buf[:0], probe...), len(probe)}, nil
}

// left logs why a receiver left the group. It is called with the lock held.
func (s *Session) left(receiver uint32, reason packet.Reason) {
	s.opts.Log.Warn("a receiver has left the group and continues by unicast",
		"receiver", receiver, "address", s.addresses[receiver].Addr(), "cause", reason, "hint", reason.Hint())
}

// Report takes a report that came by HTTPS, because by UDP it would not, and gives the answer; nil for none.
func (s *Session) Report(report []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.wake()
	return s.sender.Handle(s.clock.now(), report)
}

// listenGroup opens a socket that gets what little goes to a group.
func listenGroup(ifi *net.Interface, group netip.AddrPort) (net.PacketConn, error) {
	lc := net.ListenConfig{Control: sockopt.With(sockopt.SharedGroup)}
	c, err := lc.ListenPacket(context.Background(), "udp4", group.String())
	if err != nil {
		return nil, err
	}
	err = ipv4.NewPacketConn(c).JoinGroup(ifi, net.UDPAddrFromAddrPort(group))
	if err != nil && !errors.Is(err, syscall.EADDRINUSE) {
		return nil, errors.Join(fmt.Errorf("join group %v on %s: %w", group.Addr(), ifi.Name, err), c.Close())
	}
	return c, nil
}

// readLink reads probes of link-local multicast until the socket is closed.
func (s *Reception) readLink() error {
	buf := make([]byte, packet.MaxSize+1)
	for {
		n, _, err := s.link.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			time.Sleep(longestWait)
			continue
		}
		s.mu.Lock()
		s.receiver.Handle(s.clock.now(), buf[:n])
		s.mu.Unlock()
	}
}

// report sends a report; by HTTPS when reports by UDP are not answered. One that is lost is followed by another.
func (s *Reception) report(report []byte, detour bool) {
	if !detour {
		_, _ = s.reports.Write(report)
		return
	}
	select {
	case s.detours <- report:
	default: // the one before is still under way
	}
}

// detourPatience is for the sender's answer to a report by HTTPS.
const detourPatience = 2 * time.Second

// detour brings reports to the sender by HTTPS until there are no more.
func (s *Reception) detour(ctx context.Context) error {
	warned := false
	for report := range s.detours {
		if !warned {
			warned = true
			s.log.Warn("reports to the sender are not answered by UDP and go by HTTPS; a firewall may drop them")
		}
		one, cancel := context.WithTimeout(context.WithoutCancel(ctx), detourPatience) // the last one says that we failed
		answer, err := s.host.Report(one, report)
		cancel()
		if err != nil {
			s.log.Debug("report by HTTPS", "cause", err)
			continue
		}
		s.mu.Lock()
		s.receiver.Answer(s.clock.now(), answer)
		s.wakeWorkers()
		s.mu.Unlock()
	}
	return nil
}

// logLeave logs, once, why the receiver has left the group.
func (s *Reception) logLeave(state packet.State, reason packet.Reason) {
	if s.logged || reason == packet.ReasonNone || state == packet.StateReceiving {
		return
	}
	s.logged = true
	attrs := []any{"cause", reason}
	if hint := reason.Hint(); hint != "" {
		attrs = append(attrs, "hint", hint)
	}
	s.log.Warn("what is missing comes by unicast", attrs...)
}

// otherSubnet tells whether an address is in none of an interface's subnets.
func otherSubnet(ifi *net.Interface, other netip.Addr) bool {
	addrs, err := ifi.Addrs()
	if err != nil {
		return false // then nothing is known
	}
	for _, a := range addrs {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil && prefix.Contains(other) {
			return false
		}
	}
	return true
}

// wireless tells whether an interface is Wi-Fi: access points send multicast at their lowest rate and repeat nothing.
func wireless(sysfs, name string) bool {
	for _, sign := range []string{"phy80211", "wireless"} {
		if _, err := os.Stat(filepath.Join(sysfs, "class/net", name, sign)); err == nil {
			return true
		}
	}
	return false
}
