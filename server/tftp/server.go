package tftp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"clonecast/internal/text"
	"clonecast/server/sparse"
)

// Bounds of the transfers under way. A room of 300 PCs fits in; a PC needs one.
const (
	maxTransfers = 512
	maxPerHost   = 8
	maxLoaded    = 4096 // clients whose last transfer is remembered
)

// loopTime is how long after a boot program was loaded another request for one is a loop: iPXE starts, asks for an
// address and loads what it is told within seconds, on a bad network within a minute.
const loopTime = 2 * time.Minute

// autoexec is what newer iPXE looks for beside itself; it goes on without.
const autoexec = "autoexec.ipxe"

// Config is what a Server needs.
type Config struct {
	Address string            // "10.99.0.1:69"; transfers are sent from this address too
	Files   map[string][]byte // by name, must not be changed any more
	// Script gives a script for iPXE that leads it to the boot server at an address. It is sent instead of a program to
	// an iPXE that has loaded that program a moment ago: some DHCP server names the program to everybody. May be nil.
	Script func(server netip.Addr) []byte
	Log    *slog.Logger
}

// Server is a TFTP server.
type Server struct {
	files  map[string][]byte
	script func(netip.Addr) []byte
	log    *slog.Logger
	seldom *sparse.Log
	port   uint16

	mu      sync.Mutex
	sockets map[netip.Addr]*net.UDPConn
	receive func(*net.UDPConn) // set by Serve
	closed  bool
	active  map[netip.AddrPort]*job // by client
	hosts   map[netip.Addr]int      // number of transfers by address
	loaded  *simplelru.LRU[netip.Addr, time.Time]
}

// Open binds the port.
func Open(ctx context.Context, c Config) (*Server, error) {
	address, err := netip.ParseAddrPort(c.Address)
	if err != nil {
		return nil, fmt.Errorf("listen for TFTP: %w", err)
	}
	loaded, err := simplelru.NewLRU[netip.Addr, time.Time](maxLoaded, nil)
	if err != nil {
		return nil, err
	}
	s := &Server{
		files: c.Files, script: c.Script, log: c.Log, seldom: sparse.New(c.Log, time.Now), port: address.Port(),
		sockets: map[netip.Addr]*net.UDPConn{}, active: map[netip.AddrPort]*job{}, hosts: map[netip.Addr]int{},
		loaded: loaded,
	}
	return s, s.Follow(ctx, []netip.Addr{address.Addr()})
}

// Follow makes the server listen at these addresses and no others. Transfers under way go on. An address that cannot be
// had is named in the error; the others are served.
func (s *Server) Follow(ctx context.Context, addresses []netip.Addr) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	var errs []error
	for a, conn := range s.sockets {
		if !slices.Contains(addresses, a) {
			delete(s.sockets, a)
			errs = append(errs, conn.Close())
		}
	}
	for _, a := range addresses {
		if s.sockets[a] != nil {
			continue
		}
		var config net.ListenConfig
		conn, err := config.ListenPacket(ctx, "udp4", netip.AddrPortFrom(a, s.port).String())
		if err != nil {
			errs = append(errs, fmt.Errorf("listen for TFTP: %w", err))
			continue
		}
		s.sockets[a] = conn.(*net.UDPConn)
		s.port = s.sockets[a].LocalAddr().(*net.UDPAddr).AddrPort().Port()
		if s.receive != nil {
			s.receive(s.sockets[a])
		}
	}
	return errors.Join(errs...)
}

// Addr tells where the server listens: one of its addresses.
func (s *Server) Addr() net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, conn := range s.sockets {
		return conn.LocalAddr()
	}
	return nil
}

// Close frees the port.
func (s *Server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	var errs []error
	for _, conn := range s.sockets {
		errs = append(errs, conn.Close())
	}
	clear(s.sockets)
	return errors.Join(errs...)
}

// Serve answers until ctx ends, then cuts the transfers under way and waits for
// their goroutines.
func (s *Server) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	s.mu.Lock()
	s.receive = func(conn *net.UDPConn) { work.Go(func() { s.requests(ctx, &work, conn) }) }
	for _, conn := range s.sockets {
		s.receive(conn)
	}
	s.mu.Unlock()
	<-ctx.Done()
	return s.Close()
}

