package bringup

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
)

// Timing of DHCP: short first tries, because a packet is often lost right after the
// link came up.
const (
	dhcpTimeout  = 2 * time.Second
	dhcpTries    = 2
	leaseMinimum = time.Minute
	leaseDefault = time.Hour
)

// lease is an address that DHCP gave to a link.
type lease struct {
	link    netlink.Link
	address *net.IPNet
	router  net.IP
	dns     []net.IP
	dhcp    *nclient4.Lease
}

// obtain asks for an address until it gets one or ctx ends.
func obtain(ctx context.Context, link netlink.Link, say func(string, ...any)) (*lease, error) {
	name := link.Attrs().Name
	for round := 0; ; round++ {
		got, err := request(ctx, name)
		if err == nil {
			return newLease(link, got)
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%s has a link, but no DHCP server answers", name)
		}
		if round == 1 {
			say("%s: no DHCP server answers yet, still asking", name)
		}
		if !errors.Is(err, nclient4.ErrNoResponse) {
			say("%s: DHCP: %v", name, err)
			sleep(ctx, time.Second)
		}
	}
}

func request(ctx context.Context, name string) (*nclient4.Lease, error) {
	c, err := nclient4.New(name, nclient4.WithTimeout(dhcpTimeout), nclient4.WithRetry(dhcpTries))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.Request(ctx, dhcpv4.WithOption(dhcpv4.OptClassIdentifier("clonecast")))
}

// newLease checks what the server gave: it may be anybody.
func newLease(link netlink.Link, got *nclient4.Lease) (*lease, error) {
	ack, name := got.ACK, link.Attrs().Name
	ip, mask := ack.YourIPAddr.To4(), ack.SubnetMask()
	if ip == nil || !ip.IsGlobalUnicast() {
		return nil, fmt.Errorf("%s: DHCP gave the address %v", name, ack.YourIPAddr)
	}
	if ones, bits := mask.Size(); bits != 32 || ones == 0 {
		mask = ip.DefaultMask()
	}
	l := &lease{link: link, address: &net.IPNet{IP: ip, Mask: mask}, dns: ack.DNS(), dhcp: got}
	if routers := ack.Router(); len(routers) > 0 && routers[0].IsGlobalUnicast() {
		l.router = routers[0]
	}
	return l, nil
}

// apply sets the address, and a default route that ranks by the interface's number, so
// that several interfaces do not fight for it.
func (l *lease) apply() error {
	name := l.link.Attrs().Name
	if err := netlink.AddrReplace(l.link, &netlink.Addr{IPNet: l.address}); err != nil {
		return fmt.Errorf("%s: set address %s: %w", name, l.address, err)
	}
	if l.router == nil {
		return nil
	}
	return l.route(1000 + l.link.Attrs().Index)
}

func (l *lease) route(metric int) error {
	r := &netlink.Route{LinkIndex: l.link.Attrs().Index, Gw: l.router, Priority: metric, Flags: int(netlink.FLAG_ONLINK)}
	if err := netlink.RouteReplace(r); err != nil {
		return fmt.Errorf("%s: set router %s: %w", l.link.Attrs().Name, l.router, err)
	}
	return nil
}

// settle makes the lease the machine's: best default route, its name servers.
func (l *lease) settle(resolvConf string) error {
	if l.router != nil {
		if err := l.route(1); err != nil {
			return err
		}
	}
	var b strings.Builder
	for _, ip := range l.dns {
		fmt.Fprintf(&b, "nameserver %s\n", ip)
	}
	if err := os.MkdirAll(filepath.Dir(resolvConf), 0o755); err != nil {
		return err
	}
	return os.WriteFile(resolvConf, []byte(b.String()), 0o644)
}

// drop takes the address away from the interface.
func (l *lease) drop() {
	_ = netlink.AddrDel(l.link, &netlink.Addr{IPNet: l.address})
}

func (l *lease) routerText() string {
	if l.router == nil {
		return "none"
	}
	return l.router.String()
}

// half is when to renew.
func (l *lease) half() time.Duration {
	return max(l.dhcp.ACK.IPAddressLeaseTime(leaseDefault)/2, leaseMinimum)
}

func (l *lease) renew(ctx context.Context) error {
	c, err := nclient4.New(l.link.Attrs().Name, nclient4.WithTimeout(dhcpTimeout), nclient4.WithRetry(dhcpTries))
	if err != nil {
		return err
	}
	defer c.Close()
	next, err := c.Renew(ctx, l.dhcp)
	if err != nil {
		return err
	}
	if !next.ACK.YourIPAddr.Equal(l.address.IP) {
		return fmt.Errorf("the server now offers %s instead of %s", next.ACK.YourIPAddr, l.address.IP)
	}
	l.dhcp = next
	return nil
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
