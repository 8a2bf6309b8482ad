package server

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"clonecast/internal/netboot"
	"clonecast/server/httpboot"
)

func at(s string) netip.Addr { return netip.MustParseAddr(s) }

// begins lets a PC begin a boot; with load it loads the appliance.
func begins(t *testing.T, b *boots, c httpboot.Client, load bool) (token string, ok bool) {
	t.Helper()
	if token, ok = b.begin(c); ok && load {
		b.sent(token, netboot.KernelFile, c.Addr)
		b.sent(token, netboot.InitramfsFile, c.Addr)
	}
	return token, ok
}

// Only boots that were carried out count, only for the PC that did, and only until one registers.
func TestLoops(t *testing.T) {
	now := time.Date(2026, 12, 1, 8, 0, 0, 0, time.UTC)
	pc := httpboot.Client{MAC: "02:00:00:00:00:01", Addr: at("10.99.0.50")}
	stranger := pc
	stranger.Addr = at("10.99.0.66")
	b := newBoots(func() time.Time { return now })
	expect := func(what string, want bool) {
		t.Helper()
		if _, ok := b.begin(pc); ok != want {
			t.Errorf("%s: the PC may boot: %v, want %v", what, ok, want)
		}
	}
	for range 10 {
		begins(t, b, pc, false)
		begins(t, b, stranger, true)
	}
	expect("scripts were asked for, and loaded by somebody else", true)
	for range 10 {
		token, _ := begins(t, b, pc, false)
		b.sent(token, netboot.KernelFile, pc.Addr)
		b.sent(token, netboot.InitramfsFile, stranger.Addr)
		b.sent(token, netboot.KernelFile, pc.Addr)
		b.sent("x"+token, netboot.InitramfsFile, pc.Addr)
	}
	expect("only kernels were loaded", true)
	for range maxBoots - 1 {
		begins(t, b, pc, true)
	}
	expect("one less than a loop", true)
	last, _ := begins(t, b, pc, true)
	b.sent(last, netboot.InitramfsFile, pc.Addr)
	expect("loop", false)
	if _, ok := b.begin(httpboot.Client{MAC: "02:00:00:00:00:02", Addr: pc.Addr}); !ok {
		t.Error("another PC behind the same address may not boot")
	}
	now = now.Add(loopWindow + time.Second)
	expect("later", true)

	for range maxBoots {
		last, _ = begins(t, b, pc, true)
	}
	expect("loop again", false)
	b.registered("nobody's", "m1")
	expect("another boot registered", false)
	b.registered(last, "m1")
	expect("its boot registered", true)
	// It registers while the last bytes are counted.
	for range 2 * maxBoots {
		token, ok := b.begin(pc)
		if !ok {
			t.Fatal("boots that registered count")
		}
		b.registered(token, "m1")
		b.sent(token, netboot.KernelFile, pc.Addr)
		b.sent(token, netboot.InitramfsFile, pc.Addr)
		if _, counted := b.loops.Get(asker{pc.MAC, pc.Addr}); counted {
			t.Fatal("a boot that has registered is counted")
		}
	}
}

// A PC is found again by what its firmware says, whatever Linux calls it.
func TestBootIsKnown(t *testing.T) {
	b := newBoots(time.Now)
	dock := httpboot.Client{
		MAC: "02:da:55:00:00:07", UUID: "33221100-5544-7766-8899-aabbccddeeff", Serial: "S1", Addr: at("10.99.0.50")}
	token, _ := begins(t, b, dock, true)
	if _, ok := b.machine(dock); ok {
		t.Error("known before it registered")
	}
	b.registered(token, "m1")
	other := dock
	other.UUID, other.Addr = swapUUID(dock.UUID), at("10.99.0.51")
	for name, c := range map[string]httpboot.Client{"same": dock, "UUID in the other order": other} {
		if id, ok := b.machine(c); !ok || id != "m1" {
			t.Errorf("%s: machine %q, %v", name, id, ok)
		}
	}
	for _, change := range []func(*httpboot.Client){
		func(c *httpboot.Client) { c.MAC = "02:da:55:00:00:08" },
		func(c *httpboot.Client) { c.Serial = "S2" },
		func(c *httpboot.Client) { c.UUID = "44221100-5544-7766-8899-aabbccddeeff" },
	} {
		c := dock
		if change(&c); c == dock {
			t.Fatal("nothing changed")
		}
		if id, ok := b.machine(c); ok {
			t.Errorf("%+v is taken for %s", c, id)
		}
	}
}

func TestSwapUUID(t *testing.T) {
	const a, b = "33221100-5544-7766-8899-aabbccddeeff", "00112233-4455-6677-8899-aabbccddeeff"
	if swapUUID(a) != b || swapUUID(b) != a || swapUUID("") != "" {
		t.Errorf("swapUUID(%s) = %s, want %s", a, swapUUID(a), b)
	}
}

// A flood costs bounded memory, and only the flooder loses what it asked for.
func TestBootFlood(t *testing.T) {
	b := newBoots(time.Now)
	pc := httpboot.Client{MAC: "02:00:00:00:00:01", Addr: at("10.99.0.50")}
	token, _ := begins(t, b, pc, false)
	flooder := func(n int, from string) httpboot.Client {
		return httpboot.Client{MAC: fmt.Sprintf("02:00:00:%02x:%02x:%02x", n>>16&255, n>>8&255, n&255), Addr: at(from)}
	}
	for n := range 20_000 {
		if _, ok := begins(t, b, flooder(n, "10.99.0.66"), false); !ok {
			t.Fatal("refused")
		}
	}
	if _, ok := b.find(token); !ok {
		t.Error("a flood from one address displaced another PC's boot")
	}
	loaded, _ := begins(t, b, pc, true)
	for n := range 20_000 {
		begins(t, b, flooder(n, fmt.Sprintf("10.%d.%d.1", n>>8&255, n&255)), false)
	}
	if _, ok := b.find(loaded); !ok {
		t.Error("scripts that were asked for displaced a boot that was carried out")
	}
	for n := range 10_000 {
		token, _ := begins(t, b, flooder(n, "10.99.0.66"), true)
		b.registered(token, "m")
	}
	listed := 0
	for _, list := range b.tokens {
		listed += len(list)
	}
	for what, n := range map[string]int{
		"asked": b.asked.Len(), "tokens": listed, "loaded": b.loaded.Len(), "loops": b.loops.Len(), "known": b.known.Len(),
	} {
		if n > maxAsked {
			t.Errorf("%d %s", n, what)
		}
	}
	if listed != b.asked.Len() {
		t.Errorf("%d tokens are listed by address, %d held", listed, b.asked.Len())
	}
}
