package dhcp

import (
	"fmt"
	"net/netip"
	"sync"
	"time"
)

// MAC is an Ethernet address.
type MAC [6]byte

func (m MAC) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// Reservation is an address that belongs to one machine.
type Reservation struct {
	MAC      MAC
	IP       netip.Addr // unset: the hostname only
	Hostname string
}

// Reservations knows which addresses belong to whom. It is asked for every
// packet, under the Handler's lock, so it answers from memory.
type Reservations interface {
	ByMAC(MAC) (Reservation, bool)
	ByIP(netip.Addr) (Reservation, bool)
}

// Lease is an address that a machine may use until it expires.
type Lease struct {
	IP       netip.Addr
	MAC      MAC
	Hostname string // as the client calls itself; hostile text
	Expires  time.Time
}

// LeaseStore keeps leases across restarts.
type LeaseStore interface {
	// Load gives all leases that were saved, in any order; expired ones are welcome.
	Load() ([]Lease, error)
	// Save records a lease, replacing that of the same IP. A lease that has
	// expired already was released.
	Save(Lease) error
}

// ReservationTable is a Reservations in memory, replaced as a whole.
type ReservationTable struct {
	mu    sync.RWMutex
	byMAC map[MAC]Reservation
	byIP  map[netip.Addr]Reservation
}

// Replace sets all reservations. Of two that claim the same MAC or IP, it keeps
// neither in force: it returns an error and changes nothing.
func (t *ReservationTable) Replace(list []Reservation) error {
	byMAC, byIP := map[MAC]Reservation{}, map[netip.Addr]Reservation{}
	for _, r := range list {
		if _, twice := byMAC[r.MAC]; twice {
			return fmt.Errorf("two reservations for %s", r.MAC)
		}
		byMAC[r.MAC] = r
		if !r.IP.IsValid() {
			continue
		}
		if other, twice := byIP[r.IP]; twice {
			return fmt.Errorf("%s is reserved for %s and %s", r.IP, other.MAC, r.MAC)
		}
		byIP[r.IP] = r
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.byMAC, t.byIP = byMAC, byIP
	return nil
}

// ByMAC gives the reservation of a machine.
func (t *ReservationTable) ByMAC(mac MAC) (Reservation, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	r, ok := t.byMAC[mac]
	return r, ok
}

// ByIP gives the reservation of an address.
func (t *ReservationTable) ByIP(ip netip.Addr) (Reservation, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	r, ok := t.byIP[ip]
	return r, ok
}

// MemoryLeases is a LeaseStore that forgets everything at the end of the process.
type MemoryLeases struct {
	mu     sync.Mutex
	leases map[netip.Addr]Lease
}

// Load gives the leases saved so far.
func (m *MemoryLeases) Load() ([]Lease, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []Lease
	for _, l := range m.leases {
		list = append(list, l)
	}
	return list, nil
}

// Save records a lease.
func (m *MemoryLeases) Save(l Lease) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.leases == nil {
		m.leases = map[netip.Addr]Lease{}
	}
	m.leases[l.IP] = l
	return nil
}
