package sender

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"clonecast/internal/multicast/blocks"
	"clonecast/internal/multicast/fec"
	"clonecast/internal/multicast/packet"
)

// ErrEnded reports that a session takes no more receivers.
var ErrEnded = errors.New("the session has ended")

// maxReports is how many reports of one receiver are read per second, in bursts of reportBurst.
const (
	maxReports  = 200
	reportBurst = 20
)

// receiver is what the sender knows of one receiver.
type receiver struct {
	id       uint32
	up, down *packet.Key
	need     *blocks.Set
	window   packet.Window

	state    packet.State
	vanished bool
	reason   packet.Reason // why it left or must leave
	leave    bool          // it is to be told to leave
	leaveAt  time.Duration

	heard    time.Duration // last report
	progress time.Duration // last report with more blocks finished
	tokens   float64       // reports that may be read now
	tokensAt time.Duration

	last  packet.Report
	asked int // symbols sent only because this receiver asked

	paths        packet.Paths // by which ways it hears the sender
	opened       bool         // it has heard full packets of the group once
	probed       int          // ticks in which probes went out for it
	snoopedTicks int          // for which it hears link-local multicast only

	link link // loss and speed
}

// over tells that nothing more is to come from or for the receiver.
func (r *receiver) over() bool {
	return r.vanished || r.state == packet.StateDone || r.state == packet.StateFailed
}

// takesPart tells that the receiver hangs on the multicast.
func (r *receiver) takesPart() bool {
	return r.state == packet.StateReceiving && !r.vanished && !r.leave
}

// Add takes a receiver into the session. need are the blocks that it wants; up and down
// its keys. It may come at any time before the end.
func (s *Sender) Add(now time.Duration, id uint32, up, down *packet.Key, need *blocks.Set) error {
	if s.state == packet.StateEnded {
		return ErrEnded
	}
	if s.receivers[id] != nil {
		return fmt.Errorf("receiver %d is in the session already", id)
	}
	r := &receiver{
		id: id, up: up, down: down, need: need, state: packet.StateReceiving,
		heard: now, progress: now, tokens: reportBurst, tokensAt: now,
	}
	s.receivers[id] = r
	s.order = append(s.order, r)
	if s.state == packet.StateRunning {
		s.join(need)
	}
	return nil
}

// join wants what a late joiner needs. Blocks being sent now it catches in part, and reports the rest.
func (s *Sender) join(need *blocks.Set) {
	s.wanted.Union(need)
	for _, b := range s.group.blocks {
		s.wanted.Remove(b)
	}
}

// active counts the receivers that hang on the multicast.
func (s *Sender) active() int {
	n := 0
	for _, r := range s.order {
		if r.takesPart() {
			n++
		}
	}
	return n
}

// Handle takes a packet that came for the sender. A reply, if there is one, goes back to
// where the packet came from. Whatever is not a fresh report of a receiver is dropped.
func (s *Sender) Handle(now time.Duration, p []byte) (reply []byte) {
	r, rep, late := s.open(now, p)
	if r == nil {
		s.counters.Refused++
		return nil
	}
	s.counters.Reports++
	if !late {
		s.take(now, r, rep)
	}
	switch {
	case rep.State == packet.StateReceiving && (r.leave || r.state == packet.StateFailed):
		return r.order(packet.Order{Verb: packet.VerbLeave, Reason: r.reason})
	case r.state == packet.StateDone || r.state == packet.StateFailed:
		return r.order(packet.Order{Verb: packet.VerbForget})
	case rep.Paths&packet.PathUnicast == 0:
		return r.order(packet.Order{Verb: packet.VerbHeard})
	}
	return nil
}

func (r *receiver) order(o packet.Order) []byte {
	b, err := r.down.Seal(nil, packet.Header{Kind: packet.KindOrder, Block: r.id}, o.Append(nil))
	if err != nil {
		return nil // after 2^48 orders
	}
	return b
}

