package dhcp

import (
	"hash/fnv"
	"net/netip"
	"time"
)

// Lifetimes of what is no lease.
const (
	offerTime   = 30 * time.Second
	declineTime = 10 * time.Minute
)

// slotState is what became of an address of the range.
type slotState uint8

const (
	free     slotState = iota
	offered            // to mac, until expires
	leased             // to mac, until expires; afterwards kept in case mac returns
	declined           // somebody else uses it: nobody gets it until expires
)

type slot struct {
	state    slotState
	mac      MAC
	hostname string
	expires  time.Time
	saved    time.Time // expiry in the lease store
}

// pool is the table of one subnet's dynamic range and of its leased reservations.
type pool struct {
	subnet   Subnet
	slots    []slot         // the range, by address
	byMAC    map[MAC]uint32 // slot that was last offered or leased to a machine
	declines int            // slots in state declined
	reserved Reservations
	self     netip.Addr // the server's own address is never handed out
}

func newPool(s Subnet, self netip.Addr, reserved Reservations) *pool {
	p := &pool{subnet: s, byMAC: map[MAC]uint32{}, reserved: reserved, self: self}
	if s.First.IsValid() {
		p.slots = make([]slot, number(s.Last)-number(s.First)+1)
	}
	return p
}

// index gives the slot of an address of the range.
func (p *pool) index(ip netip.Addr) (uint32, bool) {
	if len(p.slots) == 0 || !ip.Is4() || ip.Less(p.subnet.First) || p.subnet.Last.Less(ip) {
		return 0, false
	}
	return number(ip) - number(p.subnet.First), true
}

func (p *pool) ip(i uint32) netip.Addr { return address(number(p.subnet.First) + i) }

// takenFor tells whether somebody else than mac holds slot i now.
func (p *pool) takenFor(mac MAC, i uint32, now time.Time) bool {
	s := &p.slots[i]
	if s.state == declined {
		return now.Before(s.expires)
	}
	return s.state != free && s.mac != mac && now.Before(s.expires)
}

// allowed tells whether slot i may be given to mac at all.
func (p *pool) allowed(mac MAC, i uint32) bool {
	ip := p.ip(i)
	r, reserved := p.reserved.ByIP(ip)
	return p.subnet.usable(ip) && ip != p.self && (!reserved || r.MAC == mac)
}

// reservation gives the address reserved for mac in this subnet, unless another
// machine still has a lease on it from before the reservation.
func (p *pool) reservation(mac MAC, now time.Time) (netip.Addr, bool) {
	r, ok := p.reserved.ByMAC(mac)
	if !ok || !r.IP.IsValid() || !p.subnet.usable(r.IP) || r.IP == p.self {
		return netip.Addr{}, false
	}
	if i, inRange := p.index(r.IP); inRange && p.slots[i].state != offered && p.takenFor(mac, i, now) {
		return netip.Addr{}, false
	}
	return r.IP, true
}

// offer chooses an address for mac: the reserved one, the one it had, the one it
// wishes, a free one, the one unused for longest, and at last the oldest that was
// only offered.
func (p *pool) offer(mac MAC, wish netip.Addr, now time.Time) (netip.Addr, bool) {
	if ip, ok := p.reservation(mac, now); ok {
		return ip, true
	}
	i, ok := p.choose(mac, wish, now)
	if !ok {
		return netip.Addr{}, false
	}
	s := &p.slots[i]
	if s.state == leased && s.mac == mac && now.Before(s.expires) {
		return p.ip(i), true // an offer never shortens a lease
	}
	p.assign(i, slot{state: offered, mac: mac, expires: now.Add(offerTime)})
	return p.ip(i), true
}

func (p *pool) choose(mac MAC, wish netip.Addr, now time.Time) (uint32, bool) {
	if i, ok := p.byMAC[mac]; ok && p.slots[i].mac == mac && p.allowed(mac, i) && !p.takenFor(mac, i, now) {
		return i, true
	}
	if i, ok := p.index(wish); ok && p.allowed(mac, i) && !p.takenFor(mac, i, now) {
		return i, true
	}
	size := uint32(len(p.slots))
	if size == 0 {
		return 0, false
	}
	var oldest, offer uint32
	haveOldest, haveOffer := false, false
	start := hash(mac) % size
	for n := range size {
		i := (start + n) % size
		s := &p.slots[i]
		switch {
		case s.state == free:
			if p.allowed(mac, i) {
				return i, true
			}
		case !now.Before(s.expires):
			if (!haveOldest || s.expires.Before(p.slots[oldest].expires)) && p.allowed(mac, i) {
				oldest, haveOldest = i, true
			}
		case s.state == offered:
			if (!haveOffer || s.expires.Before(p.slots[offer].expires)) && p.allowed(mac, i) {
				offer, haveOffer = i, true
			}
		}
	}
	if haveOldest {
		return oldest, true
	}
	return offer, haveOffer
}

