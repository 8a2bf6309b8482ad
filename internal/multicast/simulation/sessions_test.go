package simulation

import (
	"flag"
	"fmt"
	"slices"
	"testing"
	"time"

	"clonecast/internal/multicast/blocks"
	"clonecast/internal/multicast/packet"

	"github.com/zeebo/blake3"
)

var oneSeed = flag.Uint64("seed", 0, "run TestWorlds with this seed only")

const ms = time.Millisecond

// TestCost holds wire cost and time of the data phase on a line of 50 Mbit/s. Long bursts look like congestion now and
// then, so that one run says little of the others: there the median of some counts.
func TestCost(t *testing.T) {
	for _, tc := range []struct {
		receivers int
		path      path
		runs      uint64
		wire      float64 // at most
		passes    float64 // time until the last one is done, at most, in passes without loss
	}{
		{1, path{}, 1, 1.065, 1.02},
		{16, path{}, 1, 1.065, 1.02},
		{4, path{loss: 0.01}, 1, 1.10, 1.07},
		{16, path{loss: 0.01}, 1, 1.10, 1.07},
		{32, path{loss: 0.01}, 1, 1.10, 1.08},
		{16, path{loss: 0.05}, 1, 1.20, 1.16},
		{16, path{loss: 0.01, burst: 8}, 1, 1.25, 1.20},
		{16, path{loss: 0.01, burst: 64}, 3, 1.30, 1.30},
	} {
		t.Run(fmt.Sprintf("%d receivers, loss %v, burst %v", tc.receivers, tc.path.loss, tc.path.burst), func(t *testing.T) {
			tc.path.delay = ms / 2
			var wires, passes []float64
			for seed := range tc.runs {
				wire, pass := cost(t, 1+seed, tc.receivers, tc.path)
				wires, passes = append(wires, wire), append(passes, pass)
			}
			slices.Sort(wires)
			slices.Sort(passes)
			if wire, pass := wires[tc.runs/2], passes[tc.runs/2]; wire > tc.wire || pass > tc.passes {
				t.Errorf("wire %.3f, %.3f passes, want at most %.3f, %.3f", wires, passes, tc.wire, tc.passes)
			}
		})
	}
}

// cost runs a session and gives its bytes on the wire over the payload, and its time over
// that of one pass without loss.
func cost(t *testing.T, seed uint64, receivers int, p path) (wire, passes float64) {
	t.Helper()
	w := newWorld(t, seed, config{payload: 8e6, line: 50 * mbit})
	for range receivers {
		w.join(0, p, nil)
	}
	w.run(100*ms, time.Minute)
	last := time.Duration(0)
	for _, n := range w.nodes {
		last = max(last, n.done)
	}
	passes = float64(last-100*ms) / float64(w.onePass())
	t.Logf("seed %d: wire %.3f, %.3f passes, %+v", seed, w.wire(), passes, w.sender.Counters())
	if idle := w.now - last; idle > time.Second {
		t.Errorf("seed %d: the session ends %v after the last byte", seed, idle)
	}
	return w.wire(), passes
}

// TestLateJoiner joins in the middle: it is done within 1.7 passes, and the early ones are not held up.
func TestLateJoiner(t *testing.T) {
	for _, share := range []float64{0.1, 0.5, 0.9} {
		w := newWorld(t, 2, config{payload: 16e6, line: 100 * mbit})
		pass := w.onePass()
		early := w.join(0, path{loss: 0.01, delay: ms}, nil)
		late := w.join(100*ms+time.Duration(share*float64(pass)), path{loss: 0.01, delay: ms}, nil)
		w.run(100*ms, time.Minute)
		if took := float64(late.done-late.joined) / float64(pass); took > 1.2 {
			t.Errorf("joined at %.0f %%: done after %.2f passes", 100*share, took)
		}
		if took := float64(early.done-100*ms) / float64(pass); took > 1.1 {
			t.Errorf("a late joiner at %.0f %%: the early one takes %.2f passes", 100*share, took)
		}
		if state, reason := late.r.State(); state != packet.StateDone || reason != packet.ReasonNone {
			t.Errorf("the late joiner is %v by %v", state, reason)
		}
	}
}

