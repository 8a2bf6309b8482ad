package sender

import (
	"math"
	"time"

	"clonecast/internal/multicast/blocks"
	"clonecast/internal/multicast/packet"
)

// How the rate is controlled. Loss is no proof of congestion: the rate goes down to where congestion would be cured,
// and loss that stays as it was (a bad cable, a poor switch) is no reason to be slow; parity repairs it. A receiver
// that falls further and further behind is slow although it loses nothing yet. One whose memory is filling up is as
// fast as its disk. Nobody waits for one that is far slower than the one in the middle.
const (
	tickEvery    = 100 * time.Millisecond
	late         = 20 * time.Millisecond // that the driver may be without the rate falling
	excess       = 0.03                  // loss beyond that of the path that counts, and noise more for few packets
	noise        = 2.0                   // divided by the root of the packets measured
	staleAfter   = 3 * time.Second       // from when on what was measured at a higher rate does not count
	longMemory   = 4000                  // packets after which older ones count half
	inRow        = 3                     // intervals that loss must last
	overrun      = 256                   // packets lost in one interval, and
	overrunShare = 0.3                   // so much of it: that is no accident
	shared       = 0.005                 // the same when all receivers lose: what they share may be congested
	sharedFrom   = 600                   // packets measured for that
	standing     = 2 * time.Millisecond  // that packets wait on their way: somebody else sends as well
	giveWay      = 0.65                  // of what was too much
	comeBack     = 2 * time.Second       // to it
	giveFor      = 10 * time.Second      // at most, while somebody takes what was given
	doubt        = 0.85                  // of the rate, to find that out
	certain      = 4                     // standard errors
	lagEvery     = 200 * time.Millisecond
	maxLag       = 250 * time.Millisecond // that a receiver may be behind, beyond which it must not fall further
	keepShare    = 0.5                    // of the median's speed; who is slower leaves
	patience     = 5                      // ticks for which somebody must be slow: a short stall is none
	evidence     = 1500                   // packets for which too: at a low rate few go by in these ticks
	backlogLimit = 80                     // percent of a receiver's memory
	minInterval  = 48                     // packets in an interval worth measuring
	shortest     = 10 * time.Millisecond  // for which what a path carries is measured
	baseMemory   = 10 * time.Second
	slowGrowth   = 0.02 // of the rate per tick, near to where it was too much
	fastGrowth   = 0.4  // far below
	hope         = 0.05 // of what the receiver in the middle is believed to take, per tick
)

// Batch is how many packets are best sent at once. The kernel takes 44, but bursts of 64 KiB are more than shapers and
// small buffers of switches pass on at once.
const Batch = 32

// pace limits the rate: a bucket of bytes, and what fills it.
type pace struct {
	floor, ceiling float64
	rate           float64 // bytes per second
	bucket         float64
	began          time.Duration
	filledAt       time.Duration
	tickAt         time.Duration
	lastTick       time.Duration

	knee      float64 // the most that the slowest path carried when the rate last went down
	growth    float64 // of the rate per tick
	median    float64 // what the receiver in the middle is believed to take
	changedAt uint64  // counter at the last slowing down
	fellAt    time.Duration
	spent     float64 // bytes since the last tick
	actual    float64 // bytes per second that went out
	was       float64 // the rate before it was last lowered
	tested    float64 // the rate before it was lowered, until it is known whether that helped; 0: it was not
	learned   bool    // it did not help somebody
	common    bool    // most receivers lost packets when it was lowered

	// How long packets wait on their way, by the receiver that is least behind.
	least  time.Duration // since the last tick
	queue  time.Duration // in the tick before
	peak   time.Duration // lately
	queued time.Duration // when the rate was last lowered
	gave   float64       // the rate after way was last given
	gaveAt time.Duration

	sealedAt [stamps]stamp // when packets were sealed, in a ring
	stamped  int
}

// stamp is when the packets before one were sealed.
type stamp struct {
	counter uint64
	at      time.Duration
}

// The ring of stamps holds some seconds.
const (
	stamps     = 256
	stampEvery = 20 * time.Millisecond
)

// stamp notes that packets up to a counter are sealed.
func (p *pace) stamp(now time.Duration, counter uint64) {
	last := &p.sealedAt[p.stamped%stamps]
	if now-last.at < stampEvery && p.stamped > 0 {
		return
	}
	p.stamped++
	p.sealedAt[p.stamped%stamps] = stamp{counter, now}
}

