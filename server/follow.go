package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"clonecast/internal/multicast/querier"
	"clonecast/internal/netboot"
	"clonecast/server/dhcp"
	"clonecast/server/link"
)

// dhcpConfig is what DHCP answers with while the server has an address.
func dhcpConfig(o Options, address netip.Prefix) (dhcp.Config, error) {
	config := dhcp.Config{
		Mode: o.DHCP, Address: address, Programs: netboot.DefaultPrograms(),
		HTTP: "http://" + net.JoinHostPort(address.Addr().String(), fmt.Sprint(o.HTTPPort)),
	}
	own, given := dhcp.Subnet{Prefix: address.Masked()}, o.First.IsValid()
	for _, n := range o.Networks {
		switch {
		case o.DHCP != dhcp.Full:
			config.Networks = append(config.Networks, n.Prefix)
		case n.Prefix == own.Prefix:
			own, given = n, true
		case n.Prefix.Overlaps(own.Prefix):
			return config, &Problem{fmt.Errorf("networks %s and %s overlap", n.Prefix, own.Prefix),
				fmt.Sprintf("the server's address is %s on %s", address, o.Interface)}
		default:
			config.Subnets = append(config.Subnets, n)
		}
	}
	if o.DHCP != dhcp.Full {
		return config, config.Validate()
	}
	switch {
	case o.First.IsValid() && own.First.IsValid():
		return config, &Problem{fmt.Errorf("two ranges for %s", own.Prefix), "give --dhcp-range or --network, not both"}
	case o.First.IsValid():
		own.First, own.Last = o.First, o.Last
	}
	if given { // otherwise the PCs of the interface's network get their addresses elsewhere
		config.Subnets = append(config.Subnets, own)
	}
	if err := config.Validate(); err != nil {
		return config, &Problem{err, fmt.Sprintf("the server's address is %s on %s; a range must lie in its network%s",
			address, o.Interface, exampleRange(address))}
	}
	return config, nil
}

func (s *Server) dhcpHandler() (*dhcp.Handler, error) {
	config, err := dhcpConfig(s.opts, s.address())
	if err != nil {
		return nil, err
	}
	return dhcp.NewHandler(config, &s.reserved, &leases{db: s.data.DB}, time.Now())
}

// follow makes every part serve the interface as it is now.
func (s *Server) follow(ctx context.Context, now link.State) {
	log, last := s.opts.Log.With("interface", s.opts.Interface), s.at.Load()
	switch {
	case now.Index == 0:
		log.Warn("the interface is gone: PCs are not served until it is back")
		return
	case len(now.Addresses) == 0:
		log.Warn("the interface has no IPv4 address: PCs are not served until it has one")
		return
	case !now.Up:
		log.Warn("the interface is down: PCs are not served until it is up")
	default:
		log.Info("the interface has changed and is served as it is now", "index", now.Index, "addresses", now.Addresses)
	}
	s.at.Store(&now)
	s.leaf.recheck()
	fail := func(what string, err error) {
		if err != nil {
			log.Error(what+" does not serve the interface as it is now", "error", err)
		}
	}
	fail("HTTPS", s.httpsListener.Follow(ctx, now.IPs()))
	fail("HTTP boot", s.httpListener.Follow(ctx, now.IPs()))
	fail("TFTP", s.tftp.Follow(ctx, now.IPs()))
	fail("the folder for the site's DHCP server", s.writeSiteLines())
	if s.dhcp != nil {
		h, err := s.dhcpHandler()
		s.dhcp.Answer(h) // without one nobody is answered: an address of another network helps no PC
		if !now.Same(*last) || s.reopen {
			again := s.dhcp.Reopen(ctx)
			s.reopen = again != nil
			err = errors.Join(err, again)
		}
		fail("DHCP", err)
	}
	if !now.Same(*last) || now.Address() != last.Address() {
		s.querier.renew()
		if s.radv != nil {
			s.radv.renew()
		}
	}
}

// service is a part of the server that is tied to the interface as it was when it was opened.
type service interface {
	Serve(context.Context) error
	Close() error
}

// bound is a service that is opened anew when the interface is another one. The server works without it.
type bound[T service] struct {
	open   func(context.Context) (T, error)
	failed func(error)
	again  chan struct{}

	mu      sync.Mutex
	current T
	running bool
}

func newBound[T service](open func(context.Context) (T, error), failed func(error)) *bound[T] {
	return &bound[T]{open: open, failed: failed, again: make(chan struct{}, 1)}
}

// start opens the service.
func (b *bound[T]) start(ctx context.Context) {
	current, err := b.open(ctx)
	if err != nil {
		b.failed(err)
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.current, b.running = current, true
}

func (b *bound[T]) get() (current T, running bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.current, b.running
}

// renew has the service opened anew.
func (b *bound[T]) renew() {
	select {
	case b.again <- struct{}{}:
	default:
	}
}

// serve runs the service, and the next one after renew, until ctx ends.
func (b *bound[T]) serve(ctx context.Context) error {
	for {
		inner, cancel := context.WithCancel(ctx)
		ended := make(chan error, 1)
		if current, running := b.get(); running {
			go func() { ended <- current.Serve(inner) }()
		} else {
			ended <- nil
		}
		select {
		case <-ctx.Done():
		case <-b.again:
		}
		cancel()
		if err := errors.Join(<-ended, b.Close()); err != nil && !errors.Is(err, net.ErrClosed) {
			b.failed(err)
		}
		if ctx.Err() != nil {
			return nil
		}
		b.start(ctx)
	}
}

// Close ends the service.
func (b *bound[T]) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.running {
		return nil
	}
	b.running = false
	return b.current.Close()
}

// currentQuerier is the querier of sessions: whichever there is.
type currentQuerier struct{ *bound[*querier.Server] }

// Hurry asks the network soon.
func (c currentQuerier) Hurry() {
	if q, running := c.get(); running {
		q.Hurry()
	}
}
