// Package simulation tests the two state machines of multicast on a virtual network and clock.
//
// A world is built from a seed: the same seed gives the same run, packet by packet. A test that
// fails prints it, and
//
//	go test ./internal/multicast/simulation -run TestWorlds -seed N
//
// runs it again.
package simulation

import (
	"bytes"
	"container/heap"
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"clonecast/internal/multicast/blocks"
	"clonecast/internal/multicast/fec"
	"clonecast/internal/multicast/packet"
	"clonecast/internal/multicast/receiver"
	"clonecast/internal/multicast/sender"

	"github.com/zeebo/blake3"
)

// event is something that happens at a time.
type event struct {
	at    time.Duration
	order int
	do    func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].order < e[j].order
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

const (
	session = 42
	mbit    = 1e6 / 8
)

// world is a sender, its receivers and the network between them.
type world struct {
	t       testing.TB
	seed    uint64
	rng     *rand.Rand
	now     time.Duration
	queue   events
	order   int
	payload []byte
	geo     blocks.Geometry
	secret  []byte
	signer  ed25519.PrivateKey
	line    float64 // bytes per second of the sender's link
	card    *card
	middle  *port // that all packets of the group pass behind the sender's link; may be nil
	sender  *sender.Sender
	waking  time.Duration // when the sender is woken; negative: not yet known
	nodes   []*node
	left    []uint32            // receivers of which the sender told that they left the group
	tap     func(packet []byte) // sees all that the sender multicasts
	buf     []byte
	over    bool
}

// card is a sender's network card; worlds may share one.
type card struct{ freeAt time.Duration }

// node is a receiver with its path and its disk.
type node struct {
	w        *world
	id       uint32
	r        *receiver.Receiver
	code     *fec.Code
	need     *blocks.Set
	path     path
	disk     float64 // bytes per second; 0: at once
	diskFree time.Duration
	killed   bool
	dropped  bool
	written  *blocks.Set
	joined   time.Duration
	done     time.Duration
	busy     int // blocks at the disk
	memory   int // most blocks in work
}

// path is what happens to packets between sender and receiver.
type path struct {
	loss      float64
	burst     float64 // mean length of runs of lost packets; 0: independent
	every     int     // packets, of which run in turn are lost; 0: none
	run       int
	duplicate float64
	corrupt   float64
	delay     time.Duration
	jitter    time.Duration      // packets overtake each other within it
	rate      float64            // bytes per second of a slow port; 0: the line's
	buffer    int                // bytes of that port; 0: 256 KiB
	cuts      [][2]time.Duration // partitions
	closed    packet.Paths       // ways on which nothing comes
	deaf      bool               // reports do not get to the sender by UDP
	subnet    bool               // it is in another subnet
	out       port
	bad       bool
	count     int // packets so far
}

// lost draws the fate of the next packet.
func (p *path) lost(rng *rand.Rand, now time.Duration) bool {
	if p.cut(now) {
		return true
	}
	if p.every > 0 {
		p.count++
		return p.count%p.every < p.run
	}
	if p.burst == 0 {
		return rng.Float64() < p.loss
	}
	if p.bad {
		p.bad = rng.Float64() >= 1/p.burst
	} else {
		p.bad = rng.Float64() < p.loss/(1-p.loss)/p.burst
	}
	return p.bad
}

// cut tells whether the network is in two parts.
func (p *path) cut(now time.Duration) bool {
	return slices.ContainsFunc(p.cuts, func(cut [2]time.Duration) bool { return now >= cut[0] && now < cut[1] })
}

// port is a switch port, or whatever else passes packets on at a rate and drops those for which its buffer is full.
type port struct {
	rate   float64 // bytes per second; 0: at once
	buffer int     // bytes
	freeAt time.Duration
}

// pass tells when a packet has passed, if it does.
func (p *port) pass(now time.Duration, n int) (out time.Duration, ok bool) {
	if p.rate == 0 {
		return now, true
	}
	p.freeAt = max(p.freeAt, now)
	if (p.freeAt-now).Seconds()*p.rate > float64(p.buffer) {
		return 0, false
	}
	p.freeAt += time.Duration(float64(n) / p.rate * 1e9)
	return p.freeAt, true
}

// slowPort passes a packet through the receiver's own port.
func (p *path) slowPort(now time.Duration, n int) (out time.Duration, ok bool) {
	p.out.rate, p.out.buffer = p.rate, p.buffer
	if p.buffer == 0 {
		p.out.buffer = 256 << 10
	}
	return p.out.pass(now, n)
}

type config struct {
	payload        int
	line           float64 // bytes per second
	floor, ceiling float64 // 0: a hundredth of the line, the line
}