// bind leases ip to mac. It fails when ip is not mac's to have.
func (p *pool) bind(mac MAC, ip netip.Addr, hostname string, now time.Time) (Lease, bool) {
	lease := Lease{IP: ip, MAC: mac, Hostname: hostname, Expires: now.Add(p.subnet.leaseTime())}
	if want, ok := p.reservation(mac, now); ok {
		if ip != want {
			return Lease{}, false // move to the reserved address
		}
		if i, inRange := p.index(ip); inRange {
			p.assign(i, slot{state: leased, mac: mac, hostname: hostname, expires: lease.Expires, saved: p.slots[i].saved})
		}
		return lease, true
	}
	i, ok := p.index(ip)
	if !ok || !p.allowed(mac, i) || p.takenFor(mac, i, now) {
		return Lease{}, false
	}
	saved := p.slots[i].saved
	if p.slots[i].mac != mac {
		saved = time.Time{}
	}
	p.assign(i, slot{state: leased, mac: mac, hostname: hostname, expires: lease.Expires, saved: saved})
	return lease, true
}

// needsSave tells whether the store's record of a lease is too old to keep, and
// counts on it being saved now. A client that asks every second is not written
// every second.
func (p *pool) needsSave(l Lease) bool {
	i, ok := p.index(l.IP)
	if !ok {
		return false // a reservation outside the range needs no memory
	}
	s := &p.slots[i]
	if l.Expires.Sub(s.saved) < p.subnet.leaseTime()/20 {
		return false
	}
	s.saved = l.Expires
	return true
}

// release ends mac's lease on ip; a lease of somebody else stays.
func (p *pool) release(mac MAC, ip netip.Addr, now time.Time) (Lease, bool) {
	i, ok := p.index(ip)
	if !ok || p.slots[i].mac != mac || p.slots[i].state != leased {
		return Lease{}, false
	}
	p.slots[i].expires, p.slots[i].saved = now, time.Time{}
	return Lease{IP: ip, MAC: mac, Hostname: p.slots[i].hostname, Expires: now}, true
}

// decline takes ip out of use after its lessee found somebody else using it. At
// most an eighth of the range is out of use at a time, or anybody could empty it.
func (p *pool) decline(mac MAC, ip netip.Addr, now time.Time) bool {
	i, ok := p.index(ip)
	if !ok || p.slots[i].mac != mac || p.slots[i].state != leased && p.slots[i].state != offered {
		return false
	}
	if p.declines >= max(1, len(p.slots)/8) {
		return false
	}
	p.assign(i, slot{state: declined, expires: now.Add(declineTime)})
	return true
}

// assign is called whenever a slot changes hands, so that byMAC and declines stay right.
func (p *pool) assign(i uint32, next slot) {
	s := &p.slots[i]
	if s.state == declined {
		p.declines--
	}
	if p.byMAC[s.mac] == i && s.mac != next.mac {
		delete(p.byMAC, s.mac)
	}
	if next.state == declined {
		p.declines++
	} else {
		p.forget(next.mac, i)
		p.byMAC[next.mac] = i
	}
	*s = next
}

// forget frees the slot that mac has besides keep: one machine, one address, so
// that nobody collects the range under a single MAC.
func (p *pool) forget(mac MAC, keep uint32) {
	if i, ok := p.byMAC[mac]; ok && i != keep && p.slots[i].mac == mac {
		p.slots[i] = slot{}
	}
}

// restore puts a lease from the store into the table.
func (p *pool) restore(l Lease, now time.Time) {
	i, ok := p.index(l.IP)
	if !ok || p.slots[i].state != free {
		return
	}
	saved := l.Expires
	if latest := now.Add(p.subnet.leaseTime()); l.Expires.After(latest) {
		l.Expires = latest // the clock was set back, or the lease time shortened
	}
	p.assign(i, slot{state: leased, mac: l.MAC, hostname: l.Hostname, expires: l.Expires, saved: saved})
}

// leases lists the leases that hold now.
func (p *pool) leases(now time.Time) []Lease {
	var list []Lease
	for i, s := range p.slots {
		if s.state == leased && now.Before(s.expires) {
			list = append(list, Lease{IP: p.ip(uint32(i)), MAC: s.mac, Hostname: s.hostname, Expires: s.expires})
		}
	}
	return list
}

func hash(mac MAC) uint32 {
	h := fnv.New32a()
	h.Write(mac[:])
	return h.Sum32()
}
