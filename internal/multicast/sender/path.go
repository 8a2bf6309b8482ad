package sender

import (
	"time"

	"clonecast/internal/multicast/fec"
	"clonecast/internal/multicast/packet"
)

// How the paths to receivers are tested: while somebody does not hear full packets of the group,
// probes go out with every tick.
const (
	maxProbes   = 200             // for one receiver, in ticks: nobody has the sender probe for ever
	snoopedFrom = 8 * tickEvery   // for so long it must hear link-local multicast only
	probeMargin = 2 * time.Second // for which a receiver may be silent and still be probed for
)

// hears tells whether full packets of the group get to the receiver. Until then it cannot say what it lacks, and nobody
// can say how fast it is.
func (r *receiver) hears() bool { return r.paths&packet.PathFull != 0 }

// notePaths takes what a receiver hears. One that hears the group only after data began to flow has missed something by
// no fault of its own: it may ask for that, like a late joiner.
func (s *Sender) notePaths(r *receiver, ways packet.Paths) {
	r.paths = ways
	if r.opened || !r.hears() {
		return
	}
	r.opened = true
	if s.state == packet.StateRunning {
		r.asked -= int(min(s.counters.Source, uint64(r.need.Len()*fec.K)))
	}
}

// probeFor looks whether a receiver needs probes. It is called with every tick.
func (s *Sender) probeFor(now time.Duration, r *receiver) {
	if !r.takesPart() || r.hears() {
		r.snoopedTicks = 0
		return
	}
	if r.probed < maxProbes && now-r.heard < probeMargin {
		r.probed++
		s.probeGroup, s.probeLink = true, true
	}
	if r.paths&(packet.PathLink|packet.PathGroup) != packet.PathLink {
		r.snoopedTicks = 0
		return
	}
	r.snoopedTicks++
	s.snooped = s.snooped || r.snoopedTicks > int(snoopedFrom/tickEvery)
}

// Snooped tells that somebody hears link-local multicast and not the group for most of a second: a query that
// makes switches learn may help.
func (s *Sender) Snooped() bool { return s.snooped }

// LinkProbe gives a probe to send to 224.0.0.1, or nil. It is asked as often as Next.
func (s *Sender) LinkProbe() ([]byte, error) {
	if !s.probeLink {
		return nil, nil
	}
	s.probeLink = false
	return s.probe(nil, packet.PathLink)
}

// probe seals a probe. Its key is not the group's: receivers that do not hear it have not lost data.
func (s *Sender) probe(buf []byte, way packet.Paths) ([]byte, error) {
	header, body := packet.Header{Kind: packet.KindProbe}, packet.Probe{Path: way}.Append(nil)
	buf, err := s.cfg.Probe.SealSigned(buf, header, body, s.cfg.Signer)
	s.onWire(len(buf))
	return buf, err
}