func newWorld(t testing.TB, seed uint64, c config) *world {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 9))
	w := &world{
		t: t, seed: seed, rng: rng, line: c.line, card: &card{}, geo: blocks.Geometry{Payload: int64(c.payload)},
		buf: make([]byte, 0, sender.Batch*packet.MaxSize), waking: -1,
	}
	w.payload = make([]byte, c.payload)
	for i := 0; i+8 <= len(w.payload); i += 8 {
		binary.LittleEndian.PutUint64(w.payload[i:], rng.Uint64())
	}
	w.secret = []byte(fmt.Sprint("secret of ", seed))
	w.signer = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{byte(seed)}, 32))
	if c.ceiling == 0 {
		c.ceiling = c.line
	}
	if c.floor == 0 {
		c.floor = c.line / 100
	}
	s, err := sender.New(sender.Config{
		Geometry: w.geo, Group: w.key("group", packet.PurposeGroup), Probe: w.key("group", packet.PurposeProbe),
		Signer: w.signer, Source: w, Floor: c.floor, Ceiling: c.ceiling, Memory: 64,
		Left: func(id uint32, _ packet.Reason) { w.left = append(w.left, id) },
	})
	if err != nil {
		t.Fatal(err)
	}
	w.sender = s
	return w
}

func (w *world) fatalf(format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf("seed %d, at %v: %s", w.seed, w.now, fmt.Sprintf(format, args...))
}

// key makes a key of the session; every holder has its own copy.
func (w *world) key(of, purpose string) *packet.Key {
	k, err := packet.NewKey(append(w.secret[:len(w.secret):len(w.secret)], of...), session, purpose, false)
	if err != nil {
		w.t.Fatal(err)
	}
	return k
}

// Block is the sender's source.
func (w *world) Block(b int, buf []byte) error {
	copy(buf, w.payload[w.geo.Offset(b):])
	return nil
}

func (w *world) at(at time.Duration, do func()) {
	w.order++
	heap.Push(&w.queue, event{max(at, w.now), w.order, do})
}

// join adds a receiver at a time.
func (w *world) join(at time.Duration, p path, need *blocks.Set) *node {
	n := &node{
		w: w, id: uint32(len(w.nodes) + 1), path: p, need: need, written: blocks.NewSet(w.geo.Count()),
		joined: at, done: -1, memory: 350,
	}
	if need == nil {
		n.need = blocks.FullSet(w.geo.Count())
	}
	w.nodes = append(w.nodes, n)
	w.at(at, n.begin)
	return n
}

func (n *node) begin() {
	w := n.w
	name := fmt.Sprint("receiver ", n.id)
	if n.killed {
		return
	}
	up, down := w.key(name, packet.PurposeUp), w.key(name, packet.PurposeDown)
	if err := w.sender.Add(w.now, n.id, up, down, n.need.Clone()); err != nil {
		w.fatalf("receiver %d joins: %v", n.id, err)
	}
	code, err := fec.New(packet.SymbolSize)
	if err != nil {
		w.t.Fatal(err)
	}
	n.code = code
	n.r = receiver.New(w.now, receiver.Config{
		ID: n.id, Session: session, Geometry: w.geo, Sender: w.signer.Public().(ed25519.PublicKey),
		Group: w.key("group", packet.PurposeGroup), Probe: w.key("group", packet.PurposeProbe),
		Up: w.key(name, packet.PurposeUp), Down: w.key(name, packet.PurposeDown),
		Need: n.need, Memory: n.memory, Seed: w.seed, OtherSubnet: n.path.subnet,
	})
	if n.need.Len() == 0 {
		n.done = w.now
	}
	n.tick()
}

// tick lets the receiver report, and comes again when it asks for it.
func (n *node) tick() {
	w := n.w
	if n.killed || n.r.Over() {
		return
	}
	report, wait, err := n.r.Next(w.now)
	if err != nil {
		w.fatalf("report: %v", err)
	}
	switch {
	case report == nil:
	case n.r.Detour(w.now):
		w.detour(n, report)
	case !n.path.deaf && !n.path.lost(w.rng, w.now):
		w.at(w.now+n.path.delay, func() { w.report(n, report) })
	}
	n.work()
	w.at(w.now+max(min(wait, 10*time.Millisecond), time.Microsecond), n.tick)
}

// detour brings a report to the sender by HTTPS: nothing but a partition keeps it.
func (w *world) detour(n *node, p []byte) {
	if n.path.cut(w.now) {
		return
	}
	w.at(w.now+3*n.path.delay, func() {
		if reply := w.sender.Handle(w.now, p); reply != nil {
			w.at(w.now+n.path.delay, func() {
				if !n.killed && !n.r.Over() {
					n.r.Answer(w.now, reply)
					n.work()
				}
			})
		}
		w.wake(w.now)
	})
}

