package dhcp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"clonecast/internal/sockopt"
)

// Server owns the sockets of one interface and passes packets to a Handler.
type Server struct {
	handler *Handler
	log     *slog.Logger
	observe func(Event)
	sockets []socket

	alarm sync.Mutex
	last  time.Time // of the last warning, at most one a minute
}

type socket struct {
	conn net.PacketConn
	port uint16 // its meaning: ServerPort or PXEPort
}

// Options are what Open needs besides the Handler.
type Options struct {
	Interface string // packets are taken from and sent to this one only
	Log       *slog.Logger
	Observe   func(Event) // called for each packet in turn, must be quick; may be nil
}

// Open binds the ports, all of them or none. In mode Off it binds nothing.
func Open(ctx context.Context, h *Handler, o Options) (*Server, error) {
	s := &Server{handler: h, log: o.Log, observe: o.Observe}
	if h.config.Mode == Off {
		return s, nil
	}
	if o.Interface == "" {
		return nil, errors.New("DHCP needs the name of a network interface")
	}
	config := net.ListenConfig{Control: sockopt.With(sockopt.Interface(o.Interface), sockopt.Broadcast)}
	for _, port := range []uint16{ServerPort, PXEPort} {
		conn, err := config.ListenPacket(ctx, "udp4", fmt.Sprintf("0.0.0.0:%d", port))
		if err != nil {
			return nil, errors.Join(fmt.Errorf("listen for DHCP on %s: %w", o.Interface, err), s.Close())
		}
		s.sockets = append(s.sockets, socket{conn, port})
	}
	return s, nil
}

// Serve answers until ctx ends, then closes the sockets.
func (s *Server) Serve(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, sock := range s.sockets {
		group.Go(func() error { return s.serve(ctx, sock) })
	}
	group.Go(func() error {
		<-ctx.Done()
		return s.Close()
	})
	return group.Wait()
}

// Close frees the ports.
func (s *Server) Close() error {
	var errs []error
	for _, sock := range s.sockets {
		if err := sock.conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (s *Server) serve(ctx context.Context, sock socket) error {
	buf := make([]byte, maxPacket+1) // one more: longer packets are seen as such
	for {
		n, from, err := sock.conn.ReadFrom(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil: // the interface went down, for example: it may come back
			s.warn("DHCP socket", err)
			wait(ctx, time.Second)
			continue
		}
		s.one(sock, Packet{Data: buf[:n], From: from.(*net.UDPAddr).AddrPort(), Port: sock.port})
	}
}

func (s *Server) one(sock socket, p Packet) {
	p.From = netip.AddrPortFrom(p.From.Addr().Unmap(), p.From.Port())
	reply, event := s.handler.Handle(time.Now(), p)
	s.record(event)
	if reply == nil {
		return
	}
	if _, err := sock.conn.WriteTo(reply.Data, net.UDPAddrFromAddrPort(reply.To)); err != nil {
		s.warn("send DHCP answer", err)
	}
}

func (s *Server) record(e Event) {
	if errors.Is(e.Err, errExhausted) {
		s.warn("DHCP", e.Err)
	}
	s.log.Debug("DHCP", "message", e.Message, "mac", e.MAC, "from", e.From, "arch", e.Client.Arch, "kind", e.Client.Kind,
		"ipxe", e.Client.IPXE, "relay", e.Relay, "answer", e.Answer, "ip", e.IP, "file", e.BootFile, "error", e.Err)
	if s.observe != nil {
		s.observe(e)
	}
}

// warn logs at most once a minute: anybody on the network can cause it.
func (s *Server) warn(what string, err error) {
	s.alarm.Lock()
	defer s.alarm.Unlock()
	if now := time.Now(); now.Sub(s.last) > time.Minute {
		s.last = now
		s.log.Warn(what, "error", err)
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