// open finds the receiver of a report and proves that it is its own, fresh and not one of too many. A late one is older
// than what is known already: it is owed an answer, but not believed.
func (s *Sender) open(now time.Duration, p []byte) (r *receiver, rep packet.Report, late bool) {
	h, err := packet.ParseHeader(p)
	if err != nil || h.Kind != packet.KindReport {
		return nil, rep, false
	}
	r = s.receivers[h.Block]
	if r == nil || !r.window.Fresh(h.Counter) {
		return nil, rep, false
	}
	body, err := r.up.Open(nil, h, p)
	if err != nil || !r.mayReport(now) {
		return nil, rep, false
	}
	late = h.Counter < r.window.Highest()
	r.window.Note(h.Counter)
	if rep, err = packet.ParseReport(body, nil); err != nil {
		return nil, rep, false
	}
	rep.Highest = min(rep.Highest, s.cfg.Group.Sealed()) // forged data packets may have shown it more
	return r, rep, late
}

func (r *receiver) mayReport(now time.Duration) bool {
	r.tokens = min(reportBurst, r.tokens+(now-r.tokensAt).Seconds()*maxReports)
	r.tokensAt = now
	if r.tokens < 1 {
		return false
	}
	r.tokens--
	return true
}

// take believes a report.
func (s *Sender) take(now time.Duration, r *receiver, rep packet.Report) {
	if rep.Finished > r.last.Finished || rep.State != r.state || r.vanished {
		r.progress = now
	}
	if r.state != packet.StateFailed && rep.State > r.state { // states only go on
		leaves := r.state == packet.StateReceiving
		if leaves {
			s.lastDone = now
		}
		r.state = rep.State
		if rep.Reason != packet.ReasonNone {
			s.left(r, rep.Reason, leaves)
		}
	}
	s.notePaths(r, rep.Paths)
	r.heard, r.vanished = now, false
	if s.state == packet.StateRunning {
		r.link.report(now, rep, s.cfg.Group.Sealed(), &s.pace)
	}
	runs := rep.Runs
	r.last = rep
	r.last.Runs = nil
	if r.takesPart() && r.hears() && s.state == packet.StateRunning && (!r.link.hopeless() || s.idleFrom >= 0) {
		s.repairs(now, r, rep.Highest, runs)
	}
}

// left notes why a receiver is not in the group, and tells of it when it leaves.
func (s *Sender) left(r *receiver, reason packet.Reason, leaves bool) {
	r.reason = reason
	if s.cfg.Left != nil && leaves {
		s.cfg.Left(r.id, reason)
	}
}

// repairs queues what a receiver lacks. One that asks for more than losses explain, half of all
// it needs, is either hopeless or an enemy.
func (s *Sender) repairs(now time.Duration, r *receiver, seen uint64, runs []packet.Run) {
	for _, run := range runs {
		end := min(int(run.Start)+int(run.Count), len(s.blocks))
		for b := int(run.Start); b < end; b++ {
			if s.wanted.Has(b) && int(run.Lack) > fec.K/2 { // comes anyway; skip over all that do
				b = min(s.wanted.NextGap(b), end) - 1
				continue
			}
			if r.need.Has(b) {
				s.request(r, b, int(run.Lack), seen)
			}
		}
	}
	if r.asked > r.need.Len()*fec.K/2+2*fec.K {
		r.mustLeave(now, packet.ReasonStuck)
	}
}

// request queues what a receiver that has seen all packets up to a counter lacks of a block.
func (s *Sender) request(r *receiver, b, lack int, seen uint64) {
	st := &s.blocks[b]
	symbols := s.cfg.Geometry.Symbols(b)
	lack = min(lack, symbols)
	switch {
	case st.sentAt == beingSent || st.sentAt > seen:
		return // the receiver cannot know yet
	case lack == 0:
		s.redigest(r, b/blocks.GroupSize)
		return
	case st.sentAt == 0 || 2*lack > symbols && symbols > 2*fec.Batch && s.log.after(b, seen) == 0:
		if !s.wanted.Has(b) {
			s.wanted.Add(b)
			r.asked += symbols
		}
		return
	}
	if s.idleFrom >= 0 {
		lack += s.margin(lack)
	}
	if need := lack - s.log.after(b, seen); need > int(st.pending) {
		if st.pending == 0 {
			s.queue = append(s.queue, b)
		}
		r.asked += need - int(st.pending)
		st.pending = uint16(need)
	}
}

