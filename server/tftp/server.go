package tftp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// Bounds of the transfers under way. A room of 300 PCs fits in; a PC needs one.
const (
	maxTransfers = 512
	maxPerHost   = 8
)

// Config is what a Server needs.
type Config struct {
	Address string            // "10.99.0.1:69"; transfers are sent from this address too
	Files   map[string][]byte // by name, must not be changed any more
	Log     *slog.Logger
}

// Server is a TFTP server.
type Server struct {
	files map[string][]byte
	log   *slog.Logger
	conn  *net.UDPConn

	mu     sync.Mutex
	active map[netip.AddrPort]bool // clients with a transfer
	hosts  map[netip.Addr]int      // number of transfers by address
}

// Open binds the port.
func Open(ctx context.Context, c Config) (*Server, error) {
	var config net.ListenConfig
	conn, err := config.ListenPacket(ctx, "udp", c.Address)
	if err != nil {
		return nil, fmt.Errorf("listen for TFTP: %w", err)
	}
	return &Server{
		files: c.Files, log: c.Log, conn: conn.(*net.UDPConn),
		active: map[netip.AddrPort]bool{}, hosts: map[netip.Addr]int{},
	}, nil
}

// Addr tells where the server listens.
func (s *Server) Addr() net.Addr { return s.conn.LocalAddr() }

// Close frees the port.
func (s *Server) Close() error { return s.conn.Close() }

// Serve answers until ctx ends, then cuts the transfers under way and waits for
// their goroutines.
func (s *Server) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var transfers sync.WaitGroup
	defer transfers.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = s.conn.Close() })
	defer stop()
	buf := make([]byte, maxRequest+1) // one more: longer requests are seen as such
	for {
		n, from, err := s.conn.ReadFromUDPAddrPort(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil:
			s.log.Debug("TFTP socket", "error", err)
			time.Sleep(10 * time.Millisecond) // never a busy loop
			continue
		}
		s.request(ctx, &transfers, buf[:n], from)
	}
}

// request starts a transfer or refuses it.
func (s *Server) request(ctx context.Context, transfers *sync.WaitGroup, b []byte, from netip.AddrPort) {
	r, err := parseRequest(b)
	if err != nil {
		return // not even an error goes to whoever sends noise
	}
	data, ok := s.files[strings.TrimPrefix(r.name, "/")]
	switch {
	case r.op == opWRQ:
		s.refuse(from, errAccess, "this server is read-only")
	case !ok:
		s.log.Debug("TFTP file not found", "name", r.name, "client", from)
		s.refuse(from, errNotFound, "file not found")
	case r.mode != "octet":
		s.refuse(from, errIllegal, "only octet mode is served")
	case s.enter(from):
		transfers.Go(func() {
			defer s.leave(from)
			s.transfer(ctx, from, r, data)
		})
	}
}

func (s *Server) refuse(to netip.AddrPort, code uint16, text string) {
	if _, err := s.conn.WriteToUDPAddrPort(errorPacket(code, text), to); err != nil {
		s.log.Debug("TFTP refusal", "client", to, "error", err)
	}
}

// transfer sends a file from a port of its own, as RFC 1350 §4 wants.
func (s *Server) transfer(ctx context.Context, to netip.AddrPort, r request, data []byte) {
	local := *s.conn.LocalAddr().(*net.UDPAddr)
	local.Port = 0
	conn, err := net.DialUDP("udp", &local, net.UDPAddrFromAddrPort(to))
	if err != nil {
		s.log.Warn("TFTP transfer", "client", to, "error", err)
		return
	}
	defer conn.Close()
	start := time.Now()
	agreed := negotiate(r.options, len(data))
	switch err := transfer(ctx, conn, data, agreed); {
	case errors.Is(err, errGone):
		s.log.Debug("TFTP transfer ended early", "client", to, "name", r.name, "error", err)
	case err != nil:
		s.log.Warn("TFTP transfer", "client", to, "name", r.name, "error", err)
	default:
		s.log.Info("TFTP", "client", to, "name", r.name, "bytes", len(data), "block", agreed.block, "window", agreed.window,
			"duration", time.Since(start).Round(time.Millisecond))
	}
}

// enter counts a transfer in, unless the client has one already (its request was
// repeated on the way) or the bounds are reached.
func (s *Server) enter(from netip.AddrPort) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active[from] || len(s.active) >= maxTransfers || s.hosts[from.Addr()] >= maxPerHost {
		return false
	}
	s.active[from] = true
	s.hosts[from.Addr()]++
	return true
}

func (s *Server) leave(from netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.active, from)
	if s.hosts[from.Addr()]--; s.hosts[from.Addr()] == 0 {
		delete(s.hosts, from.Addr())
	}
}
