package simulation

import (
	"bytes"
	"crypto/ed25519"
	"math"
	"slices"
	"testing"
	"time"

	"clonecast/internal/multicast/packet"
)

// The attacks S41 to S46 of the threat model; S47 (nonces) is in package packet.

// attacked is a world with four receivers and an attack that acts every millisecond.
func attacked(t *testing.T, seed uint64, attack func(w *world)) *world {
	w := newWorld(t, seed, config{payload: 8e6, line: 100 * mbit})
	for range 4 {
		w.join(0, path{loss: 0.01, delay: ms}, nil)
	}
	var act func()
	act = func() {
		if attack(w); !w.over {
			w.at(w.now+ms, act)
		}
	}
	w.at(50*ms, act)
	return w
}

// halfGoodput fails the test unless the receivers were done within two passes.
func halfGoodput(t *testing.T, w *world, nodes []*node) {
	t.Helper()
	for _, n := range nodes {
		if passes := float64(n.done-100*ms) / float64(w.onePass()); passes > 2 {
			t.Errorf("receiver %d takes %.2f passes under attack", n.id, passes)
		}
	}
}

// everyone gives packets to all receivers and to the sender.
func (w *world) everyone(p ...[]byte) {
	for _, n := range w.nodes {
		n.receive(p)
	}
	for _, b := range p {
		w.sender.Handle(w.now, b)
	}
}

// TestOutsiderInjects is S41: 100,000 packets per second, noise and good headers before noise.
func TestOutsiderInjects(t *testing.T) {
	w := attacked(t, 11, func(w *world) {
		for i := range 100 {
			noise := make([]byte, packet.MaxSize)
			for j := range noise {
				noise[j] = byte(w.rng.Uint32())
			}
			if i%2 == 0 {
				kind := packet.Kind(1 + w.rng.IntN(6))
				block, counter := uint32(w.rng.IntN(w.geo.Count())), 1+w.rng.Uint64N(1<<20)
				h := packet.Header{Kind: kind, Block: block, Session: session, Counter: counter}
				copy(noise, h.Append(nil))
			}
			w.everyone(noise)
		}
	})
	w.run(100*ms, time.Minute)
	halfGoodput(t, w, w.nodes)
	for _, n := range w.nodes {
		if c := n.r.Counters(); c.Refused < 50_000 || c.Received > w.sender.Counters().Packets {
			t.Errorf("receiver %d: %+v", n.id, c)
		}
	}
}

// TestForgedPacketsCostNoMemory is the other half of S41: nothing is allocated before the seal is checked.
func TestForgedPacketsCostNoMemory(t *testing.T) {
	w := newWorld(t, 12, config{payload: 8e6, line: 100 * mbit})
	n := w.join(0, path{}, nil)
	n.begin()
	p := packet.Header{Kind: packet.KindData, Block: 1, Session: session, Counter: 7}.Append(nil)
	p = append(p, make([]byte, packet.MaxSize-packet.HeaderSize)...)
	parity := slices.Clone(p)
	parity[2] = 200
	if allocated := testing.AllocsPerRun(1000, func() { n.r.Handle(0, p); n.r.Handle(0, parity) }); allocated != 0 {
		t.Errorf("a forged packet costs %v allocations", allocated)
	}
}

// TestOutsiderReplays is S42: every packet of the session comes again, at once and later, and so do those of
// an older session.
func TestOutsiderReplays(t *testing.T) {
	var older [][]byte
	old := newWorld(t, 13, config{payload: 1e6, line: 100 * mbit})
	old.join(0, path{delay: ms}, nil)
	old.tap = func(p []byte) { older = append(older, p) }
	old.run(100*ms, time.Minute)

	var seen [][]byte
	w := attacked(t, 14, func(w *world) {
		if len(seen) > 0 {
			w.everyone(seen[w.rng.IntN(len(seen))], seen[len(seen)-1], older[w.rng.IntN(len(older))])
		}
	})
	w.tap = func(p []byte) { seen = append(seen, p) }
	w.run(100*ms, time.Minute)
	halfGoodput(t, w, w.nodes)
	for _, n := range w.nodes {
		if c := n.r.Counters(); c.Received > w.sender.Counters().Packets || c.Refused == 0 {
			t.Errorf("receiver %d takes replays: %+v of %d packets", n.id, c, w.sender.Counters().Packets)
		}
	}
}

