package bringup

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"clonecast/internal/sockopt"
)

// Timing of Connect.
const (
	connectTimeout = 2 * time.Minute
	dialTimeout    = 3 * time.Second
	// preference is how long the interface that booted may take longer than another one.
	preference = 5 * time.Second
)

// NetworkOptions say whom to reach and by which interface rather.
type NetworkOptions struct {
	Server string // base URL; its host must answer
	MAC    string // the interface that booted, or empty
	Say    func(format string, args ...any)
}

// Network is the interface that reaches the server.
type Network struct {
	Interface string
	Address   string // own address with prefix length
	Router    string
	lease     *lease
	say       func(string, ...any)
}

// NoNetworkError says what every interface got to.
type NoNetworkError struct {
	Tried    []string // one line per interface
	Undriven []string // PCI cards without driver
}

func (e *NoNetworkError) Error() string {
	if len(e.Tried) == 0 {
		text := "this machine has no network interface that the appliance can use"
		if len(e.Undriven) > 0 {
			text += "; no driver for network card " + strings.Join(e.Undriven, ", ")
		}
		return text
	}
	return "no network: " + strings.Join(e.Tried, "; ")
}

// Hint says what to do.
func (e *NoNetworkError) Hint() string {
	if len(e.Tried) == 0 {
		return "add the card's driver (and its firmware) to the hardware class and build the appliance again"
	}
	return "check cable and switch port, that the DHCP server answers in this network, " +
		"and that clonecast serve runs and its port is open"
}

// Connect brings up all interfaces and returns the first one that reaches the server;
// the interface that booted is preferred. The others are left without address.
func Connect(ctx context.Context, opts NetworkOptions) (*Network, error) {
	server, err := hostPort(opts.Server)
	if err != nil {
		return nil, err
	}
	if lo, err := netlink.LinkByName("lo"); err == nil {
		_ = netlink.LinkSetUp(lo)
	}
	r := &race{server: server, opts: opts, links: ethernet, results: make(chan result), running: map[string]bool{}}
	winner, err := r.connect(ctx)
	if err != nil {
		return nil, err
	}
	if err := winner.lease.settle("/etc/resolv.conf"); err != nil {
		return nil, err
	}
	return winner, nil
}

// race runs one try per interface.
type race struct {
	server  string
	opts    NetworkOptions
	links   func() ([]netlink.Link, error)
	results chan result
	running map[string]bool // interfaces started, true while they run
	failed  []string
}

type result struct {
	name      string
	preferred bool
	network   *Network
	err       error
}

// connect runs the race and calls the losers off.
func (r *race) connect(ctx context.Context) (*Network, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	winner, err := r.run(ctx)
	cancel()
	r.drain()
	return winner, err
}

func (r *race) run(ctx context.Context) (*Network, error) {
	appear := time.NewTicker(250 * time.Millisecond) // drivers may still be loading
	defer appear.Stop()
	var second *Network // a winner that waits for the preferred interface
	var patience <-chan time.Time
	if err := r.start(ctx); err != nil {
		return nil, err
	}
	for {
		select {
		case <-appear.C:
			if err := r.start(ctx); err != nil {
				return nil, err
			}
		case got := <-r.results:
			r.running[got.name] = false
			switch {
			case got.err != nil:
				r.failed = append(r.failed, got.err.Error())
				if second != nil && got.preferred {
					return second, nil
				}
			case got.preferred || !r.preferredRuns():
				if second != nil {
					second.lease.drop()
				}
				return got.network, nil
			case second != nil:
				got.network.lease.drop()
			default:
				second, patience = got.network, time.After(preference)
			}
		case <-patience:
			return second, nil
		case <-ctx.Done():
			r.drain()
			if second != nil {
				return second, nil
			}
			return nil, &NoNetworkError{Tried: r.failed, Undriven: undrivenCards()}
		}
	}
}

// start begins with interfaces that are new.
func (r *race) start(ctx context.Context) error {
	links, err := r.links()
	if err != nil {
		return err
	}
	for _, link := range links {
		a := link.Attrs()
		if _, known := r.running[a.Name]; known {
			continue
		}
		r.running[a.Name] = true
		preferred := r.preferred(link)
		go func() {
			network, err := try(ctx, link, r.server, r.opts.Say)
			r.results <- result{a.Name, preferred, network, err}
		}()
	}
	return nil
}

func (r *race) preferred(link netlink.Link) bool {
	return r.opts.MAC != "" && strings.EqualFold(link.Attrs().HardwareAddr.String(), r.opts.MAC)
}

func (r *race) preferredRuns() bool {
	for name, runs := range r.running {
		if link, err := netlink.LinkByName(name); runs && err == nil && r.preferred(link) {
			return true
		}
	}
	return false
}

// drain waits for the tries that were called off and takes their addresses away.
func (r *race) drain() {
	for name, runs := range r.running {
		for runs {
			got := <-r.results
			r.running[got.name] = false
			if got.err != nil {
				r.failed = append(r.failed, got.err.Error())
			} else {
				got.network.lease.drop()
			}
			runs = r.running[name]
		}
	}
}

// try takes one interface from down to the server.
func try(ctx context.Context, link netlink.Link, server string, say func(string, ...any)) (*Network, error) {
	name := link.Attrs().Name
	if err := netlink.LinkSetUp(link); err != nil {
		return nil, fmt.Errorf("%s: set up: %w", name, err)
	}
	if err := waitLink(ctx, name, say); err != nil {
		return nil, err
	}
	l, err := obtain(ctx, link, say)
	if err != nil {
		return nil, err
	}
	if err := l.apply(); err != nil {
		return nil, err
	}
	return reachThrough(ctx, l, server, say)
}

// reachThrough dials the server until it answers or ctx ends, which takes the address
// away again.
func reachThrough(ctx context.Context, l *lease, server string, say func(string, ...any)) (*Network, error) {
	name := l.link.Attrs().Name
	last, reported := errors.New("no time left"), time.Time{}
	for {
		err := reach(ctx, name, server)
		if err == nil {
			return &Network{Interface: name, Address: l.address.String(), Router: l.routerText(), lease: l, say: say}, nil
		}
		if ctx.Err() == nil {
			last = cause(err)
			if time.Since(reported) > 10*time.Second {
				reported = time.Now()
				say("%s: address %s, but the server at %s does not answer: %v", name, l.address, server, last)
			}
		}
		select {
		case <-ctx.Done():
			l.drop()
			return nil, fmt.Errorf("%s: address %s, server %s does not answer (%v)", name, l.address, server, last)
		case <-time.After(2 * time.Second):
		}
	}
}

// reach dials the server through one interface.
func reach(ctx context.Context, name, server string) error {
	d := net.Dialer{Timeout: dialTimeout, Control: sockopt.With(sockopt.Interface(name))}
	conn, err := d.DialContext(ctx, "tcp", server)
	if err != nil {
		return err
	}
	return conn.Close()
}

func cause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// hostPort takes host and port out of a base URL.
func hostPort(server string) (string, error) {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" {
		return "", fmt.Errorf("server %q is not of the form https://host:port", server)
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	return net.JoinHostPort(u.Hostname(), port), nil
}

// hold renews the lease as long as ctx lives. The address is kept in any case: in the
// middle of a deploy there is nothing better.
func (n *Network) hold(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(n.lease.half()):
		}
		if err := n.lease.renew(ctx); err != nil && ctx.Err() == nil {
			n.say("%s: the DHCP server does not renew the address (%v); it is kept", n.Interface, err)
		}
	}
}

// Hold renews the address in the background until ctx ends.
func (n *Network) Hold(ctx context.Context) { go n.hold(ctx) }
