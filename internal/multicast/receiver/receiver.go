// Package receiver is the receiving end of a multicast session as a state machine: no socket, no
// goroutine, no clock, no disk. Whoever drives it passes the time in, carries the packets and does the work.
//
//	Handle(now, packet)        a packet came from the group or the sender
//	report, wait := Next(now)  what to tell the sender, when to come back
//	b := Take()                a block that can be rebuilt; rebuild, verify, write, then
//	Finish(now, b, outcome)    say how that went
//	b := Fetch()               a block to be had from the sender by unicast instead; then Fetched
//
// Symbols go to their place in their block, whatever the order in which they come. A block is given
// out once it has enough symbols and its signed digest. One whose bytes do not have that
// digest was forged by somebody with the group's key: it is fetched by unicast, and after the third
// the receiver leaves the group. It also leaves when it is told to, when the session ends before it is
// done, and when the packets of the group do not arrive (path.go): then it says what else arrives, and
// what is therefore the likely cause.
//
// Memory is bounded: no more than Config.Memory blocks are open. Symbols of others are dropped, and
// reported as lacking.
package receiver

import (
	"crypto/ed25519"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"clonecast/internal/multicast/blocks"
	"clonecast/internal/multicast/fec"
	"clonecast/internal/multicast/packet"
)

// Timing and limits of the receiver.
const (
	unicastEvery = 300 * time.Millisecond
	doneEvery    = 40 * time.Millisecond
	doneReports  = 25 // after that it is done even if the sender never hears of it
	maxSuspects  = 3
	checkRate    = 3000 // signatures checked per second at most: a third of a core under attack
	checkBurst   = 300
	maxAhead     = 1 << 18 // packets that can come between two that are signed
)

// Config describes a receiver's place in a session.
type Config struct {
	ID       uint32
	Session  uint64
	Geometry blocks.Geometry
	Group    *packet.Key
	Probe    *packet.Key
	Sender   ed25519.PublicKey
	Up, Down *packet.Key
	Need     *blocks.Set
	Memory   int // blocks in work at once
	Seed     uint64

	OtherSubnet bool // the sender's address is in none of ours
}

// Block is a block that is being put together.
type Block struct {
	Number int
	Data   []byte // whole source symbols; those that Have is false for hold nothing yet
	Have   []bool
	Parity map[int][]byte
	Digest [packet.DigestSize]byte // of the payload bytes

	got int // different symbols
}

// Counters are what a receiver saw.
type Counters struct {
	Received  uint64 // genuine packets of the group
	Refused   uint64 // forged, damaged, replayed or malformed ones
	Duplicate uint64 // symbols that were there or not needed
	NoRoom    uint64 // symbols dropped because too many blocks are open
	Forged    uint64 // blocks without the signed digest
}

// Receiver is one receiver.
type Receiver struct {
	cfg    Config
	rng    *rand.Rand
	state  packet.State
	reason packet.Reason

	missing  *blocks.Set // needed, and not given out
	poisoned *blocks.Set // forged or postponed: to be fetched
	taken    map[int]bool
	open     map[int]*Block
	digests  map[int][packet.DigestSize]byte // of blocks that are missing
	ready    []int
	free     [][]byte
	spare    []byte // for the next parity symbol
	scratch  []byte

	window   packet.Window // of the group's packets
	signedAt uint64        // highest counter of a signed packet
	orders   packet.Window
	first    uint64 // counter of the first packet
	received uint64
	heard    time.Duration // the group, the last time
	path     path
	lookedAt time.Duration

	detourAt    time.Duration // the next report by HTTPS
	detourState packet.State  // of the last one
	checks      float64
	checksAt    time.Duration

	serial    uint64
	started   bool
	every     time.Duration
	poll      uint32
	reportAt  time.Duration
	finished  int
	fetched   int
	suspects  int
	doneCount int
	dismissed bool
	counters  Counters
}

// New makes a receiver that has joined the session.
func New(now time.Duration, cfg Config) *Receiver {
	r := &Receiver{
		cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, uint64(cfg.ID))), state: packet.StateReceiving,
		missing: cfg.Need.Clone(), poisoned: blocks.NewSet(cfg.Geometry.Count()),
		taken: map[int]bool{}, open: map[int]*Block{},
		digests: map[int][packet.DigestSize]byte{}, scratch: make([]byte, 0, packet.MaxSize),
		heard: now, path: path{since: now}, lookedAt: now, checks: checkBurst, checksAt: now,
		every: 100 * time.Millisecond, reportAt: now,
	}
	r.checkDone(now)
	return r
}

// State is where the receiver stands, and why if it is not receiving.
func (r *Receiver) State() (packet.State, packet.Reason) { return r.state, r.reason }

// Counters are what came so far.
func (r *Receiver) Counters() Counters {
	c := r.counters
	c.Received = r.received
	return c
}

