// Package sender is the sending end of a multicast session as a state machine: no socket, no
// goroutine, no clock. Whoever drives it passes the time in and carries the packets.
//
//	loop:
//	  batch, wait := Next(now)          packets for the group, all of one length
//	  probe := LinkProbe()              a packet for 224.0.0.1
//	  reply := Handle(now, packet)      a receiver's report came in
//
// Blocks that somebody needs (the union) are sent in order, GroupSize of them in turn, symbol by
// symbol. Receivers report how many symbols each block lacks. The maximum that anyone lacks is
// sent as parity between the groups; a block of which somebody lacks half is sent again as a
// whole when the cursor comes round, and so is what a late joiner missed. A report says
// up to which packet its receiver has seen; what was sent for a block after that is
// counted as on its way, so no loss is repaired twice.
//
// While somebody does not hear full packets of the group, which its reports tell, probes show which ways are
// open (path.go).
//
// When nothing is left to send the sender polls until every receiver is done, has left for
// unicast, failed or vanished. It always ends: a receiver that neither makes progress nor
// falls silent is told to leave, and so is one that asks for more than losses explain.
package sender

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"math"
	"time"

	"clonecast/internal/multicast/blocks"
	"clonecast/internal/multicast/fec"
	"clonecast/internal/multicast/packet"

	"github.com/zeebo/blake3"
)

// FrameOverhead is what Ethernet, IPv4 and UDP add to a packet, in bytes.
const FrameOverhead = 14 + 20 + 8

// Timing of the sender.
const (
	statusEvery   = 50 * time.Millisecond
	beaconEvery   = 100 * time.Millisecond // while waiting
	endStatuses   = 4                      // copies of the last status
	endEvery      = 20 * time.Millisecond
	waitingReport = 500 * time.Millisecond
	minReport     = 40 * time.Millisecond
	reportsPerSec = 2000 // of all receivers together
	firstPoll     = 15 * time.Millisecond
	slowestPoll   = 250 * time.Millisecond
	vanishAfter   = 3 * time.Second  // without a report
	stallReceiver = 15 * time.Second // without progress while nothing is left to send
	stallUnicast  = 60 * time.Second // without progress by unicast
)

// ErrSourceChanged reports a payload that is not what it was when it was first read.
var ErrSourceChanged = errors.New("the payload changed while it was sent")

// Source is the payload.
type Source interface {
	// Block reads block b into buf, which is as long as its payload bytes.
	Block(b int, buf []byte) error
}

// Config describes a session.
type Config struct {
	Geometry blocks.Geometry
	Group    *packet.Key
	Probe    *packet.Key
	Signer   ed25519.PrivateKey
	Source   Source
	Floor    float64 // bytes per second on the wire; whoever cannot take that leaves
	Ceiling  float64 // bytes per second on the wire
	Memory   int     // blocks kept for repair

	// Left is told of every receiver that leaves the group with a reason; it may be nil.
	Left func(receiver uint32, reason packet.Reason)
}

// Counters are what a session did.
type Counters struct {
	Packets uint64 // to the group
	Wire    uint64 // bytes of these with all headers
	Source  uint64 // data packets with source symbols sent in a pass
	Repair  uint64 // data packets sent because somebody lacked them
	Reports uint64 // accepted
	Refused uint64 // packets that were no report of a receiver
}

// Sender is one session.
type Sender struct {
	cfg   Config
	code  *fec.Code
	state packet.State

	wanted *blocks.Set // blocks to send as a whole
	blocks []blockState
	cursor int
	group  group
	queue  []int // blocks with repairs pending, in turn
	log    repairLog
	cache  cache

	digests  [][packet.DigestSize]byte // of the blocks read so far
	resend   map[int]bool              // groups whose digests somebody lacks
	announce []int                     // groups whose digests are due

	receivers map[uint32]*receiver
	order     []*receiver

	pace     pace
	serial   uint64
	poll     uint32
	statusAt time.Duration
	pollAt   time.Duration
	pollWait time.Duration
	tickAt   time.Duration
	idleFrom time.Duration // since when nothing is left to send; negative: there is
	ended    int           // copies of the last status sent
	began    time.Duration
	lastDone time.Duration
	counters Counters

	probeGroup, probeLink bool // a probe is due
	snooped               bool // at the last tick
}

