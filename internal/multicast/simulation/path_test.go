package simulation

import (
	"testing"
	"time"

	"clonecast/internal/multicast/packet"
)

const multicast = packet.PathGroup | packet.PathFull | packet.PathLink

// TestVerdicts closes ways to one of three receivers, for each cause that the path test can name: that receiver says
// the cause, is heard to say it, ends by unicast, and the others do not notice.
func TestVerdicts(t *testing.T) {
	for name, tc := range map[string]struct {
		path path
		want packet.Reason
	}{
		"IGMP snooping":              {path{closed: packet.PathGroup}, packet.ReasonSnooping},
		"MTU":                        {path{closed: packet.PathFull}, packet.ReasonMTU},
		"no multicast":               {path{closed: multicast}, packet.ReasonMulticast},
		"no UDP to it":               {path{closed: multicast | packet.PathUnicast}, packet.ReasonFirewall},
		"no UDP at all":              {path{closed: multicast | packet.PathUnicast, deaf: true}, packet.ReasonFirewall},
		"no multicast, no reports":   {path{closed: multicast, deaf: true}, packet.ReasonFirewall},
		"another subnet":             {path{closed: multicast, subnet: true}, packet.ReasonSubnet},
		"another subnet, no UDP":     {path{closed: multicast | packet.PathUnicast, subnet: true}, packet.ReasonSubnet},
		"two subnets on one network": {path{subnet: true}, packet.ReasonNone},
		"snooping and no answers": {
			path{closed: packet.PathGroup | packet.PathUnicast, deaf: true}, packet.ReasonSnooping,
		},
		"no answers":             {path{closed: packet.PathUnicast}, packet.ReasonNone},
		"no reports":             {path{deaf: true}, packet.ReasonNone},
		"link-local is filtered": {path{closed: packet.PathLink}, packet.ReasonNone},
		"all is well":            {path{}, packet.ReasonNone},
	} {
		for phase, joins := range map[string]time.Duration{"waiting": 0, "late": 5100 * ms} {
			w := newWorld(t, 30, config{payload: 8e6, line: 10 * mbit})
			tc.path.delay = ms
			others := []*node{w.join(0, path{delay: ms}, nil), w.join(0, path{delay: ms}, nil)}
			n := w.join(joins, tc.path, nil)
			w.run(5*time.Second, 5*time.Minute)
			state, reason := n.r.State()
			seen := w.sender.Receivers()[2]
			if state != packet.StateDone || reason != tc.want || seen.Reason != tc.want || seen.State != "done" {
				t.Errorf("%s, %s: the receiver is %v by %q, the sender sees it %s by %q, want %q; it heard %v",
					name, phase, state, reason, seen.State, seen.Reason, tc.want, n.r.Paths().Names())
			}
			if _, fetched := n.r.Finished(); (tc.want != packet.ReasonNone) != (fetched > w.geo.Count()/2) {
				t.Errorf("%s, %s: %d of %d blocks came by unicast", name, phase, fetched, w.geo.Count())
			}
			for _, other := range others {
				if passes := float64(other.done-5*time.Second) / float64(w.onePass()); passes > 1.05 {
					t.Errorf("%s, %s: receiver %d takes %.2f passes", name, phase, other.id, passes)
				}
			}
		}
	}
}

// TestVerdictInTime decides within seconds, before the session begins.
func TestVerdictInTime(t *testing.T) {
	w := newWorld(t, 31, config{payload: 1e6, line: 100 * mbit})
	n := w.join(0, path{delay: ms, closed: multicast}, nil)
	w.join(0, path{delay: ms}, nil)
	w.at(3500*ms, func() {
		if state, reason := n.r.State(); reason != packet.ReasonMulticast || state != packet.StateDone {
			w.fatalf("it is %v by %v, want done by unicast", state, reason)
		}
		if state := w.sender.State(); state != packet.StateWaiting {
			w.fatalf("the session is %v", state)
		}
	})
	w.run(20*time.Second, time.Minute)
}

