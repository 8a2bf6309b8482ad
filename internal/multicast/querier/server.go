package querier

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"clonecast/internal/multicast/igmp"
	"clonecast/internal/sockopt"
)

// Server is a querier on one interface.
type Server struct {
	ifi     *net.Interface
	address netip.Addr
	conn    *ipv4.RawConn
	log     *slog.Logger
	start   time.Time

	mu      sync.Mutex
	querier *Querier
	logged  State
}

// Open opens a raw socket, which needs root or CAP_NET_RAW. address is the interface's.
func Open(ctx context.Context, name string, address netip.Addr, log *slog.Logger) (*Server, error) {
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return nil, fmt.Errorf("find interface %s: %w", name, err)
	}
	config := net.ListenConfig{Control: sockopt.With(sockopt.Interface(name))}
	packets, err := config.ListenPacket(ctx, "ip4:igmp", "0.0.0.0")
	if err != nil {
		return nil, fmt.Errorf("listen for IGMP queries on %s: %w", name, err)
	}
	conn, err := ipv4.NewRawConn(packets)
	if err == nil {
		err = errors.Join(conn.SetMulticastInterface(ifi), conn.SetMulticastLoopback(false))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen for IGMP queries on %s: %w", name, err), packets.Close())
	}
	return &Server{ifi: ifi, address: address, conn: conn, log: log, start: time.Now(), querier: New(0, address)}, nil
}

func (s *Server) now() time.Duration { return time.Since(s.start) }

// State is what the querier does, and who the other one is if there is one.
func (s *Server) State() (State, netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.querier.State()
}

// Hurry tells that a group does not get to somebody who wants it. It may be called while Serve runs.
func (s *Server) Hurry() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.querier.Hurry(s.now()) {
		_ = s.conn.SetReadDeadline(time.Now()) // Serve looks again
	}
}

// Serve listens and queries until ctx ends.
func (s *Server) Serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = s.conn.Close() })
	defer stop()
	buf := make([]byte, 2048)
	for ctx.Err() == nil {
		s.query()
		header, payload, _, err := s.conn.ReadFrom(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case errors.Is(err, os.ErrDeadlineExceeded):
		case err != nil: // a broken packet, or the interface went down and may come back
			s.log.Debug("read IGMP", "error", err)
			time.Sleep(100 * time.Millisecond)
		default:
			s.hear(header, payload)
		}
	}
	return nil
}

// hear takes a packet. A query has a TTL of 1, so it comes from this network (RFC 3376 section 9.1).
func (s *Server) hear(header *ipv4.Header, payload []byte) {
	from, ok := netip.AddrFromSlice(header.Src.To4())
	if !ok || header.TTL != 1 || !header.Dst.Equal(igmp.AllSystems.AsSlice()) {
		return
	}
	query, err := igmp.Parse(payload)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.querier.Hear(s.now(), from, query)
	s.logState()
}

// query sends the query that is due, and lets reading end when the next one is.
func (s *Server) query() {
	s.mu.Lock()
	defer s.mu.Unlock()
	query, due, wait := s.querier.Next(s.now())
	s.logState()
	if due {
		if err := s.send(query); err != nil {
			s.log.Debug("send an IGMP query", "error", err) // the next one may get through
		}
	}
	_ = s.conn.SetReadDeadline(time.Now().Add(wait)) // with the lock held: Hurry's deadline is not lost
}

func (s *Server) send(q igmp.Query) error {
	message := q.Append(nil)
	headerLen := ipv4.HeaderLen + len(igmp.RouterAlert)
	header := &ipv4.Header{
		Version: ipv4.Version, Len: headerLen, TotalLen: headerLen + len(message),
		TOS: 0xc0, TTL: 1, Protocol: unix.IPPROTO_IGMP,
		Src: s.address.AsSlice(), Dst: igmp.AllSystems.AsSlice(), Options: igmp.RouterAlert,
	}
	return s.conn.WriteTo(header, message, &ipv4.ControlMessage{IfIndex: s.ifi.Index})
}

// logState logs a change of state. It is called with the lock held.
func (s *Server) logState() {
	state, other := s.querier.State()
	if state == s.logged {
		return
	}
	s.logged = state
	if state == Yielding {
		s.log.Info("the network has an IGMP querier", "interface", s.ifi.Name, "address", other)
	} else {
		s.log.Info("the network has no IGMP querier: this computer does its work", "interface", s.ifi.Name)
	}
}

// Close closes the socket.
func (s *Server) Close() error { return s.conn.Close() }