// age is how long ago the packet behind a counter was sealed, at least.
func (p *pace) age(now time.Duration, counter uint64) time.Duration {
	var age time.Duration
	for i := p.stamped; i > 0 && i > p.stamped-stamps; i-- {
		if s := p.sealedAt[i%stamps]; s.counter > counter {
			age = now - s.at
		} else {
			break
		}
	}
	return age
}

func (p *pace) init(floor, ceiling float64) {
	p.least = math.MaxInt64
	p.ceiling = max(ceiling, 1500)
	p.floor = min(max(floor, 1500), p.ceiling)
	p.rate, p.knee, p.median, p.growth = p.ceiling, p.ceiling, p.ceiling, slowGrowth
}

// limit sets other bounds. Where only the ceiling held the rate down it is at the new one at once, as at the start.
func (p *pace) limit(floor, ceiling float64, sealed uint64) {
	held := p.rate >= p.ceiling
	p.ceiling = max(ceiling, 1500)
	p.floor = min(max(floor, 1500), p.ceiling)
	if held || p.rate > p.ceiling {
		p.rate, p.median, p.changedAt = p.ceiling, p.ceiling, sealed
	}
}

func (p *pace) start(now time.Duration) {
	p.began, p.filledAt, p.lastTick, p.spent = now, now, now, 0
}

const frame = packet.MaxSize + FrameOverhead

// allow says how many full packets may go now, or how long to wait.
func (p *pace) allow(now time.Duration) (int, time.Duration) {
	p.bucket = min(p.bucket+(now-p.filledAt).Seconds()*p.rate, max(2*Batch*frame, p.rate*late.Seconds()))
	p.filledAt = now
	// A quarter of a batch is worth a call; below that it is better to wait.
	if least := float64(Batch / 4 * frame); p.bucket < least {
		return 0, time.Duration((least-p.bucket)/p.rate*float64(time.Second)) + time.Microsecond
	}
	return int(p.bucket / frame), 0
}

func (p *pace) spend(n int) {
	p.bucket -= float64(n)
	p.spent += float64(n)
}

// tally sums what was sent and what arrived in the intervals between reports.
type tally struct {
	sent, got float64 // packets
	took      float64 // seconds
	intervals float64

	// Sums of squares and products, of which the spread between the intervals follows.
	sentSent, sentLost, lostLost float64
}

func (t *tally) add(sent, got, took float64) {
	lost := sent - got
	t.sent, t.got, t.took, t.intervals = t.sent+sent, t.got+got, t.took+took, t.intervals+1
	t.sentSent, t.sentLost, t.lostLost = t.sentSent+sent*sent, t.sentLost+sent*lost, t.lostLost+lost*lost
}

// halve lets what was counted so far count half.
func (t *tally) halve() {
	t.sent, t.got, t.took, t.intervals = t.sent/2, t.got/2, t.took/2, t.intervals/2
	t.sentSent, t.sentLost, t.lostLost = t.sentSent/2, t.sentLost/2, t.lostLost/2
}

// loss is the share of packets lost, and how far it may be off: the standard error, which is larger when losses come in
// bursts than when each comes by itself.
func (t *tally) loss() (loss, off float64) {
	if t.intervals < 2 {
		return 1 - t.got/max(t.sent, 1), 1
	}
	loss = 1 - t.got/t.sent
	spread := max(t.lostLost-2*loss*t.sentLost+loss*loss*t.sentSent, loss*(1-loss)*t.sent)
	return loss, math.Sqrt(spread*t.intervals/(t.intervals-1)) / t.sent
}

// speed is how many bytes per second arrived.
func (t *tally) speed() float64 { return t.got * frame / max(t.took, shortest.Seconds()) }