// TestVanished kills one receiver in the middle: it costs the others nothing.
func TestVanished(t *testing.T) {
	w := newWorld(t, 3, config{payload: 16e6, line: 100 * mbit})
	for range 4 {
		w.join(0, path{loss: 0.01, delay: ms}, nil)
	}
	w.kill(100*ms+w.onePass()/2, w.nodes[0])
	w.run(100*ms, time.Minute)
	for _, n := range w.nodes[1:] {
		if extra := n.done - 100*ms - w.onePass(); extra > w.onePass()/10 {
			t.Errorf("receiver %d is done %v after one pass", n.id, extra)
		}
	}
	if state := w.sender.Receivers()[0].State; state != "vanished" {
		t.Errorf("the killed receiver is %s", state)
	}
}

// TestSlowReceiver puts one of four behind a slow port, or gives it a slow disk: it leaves and ends by unicast,
// and the others keep their speed.
func TestSlowReceiver(t *testing.T) {
	for name, slow := range map[string]struct {
		rate, disk float64
		reason     packet.Reason
	}{
		"port": {10 * mbit, 0, packet.ReasonNetwork},
		"disk": {0, 1.25e6, packet.ReasonDisk},
	} {
		w := newWorld(t, 4, config{payload: 16e6, line: 100 * mbit})
		for i := range 4 {
			n := w.join(0, path{delay: ms}, nil)
			if i == 0 {
				n.path.rate, n.disk, n.memory = slow.rate, slow.disk, 40
			}
		}
		w.run(100*ms, 2*time.Minute)
		for _, n := range w.nodes[1:] {
			if passes := float64(n.done-100*ms) / float64(w.onePass()); passes > 0.945/0.88 {
				t.Errorf("slow %s: receiver %d takes %.2f passes", name, n.id, passes)
			}
		}
		if state, reason := w.nodes[0].r.State(); state != packet.StateDone || reason != slow.reason {
			t.Errorf("slow %s: the slow receiver is %v by %q", name, state, reason)
		}
		if !slices.Equal(w.left, []uint32{1}) { // once, not again when it is done by unicast
			t.Errorf("slow %s: the sender tells that %v left", name, w.left)
		}
		if _, fetched := w.nodes[0].r.Finished(); fetched == 0 {
			t.Errorf("slow %s: nothing was fetched", name)
		}
	}
}

// TestSlowPorts varies when the first reports come: what the slow port carries is seen before its buffer is full or
// later. The others never wait for it.
func TestSlowPorts(t *testing.T) {
	type port struct {
		seed          uint64
		least, spread float64 // Mbit/s
	}
	ports := []port{{46, 2, 42}, {81, 2, 42}} // the rate goes down for these before it is seen what the others can take
	for seed := range uint64(24) {
		ports = append(ports, port{seed, 6, 16})
	}
	for _, p := range ports {
		w := newWorld(t, 100+p.seed, config{payload: 16e6, line: 100 * mbit})
		for i := range 4 {
			n := w.join(time.Duration(w.rng.IntN(500))*ms, path{delay: ms}, nil)
			if i == 0 {
				n.path.rate = (p.least + p.spread*w.rng.Float64()) * mbit
			}
		}
		w.run(600*ms, 2*time.Minute)
		for _, n := range w.nodes[1:] {
			if passes := float64(n.done-600*ms) / float64(w.onePass()); passes > 1.5 {
				t.Errorf("seed %d, a port of %.1f Mbit/s: receiver %d takes %.2f passes",
					p.seed, w.nodes[0].path.rate/mbit, n.id, passes)
			}
		}
		if state, reason := w.nodes[0].r.State(); state != packet.StateDone || reason != packet.ReasonNetwork {
			t.Errorf("the slow receiver is %v by %q", state, reason)
		}
	}
}

// TestFastLateJoiners lets three fast receivers join one behind a slow port, which has had the rate to
// itself: they do not stay at its rate.
func TestFastLateJoiners(t *testing.T) {
	w := newWorld(t, 13, config{payload: 32e6, line: 100 * mbit})
	slow := w.join(0, path{delay: ms, rate: 10 * mbit}, nil)
	const late = 2 * time.Second
	for range 3 {
		w.join(late, path{delay: ms}, nil)
	}
	w.run(100*ms, 2*time.Minute)
	for _, n := range w.nodes[1:] {
		if passes := float64(n.done-late) / float64(w.onePass()); passes > 2 {
			t.Errorf("receiver %d takes %.2f passes", n.id, passes)
		}
	}
	if state, reason := slow.r.State(); state != packet.StateDone || reason != packet.ReasonNetwork {
		t.Errorf("the slow receiver is %v by %q", state, reason)
	}
}