// TestSwitchForgets takes the group away in the middle, as a switch does that forgets who wants it: the cause is said.
// When it is everything that is gone, that is said.
func TestSwitchForgets(t *testing.T) {
	for _, tc := range []struct {
		closed packet.Paths
		deaf   bool
		want   packet.Reason
	}{{packet.PathGroup, false, packet.ReasonSnooping}, {multicast | packet.PathUnicast, true, packet.ReasonSilence}} {
		w := newWorld(t, 32, config{payload: 20e6, line: 100 * mbit})
		n := w.join(0, path{delay: ms}, nil)
		w.join(0, path{delay: ms, rate: 30 * mbit}, nil) // the session takes longer than the verdict
		w.at(500*ms, func() { n.path.closed, n.path.deaf = tc.closed, tc.deaf })
		w.run(100*ms, time.Minute)
		if _, reason := n.r.State(); reason != tc.want {
			t.Errorf("without %v: %q, want %q", tc.closed.Names(), reason, tc.want)
		}
	}
}

// TestQuerierHelps opens the group as soon as the sender says that somebody may sit behind a switch without querier: in
// time, nobody leaves. The sender says so for nothing else.
func TestQuerierHelps(t *testing.T) {
	w := newWorld(t, 33, config{payload: 5e6, line: 100 * mbit})
	n := w.join(0, path{delay: ms, closed: packet.PathGroup}, nil)
	queried := time.Duration(-1)
	var look func()
	look = func() {
		if queried < 0 && w.sender.Snooped() {
			queried = w.now
			w.at(w.now+time.Second, func() { n.path.closed = 0 }) // hosts answer within a second
		}
		if !w.over {
			w.at(w.now+10*ms, look)
		}
	}
	w.at(0, look)
	w.run(100*ms, time.Minute)
	if _, reason := n.r.State(); reason != packet.ReasonNone || queried < 500*ms || queried > 1500*ms {
		t.Errorf("asked for a query at %v, the receiver left: %v", queried, reason)
	}
	for name, p := range map[string]path{
		"all is well":  {loss: 0.1},
		"MTU":          {closed: packet.PathFull},
		"no multicast": {closed: multicast},
		"firewall":     {closed: multicast | packet.PathUnicast, deaf: true},
	} {
		w := newWorld(t, 34, config{payload: 5e6, line: 100 * mbit})
		p.delay = ms
		w.join(0, p, nil)
		var look func()
		look = func() {
			if w.sender.Snooped() {
				w.fatalf("%s: the sender suspects a switch", name)
			}
			if !w.over {
				w.at(w.now+10*ms, look)
			}
		}
		w.at(0, look)
		w.run(100*ms, time.Minute)
	}
}

// TestProbesEnd counts what the path test costs: nothing to speak of when all is well, and little for an insider that
// says for ever that it hears nothing.
func TestProbesEnd(t *testing.T) {
	probes := func(prepare func(w *world)) (n int) {
		w := newWorld(t, 35, config{payload: 5e6, line: 100 * mbit})
		w.join(0, path{delay: ms}, nil)
		w.tap = func(p []byte) {
			if h, err := packet.ParseHeader(p); err == nil && h.Kind == packet.KindProbe {
				n++
			}
		}
		prepare(w)
		w.run(time.Minute, 5*time.Minute)
		return n
	}
	if n := probes(func(*world) {}); n == 0 || n > 20 {
		t.Errorf("%d probes where all is well", n)
	}
	n := probes(func(w *world) {
		w.join(0, path{delay: ms}, nil)
		w.kill(10*ms, w.nodes[1])
		key := w.key("receiver 2", packet.PurposeUp)
		var lie func()
		lie = func() {
			header := packet.Header{Kind: packet.KindReport, Block: 2}
			body := packet.Report{State: packet.StateReceiving}.Append(nil)
			p, err := key.Seal(nil, header, body)
			for err == nil && key.Sealed() < 100 { // it joined with some
				p, err = key.Seal(nil, header, body)
			}
			if err != nil {
				t.Fatal(err)
			}
			if w.sender.Handle(w.now, p); w.now < time.Minute {
				w.at(w.now+20*ms, lie)
			}
		}
		w.at(100*ms, lie)
	})
	if n < 100 || n > 500 {
		t.Errorf("%d probes for an insider that hears nothing for a minute", n)
	}
}