// report brings a report to the sender, and the sender's answer back.
func (w *world) report(n *node, p []byte) {
	reply := w.sender.Handle(w.now, p)
	if reply != nil && n.path.closed&packet.PathUnicast == 0 && !n.path.lost(w.rng, w.now) {
		w.at(w.now+n.path.delay, func() { n.receive([][]byte{reply}) })
	}
	w.wake(w.now)
}

// wake runs the sender at a time, unless it is run before.
func (w *world) wake(at time.Duration) {
	if w.waking >= 0 && w.waking <= at {
		return
	}
	w.waking = max(at, w.now)
	w.at(w.waking, func() {
		if w.waking == w.now {
			w.waking = -1
			w.send()
		}
	})
}

// send puts batches on the wire as long as the queue of the sender's network card takes them.
func (w *world) send() {
	const queue = 64 << 10
	for {
		if backlog := (w.card.freeAt - w.now).Seconds() * w.line; backlog > queue {
			w.wake(w.card.freeAt - time.Duration(queue/w.line*0.9*1e9))
			return
		}
		batch, size, wait, err := w.sender.Next(w.now, w.buf)
		if err != nil {
			w.fatalf("Next: %v", err)
		}
		if w.sender.Finished() {
			w.over = true
			return
		}
		probe, err := w.sender.LinkProbe()
		if err != nil {
			w.fatalf("LinkProbe: %v", err)
		}
		if probe != nil {
			w.multicast(probe, len(probe), packet.PathLink)
		}
		if len(batch) == 0 {
			w.wake(w.now + max(wait, time.Microsecond))
			return
		}
		w.multicast(batch, size, packet.PathGroup)
	}
}

// multicast carries a batch to every receiver by the group or the link-local group.
func (w *world) multicast(batch []byte, size int, way packet.Paths) {
	var packets [][]byte
	for at := 0; at < len(batch); at += size {
		packets = append(packets, slices.Clone(batch[at:min(at+size, len(batch))]))
	}
	onWire := float64(len(batch) + len(packets)*sender.FrameOverhead)
	w.card.freeAt = max(w.card.freeAt, w.now) + time.Duration(onWire/w.line*1e9)
	if w.tap != nil {
		for _, p := range packets {
			w.tap(p)
		}
	}
	if w.middle == nil {
		w.spread(packets, size, way, w.card.freeAt)
		return
	}
	// Each packet comes to the middle when it has left the card, among those of others.
	at := w.card.freeAt - time.Duration(onWire/w.line*1e9)
	for _, p := range packets {
		n := len(p) + sender.FrameOverhead
		at += time.Duration(float64(n) / w.line * 1e9)
		w.at(at, func() {
			if out, ok := w.middle.pass(w.now, n); ok {
				w.at(out, func() { w.spread([][]byte{p}, size, way, w.now) })
			}
		})
	}
}

// spread gives packets to every receiver that hears their way.
func (w *world) spread(packets [][]byte, size int, way packet.Paths, at time.Duration) {
	for _, n := range w.nodes {
		if n.path.closed&way == 0 && (n.path.closed&packet.PathFull == 0 || size < packet.MaxSize) {
			w.carry(n, packets, at)
		}
	}
}

// carry draws the fate of packets on the way to one receiver.
func (w *world) carry(n *node, packets [][]byte, at time.Duration) {
	if n.killed || n.r == nil || n.r.Over() {
		return
	}
	late := map[time.Duration][][]byte{}
	for _, p := range packets {
		if n.path.lost(w.rng, w.now) {
			continue
		}
		out, ok := n.path.slowPort(at, len(p)+sender.FrameOverhead)
		if !ok {
			continue
		}
		if w.rng.Float64() < n.path.corrupt {
			p = slices.Clone(p)
			p[w.rng.IntN(len(p))] ^= 1 << w.rng.IntN(8)
		}
		out += n.path.delay
		if n.path.jitter > 0 {
			out += time.Duration(w.rng.Int64N(int64(n.path.jitter)))
		}
		if n.path.jitter == 0 && n.path.rate == 0 {
			out = at + n.path.delay
		}
		late[out] = append(late[out], p)
		if w.rng.Float64() < n.path.duplicate {
			late[out+time.Millisecond] = append(late[out+time.Millisecond], p)
		}
	}
	times := make([]time.Duration, 0, len(late))
	for out := range late {
		times = append(times, out)
	}
	slices.Sort(times)
	for _, out := range times {
		some := late[out]
		w.at(out, func() { n.receive(some) })
	}
}

func (n *node) receive(packets [][]byte) {
	if n.killed || n.r == nil || n.r.Over() {
		return
	}
	for _, p := range packets {
		n.r.Handle(n.w.now, p)
	}
	n.work()
}

