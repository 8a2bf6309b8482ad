package server

import (
	"crypto/rand"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"clonecast/internal/netboot"
	"clonecast/server/httpboot"
)

// A PC that loads the appliance this often within loopWindow and never registers
// goes to its local disk: an appliance that does not work on some hardware must not
// keep the PC in a loop.
const (
	maxBoots   = 4
	loopWindow = 30 * time.Minute
)

// Bounds of what is remembered. A script is easily asked for, with any MAC: of one address only few are kept, so that
// whoever asks for thousands loses his own. A boot that has loaded the appliance is kept apart from those.
const (
	maxAsked      = 4096
	maxPerAddress = 64
	maxLoaded     = 4096
)

// boots remembers what PCs were told to boot. A boot is known by the token that was handed out with it, which the
// appliance says when it registers: the MAC that iPXE has may be one that Linux never shows, as of a dock that takes on
// the laptop's, or of a card without a driver. The token gives no right; it only says which boot became which machine.
type boots struct {
	now func() time.Time

	mu     sync.Mutex
	asked  *simplelru.LRU[string, *boot] // by token
	tokens map[netip.Addr][]string       // those in asked, by address, the oldest first
	loaded *simplelru.LRU[string, *boot] // by token; kernel and initramfs were sent
	loops  *simplelru.LRU[asker, loop]
	known  *simplelru.LRU[claim, string] // machine by what iPXE said of it
}

// asker is a PC as far as loops are counted: whoever asks with its MAC from another address counts apart.
type asker struct {
	mac     string
	address netip.Addr
}

// claim is what iPXE says of a PC, in a form that is compared.
type claim struct{ mac, uuid, serial string }

type boot struct {
	asker      asker
	claim      claim
	kernel     bool
	initramfs  bool
	registered bool
}

type loop struct {
	count int
	since time.Time
}

func newBoots(now func() time.Time) *boots {
	b := &boots{now: now, tokens: map[netip.Addr][]string{}}
	// NewLRU fails for sizes below one only.
	b.asked, _ = simplelru.NewLRU(maxAsked, func(token string, x *boot) {
		list := slices.DeleteFunc(b.tokens[x.asker.address], func(t string) bool { return t == token })
		if b.tokens[x.asker.address] = list; len(list) == 0 {
			delete(b.tokens, x.asker.address)
		}
	})
	b.loaded, _ = simplelru.NewLRU[string, *boot](maxLoaded, nil)
	b.loops, _ = simplelru.NewLRU[asker, loop](maxLoaded, nil)
	b.known, _ = simplelru.NewLRU[claim, string](maxLoaded, nil)
	return b
}

func claimOf(c httpboot.Client) claim {
	return claim{c.MAC, min(c.UUID, swapUUID(c.UUID)), c.Serial}
}

// swapUUID gives a UUID in the other byte order. SMBIOS before 2.6 left open which one the first three fields have, and
// firmware, iPXE and Linux do not agree about it (SMBIOS 3.7 §7.2.1).
func swapUUID(u string) string {
	if len(u) != 36 {
		return u
	}
	return u[6:8] + u[4:6] + u[2:4] + u[0:2] + "-" + u[11:13] + u[9:11] + "-" + u[16:18] + u[14:16] + u[18:]
}

// begin hands out a token for a boot, unless the PC is in a loop.
func (b *boots) begin(c httpboot.Client) (token string, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	who := asker{c.MAC, c.Addr}
	if l, looped := b.loops.Get(who); looped && l.count >= maxBoots && b.now().Sub(l.since) <= loopWindow {
		return "", false
	}
	if list := b.tokens[c.Addr]; len(list) >= maxPerAddress {
		b.asked.Remove(list[0])
	}
	token = rand.Text()
	b.asked.Add(token, &boot{asker: who, claim: claimOf(c)})
	b.tokens[c.Addr] = append(b.tokens[c.Addr], token)
	return token, true
}

func (b *boots) find(token string) (*boot, bool) {
	if x, ok := b.loaded.Get(token); ok {
		return x, true
	}
	return b.asked.Get(token)
}

// sent counts a boot once its PC has loaded everything. What others load with its token does not count.
func (b *boots) sent(token, name string, to netip.Addr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	x, ok := b.asked.Get(token)
	if !ok || x.asker.address != to {
		return
	}
	switch name {
	case netboot.KernelFile:
		x.kernel = true
	case netboot.InitramfsFile:
		x.initramfs = true
	}
	if !x.kernel || !x.initramfs {
		return
	}
	b.asked.Remove(token)
	b.loaded.Add(token, x)
	if x.registered {
		return
	}
	now := b.now()
	l, _ := b.loops.Get(x.asker)
	if now.Sub(l.since) > loopWindow {
		l = loop{since: now}
	}
	l.count++
	b.loops.Add(x.asker, l)
}

// registered ends the count of the PC whose boot this is, and remembers which machine it is.
func (b *boots) registered(token, machine string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	x, ok := b.find(token)
	if !ok {
		return
	}
	x.registered = true
	b.loops.Remove(x.asker)
	b.known.Add(x.claim, machine)
}

// machine tells which machine a PC was when it last registered after saying the same of itself.
func (b *boots) machine(c httpboot.Client) (id string, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.known.Get(claimOf(c))
}
