package dhcp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"clonecast/internal/sockopt"
	"clonecast/server/sparse"
)

// Server owns the sockets of one interface and passes packets to a Handler.
type Server struct {
	handler atomic.Pointer[Handler] // nil: nobody is answered
	iface   string
	log     *slog.Logger
	seldom  *sparse.Log
	observe func(Event)

	mu      sync.Mutex
	sockets map[uint16]net.PacketConn // by their meaning: ServerPort or PXEPort
	changed chan struct{}             // closed when sockets changes
	closed  bool
}

// Options are what Open needs besides the Handler.
type Options struct {
	Interface string // packets are taken from and sent to this one only
	Log       *slog.Logger
	Observe   func(Event) // called for each packet in turn, must be quick; may be nil
}

var ports = []uint16{ServerPort, PXEPort}

// Open binds the ports, all of them or none. In mode Off it binds nothing.
func Open(ctx context.Context, h *Handler, o Options) (*Server, error) {
	s := &Server{
		iface: o.Interface, log: o.Log, seldom: sparse.New(o.Log, time.Now), observe: o.Observe,
		sockets: map[uint16]net.PacketConn{}, changed: make(chan struct{}),
	}
	s.Answer(h)
	if h.config.Mode == Off {
		return s, nil
	}
	if o.Interface == "" {
		return nil, errors.New("DHCP needs the name of a network interface")
	}
	if err := s.Reopen(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// Answer sets who decides from now on; nil: nobody is answered.
func (s *Server) Answer(h *Handler) { s.handler.Store(h) }

// Reopen binds the ports anew. A socket stays with the interface for which it was made: one that was deleted and made
// again under the same name is another one to the kernel.
func (s *Server) Reopen(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	defer func() {
		close(s.changed)
		s.changed = make(chan struct{})
	}()
	if err := s.closeAll(); err != nil {
		return err
	}
	config := net.ListenConfig{Control: sockopt.With(sockopt.Interface(s.iface), sockopt.Broadcast)}
	for _, port := range ports {
		conn, err := config.ListenPacket(ctx, "udp4", fmt.Sprintf("0.0.0.0:%d", port))
		if err != nil {
			return errors.Join(fmt.Errorf("listen for DHCP on %s: %w", s.iface, err), s.closeAll())
		}
		s.sockets[port] = conn
	}
	return nil
}

func (s *Server) closeAll() error {
	var errs []error
	for _, conn := range s.sockets {
		errs = append(errs, conn.Close())
	}
	clear(s.sockets)
	return errors.Join(errs...)
}

// Serve answers until ctx ends, then closes the sockets.
func (s *Server) Serve(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, port := range ports {
		group.Go(func() error {
			s.serve(ctx, port)
			return nil
		})
	}
	group.Go(func() error {
		<-ctx.Done()
		return s.Close()
	})
	return group.Wait()
}

// Close frees the ports.
func (s *Server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return s.closeAll()
}

// socket gives the present socket of a port, nil if there is none, and what is closed when that changes.
func (s *Server) socket(port uint16) (net.PacketConn, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sockets[port], s.changed
}

func (s *Server) serve(ctx context.Context, port uint16) {
	buf := make([]byte, maxPacket+1) // one more: longer packets are seen as such
	for ctx.Err() == nil {
		conn, changed := s.socket(port)
		if conn == nil {
			select {
			case <-ctx.Done():
			case <-changed:
			}
			continue
		}
		n, from, err := conn.ReadFrom(buf)
		switch {
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
		case err != nil: // the interface went down, for example: it may come back
			s.seldom.Warn("socket", "DHCP socket", "interface", s.iface, "error", err)
			wait(ctx, time.Second)
		default:
			s.one(Packet{Data: buf[:n], From: from.(*net.UDPAddr).AddrPort(), Port: port})
		}
	}
}

func (s *Server) one(p Packet) {
	handler := s.handler.Load()
	if handler == nil {
		return
	}
	p.From = netip.AddrPortFrom(p.From.Addr().Unmap(), p.From.Port())
	reply, event := handler.Handle(time.Now(), p)
	s.record(event)
	if reply == nil {
		return
	}
	conn, _ := s.socket(reply.Port)
	if conn == nil {
		return
	}
	if _, err := conn.WriteTo(reply.Data, net.UDPAddrFromAddrPort(reply.To)); err != nil {
		s.seldom.Warn("send "+err.Error(), "send DHCP answer", "to", reply.To, "error", err)
	}
}

// record says what became of a packet: every packet with --verbose, and once for each PC and cause why it got nothing.
func (s *Server) record(e Event) {
	if e.Err != nil {
		key := e.MAC.String() + e.Err.Error()
		if errors.Is(e.Err, errExhausted) || errors.Is(e.Err, errOther) {
			key = e.Server.String() + e.Err.Error() // it concerns all PCs
		}
		s.seldom.Warn(key, "DHCP: a PC is not served", "cause", e.Err, "mac", e.MAC, "message", e.Message,
			"arch", e.Client.Arch, "from", e.From, "relay", e.Relay, "server", e.Server)
	}
	s.log.Debug("DHCP", "message", e.Message, "mac", e.MAC, "from", e.From, "arch", e.Client.Arch, "kind", e.Client.Kind,
		"ipxe", e.Client.IPXE, "relay", e.Relay, "answer", e.Answer, "ip", e.IP, "file", e.BootFile, "error", e.Err)
	if s.observe != nil {
		s.observe(e)
	}
}

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
