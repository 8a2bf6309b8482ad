package server

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"

	"clonecast/internal/protocol"
	"clonecast/server/database"
	"clonecast/server/dhcp"
	"clonecast/server/link"
)

// addressesOf gives an interface that has an IPv4 address.
func addressesOf(name string) (link.State, error) {
	at, err := link.Read(name)
	switch {
	case err != nil:
		return at, err
	case at.Index == 0:
		return at, &Problem{fmt.Errorf("no network interface %q", name),
			"this computer has: " + strings.Join(append(interfaceNames(), "lo"), ", ") +
				"; if it comes later, give --wait"}
	case len(at.Addresses) == 0:
		return at, &Problem{fmt.Errorf("interface %s has no IPv4 address", name),
			"give it a fixed one, for example: ip address add 10.99.0.1/24 dev " + name +
				"; if it gets one later, give --wait"}
	}
	return at, nil
}

// Wait waits until an interface is there and has an IPv4 address.
func Wait(ctx context.Context, name string, log *slog.Logger) error {
	at, err := link.Read(name)
	if err != nil || len(at.Addresses) > 0 {
		return err
	}
	log.Warn("waiting until the interface has an IPv4 address", "interface", name)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	link.Follow(ctx, name, link.State{}, log, func(now link.State) {
		if at = now; len(now.Addresses) > 0 {
			cancel()
		}
	})
	if len(at.Addresses) == 0 {
		return ctx.Err()
	}
	return nil
}

// allAddresses gives the addresses of both families under which PCs may reach the server.
func allAddresses(name string) ([]netip.Addr, error) {
	iface, err := net.InterfaceByName(name)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", name, err)
	}
	list, err := iface.Addrs()
	if err != nil {
		return nil, fmt.Errorf("addresses of %s: %w", name, err)
	}
	var addresses []netip.Addr
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLinkLocalUnicast() {
			addresses = append(addresses, p.Addr())
		}
	}
	if len(addresses) == 0 {
		return nil, fmt.Errorf("interface %s has no address", name)
	}
	return addresses, nil
}

func interfaceNames() []string {
	var names []string
	list, _ := net.Interfaces() // for a hint only
	for _, i := range list {
		if i.Flags&net.FlagLoopback == 0 {
			names = append(names, i.Name)
		}
	}
	return names
}

// otherServer asks for an address as a PC would: who answers is another DHCP server.
func otherServer(ctx context.Context, name string) error {
	c, err := nclient4.New(name, nclient4.WithTimeout(2*time.Second), nclient4.WithRetry(1))
	if err != nil {
		return explainPort("udp", dhcp.ClientPort, fmt.Errorf("look for other DHCP servers on %s: %w", name, err))
	}
	defer c.Close()
	offer, err := c.DiscoverOffer(ctx)
	if err != nil || offer.YourIPAddr.IsUnspecified() {
		return ctx.Err() // silence is what we hope for
	}
	other := fmt.Errorf("another DHCP server on %s: %s offers %s", name, offer.ServerIdentifier(), offer.YourIPAddr)
	return &Problem{other, "use --dhcp proxy, which works beside it, or switch the other one off"}
}

// holder names the process that has a port, as far as /proc tells.
func holder(network string, port int) string {
	var inodes []string
	for _, table := range []string{network, network + "6"} {
		inodes = append(inodes, sockets("/proc/net/"+table, port)...)
	}
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*") // for a hint only
	for _, link := range links {
		target, err := os.Readlink(link)
		if err != nil {
			continue
		}
		for _, inode := range inodes {
			if target == "socket:["+inode+"]" {
				pid := strings.Split(link, "/")[2]
				name, _ := os.ReadFile("/proc/" + pid + "/comm")
				return fmt.Sprintf("%s (process %s)", strings.TrimSpace(string(name)), pid)
			}
		}
	}
	return ""
}

// sockets lists the inodes of listening sockets on a port.
func sockets(table string, port int) []string {
	f, err := os.Open(table)
	if err != nil {
		return nil
	}
	defer f.Close()
	var inodes []string
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) < 10 {
			continue
		}
		listening := fields[3] == "0A" || strings.Contains(table, "udp")
		if listening && strings.HasSuffix(fields[1], fmt.Sprintf(":%04X", port)) {
			inodes = append(inodes, fields[9])
		}
	}
	return inodes
}

// reserve tells the DHCP side which machine has which name and address.
func (s *Server) reserve() {
	list, err := s.machines.List(context.Background())
	if err != nil {
		s.opts.Log.Error("read machines for DHCP", "error", err)
		return
	}
	var reservations []dhcp.Reservation
	seen := map[dhcp.MAC]bool{}
	for _, m := range list {
		mac, err := net.ParseMAC(m.MAC())
		if err != nil || len(mac) != 6 || m.State != protocol.MachineAdopted || seen[dhcp.MAC(mac)] {
			continue
		}
		seen[dhcp.MAC(mac)] = true
		r := dhcp.Reservation{MAC: dhcp.MAC(mac), Hostname: m.Name}
		if m.ReservedIP != "" {
			r.IP, _ = netip.ParseAddr(m.ReservedIP) // checked at adoption
		}
		reservations = append(reservations, r)
	}
	if err := s.reserved.Replace(reservations); err != nil {
		s.opts.Log.Error("reserve addresses", "error", err)
	}
}

// leases keeps DHCP leases in the database.
type leases struct{ db *sql.DB }

// Load gives all leases.
func (l *leases) Load() ([]dhcp.Lease, error) {
	rows, err := l.db.Query("SELECT ip, mac, hostname, expires FROM dhcp_leases")
	if err != nil {
		return nil, fmt.Errorf("read leases: %w", err)
	}
	defer rows.Close()
	var list []dhcp.Lease
	for rows.Next() {
		var ip, mac, name string
		var expires int64
		if err := rows.Scan(&ip, &mac, &name, &expires); err != nil {
			return nil, fmt.Errorf("read leases: %w", err)
		}
		addr, err1 := netip.ParseAddr(ip)
		hardware, err2 := net.ParseMAC(mac)
		if err1 != nil || err2 != nil || len(hardware) != 6 {
			return nil, fmt.Errorf("read leases: %w", errors.Join(err1, err2))
		}
		list = append(list, dhcp.Lease{IP: addr, MAC: dhcp.MAC(hardware), Hostname: name, Expires: database.Time(expires)})
	}
	return list, rows.Err()
}

// Save records a lease.
func (l *leases) Save(lease dhcp.Lease) error {
	_, err := l.db.Exec(`INSERT INTO dhcp_leases (ip, mac, hostname, expires) VALUES ($1, $2, $3, $4)
		ON CONFLICT (ip) DO UPDATE SET mac = excluded.mac, hostname = excluded.hostname, expires = excluded.expires`,
		lease.IP.String(), lease.MAC.String(), lease.Hostname, database.Millis(lease.Expires))
	if err != nil {
		return fmt.Errorf("save lease of %s: %w", lease.IP, err)
	}
	return nil
}