// TestInsiderForgesSymbols is S43: somebody with the group key sends wrong symbols. The blocks are fetched by
// unicast, no wrong byte is written (the world checks every write), and the sender hears of it.
func TestInsiderForgesSymbols(t *testing.T) {
	for name, every := range map[string]int{"now and then": 100, "all the time": 1} {
		var key *packet.Key
		count := 0
		w := attacked(t, 15, func(w *world) {
			if count++; count%every != 0 || w.now < 120*ms {
				return
			}
			group := w.sender.Counters().Packets
			for key.Sealed() < group {
				if _, err := key.Seal(nil, packet.Header{Kind: packet.KindStatus}, nil); err != nil {
					t.Fatal(err)
				}
			}
			block, symbol := uint32(w.rng.IntN(w.geo.Count())), uint16(w.rng.IntN(200))
			header := packet.Header{Kind: packet.KindData, Block: block, Symbol: symbol}
			p, err := key.Seal(nil, header, make([]byte, packet.SymbolSize))
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range w.nodes {
				n.receive([][]byte{p})
			}
		})
		key = w.key("group", packet.PurposeGroup)
		w.run(100*ms, time.Minute)
		halfGoodput(t, w, w.nodes)
		suspects := 0
		for _, r := range w.sender.Receivers() {
			suspects += int(r.Suspect)
		}
		for _, n := range w.nodes {
			if _, reason := n.r.State(); every == 1 && reason != packet.ReasonForged {
				t.Errorf("%s: receiver %d left for %q", name, n.id, reason)
			}
		}
		if suspects == 0 {
			t.Errorf("%s: the sender hears of no forged block", name)
		}
	}
}

// TestReportFlood is S44: outsiders forge reports, an insider floods the sender with its own that lack everything and
// lost everything. It is told to leave, the rate stays above the floor, and the others keep half of the goodput.
func TestReportFlood(t *testing.T) {
	var own, stranger *packet.Key
	w := attacked(t, 16, func(w *world) {
		lie := packet.Report{
			Highest: w.sender.Counters().Packets, Poll: 1, State: packet.StateReceiving, Backlog: 100,
			Paths: packet.PathGroup | packet.PathFull,
			Runs:  []packet.Run{{Start: 0, Count: uint32(w.geo.Count()), Lack: 60}},
		}.Append(nil)
		for range 10 {
			for id, key := range map[uint32]*packet.Key{4: own, 2: stranger} {
				p, err := key.Seal(nil, packet.Header{Kind: packet.KindReport, Block: id}, lie)
				if err != nil {
					t.Fatal(err)
				}
				w.sender.Handle(w.now, p)
			}
		}
	})
	own, stranger = w.key("receiver 4", packet.PurposeUp), w.key("nobody", packet.PurposeUp)
	lowest, group := uint64(math.MaxUint64), w.key("group", packet.PurposeGroup)
	w.tap = func(p []byte) {
		h, err := packet.ParseHeader(p)
		if err != nil || h.Kind != packet.KindStatus {
			return
		}
		body, err := group.Open(nil, h, p)
		if err != nil {
			t.Fatal(err)
		}
		s, err := packet.ParseStatus(body)
		if err != nil {
			t.Fatal(err)
		}
		lowest = min(lowest, s.Rate)
	}
	w.kill(101*ms, w.nodes[3]) // it is the insider: it only lies
	w.run(100*ms, time.Minute)
	halfGoodput(t, w, w.nodes[:3])
	if floor := uint64(w.line / 100); lowest < floor || lowest == math.MaxUint64 {
		t.Errorf("the rate falls to %d, below the floor of %d", lowest, floor)
	}
	for i, r := range w.sender.Receivers() {
		if i < 3 && (r.State != "done" || r.Reason != packet.ReasonNone) {
			t.Errorf("receiver %d is %s by %v", r.ID, r.State, r.Reason)
		}
		if i == 3 && r.State != "failed" {
			t.Errorf("the liar is %s", r.State)
		}
	}
}