// TestRateFollows gives everybody the same slow path: nobody leaves, the rate goes down to it.
func TestRateFollows(t *testing.T) {
	w := newWorld(t, 5, config{payload: 16e6, line: 100 * mbit})
	for range 3 {
		w.join(0, path{delay: ms, rate: 40 * mbit}, nil)
	}
	w.run(100*ms, time.Minute)
	for _, n := range w.nodes {
		if _, reason := n.r.State(); reason != packet.ReasonNone {
			t.Errorf("receiver %d left: %v", n.id, reason)
		}
		if passes := float64(n.done-100*ms) / float64(w.onePass()); passes > 2.5*1.25 {
			t.Errorf("receiver %d takes %.2f passes of the line, its port alone 2.5", n.id, passes)
		}
	}
	if w.wire() > 1.35 {
		t.Errorf("wire %.2f", w.wire())
	}
}

// TestRateRecovers lets the only receiver's port stall for a while, so that the rate falls to the floor, where a
// report covers few packets. It goes up again.
func TestRateRecovers(t *testing.T) {
	w := newWorld(t, 5, config{payload: 16e6, line: 12 * mbit, floor: 1 * mbit})
	n := w.join(0, path{delay: ms, loss: 0.03}, nil)
	w.at(time.Second, func() { n.path.loss = 0.7 })
	w.at(1300*time.Millisecond, func() { n.path.loss = 0.03 })
	w.run(100*ms, 10*time.Minute)
	if _, reason := n.r.State(); reason != packet.ReasonNone {
		t.Errorf("the receiver left: %v", reason)
	}
	if passes := float64(n.done-100*ms) / float64(w.onePass()); passes > 2 {
		t.Errorf("it takes %.2f passes of the line", passes)
	}
}

// TestStall lets one of three receivers stand still for most of a second at a low rate: it stays in the
// group, and nobody waits for it.
func TestStall(t *testing.T) {
	w := newWorld(t, 5, config{payload: 8e6, line: 8 * mbit})
	for i := range 3 {
		n := w.join(0, path{delay: ms, loss: 0.03}, nil)
		if i == 0 {
			w.at(1000*time.Millisecond, func() { n.path.loss = 1 })
			w.at(1800*time.Millisecond, func() { n.path.loss = 0.03 })
		}
	}
	w.run(100*ms, 10*time.Minute)
	for _, n := range w.nodes {
		if _, reason := n.r.State(); reason != packet.ReasonNone {
			t.Errorf("receiver %d left: %v", n.id, reason)
		}
		if passes := float64(n.done-100*ms) / float64(w.onePass()); passes > 2 {
			t.Errorf("receiver %d takes %.2f passes", n.id, passes)
		}
	}
}

// TestSharedCard runs two sessions on one network card, each with half of its rate. Neither is slower than its half
// allows, and when the first one is over the other one has all.
func TestSharedCard(t *testing.T) {
	const line = 100 * mbit
	for name, loss := range map[string]float64{"clean": 0, "lossy": 0.01} {
		a := newWorld(t, 8, config{payload: 8e6, line: line, ceiling: line / 2})
		b := newWorld(t, 9, config{payload: 16e6, line: line, ceiling: line / 2})
		for range 4 {
			a.join(0, path{delay: ms, loss: loss}, nil)
			b.join(0, path{delay: ms, loss: loss}, nil)
		}
		a.start(100 * ms)
		b.start(100 * ms)
		runTogether(a, b, time.Minute, func() { b.sender.SetLimits(line/100, line) })
		// Half of the card: two passes. The other one then has half of its payload left, and all of the card.
		for i, want := range []float64{2, 1.5} {
			w := []*world{a, b}[i]
			for _, n := range w.nodes {
				passes := float64(n.done-100*ms) / float64(w.onePass())
				if passes > 1.1*want || passes < 0.95*want {
					t.Errorf("%s: session %d, receiver %d: %.2f passes, want about %.1f", name, i, n.id, passes, want)
				}
				if _, reason := n.r.State(); reason != packet.ReasonNone {
					t.Errorf("%s: session %d, receiver %d left: %v", name, i, n.id, reason)
				}
			}
		}
	}
}