// blockState is what the sender remembers of each block.
type blockState struct {
	sentAt  uint64 // counter of the last packet when it was sent as a whole; 0: never
	next    uint16 // the symbol that the next repair sends
	pending uint16 // repair symbols to send
}

const beingSent = math.MaxUint64

// group is the group of blocks being sent in turn.
type group struct {
	blocks []int
	symbol int // the next one of each block
	at     int // the next block
}

// New makes a session that waits.
func New(cfg Config) (*Sender, error) {
	code, err := fec.New(packet.SymbolSize)
	if err != nil {
		return nil, err
	}
	n := cfg.Geometry.Count()
	if n < 1 || cfg.Geometry.Payload > blocks.MaxPayload {
		return nil, fmt.Errorf("a payload of %d bytes cannot be sent", cfg.Geometry.Payload)
	}
	s := &Sender{
		cfg: cfg, code: code, state: packet.StateWaiting,
		wanted: blocks.NewSet(n), blocks: make([]blockState, n), digests: make([][packet.DigestSize]byte, n),
		resend: map[int]bool{}, receivers: map[uint32]*receiver{}, idleFrom: -1,
	}
	s.log.init()
	s.cache.init(max(cfg.Memory, 2*blocks.GroupSize))
	s.pace.init(cfg.Floor, cfg.Ceiling)
	return s, nil
}

// Start begins to send to the receivers that were added.
func (s *Sender) Start(now time.Duration) {
	if s.state != packet.StateWaiting {
		return
	}
	s.state, s.began, s.lastDone, s.statusAt = packet.StateRunning, now, now, now
	s.pace.start(now)
	for _, r := range s.order {
		s.wanted.Union(r.need)
		r.progress = now
	}
}

// SetLimits changes floor and ceiling of the rate, in bytes per second on the wire.
func (s *Sender) SetLimits(floor, ceiling float64) {
	s.pace.limit(floor, ceiling, s.cfg.Group.Sealed())
}

// Rate is how many bytes per second went out on the wire lately.
func (s *Sender) Rate() float64 {
	if s.state != packet.StateRunning {
		return 0
	}
	return s.pace.actual
}

// State is where the session stands.
func (s *Sender) State() packet.State { return s.state }

// Counters are what was done so far.
func (s *Sender) Counters() Counters { return s.counters }

// DataPhase is when data began to flow and when the last multicast receiver was done.
func (s *Sender) DataPhase() (began, ended time.Duration) { return s.began, s.lastDone }

// End ends the session although somebody may lack blocks: the sender goes away.
func (s *Sender) End(now time.Duration) {
	if s.state != packet.StateEnded {
		s.state, s.statusAt = packet.StateEnded, now
	}
}

// EndAnnounced tells whether the group has heard often enough that the session has ended.
func (s *Sender) EndAnnounced() bool { return s.state == packet.StateEnded && s.ended >= endStatuses }

// Finished tells that every receiver has come to its end and the group was told.
func (s *Sender) Finished() bool {
	if !s.EndAnnounced() {
		return false
	}
	for _, r := range s.order {
		if !r.over() {
			return false
		}
	}
	return true
}

// Next fills buf with packets for the group, all of size bytes, one after the other. When there
// is none it says how long to wait; a report may change that earlier.
func (s *Sender) Next(now time.Duration, buf []byte) (batch []byte, size int, wait time.Duration, err error) {
	s.watch(now)
	if now >= s.statusAt {
		batch, err = s.status(now, buf[:0])
		return batch, len(batch), 0, err
	}
	if s.probeGroup {
		s.probeGroup = false
		batch, err = s.probe(buf[:0], packet.PathFull)
		return batch, len(batch), 0, err
	}
	if s.state != packet.StateRunning {
		return nil, 0, s.statusAt - now, nil
	}
	allowed, wait := s.pace.allow(now)
	if allowed == 0 {
		return nil, 0, min(wait, s.statusAt-now), nil
	}
	if batch, err = s.data(buf[:0], min(allowed, cap(buf)/packet.MaxSize)); err != nil || len(batch) > 0 {
		s.pace.stamp(now, s.cfg.Group.Sealed())
		s.idleFrom = -1
		return batch, packet.MaxSize, 0, err
	}
	if len(s.announce) > 0 {
		batch, err = s.digest(buf[:0])
		return batch, len(batch), 0, err
	}
	return nil, 0, s.idle(now), nil
}