// TestForgedControl is S45: an insider says that the session has ended. It has the group key but not the
// sender's, so nobody believes it.
func TestForgedControl(t *testing.T) {
	insider := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{99}, 32))
	var key *packet.Key
	w := attacked(t, 17, func(w *world) {
		for key.Sealed() < w.sender.Counters().Packets {
			if _, err := key.Seal(nil, packet.Header{Kind: packet.KindStatus}, nil); err != nil {
				t.Fatal(err)
			}
		}
		status := packet.Status{Serial: 1 << 40, State: packet.StateEnded, ReportEvery: 10_000}.Append(nil)
		zero := make([]byte, 8*packet.DigestSize)
		zero[0] = 1
		end, err := key.SealSigned(nil, packet.Header{Kind: packet.KindStatus}, status, insider)
		if err != nil {
			t.Fatal(err)
		}
		digest, err := key.SealSigned(nil, packet.Header{Kind: packet.KindDigest}, zero, insider)
		if err != nil {
			t.Fatal(err)
		}
		order, err := key.Seal(nil, packet.Header{Kind: packet.KindOrder, Block: 1},
			packet.Order{Verb: packet.VerbLeave}.Append(nil))
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range w.nodes {
			n.receive([][]byte{end, digest, order})
		}
	})
	key = w.key("group", packet.PurposeGroup)
	w.run(100*ms, time.Minute)
	halfGoodput(t, w, w.nodes)
	for _, n := range w.nodes {
		if _, reason := n.r.State(); reason != packet.ReasonNone || n.r.Counters().Forged != 0 {
			t.Errorf("receiver %d left: %v, %+v", n.id, reason, n.r.Counters())
		}
	}
}

// TestForgedProbes lets an insider probe in the sender's name: a receiver that hears nothing is not misled.
func TestForgedProbes(t *testing.T) {
	insider := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{99}, 32))
	w := newWorld(t, 19, config{payload: 1e6, line: 100 * mbit})
	n := w.join(0, path{delay: ms, closed: multicast}, nil)
	key := w.key("group", packet.PurposeProbe)
	var act func()
	act = func() {
		for _, way := range []packet.Paths{packet.PathLink, packet.PathFull} {
			p, err := key.SealSigned(nil, packet.Header{Kind: packet.KindProbe}, packet.Probe{Path: way}.Append(nil), insider)
			if err != nil {
				t.Fatal(err)
			}
			n.receive([][]byte{p})
		}
		if !w.over {
			w.at(w.now+10*ms, act)
		}
	}
	w.at(ms, act)
	w.run(100*ms, time.Minute)
	if _, reason := n.r.State(); reason != packet.ReasonMulticast || n.r.Paths() != packet.PathUnicast {
		t.Errorf("the receiver hears %v and left: %v", n.r.Paths().Names(), reason)
	}
}

// TestNothingInClear is S46: sixteen bytes of the payload are never seen on the wire.
func TestNothingInClear(t *testing.T) {
	w := newWorld(t, 18, config{payload: 1e6, line: 100 * mbit})
	for i := range w.payload {
		w.payload[i] = 'A'
	}
	known := bytes.Repeat([]byte{'A'}, 16)
	w.tap = func(p []byte) {
		if bytes.Contains(p, known) {
			t.Fatal("the payload can be read on the wire")
		}
	}
	w.join(0, path{loss: 0.05, delay: ms}, nil)
	w.run(100*ms, time.Minute)
}