// Finished is how many of the needed blocks are verified and written, and how many of these came by unicast.
func (r *Receiver) Finished() (finished, fetched int) { return r.finished, r.fetched }

// Loss is the share of the group's packets that was lost since the first one came.
func (r *Receiver) Loss() float64 {
	if sent := r.window.Highest() - r.first + 1; r.received > 0 && sent > r.received {
		return 1 - float64(r.received)/float64(sent)
	}
	return 0
}

// Started tells that the session is under way.
func (r *Receiver) Started() bool { return r.started }

// Over tells that the receiver has every block and the sender knows it, or has given up.
func (r *Receiver) Over() bool {
	return r.state == packet.StateFailed || r.state == packet.StateDone && (r.dismissed || r.doneCount >= doneReports)
}

// Work tells that there are blocks to take or to fetch.
func (r *Receiver) Work() bool {
	return len(r.ready) > 0 || r.poisoned.Len() > 0 || r.state == packet.StateUnicast && r.missing.Len() > 0
}

// Handle takes a packet. Whatever is not genuine, fresh and of this session is dropped.
func (r *Receiver) Handle(now time.Duration, p []byte) {
	h, err := packet.ParseHeader(p)
	if err != nil || h.Session != r.cfg.Session {
		r.counters.Refused++
		return
	}
	switch h.Kind {
	case packet.KindData, packet.KindDigest, packet.KindStatus:
		r.groupPacket(now, h, p)
	case packet.KindProbe:
		if !r.probe(now, h, p) {
			r.counters.Refused++
		}
	case packet.KindOrder:
		if !r.order(now, h, p) {
			r.counters.Refused++
			return
		}
		r.path.hear(packet.PathUnicast)
	default:
		r.counters.Refused++
	}
}

func (r *Receiver) groupPacket(now time.Duration, h packet.Header, p []byte) {
	if !r.window.Fresh(h.Counter) || r.signedAt > 0 && h.Counter > r.signedAt+maxAhead {
		r.counters.Refused++
		return
	}
	var ok bool
	if h.Kind == packet.KindData {
		ok = r.data(h, p)
	} else {
		ok = r.signed(now, h, p)
	}
	if !ok {
		r.counters.Refused++
		return
	}
	if r.received == 0 {
		r.first = h.Counter
	}
	r.window.Note(h.Counter)
	r.received++
	r.heard = now
	if r.path.hear(packet.PathGroup); h.Kind == packet.KindData {
		r.path.hear(packet.PathFull)
	}
}

// data puts a symbol into its block, if it is of use. It tells whether the packet is genuine.
func (r *Receiver) data(h packet.Header, p []byte) bool {
	b, symbol := int(h.Block), int(h.Symbol)
	block := r.useful(b, symbol)
	if block == nil {
		if _, err := r.cfg.Group.Open(r.scratch[:0], h, p); err != nil {
			return false
		}
		if r.missing.Has(b) && r.open[b] == nil && symbol < fec.Total {
			block = r.begin(b)
		}
		if block == nil || !block.takes(symbol) {
			r.counters.Duplicate++
			return true
		}
		r.put(block, symbol, r.scratch[:packet.SymbolSize])
		return true
	}
	// Straight to its place: if the packet is forged the place still counts as empty.
	if symbol < fec.K {
		at := symbol * packet.SymbolSize
		if _, err := r.cfg.Group.Open(block.Data[at:at:at+packet.SymbolSize], h, p); err != nil {
			return false
		}
		r.put(block, symbol, nil)
		return true
	}
	if r.spare == nil {
		r.spare = make([]byte, packet.SymbolSize)
	}
	if _, err := r.cfg.Group.Open(r.spare[:0], h, p); err != nil {
		return false
	}
	block.Parity[symbol], r.spare = r.spare, nil
	r.put(block, symbol, nil)
	return true
}

// useful gives the open block that wants a symbol, or nil.
func (r *Receiver) useful(b, symbol int) *Block {
	if block := r.open[b]; block != nil && block.takes(symbol) {
		return block
	}
	return nil
}

// takes tells whether the block is short of the symbol.
func (b *Block) takes(symbol int) bool {
	switch {
	case b.got >= len(b.Have), symbol >= fec.Total, symbol >= len(b.Have) && symbol < fec.K:
		return false
	case symbol < fec.K:
		return !b.Have[symbol]
	}
	return b.Parity[symbol] == nil
}

// begin opens a block, if there is room.
func (r *Receiver) begin(b int) *Block {
	if len(r.open)+len(r.taken) >= r.cfg.Memory {
		r.counters.NoRoom++
		return nil
	}
	var data []byte
	if n := len(r.free); n > 0 {
		data, r.free = r.free[n-1], r.free[:n-1]
	} else {
		data = make([]byte, blocks.Size)
	}
	symbols := r.cfg.Geometry.Symbols(b)
	block := &Block{Number: b, Data: data[:symbols*packet.SymbolSize],
		Have: make([]bool, symbols), Parity: map[int][]byte{}}
	r.open[b] = block
	return block
}