// work does what a receiver's driver does: rebuild, verify, write, fetch.
func (n *node) work() {
	w := n.w
	for b := n.r.Take(); b != nil; b = n.r.Take() {
		plain := b.Data[:w.geo.Length(b.Number)]
		err := n.code.Rebuild(b.Data, b.Have, b.Parity)
		ok := err == nil && blake3.Sum256(plain) == b.Digest
		outcome := receiver.Written
		if !ok {
			outcome = receiver.Forged
		}
		n.write(b.Number, plain, ok, func() { n.r.Finish(w.now, b, outcome) })
	}
	for b, ok := n.r.Fetch(); ok; b, ok = n.r.Fetch() {
		plain := w.payload[w.geo.Offset(b):][:w.geo.Length(b)]
		w.at(w.now+2*n.path.delay+time.Millisecond, func() {
			if !n.killed {
				n.write(b, plain, true, func() { n.r.Fetched(w.now, b, true) })
			}
		})
	}
}

// write is the disk: it checks that no wrong byte and no unwanted block is ever written.
func (n *node) write(b int, plain []byte, ok bool, then func()) {
	w := n.w
	if ok {
		if !bytes.Equal(plain, w.payload[w.geo.Offset(b):][:len(plain)]) {
			w.fatalf("receiver %d writes wrong bytes for block %d", n.id, b)
		}
		if !n.need.Has(b) || n.written.Has(b) {
			w.fatalf("receiver %d writes block %d, needed %v, written %v", n.id, b, n.need.Has(b), n.written.Has(b))
		}
		n.written.Add(b)
	}
	finish := func() {
		if n.killed {
			return
		}
		then()
		if state, _ := n.r.State(); state == packet.StateDone && n.done < 0 {
			n.done = w.now
		}
	}
	if n.disk == 0 {
		finish()
		return
	}
	n.diskFree = max(n.diskFree, w.now) + time.Duration(float64(len(plain))/n.disk*1e9)
	w.at(n.diskFree, finish)
}

// kill takes a receiver off the network.
func (w *world) kill(at time.Duration, n *node) { w.at(at, func() { n.killed = true }) }

// run lets the world go until the session ends, and checks what must always hold.
func (w *world) run(start, limit time.Duration) {
	w.t.Helper()
	w.start(start)
	for !w.finished() {
		w.step(limit)
	}
	w.check()
}

func (w *world) start(at time.Duration) {
	w.at(at, func() { w.sender.Start(w.now); w.wake(w.now) })
	w.wake(0)
}

func (w *world) finished() bool { return w.over && w.everyDone() }

// step lets the next thing happen.
func (w *world) step(limit time.Duration) {
	w.t.Helper()
	if len(w.queue) == 0 {
		w.fatalf("nothing happens any more")
	}
	e := heap.Pop(&w.queue).(event)
	if w.now = e.at; w.now > limit {
		w.fatalf("the session does not end: %+v, %+v", w.sender.Receivers(), w.sender.Counters())
	}
	e.do()
}

// runTogether runs two sessions on one network card; over is called when the first one is over.
func runTogether(a, b *world, limit time.Duration, over func()) {
	b.card = a.card
	for !a.finished() || !b.finished() {
		was := a.finished() || b.finished()
		if !a.finished() && (b.finished() || a.queue[0].at <= b.queue[0].at) {
			a.step(limit)
		} else {
			b.step(limit)
		}
		if !was && (a.finished() || b.finished()) {
			over()
		}
	}
	a.check()
	b.check()
}

// check holds the invariant: whoever was not killed has all that it needs.
func (w *world) check() {
	w.t.Helper()
	for _, n := range w.nodes {
		if n.r == nil || n.killed || n.dropped {
			continue
		}
		state, reason := n.r.State()
		if state != packet.StateDone || n.written.Len() != n.need.Len() {
			w.fatalf("receiver %d is %v (%v) with %d of %d blocks", n.id, state, reason, n.written.Len(), n.need.Len())
		}
	}
}

// everyDone tells whether the receivers that are left have come to an end. One that was cut off is
// served by unicast after the session.
func (w *world) everyDone() bool {
	return !slices.ContainsFunc(w.nodes, func(n *node) bool {
		return !n.killed && !n.dropped && (n.r == nil || n.done < 0)
	})
}

// onePass is how long the payload takes on the line, headers included.
func (w *world) onePass() time.Duration {
	packets := float64(len(w.payload)) / packet.SymbolSize
	return time.Duration(packets * (packet.MaxSize + sender.FrameOverhead) / w.line * 1e9)
}

// wire is bytes on the wire over payload.
func (w *world) wire() float64 { return float64(w.sender.Counters().Wire) / float64(len(w.payload)) }