// margin is what is sent on top of what is lacking in the end, when another round costs more time
// than some symbols.
func (s *Sender) margin(lack int) int {
	worst := 0.0
	for _, r := range s.order {
		if r.takesPart() {
			worst = max(worst, r.link.loss)
		}
	}
	if worst < 0.003 {
		return 0
	}
	return 1 + int(math.Ceil(2*min(worst, 0.5)*float64(lack)))
}

// redigest sends the digests of a group again, once per poll or status.
func (s *Sender) redigest(r *receiver, g int) {
	if s.resend[g] {
		return
	}
	s.resend[g] = true
	s.announce = append(s.announce, g)
	r.asked++
}

// mustLeave marks a receiver that is told to leave with the next answer to its reports.
func (r *receiver) mustLeave(now time.Duration, reason packet.Reason) {
	if !r.leave {
		r.leave, r.leaveAt, r.reason = true, now, reason
	}
}

// Drop lets a receiver go at once: nothing more is sent for it, and when it reports it is told to leave.
func (s *Sender) Drop(now time.Duration, id uint32, reason packet.Reason) {
	r := s.receivers[id]
	if r == nil || r.state == packet.StateDone || r.state == packet.StateFailed {
		return
	}
	if r.state == packet.StateReceiving {
		s.lastDone = now
	}
	r.state, r.reason, r.leave, r.leaveAt = packet.StateFailed, reason, true, now
	s.tickAt = now // it may have been the last one
}

// watch finds out who vanished or is stuck, controls the rate and ends the session.
func (s *Sender) watch(now time.Duration) {
	if now < s.tickAt {
		return
	}
	s.tickAt = now + tickEvery
	clear(s.resend)
	s.snooped = false
	receiving := 0
	for _, r := range s.order {
		if r.over() {
			continue
		}
		s.watchReceiver(now, r)
		s.probeFor(now, r)
		if r.state == packet.StateReceiving && !r.vanished {
			receiving++
		}
	}
	if s.state == packet.StateRunning {
		s.control(now)
		if receiving == 0 {
			s.state, s.statusAt = packet.StateEnded, now
		}
	}
}

// watchReceiver gives up on a receiver that is silent, stuck or does not leave when told.
func (s *Sender) watchReceiver(now time.Duration, r *receiver) {
	switch {
	case now-r.heard > vanishAfter+4*s.reportEvery():
		r.vanished = true
	case r.state == packet.StateUnicast && now-r.progress > stallUnicast:
		r.state, r.reason = packet.StateFailed, packet.ReasonStuck
	case r.state == packet.StateReceiving && r.leave && now-r.leaveAt > vanishAfter:
		r.state = packet.StateFailed
	case r.takesPart() && s.idleFrom >= 0 && now-max(r.progress, s.idleFrom) > stallReceiver:
		r.mustLeave(now, packet.ReasonStuck)
	}
}

// Present counts the receivers that have come and are not gone; one that needs nothing counts too.
func (s *Sender) Present() int {
	n := 0
	for _, r := range s.order {
		if !r.vanished && r.state != packet.StateFailed {
			n++
		}
	}
	return n
}

// ReceiverState is what the sender knows of a receiver, for people.
type ReceiverState struct {
	ID       uint32
	State    string // receiving, unicast, done, failed or vanished
	Reason   packet.Reason
	Need     *blocks.Set
	Loss     float64 // share of packets lost, over the whole session
	Fetched  uint32  // blocks fetched by unicast
	Finished uint32  // blocks verified and written
	Suspect  uint8   // blocks with forged data
	Paths    packet.Paths
}

// Receivers lists the receivers in the order in which they came.
func (s *Sender) Receivers() []ReceiverState {
	var out []ReceiverState
	for _, r := range s.order {
		state := r.state.String()
		if r.vanished {
			state = "vanished"
		}
		out = append(out, ReceiverState{r.id, state, r.reason, r.need, r.link.total(),
			r.last.Fetched, r.last.Finished, r.last.Suspect, r.paths})
	}
	return out
}

// bySpeed sorts receivers by capacity.
func bySpeed(receivers []*receiver) {
	slices.SortFunc(receivers, func(a, b *receiver) int { return cmp.Compare(a.link.capacity, b.link.capacity) })
}