// link is what the reports say of a receiver's path and disk.
type link struct {
	loss     float64 // lately
	off      float64 // its standard error
	measured bool
	tally    tally         // at the present rate
	row      int           // intervals in turn with much loss
	base     float64       // loss that no lower rate cures
	baseAt   time.Duration // when that was found out
	before   float64       // loss when the rate was last lowered
	path     float64       // bytes per second on the wire that its path carries; infinite when nothing was too much
	capacity float64       // bytes per second on the wire of path and disk; infinite when nothing limits it
	disk     bool          // it is its disk that limits it
	slow     int           // ticks for which it was slow
	slowFrom uint64        // the highest counter that it had seen when that began
	since    uint64        // the slowing down that tally began with
	judged   uint64        // the slowing down that was judged last

	mark mark // the end of the last interval
	lag  lag

	first, highest, received, firstReceived uint64
	finishedAt                              time.Duration
	finished                                uint32
	writes                                  float64 // payload bytes per second
}

// mark is what a report said.
type mark struct {
	highest, received uint64
	at                time.Duration
}

// lag is how far a receiver is behind the sender: what waits in buffers between them is lost only when these are full,
// seconds later.
type lag struct {
	age      time.Duration // of the oldest packet that it had not seen with its last report
	behindAt time.Duration // when it last had not seen the first packet at the present rate
	then     mark          // of the look before
	sealed   uint64        // how many packets were sealed then
	growing  bool          // it is far behind and falls further behind
	speed    float64       // bytes per second that arrived while it grew
}

// look compares what a receiver has seen with what was sealed.
func (g *lag) look(now time.Duration, rep packet.Report, sealed uint64, p *pace) {
	g.age = p.age(now, rep.Highest)
	if rep.Highest < p.changedAt {
		g.behindAt = now
	}
	then := g.then
	if then.at != 0 && now-then.at < lagEvery {
		return
	}
	seen, came := rep.Highest-min(then.highest, rep.Highest), sealed-g.sealed
	// Of one that sees nothing at all it is not known whether it is slow.
	g.growing = then.at > p.fellAt && g.age > maxLag && seen > minInterval && float64(seen) < 0.9*float64(came)
	if g.growing {
		g.speed = float64(rep.Received-min(then.received, rep.Received)) * frame / (now - then.at).Seconds()
	}
	g.then, g.sealed = mark{rep.Highest, rep.Received, now}, sealed
}

// report measures the interval between two reports.
func (l *link) report(now time.Duration, rep packet.Report, sealed uint64, p *pace) {
	if rep.Highest == 0 {
		return
	}
	if l.first == 0 {
		l.first, l.firstReceived = rep.Highest, rep.Received
		l.finishedAt, l.finished = now, rep.Finished
		l.path = math.Inf(1)
	}
	l.highest, l.received = rep.Highest, rep.Received
	if d := now - l.finishedAt; d >= 2*tickEvery {
		l.writes = float64(rep.Finished-min(l.finished, rep.Finished)) * blocks.Size / d.Seconds()
		l.finishedAt, l.finished = now, rep.Finished
	}
	l.disk = rep.Backlog >= backlogLimit
	l.lag.look(now, rep, sealed, p)
	p.least = min(p.least, l.lag.age)
	from := l.mark
	if from.at == 0 || from.highest < p.changedAt { // the first report at the present rate
		l.mark = mark{rep.Highest, rep.Received, now}
		return
	}
	sent := rep.Highest - min(from.highest, rep.Highest)
	if sent < minInterval {
		return
	}
	got := min(rep.Received-min(from.received, rep.Received), sent)
	l.mark = mark{rep.Highest, rep.Received, now}
	if l.since != p.changedAt {
		l.since, l.tally, l.row = p.changedAt, tally{}, 0
	}
	l.tally.add(float64(sent), float64(got), (now - max(from.at, p.began)).Seconds())
	l.measured = true
	l.loss, l.off = l.tally.loss()
	if now-l.baseAt > baseMemory {
		l.base = 0 // it is tested again
	}
	l.base = min(l.base, l.loss+2*l.off)
	switch lost := float64(sent - got); {
	case lost > overrun && lost > overrunShare*float64(sent):
		l.row = inRow
	case lost > (l.base+excess)*float64(sent)+noise*math.Sqrt(float64(sent)):
		l.row++
	default:
		l.row = 0
	}
	if l.tally.sent > longMemory {
		l.tally.halve()
	}
}

// lossy tells whether the receiver loses more than at any rate: in most of the time, or in several intervals in turn.
func (l *link) lossy() bool {
	if l.row >= inRow {
		return true
	}
	over := l.loss - l.base
	return l.tally.intervals >= inRow && over > max(excess, l.base/2) && over > certain*l.off
}