// data seals up to n data packets: repairs first, then the blocks' own symbols. It stops where
// digests are due, which have another length.
func (s *Sender) data(buf []byte, n int) ([]byte, error) {
	for ; n > 0 && len(s.announce) == 0; n-- {
		b, symbol, body, err := s.symbol()
		if body == nil || err != nil {
			return buf, err
		}
		header := packet.Header{Kind: packet.KindData, Block: uint32(b), Symbol: uint16(symbol)}
		if buf, err = s.cfg.Group.Seal(buf, header, body); err != nil {
			return nil, err
		}
		s.sent(packet.MaxSize)
		s.noteSent(b)
	}
	return buf, nil
}

// symbol chooses the next symbol to send; a nil body means that there is none.
func (s *Sender) symbol() (b, symbol int, body []byte, err error) {
	if len(s.queue) > 0 {
		return s.repair()
	}
	if len(s.group.blocks) == 0 && !s.nextGroup() {
		return 0, 0, nil, nil
	}
	g := &s.group
	b, symbol = g.blocks[g.at], g.symbol
	c, err := s.block(b)
	if err != nil {
		return 0, 0, nil, err
	}
	s.counters.Source++
	return b, symbol, c.data[symbol*packet.SymbolSize : (symbol+1)*packet.SymbolSize], nil
}

// noteSent moves on behind the symbol of b that was just sealed.
func (s *Sender) noteSent(b int) {
	counter := s.cfg.Group.Sealed()
	st := &s.blocks[b]
	if st.sentAt != beingSent {
		s.log.add(b, counter)
		return
	}
	g := &s.group
	if g.symbol == s.cfg.Geometry.Symbols(b)-1 {
		st.sentAt = counter
	}
	for g.at++; g.at < len(g.blocks) && s.cfg.Geometry.Symbols(g.blocks[g.at]) <= g.symbol; g.at++ {
	}
	if g.at < len(g.blocks) {
		return
	}
	g.at, g.symbol = 0, g.symbol+1
	if g.symbol == s.cfg.Geometry.Symbols(g.blocks[0]) { // only the last block of a group can be shorter
		s.announce = append(s.announce, g.blocks[0]/blocks.GroupSize)
		g.blocks, g.symbol = g.blocks[:0], 0
	}
}

// nextGroup takes the next group of wanted blocks from the cursor on, round and round.
func (s *Sender) nextGroup() bool {
	if s.wanted.Len() == 0 {
		return false
	}
	first := s.wanted.Next(s.cursor)
	if first == len(s.blocks) {
		first = s.wanted.Next(0)
	}
	end := min((first/blocks.GroupSize+1)*blocks.GroupSize, len(s.blocks))
	for b := first; b < end; b = s.wanted.Next(b + 1) {
		s.group.blocks = append(s.group.blocks, b)
	}
	for _, b := range s.group.blocks {
		s.wanted.Remove(b)
		st := &s.blocks[b]
		*st = blockState{sentAt: beingSent, next: s.firstParity(b, st)}
	}
	s.dequeue()
	s.cursor = end % len(s.blocks)
	return true
}

// firstParity is the first repair symbol of a block: parity, further on with every pass.
func (s *Sender) firstParity(b int, st *blockState) uint16 {
	if st.sentAt == 0 || int(st.next) < fec.K {
		return fec.K
	}
	return st.next
}

// dequeue drops blocks from the repair queue that will be sent as a whole.
func (s *Sender) dequeue() {
	kept := s.queue[:0]
	for _, b := range s.queue {
		if s.blocks[b].pending > 0 {
			kept = append(kept, b)
		}
	}
	s.queue = kept
}

// repair takes a symbol of the first block in the queue and puts the block behind the others.
func (s *Sender) repair() (b, symbol int, body []byte, err error) {
	b = s.queue[0]
	s.queue = s.queue[1:]
	st := &s.blocks[b]
	c, err := s.block(b)
	if err != nil {
		return 0, 0, nil, err
	}
	symbol = int(st.next)
	if symbol < fec.K {
		body = c.data[symbol*packet.SymbolSize : (symbol+1)*packet.SymbolSize]
	} else if body, err = c.paritySymbol(s.code, symbol); err != nil {
		return 0, 0, nil, err
	}
	st.next++
	switch int(st.next) {
	case fec.Total:
		st.next = 0
	case s.cfg.Geometry.Symbols(b):
		st.next = fec.K
	}
	if st.pending--; st.pending > 0 {
		s.queue = append(s.queue, b)
	}
	s.counters.Repair++
	return b, symbol, body, nil
}

