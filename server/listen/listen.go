// Package listen accepts TCP connections at one port of several addresses, which may change meanwhile.
//
// A listener at all addresses of the computer would serve networks that nobody named, one tied to an interface would
// not hear the computer itself.
package listen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Listener is a net.Listener at all its addresses.
type Listener struct {
	conns chan net.Conn
	done  chan struct{}

	mu     sync.Mutex
	port   uint16
	open   map[netip.Addr]net.Listener
	closed bool
}

// Open listens at all addresses, or at none. With port 0 the system chooses one.
func Open(ctx context.Context, addresses []netip.Addr, port int) (*Listener, error) {
	l := &Listener{
		conns: make(chan net.Conn), done: make(chan struct{}), port: uint16(port), open: map[netip.Addr]net.Listener{},
	}
	if err := l.Follow(ctx, addresses); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// Follow listens at these addresses and no others. Connections that were accepted go on. An address that cannot be had
// is named in the error; the others are served.
func (l *Listener) Follow(ctx context.Context, addresses []netip.Addr) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return net.ErrClosed
	}
	var errs []error
	for a, old := range l.open {
		if !slices.Contains(addresses, a) {
			delete(l.open, a)
			errs = append(errs, old.Close())
		}
	}
	for _, a := range addresses {
		if l.open[a] != nil {
			continue
		}
		var config net.ListenConfig
		one, err := config.Listen(ctx, "tcp4", netip.AddrPortFrom(a, l.port).String())
		if err != nil {
			errs = append(errs, fmt.Errorf("listen at %s: %w", netip.AddrPortFrom(a, l.port), err))
			continue
		}
		l.open[a] = one
		l.port = one.Addr().(*net.TCPAddr).AddrPort().Port()
		go l.accept(one)
	}
	return errors.Join(errs...)
}

// accept passes connections on one by one: what is not taken waits in the kernel's queue.
func (l *Listener) accept(from net.Listener) {
	for {
		c, err := from.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // too many open files, for example
			select {
			case <-l.done:
				return
			case <-time.After(50 * time.Millisecond):
			}
			continue
		}
		select {
		case l.conns <- c:
		case <-l.done:
			_ = c.Close()
			return
		}
	}
}

// Accept waits for a connection to any of the addresses.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close frees the port.
func (l *Listener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return net.ErrClosed
	}
	l.closed = true
	close(l.done)
	var errs []error
	for _, one := range l.open {
		errs = append(errs, one.Close())
	}
	return errors.Join(errs...)
}

// Addr gives one of the addresses.
func (l *Listener) Addr() net.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, one := range l.open {
		return one.Addr()
	}
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.IPv4Unspecified(), l.port))
}

// Port is the port of all addresses.
func (l *Listener) Port() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int(l.port)
}