// requests reads from a socket until it is closed.
func (s *Server) requests(ctx context.Context, work *sync.WaitGroup, conn *net.UDPConn) {
	buf := make([]byte, maxRequest+1) // one more: longer requests are seen as such
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		switch {
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			s.log.Debug("TFTP socket", "error", err)
			time.Sleep(10 * time.Millisecond) // never a busy loop
			continue
		}
		s.request(ctx, work, conn, buf[:n], from)
	}
}

// request starts a transfer or refuses it.
func (s *Server) request(ctx context.Context, work *sync.WaitGroup, conn *net.UDPConn, b []byte, from netip.AddrPort) {
	r, err := parseRequest(b)
	if err != nil {
		return // not even an error goes to whoever sends noise
	}
	name, data, ok := s.find(r.name)
	switch {
	case r.op == opWRQ:
		s.refuse(conn, from, errAccess, "this server is read-only")
	case !ok:
		if name != autoexec {
			s.seldom.Info(from.Addr().String()+name, "TFTP: there is no such file",
				"name", text.Clean(r.name, 64), "client", from)
		}
		s.refuse(conn, from, errNotFound, "file not found")
	case r.mode != "octet":
		s.refuse(conn, from, errIllegal, "only octet mode is served")
	default:
		ctx, cancel := context.WithCancel(ctx)
		t := &job{request: string(b), begun: time.Now(), end: cancel} // whole, before others see it
		if !s.enter(from, t) {
			cancel()
			return
		}
		server := conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
		if s.script != nil && ipxe(r.options) && s.justLoaded(from.Addr()) {
			name, data = "script instead of "+name, s.script(server)
			s.seldom.Warn("loop"+from.Addr().String(), "iPXE asks for its boot program again and is given the script: "+
				"the network's DHCP server should name the script to iPXE", "client", from.Addr())
		}
		work.Go(func() {
			defer cancel()
			defer s.leave(from, t)
			s.transfer(ctx, server, from, r, file{name, data}, t)
		})
	}
}

func (s *Server) refuse(conn *net.UDPConn, to netip.AddrPort, code uint16, text string) {
	if _, err := conn.WriteToUDPAddrPort(errorPacket(code, text), to); err != nil {
		s.log.Debug("TFTP refusal", "client", to, "error", err)
	}
}

type file struct {
	name string
	data []byte
}

// transfer sends a file from a port of its own, as RFC 1350 §4 wants.
func (s *Server) transfer(ctx context.Context, from netip.Addr, to netip.AddrPort, r request, f file, j *job) {
	local := net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	conn, err := net.DialUDP("udp4", local, net.UDPAddrFromAddrPort(to))
	if err != nil {
		s.log.Warn("TFTP transfer", "client", to, "error", err)
		return
	}
	defer conn.Close()
	j.conn.Store(conn)
	start := time.Now()
	agreed := negotiate(r.options, len(f.data))
	switch err := transfer(ctx, conn, f.data, agreed, j); {
	case errors.Is(err, errGone) || ctx.Err() != nil:
		s.log.Debug("TFTP transfer ended early", "client", to, "name", f.name, "error", err)
	case err != nil:
		s.log.Warn("TFTP transfer", "client", to, "name", f.name, "error", err)
	default:
		s.mu.Lock()
		s.loaded.Add(to.Addr(), time.Now())
		s.mu.Unlock()
		s.log.Info("TFTP", "client", to, "name", f.name, "bytes", len(f.data), "block", agreed.block,
			"window", agreed.window, "duration", time.Since(start).Round(time.Millisecond))
	}
}

// justLoaded tells whether a client has loaded a file within the time that a boot program takes to ask again.
func (s *Server) justLoaded(client netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.loaded.Get(client)
	return ok && time.Since(at) < loopTime
}

// enter counts a transfer in, unless its request was repeated on the way or the bounds are reached. It ends the
// transfer that the client's port had: a new request begins a new transfer (RFC 1350 §4), and firmware that was reset
// asks from the port from which it asked before.
func (s *Server) enter(from netip.AddrPort, j *job) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.active[from]
	switch {
	case old != nil && old.repeats(j):
		old.hurry()
		return false
	case old != nil:
		old.end()
	case len(s.active) >= maxTransfers || s.hosts[from.Addr()] >= maxPerHost:
		return false
	default:
		s.hosts[from.Addr()]++
	}
	s.active[from] = j
	return true
}

func (s *Server) leave(from netip.AddrPort, j *job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active[from] != j {
		return // a later transfer has its place
	}
	delete(s.active, from)
	if s.hosts[from.Addr()]--; s.hosts[from.Addr()] == 0 {
		delete(s.hosts, from.Addr())
	}
}