// learn judges once what it has helped to lower the rate. Loss that stays as it was does not come from the rate.
func (l *link) learn(now time.Duration, p *pace) (learned bool) {
	if p.tested == 0 || !l.current(p) || l.judged == p.changedAt {
		return false
	}
	l.judged = p.changedAt
	// With congestion as much arrives per second as before.
	before, after := l.before-l.base, l.loss-l.base
	cured := max(1-(1-l.before)*p.was/p.rate-l.base, 0)
	if cured > 0.7*before || before < shared/2 || after < shared/2 || after < (before+cured)/2 {
		return false
	}
	l.base, l.baseAt, l.row = (l.before+l.loss)/2, now, 0
	return true
}

// hopeless tells that what the receiver lacks says nothing of the group.
func (l *link) hopeless() bool { return l.measured && l.loss > 0.3 }

// total is the share of packets lost since the first report.
func (l *link) total() float64 {
	sent, got := l.highest-l.first, l.received-l.firstReceived
	if sent == 0 || got > sent {
		return 0
	}
	return 1 - float64(got)/float64(sent)
}

// current tells that the path was measured at the present rate, for long enough to say something.
func (l *link) current(p *pace) bool { return l.since == p.changedAt && l.tally.intervals >= inRow }

// speed sets the receiver's capacity, given what goes out. What was measured before the rate last went down says no
// more than it did then, and some time after packets at the new rate have come nothing at all: at a low rate the next
// measurement takes a while.
func (l *link) speed(p *pace) {
	switch {
	case l.lag.growing:
		l.path = 0.9 * l.lag.speed // and what waits must get less
	case l.since == p.changedAt && l.lossy():
		l.path = l.tally.speed()
	case l.current(p) || p.lastTick-max(p.fellAt, l.lag.behindAt) > staleAfter:
		l.path = math.Inf(1)
	}
	l.capacity = l.path
	if l.disk && l.writes > 0 {
		l.capacity = min(l.capacity, l.writes*frame/packet.SymbolSize)
	}
}

// waiting tells that the rate went down for the receiver and it is not known yet whether that was enough.
func (l *link) waiting(p *pace) bool {
	return !l.current(p) && !math.IsInf(l.path, 1) && l.capacity == l.path
}

// control sets the rate by what the receivers can take, and tells the slow ones to leave.
func (s *Sender) control(now time.Duration) {
	p := &s.pace
	passed := (now - p.lastTick).Seconds()
	if passed <= 0 {
		return
	}
	p.actual = min(p.spent/passed, p.rate)
	p.spent, p.lastTick = 0, now
	if p.least < math.MaxInt64 {
		p.queue, p.least = p.least, math.MaxInt64
		p.peak = max(p.queue, p.peak*9/10)
	}
	var part []*receiver
	all := 0
	for _, r := range s.order {
		if !r.takesPart() || !r.hears() {
			continue
		}
		all++
		if r.link.measured {
			p.learned = r.link.learn(now, p) || p.learned
			r.link.speed(p)
			part = append(part, r)
		}
	}
	if len(part) == 0 {
		return
	}
	bySpeed(part)
	known := 2*len(part) >= all
	if known {
		p.believe(part[len(part)/2].link.capacity)
		if s.idleFrom < 0 {
			part = s.dropSlow(now, part)
		}
	}
	if part[0].link.waiting(p) || p.testing(part) {
		return
	}
	if slowest := part[0].link.capacity; slowest < p.rate {
		least := p.floor
		if !known { // the others may be much faster
			least = max(least, keepShare*p.rate)
		}
		s.slowDown(now, slowest, 0.95*slowest, least)
		return
	}
	if loss := p.sharedLoss(part); known && loss > 0 && p.tested == 0 {
		s.slowDown(now, (1-loss)*p.rate, doubt*p.rate, p.floor)
		return
	}
	switch {
	case p.learned && p.tested > p.rate: // it was lowered for nothing
		p.rate, p.changedAt = p.tested, s.cfg.Group.Sealed()
	case p.tested > 0 && p.common && p.queued > standing: // it was too much: others may need a part of it
		p.rate = max(min(p.rate, giveWay*p.knee), p.floor)
		p.gave, p.gaveAt = p.rate, now
	}
	p.tested, p.learned = 0, false
	p.grow(now)
}

