package sender

import (
	"math"
	"time"

	"clonecast/internal/multicast/blocks"
	"clonecast/internal/multicast/packet"
)

// How the rate is controlled. A receiver is congested when it loses clearly more than it ever
// did at its best: what arrives per second is then what its path can carry. Loss that is always there (a bad
// cable, a poor switch) is no reason to be slow; parity repairs it. A receiver whose memory
// is filling up is as fast as its disk. Nobody waits for one that is far slower than the one in the middle.
const (
	tickEvery    = 100 * time.Millisecond
	late         = 20 * time.Millisecond // that the driver may be without the rate falling
	excess       = 0.03                  // more loss than usual that counts, and noise more for few packets
	noise        = 2.0                   // divided by the root of the packets measured
	staleAfter   = 3 * time.Second       // from when on what was measured at a higher rate does not count
	longMemory   = 4000                  // packets after which older ones count half
	randomLoss   = 0.10                  // at first, loss up to here is not blamed on the rate
	keepShare    = 0.5                   // of the median's speed; who is slower leaves
	patience     = 5                     // ticks for which somebody must be slow: a short stall is none
	evidence     = 1500                  // packets for which too: at a low rate few go by in these ticks
	backlogLimit = 80                    // percent of a receiver's memory
	minInterval  = 48                    // packets in an interval worth measuring
	shortest     = 10 * time.Millisecond // for which what a path carries is measured
	longInterval = time.Second           // after so long without one it may be that of several reports
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
}

func (p *pace) init(floor, ceiling float64) {
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

// link is what the reports say of a receiver's path and disk.
type link struct {
	loss     float64 // lately
	measured bool
	sent     float64 // packets measured at the present rate, older ones halved
	got      float64
	took     float64    // seconds
	base     [2]float64 // least loss lately, and in the time before
	baseAt   time.Duration
	path     float64 // bytes per second on the wire that its path carried when last measured; infinite when it carried all
	capacity float64 // bytes per second on the wire of path and disk; infinite when nothing limits it
	disk     bool    // it is its disk that limits it
	slow     int     // ticks for which it was slow
	slowFrom uint64  // the highest counter that it had seen when that began
	since    uint64  // the slowing down that sent and got began with

	mark   packet.Report // the last one that ended an interval: Highest and Received
	markAt time.Duration

	first, highest, received, firstReceived uint64
	finishedAt                              time.Duration
	finished                                uint32
	writes                                  float64 // payload bytes per second
}

// report measures the interval between two reports.
func (l *link) report(now, before time.Duration, last, rep packet.Report, p *pace) {
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
	from, fromAt := last, before
	if l.mark.Highest < p.changedAt || l.mark.Highest == 0 {
		l.mark.Highest, l.mark.Received, l.markAt = rep.Highest, rep.Received, now
	} else if now-l.markAt > longInterval {
		from, fromAt = l.mark, l.markAt
	}
	sent := rep.Highest - min(from.Highest, rep.Highest)
	if before == 0 || from.Highest == 0 || sent < minInterval || from.Highest < p.changedAt {
		return
	}
	got := rep.Received - min(from.Received, rep.Received)
	l.mark.Highest, l.mark.Received, l.markAt = rep.Highest, rep.Received, now
	if l.since != p.changedAt {
		l.since, l.sent, l.got, l.took = p.changedAt, 0, 0, 0
	}
	l.sent += float64(sent)
	l.got += float64(min(got, sent))
	l.took += (now - max(fromAt, p.began)).Seconds()
	l.loss = 1 - l.got/l.sent
	if l.sent > longMemory {
		l.sent, l.got, l.took = l.sent/2, l.got/2, l.took/2
	}
	if !l.measured {
		l.measured = true
		l.base, l.baseAt = [2]float64{randomLoss, randomLoss}, now
	}
	if now-l.baseAt > baseMemory {
		l.base, l.baseAt = [2]float64{l.loss, l.base[0]}, now
	}
	if l.sent > longMemory/8 {
		l.base[0] = min(l.base[0], l.loss)
	}
}

// congested tells whether the receiver loses because of the rate.
func (l *link) congested() bool {
	base := min(l.base[0], l.base[1])
	return l.sent >= minInterval && l.loss > base+max(excess, base/2)+noise/math.Sqrt(l.sent)
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

// current tells that the path was measured at the present rate.
func (l *link) current(p *pace) bool { return l.since == p.changedAt }

// speed sets the receiver's capacity, given what goes out. What was measured before the rate last went down says no
// more than it did then, and soon nothing at all: the reports of a slow receiver come late, and at a low rate the
// next measurement takes a while.
func (l *link) speed(p *pace) {
	switch {
	case l.current(p) && l.congested():
		l.path = l.got * frame / max(l.took, shortest.Seconds())
	case l.current(p) || p.lastTick-p.fellAt > staleAfter:
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
	var part []*receiver
	all := 0
	for _, r := range s.order {
		if !r.takesPart() || !r.hears() {
			continue
		}
		all++
		if r.link.measured {
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
	if part[0].link.waiting(p) {
		return
	}
	if slowest := part[0].link.capacity; slowest < p.rate {
		p.knee, p.growth = slowest, slowGrowth
		least := p.floor
		if !known { // the others may be much faster
			least = max(least, keepShare*p.rate)
		}
		if rate := min(max(0.95*slowest, least), p.ceiling); rate < p.rate { // else what is measured goes on
			p.rate, p.changedAt, p.fellAt = rate, s.cfg.Group.Sealed(), now
		}
		return
	}
	p.rate = min((1+p.growth)*p.rate, p.ceiling)
	if p.growth = min(2*p.growth, fastGrowth); p.rate > 0.9*p.knee && p.rate < 1.2*p.knee {
		p.growth = slowGrowth
	}
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