// put counts a symbol; data is copied unless it is nil because it is in its place already.
func (r *Receiver) put(block *Block, symbol int, data []byte) {
	if symbol < fec.K {
		block.Have[symbol] = true
		if data != nil {
			copy(block.Data[symbol*packet.SymbolSize:], data)
		}
	} else if data != nil {
		block.Parity[symbol] = slices.Clone(data)
	}
	if block.got++; block.got == len(block.Have) {
		r.checkReady(block)
	}
}

// checkReady queues a block that has enough symbols and its digest.
func (r *Receiver) checkReady(block *Block) {
	digest, ok := r.digests[block.Number]
	if !ok || block.got < len(block.Have) {
		return
	}
	block.Digest = digest
	r.missing.Remove(block.Number)
	r.ready = append(r.ready, block.Number)
}

// signed takes digests and status: only the sender makes these.
func (r *Receiver) signed(now time.Duration, h packet.Header, p []byte) bool {
	body, err := r.cfg.Group.Open(r.scratch[:0], h, p)
	if err != nil || !r.mayCheck(now) {
		return false
	}
	if body, err = packet.Verify(h, body, r.cfg.Sender); err != nil {
		return false
	}
	r.signedAt = max(r.signedAt, h.Counter)
	if h.Kind == packet.KindDigest {
		return r.digest(h, body)
	}
	s, err := packet.ParseStatus(body)
	if err != nil {
		return false
	}
	r.status(now, s)
	return true
}

// mayCheck bounds the time that forged signatures can cost.
func (r *Receiver) mayCheck(now time.Duration) bool {
	r.checks = min(checkBurst, r.checks+(now-r.checksAt).Seconds()*checkRate)
	r.checksAt = now
	if r.checks < 1 {
		return false
	}
	r.checks--
	return true
}

func (r *Receiver) digest(h packet.Header, body []byte) bool {
	if len(body)%packet.DigestSize != 0 {
		return false
	}
	b := int(h.Block)
	for ; len(body) > 0; body, b = body[packet.DigestSize:], b+1 {
		d := [packet.DigestSize]byte(body)
		if d == ([packet.DigestSize]byte{}) || !r.missing.Has(b) {
			continue
		}
		r.digests[b] = d
		if block := r.open[b]; block != nil {
			r.checkReady(block)
		}
	}
	return true
}

func (r *Receiver) status(now time.Duration, s packet.Status) {
	if s.Serial <= r.serial {
		return
	}
	r.serial = s.Serial
	r.every = min(max(time.Duration(s.ReportEvery)*time.Millisecond, 10*time.Millisecond), 10*time.Second)
	r.started = r.started || s.State != packet.StateWaiting
	if s.State == packet.StateEnded {
		if r.state == packet.StateDone {
			r.dismissed = true
		}
		r.leave(now, packet.ReasonEnded)
	}
	if s.Poll != r.poll && r.state == packet.StateReceiving {
		r.poll = s.Poll
		spread := min(time.Duration(s.Spread)*time.Millisecond, r.every)
		r.reportAt = min(r.reportAt, now+time.Duration(r.rng.Float64()*float64(spread)))
	}
}

// order takes the sender's word to this receiver alone. It tells whether it is genuine.
func (r *Receiver) order(now time.Duration, h packet.Header, p []byte) bool {
	if h.Block != r.cfg.ID || !r.orders.Fresh(h.Counter) {
		return false
	}
	body, err := r.cfg.Down.Open(r.scratch[:0], h, p)
	if err != nil {
		return false
	}
	o, err := packet.ParseOrder(body)
	if err != nil {
		return false
	}
	r.orders.Note(h.Counter)
	switch {
	case o.Verb == packet.VerbLeave:
		r.leave(now, o.Reason)
	case o.Verb == packet.VerbForget && r.state == packet.StateDone:
		r.dismissed = true
	}
	return true
}

// leave turns to unicast for what is missing.
func (r *Receiver) leave(now time.Duration, reason packet.Reason) {
	if r.state != packet.StateReceiving {
		return
	}
	r.state, r.reason, r.reportAt = packet.StateUnicast, reason, now
	for b, block := range r.open {
		if r.missing.Has(b) {
			r.drop(b, block)
		}
	}
}

func (r *Receiver) drop(b int, block *Block) {
	delete(r.open, b)
	r.free = append(r.free, block.Data[:blocks.Size])
}