// grow lets the rate come back to what was too much, at first fast, and go carefully beyond it.
func (p *pace) grow(now time.Duration) {
	if p.gaveAt > 0 && now-p.gaveAt < giveFor && p.queue > standing { // somebody takes what was given
		p.rate = min(1.003*p.rate, p.ceiling)
		return
	}
	if p.rate < p.knee && p.gaveAt > 0 {
		left := max(1-float64(now-p.gaveAt)/float64(comeBack), 0)
		p.rate = min(max(p.rate, p.knee-(p.knee-p.gave)*left*left*left)*1.001, // arrives in the end
			(1+fastGrowth)*p.rate, p.ceiling)
		p.growth = slowGrowth
		return
	}
	p.rate = min((1+p.growth)*p.rate, p.ceiling)
	if p.growth = min(2*p.growth, fastGrowth); p.rate > 0.9*p.knee && p.rate < 1.2*p.knee {
		p.growth = slowGrowth
	}
}

// testing tells that the rate was lowered and most receivers were not measured since.
func (p *pace) testing(part []*receiver) bool {
	if p.tested == 0 || p.lastTick-p.fellAt > staleAfter {
		return false
	}
	known := 0
	for _, r := range part {
		if r.link.current(p) {
			known++
		}
	}
	return 2*known < len(part)
}

// sharedLoss is what all receivers lose beyond what no lower rate cures; 0 if it may be chance. It is what the one
// loses who loses least.
func (p *pace) sharedLoss(part []*receiver) float64 {
	least := math.Inf(1)
	for _, r := range part {
		l := &r.link
		over := l.loss - l.base
		if !l.current(p) || l.tally.sent < sharedFrom || over < max(shared, 3*l.off) {
			return 0
		}
		least = min(least, over)
	}
	return least
}

// slowDown lowers the rate because of a receiver that can take no more than slowest.
func (s *Sender) slowDown(now time.Duration, slowest, rate, least float64) {
	p := &s.pace
	p.knee, p.growth = slowest, slowGrowth
	rate = min(max(rate, least), p.ceiling)
	if rate >= p.rate {
		return // what is measured goes on
	}
	if p.was = p.rate; p.tested == 0 {
		p.tested = p.rate
	}
	p.rate, p.changedAt, p.fellAt, p.queued = rate, s.cfg.Group.Sealed(), now, p.peak
	lossy, all := 0, 0
	for _, r := range s.order {
		r.link.before = r.link.loss
		if r.takesPart() && r.hears() {
			all++
		}
		if r.takesPart() && r.link.measured && r.link.loss-r.link.base > shared {
			lossy++
		}
	}
	p.common = 2*lossy > all
}

// believe takes the capacity of the receiver in the middle. Where it is not known, because nothing limits
// that receiver at this rate, the belief grows: with the rate kept low by somebody slow it would never be
// seen what the others can take.
func (p *pace) believe(median float64) {
	if math.IsInf(median, 1) {
		median = max((1+hope)*p.median, p.actual)
	}
	p.median = min(median, p.ceiling)
}

// dropSlow returns those for whom the others wait: not those who are far below what the one in the middle is
// believed to take, or below the floor. These are told to leave when they stay far below what really goes out.
// Where everybody is slow nobody leaves. part is sorted by speed.
func (s *Sender) dropSlow(now time.Duration, part []*receiver) []*receiver {
	p := &s.pace
	waitFor := max(keepShare*p.median, p.floor)
	leave := max(keepShare*min(p.median, p.actual), p.floor) // at most waitFor
	var kept, slow []*receiver
	for _, r := range part {
		if r.link.capacity >= waitFor {
			kept = append(kept, r)
		}
		if r.link.capacity >= leave {
			r.link.slow = 0
		} else {
			slow = append(slow, r)
		}
	}
	if len(kept) == 0 {
		return part
	}
	for _, r := range slow {
		if r.link.slow == 0 {
			r.link.slowFrom = r.link.highest
		}
		if r.link.slow++; r.link.slow < patience || r.link.highest-r.link.slowFrom < evidence {
			continue
		}
		if r.link.disk {
			r.mustLeave(now, packet.ReasonDisk)
		} else {
			r.mustLeave(now, packet.ReasonNetwork)
		}
	}
	return kept
}