// TestSecondSession begins another session in the middle of one: the first one gives half of the card away.
func TestSecondSession(t *testing.T) {
	const line = 100 * mbit
	a := newWorld(t, 10, config{payload: 16e6, line: line})
	b := newWorld(t, 11, config{payload: 8e6, line: line, ceiling: line / 2})
	a.join(0, path{delay: ms, loss: 0.01}, nil)
	b.join(0, path{delay: ms, loss: 0.01}, nil)
	a.start(100 * ms)
	middle := 100*ms + a.onePass()/2
	b.start(middle)
	a.at(middle, func() { a.sender.SetLimits(line/100, line/2) })
	runTogether(a, b, time.Minute, func() {})
	for i, want := range []time.Duration{a.onePass() * 3 / 2, b.onePass() * 2} {
		w := []*world{a, b}[i]
		took := w.nodes[0].done - []time.Duration{100 * ms, middle}[i]
		if took > want*11/10 || took < want*95/100 {
			t.Errorf("session %d takes %v, want about %v", i, took, want)
		}
	}
}

// TestDropped drops one receiver in the middle: it turns to unicast, where it is refused, the others go on, and the
// session ends without it, also when it was the last one.
func TestDropped(t *testing.T) {
	w := newWorld(t, 12, config{payload: 16e6, line: 100 * mbit})
	for range 3 {
		w.join(0, path{loss: 0.01, delay: ms}, nil)
	}
	gone := w.nodes[1]
	gone.dropped = true
	w.at(100*ms+w.onePass()/2, func() {
		w.sender.Drop(w.now, gone.id, packet.ReasonDropped)
		w.sender.Drop(w.now, gone.id, packet.ReasonStuck) // is dropped already
		w.sender.Drop(w.now, 77, packet.ReasonDropped)
	})
	w.run(100*ms, time.Minute)
	for _, n := range []*node{w.nodes[0], w.nodes[2]} {
		if passes := float64(n.done-100*ms) / float64(w.onePass()); passes > 1.1 {
			t.Errorf("receiver %d takes %.2f passes", n.id, passes)
		}
	}
	if state, reason := gone.r.State(); state == packet.StateReceiving || reason != packet.ReasonDropped {
		t.Errorf("the dropped receiver is %v by %v", state, reason)
	}
	if r := w.sender.Receivers()[1]; r.State != "failed" || r.Reason != packet.ReasonDropped {
		t.Errorf("the sender says that the dropped receiver is %s by %v", r.State, r.Reason)
	}

	alone := newWorld(t, 13, config{payload: 16e6, line: 100 * mbit})
	n := alone.join(0, path{delay: ms}, nil)
	n.dropped = true
	at := 100*ms + alone.onePass()/2
	alone.at(at, func() { alone.sender.Drop(alone.now, n.id, packet.ReasonDropped); alone.wake(alone.now) })
	alone.run(100*ms, time.Minute)
	if took := alone.now - at; took > time.Second {
		t.Errorf("the session goes on for %v after its last receiver was dropped", took)
	}
}

// TestUnion sends only what somebody needs.
func TestUnion(t *testing.T) {
	w := newWorld(t, 6, config{payload: 16e6, line: 100 * mbit})
	n := w.geo.Count()
	a, b := blocks.NewSet(n), blocks.NewSet(n)
	a.AddRange(0, n/4)
	b.AddRange(n/8, n/2)
	w.join(0, path{delay: ms}, a)
	w.join(0, path{delay: ms}, b)
	w.join(0, path{delay: ms}, blocks.NewSet(n)) // it has everything already
	w.run(100*ms, time.Minute)
	if share := w.wire() / 1.0573; share > 0.52 {
		t.Errorf("half of the payload is needed, %.2f was sent", share)
	}
}