// Take gives a block to rebuild, verify and write, or nil. It must come back by Finish.
func (r *Receiver) Take() *Block {
	if len(r.ready) == 0 {
		return nil
	}
	b := r.ready[0]
	r.ready = r.ready[1:]
	block := r.open[b]
	delete(r.open, b)
	delete(r.digests, b)
	r.taken[b] = true
	return block
}

// Outcome is what became of a block that was taken.
type Outcome int

// The outcomes.
const (
	Written   Outcome = iota // verified and written
	Forged                   // its bytes are not what the sender signed
	Postponed                // there was no room for it; it must be fetched
)

// Finish says what became of a block.
func (r *Receiver) Finish(now time.Duration, block *Block, outcome Outcome) {
	delete(r.taken, block.Number)
	r.free = append(r.free, block.Data[:blocks.Size])
	switch outcome {
	case Written:
		r.finished++
		r.checkDone(now)
	case Postponed:
		r.poisoned.Add(block.Number)
	case Forged:
		r.counters.Forged++
		r.suspects++
		r.poisoned.Add(block.Number)
		if r.suspects >= maxSuspects {
			r.leave(now, packet.ReasonForged)
		}
	}
}

// Fetch gives the number of a block that must be fetched by unicast, verified and written.
// It must come back by Fetched.
func (r *Receiver) Fetch() (b int, ok bool) {
	limit := r.cfg.Geometry.Count()
	if b = r.poisoned.Next(0); b == limit && r.state == packet.StateUnicast {
		b = r.missing.Next(0)
	}
	return b, r.FetchNext(b)
}

// FetchNext is Fetch for block b, and tells whether b must be fetched.
func (r *Receiver) FetchNext(b int) bool {
	switch {
	case r.poisoned.Has(b):
		r.poisoned.Remove(b)
	case r.state == packet.StateUnicast && r.missing.Has(b):
		r.missing.Remove(b)
		delete(r.digests, b)
	default:
		return false
	}
	r.taken[b] = true
	return true
}

// Fetched says that a block came by unicast and was written, or that it must be fetched again.
func (r *Receiver) Fetched(now time.Duration, b int, ok bool) {
	delete(r.taken, b)
	if !ok {
		r.poisoned.Add(b)
		return
	}
	r.finished++
	r.fetched++
	r.checkDone(now)
}

// Fail gives up: nothing more can be had or written.
func (r *Receiver) Fail(now time.Duration) {
	if r.state != packet.StateDone {
		r.state, r.reportAt = packet.StateFailed, now
	}
}

func (r *Receiver) checkDone(now time.Duration) {
	if r.finished == r.cfg.Need.Len() && r.state != packet.StateFailed {
		r.state, r.reportAt = packet.StateDone, now
	}
}

// Next gives a report to send to the sender, or nil, and how long to wait for the next one.
func (r *Receiver) Next(now time.Duration) (report []byte, wait time.Duration, err error) {
	r.watch(now)
	if now < r.reportAt {
		return nil, r.reportAt - now, nil
	}
	switch r.state {
	case packet.StateReceiving:
		r.reportAt = now + time.Duration(float64(r.every)*(0.9+0.2*r.rng.Float64()))
	case packet.StateUnicast:
		r.reportAt = now + unicastEvery
	default:
		r.doneCount++
		r.reportAt = now + doneEvery
	}
	body := packet.Report{
		Highest: r.window.Highest(), Received: r.received, Poll: r.poll,
		Finished: uint32(r.finished), Fetched: uint32(r.fetched),
		Backlog: uint8(min(100, 100*(len(r.ready)+len(r.taken))/r.cfg.Memory)), State: r.state, Reason: r.reason,
		Suspect: uint8(min(r.suspects, 255)), Paths: r.path.heard, Runs: r.lacking(),
	}.Append(nil)
	report, err = r.cfg.Up.Seal(nil, packet.Header{Kind: packet.KindReport, Block: r.cfg.ID}, body)
	return report, r.reportAt - now, err
}

// maxRuns is more than fit into a report.
const maxRuns = packet.MaxBody / 3

// lacking lists the blocks that are missing and what they lack.
func (r *Receiver) lacking() []packet.Run {
	if r.state != packet.StateReceiving || !r.started {
		return nil
	}
	open := slices.Sorted(maps.Keys(r.open))
	var runs []packet.Run
	limit := r.cfg.Geometry.Count()
	for start := r.missing.Next(0); start < limit && len(runs) < maxRuns; {
		end := r.missing.NextGap(start)
		for len(open) > 0 && open[0] < start {
			open = open[1:]
		}
		lack := fec.K
		if len(open) > 0 && open[0] < end {
			if b := r.open[open[0]]; b.Number == start {
				end, lack = start+1, len(b.Have)-b.got
			} else {
				end = b.Number
			}
		}
		runs = append(runs, packet.Run{Start: uint32(start), Count: uint32(end - start), Lack: uint16(lack)})
		start = r.missing.Next(end)
	}
	return runs
}