// block gives a block's bytes, from the cache or from the source.
func (s *Sender) block(b int) (*cached, error) {
	if c := s.cache.get(b); c != nil {
		return c, nil
	}
	c := s.cache.room()
	n, room := s.cfg.Geometry.Length(b), s.cfg.Geometry.Room(b)
	c.data = c.data[:room]
	clear(c.data[n:])
	if err := s.cfg.Source.Block(b, c.data[:n]); err != nil {
		return nil, fmt.Errorf("read block %d: %w", b, err)
	}
	digest := blake3.Sum256(c.data[:n])
	if s.digests[b] != ([packet.DigestSize]byte{}) && s.digests[b] != digest {
		return nil, fmt.Errorf("read block %d: %w", b, ErrSourceChanged)
	}
	s.digests[b] = digest
	s.cache.put(b, c)
	return c, nil
}

// digest seals the digests of the first group that is due, and of the two groups before it in case
// the packet with theirs was lost. Blocks that were not read yet have zeros.
func (s *Sender) digest(buf []byte) ([]byte, error) {
	g := s.announce[0]
	s.announce = s.announce[1:]
	first := max(0, g-2) * blocks.GroupSize
	end := min((g+1)*blocks.GroupSize, len(s.digests))
	var body []byte
	for _, d := range s.digests[first:end] {
		body = append(body, d[:]...)
	}
	header := packet.Header{Kind: packet.KindDigest, Block: uint32(first)}
	buf, err := s.cfg.Group.SealSigned(buf, header, body, s.cfg.Signer)
	s.sent(len(buf))
	return buf, err
}

// status seals the sender's word on the session.
func (s *Sender) status(now time.Duration, buf []byte) ([]byte, error) {
	s.serial++
	every := s.reportEvery()
	body := packet.Status{
		Serial: s.serial, State: s.state, Poll: s.poll, ReportEvery: uint32(every / time.Millisecond),
		Spread: uint32(s.spread() / time.Millisecond), Rate: uint64(s.pace.rate),
	}.Append(nil)
	buf, err := s.cfg.Group.SealSigned(buf, packet.Header{Kind: packet.KindStatus}, body, s.cfg.Signer)
	s.sent(len(buf))
	switch s.state {
	case packet.StateWaiting:
		s.statusAt = now + beaconEvery
	case packet.StateRunning:
		s.statusAt = now + statusEvery
	default:
		s.ended++
		s.statusAt = now + endEvery
		if s.ended >= endStatuses {
			s.statusAt = now + slowestPoll
		}
	}
	return buf, err
}

// reportEvery is the time between reports of a receiver, so that all of them together stay bearable.
func (s *Sender) reportEvery() time.Duration {
	if s.state == packet.StateWaiting {
		return waitingReport
	}
	return max(minReport, time.Duration(s.active())*time.Second/reportsPerSec)
}

// spread is the time over which the answers to a poll are spread.
func (s *Sender) spread() time.Duration {
	return time.Duration(s.active()) * time.Second / (2 * reportsPerSec)
}

// idle polls the receivers, because nothing is left to send, and says how long to wait.
func (s *Sender) idle(now time.Duration) time.Duration {
	if s.idleFrom < 0 {
		s.idleFrom, s.pollAt, s.pollWait = now, now, firstPoll
	}
	if now >= s.pollAt {
		s.poll++
		s.statusAt = now
		s.pollAt = now + s.spread() + s.pollWait
		s.pollWait = min(2*s.pollWait, slowestPoll)
		return 0
	}
	return min(s.statusAt, s.pollAt) - now
}

// sent counts a packet of the group.
func (s *Sender) sent(n int) {
	s.counters.Packets++
	s.onWire(n)
}

func (s *Sender) onWire(n int) {
	s.counters.Wire += uint64(n + FrameOverhead)
	s.pace.spend(n + FrameOverhead)
}