// TestThousandReceivers runs a thousand receivers in one process.
func TestThousandReceivers(t *testing.T) {
	w := newWorld(t, 7, config{payload: 0.5e6, line: 33 * mbit})
	for i := range 1000 {
		n := w.join(0, path{loss: 0.01, delay: ms}, nil)
		if i%100 == 0 {
			w.kill(250*ms, n)
		}
	}
	w.run(100*ms, time.Minute)
	c := w.sender.Counters()
	t.Logf("wire %.3f, %+v, %v", w.wire(), c, w.now)
	// Each reports when it joins, to the poll and when it is done; apart from that 2000 per second are due.
	if regular := float64(c.Reports) - 3000; regular > 2200*w.now.Seconds() {
		t.Errorf("%d reports in %v", c.Reports, w.now)
	}
}

// TestWorlds makes random worlds: loss, bursts, duplicates, reordering, damage, delay, partitions, closed ways, late
// joiners, killed receivers, slow ports and disks, partial needs. In every one each receiver that is not killed
// ends with every byte, none ever writes a wrong one, and the session ends.
func TestWorlds(t *testing.T) {
	seeds := []uint64{*oneSeed}
	if *oneSeed == 0 {
		seeds = seeds[:0]
		for seed := range uint64(40) {
			seeds = append(seeds, 1000+seed)
		}
	}
	for _, seed := range seeds {
		w := randomWorld(t, seed)
		w.run(200*ms, 20*time.Minute)
		t.Logf("seed %d: %d receivers, %d bytes, %v, wire %.3f", seed, len(w.nodes), len(w.payload), w.now, w.wire())
	}
}

// TestSeedsRepeat runs worlds twice: the same seed gives the same packets at the same times, so that a
// failing run can be looked at again.
func TestSeedsRepeat(t *testing.T) {
	for seed := range uint64(5) {
		var runs [2]string
		for i := range runs {
			w := randomWorld(t, 2000+seed)
			digest := blake3.New()
			w.tap = func(p []byte) { fmt.Fprintf(digest, "%d %x", w.now, p) }
			w.run(200*ms, 20*time.Minute)
			runs[i] = fmt.Sprintf("%x, over at %v, %+v", digest.Sum(nil), w.now, w.sender.Counters())
		}
		if runs[0] != runs[1] {
			t.Errorf("seed %d: %s, and then %s", 2000+seed, runs[0], runs[1])
		}
	}
}

func randomWorld(t *testing.T, seed uint64) *world {
	t.Helper()
	r := newWorld(t, seed, config{payload: 1, line: 1}).rng
	w := newWorld(t, seed, config{payload: 1 + r.IntN(5e6), line: float64(1+r.IntN(200)) * mbit})
	pass := w.onePass()
	chance := func(p float64) bool { return r.Float64() < p }
	within := func(d time.Duration) time.Duration { return time.Duration(r.Float64() * float64(d)) }
	for i := range 1 + r.IntN(8) {
		p := path{delay: within(20 * ms)}
		if chance(0.7) {
			p.loss = r.Float64() * r.Float64() * 0.3
		}
		if chance(0.3) {
			p.burst = 2 + 60*r.Float64()
		}
		if chance(0.3) {
			p.duplicate = r.Float64() * 0.2
		}
		if chance(0.3) {
			p.corrupt = r.Float64() * 0.05
		}
		if chance(0.3) {
			p.jitter = within(10 * ms)
		}
		if chance(0.15) {
			p.rate = w.line * (0.02 + 0.9*r.Float64())
		}
		if chance(0.2) {
			from := 200*ms + within(pass)
			p.cuts = append(p.cuts, [2]time.Duration{from, from + within(8*time.Second)})
		}
		if chance(0.15) {
			p.closed = packet.Paths(r.IntN(16))
			p.deaf = chance(0.3)
		}
		var need *blocks.Set
		if chance(0.3) {
			need = blocks.NewSet(w.geo.Count())
			for b := range w.geo.Count() {
				if chance(0.5) {
					need.Add(b)
				}
			}
		}
		at := time.Duration(0)
		if i > 0 && chance(0.3) {
			at = 200*ms + within(pass*9/10)
		}
		n := w.join(at, p, need)
		if chance(0.15) {
			n.disk = w.line * (0.05 + r.Float64())
			n.memory = 8 + r.IntN(100)
		}
		if i > 0 && chance(0.15) {
			w.kill(at+within(2*pass), n)
		}
	}
	return w
}
