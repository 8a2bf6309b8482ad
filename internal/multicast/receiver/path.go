package receiver

import (
	"time"

	"clonecast/internal/multicast/packet"
)

// How the path from the sender is tested.
const (
	quiet       = 2 * time.Second // without a packet of the group the path is tested again
	testFor     = 3 * time.Second // for which packets that fill a frame must come
	answerAfter = time.Second     // without an answer to reports these go another way, too
	detourEvery = time.Second
	attention   = 500 * time.Millisecond
)

// path is the test of the ways by which packets come from the sender. It begins when the receiver joins and
// whenever the group falls silent.
type path struct {
	since  time.Duration
	heard  packet.Paths
	passed bool // the group was heard once
	window packet.Window
}

// open tells whether the group can carry the session: full packets arrive.
func (p *path) open() bool { return p.heard&packet.PathFull != 0 }

func (p *path) hear(ways packet.Paths) {
	p.heard |= ways
	p.passed = p.passed || p.open()
}

// probe takes a probe of the sender.
func (r *Receiver) probe(now time.Duration, h packet.Header, p []byte) bool {
	if !r.path.window.Fresh(h.Counter) {
		return false
	}
	body, err := r.cfg.Probe.Open(r.scratch[:0], h, p)
	if err != nil || !r.mayCheck(now) {
		return false
	}
	if body, err = packet.Verify(h, body, r.cfg.Sender); err != nil {
		return false
	}
	probe, err := packet.ParseProbe(body)
	if err != nil {
		return false
	}
	r.path.window.Note(h.Counter)
	r.path.hear(probe.Path)
	if probe.Path == packet.PathFull {
		r.path.hear(packet.PathGroup)
		r.heard = now
	}
	return true
}

// watch tests the path while the receiver depends on it, and leaves the group when it is closed.
func (r *Receiver) watch(now time.Duration) {
	if gap := now - r.lookedAt; gap > attention { // who did not look cannot have heard
		r.heard += gap
		r.path.since += gap
	}
	r.lookedAt = now
	if r.state != packet.StateReceiving {
		return
	}
	switch {
	case !r.path.open() && now-r.path.since > testFor:
		r.leave(now, r.verdict())
	case r.path.open() && now-r.heard > quiet:
		r.path.since, r.path.heard = now, 0
	}
}

// verdict tells from what is heard why the group is not.
func (r *Receiver) verdict() packet.Reason {
	switch heard := r.path.heard; {
	case heard&packet.PathGroup != 0:
		return packet.ReasonMTU
	case heard&packet.PathLink != 0:
		return packet.ReasonSnooping
	case r.cfg.OtherSubnet:
		return packet.ReasonSubnet
	case heard&packet.PathUnicast != 0:
		return packet.ReasonMulticast
	case r.path.passed:
		return packet.ReasonSilence
	}
	return packet.ReasonFirewall
}

// Paths are the ways by which packets were heard since the path was tested last.
func (r *Receiver) Paths() packet.Paths { return r.path.heard }

// Answer takes the sender's answer to a report that made a detour.
func (r *Receiver) Answer(now time.Duration, p []byte) {
	h, err := packet.ParseHeader(p)
	if err != nil || h.Session != r.cfg.Session || h.Kind != packet.KindOrder || !r.order(now, h, p) {
		r.counters.Refused++
	}
}

// Detour tells whether the report that Next gave shall go to the sender by HTTPS: reports are not answered by UDP, so
// either they or the answers are lost. That is so once a second, and when there is news.
func (r *Receiver) Detour(now time.Duration) bool {
	if r.path.heard&packet.PathUnicast != 0 || now-r.path.since < answerAfter ||
		now < r.detourAt && r.state == r.detourState {
		return false
	}
	r.detourAt, r.detourState = now+detourEvery, r.state
	return true
}

// Leave turns to unicast for what is missing, for a reason that the driver knows.
func (r *Receiver) Leave(now time.Duration, reason packet.Reason) { r.leave(now, reason) }
