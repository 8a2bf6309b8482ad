package simulation

import (
	"fmt"
	"testing"
	"time"

	"clonecast/internal/multicast/packet"
)

// TestLossIsNoCongestion holds the rate, payload per second over the line's speed, under loss that no lower rate cures:
// independent, in bursts at regular times or at any, and so much that it must be found out first.
func TestLossIsNoCongestion(t *testing.T) {
	regular := path{delay: ms / 2, run: 40, every: 2000}
	for _, tc := range []struct {
		receivers int
		mbit      float64
		path      path
		rate      float64 // at least
	}{
		{12, 60, path{delay: ms / 2, loss: 0.02}, 0.88},
		{10, 60, path{delay: ms / 2, loss: 0.08}, 0.77},
		{6, 60, path{delay: ms / 2, loss: 0.15}, 0.67},
		{4, 60, path{delay: ms / 2, loss: 0.25}, 0.5},
		{8, 60, regular, 0.87},
		{8, 10, regular, 0.86},
		{8, 60, path{delay: ms / 2, loss: 0.02, burst: 40}, 0.78},
	} {
		name := fmt.Sprintf("%d receivers, %.0f Mbit/s, loss %v, burst %v, %d of %d",
			tc.receivers, tc.mbit, tc.path.loss, tc.path.burst, tc.path.run, tc.path.every)
		t.Run(name, func(t *testing.T) {
			const seconds = 2.5
			w := newWorld(t, 500, config{payload: int(seconds * tc.mbit * mbit), line: tc.mbit * mbit})
			for range tc.receivers {
				n := w.join(0, tc.path, nil)
				n.path.count = w.rng.IntN(max(tc.path.every, 1))
			}
			w.run(100*ms, time.Minute)
			rate := seconds / (w.lastDone() - 100*ms).Seconds()
			t.Logf("rate %.3f", rate)
			if rate < tc.rate {
				t.Errorf("rate %.3f, want at least %.2f", rate, tc.rate)
			}
		})
	}
}

// lastDone is when the last receiver was done.
func (w *world) lastDone() (last time.Duration) {
	for _, n := range w.nodes {
		last = max(last, n.done)
	}
	return last
}

// TestSlowWithLargeBuffers gives all receivers the same slow path, behind a buffer of seconds, as a PC has that cannot
// keep the pace: nothing is lost for long, and then everything. The rate goes down before.
func TestSlowWithLargeBuffers(t *testing.T) {
	for _, speed := range []float64{10, 20} {
		w := newWorld(t, 500, config{payload: 20e6, line: 30 * mbit})
		for range 2 {
			w.join(0, path{delay: ms / 2, rate: speed * mbit, buffer: 9 << 20}, nil)
		}
		w.run(100*ms, 10*time.Minute)
		for _, n := range w.nodes {
			if _, reason := n.r.State(); reason != packet.ReasonNone {
				t.Errorf("%v Mbit/s: receiver %d left: %v", speed, n.id, reason)
			}
		}
		if took := float64(w.lastDone()-100*ms) / float64(w.onePass()) * speed / 30; took > 1.15 || w.wire() > 1.1 {
			t.Errorf("%v Mbit/s: %.2f times as long as the path alone takes, wire %.3f", speed, took, w.wire())
		}
	}
}

// TestBesideTCP lets a session and a flow like TCP's pass a link that is too slow for both. None of them starves. (TCP
// as it is today takes more than this one.)
func TestBesideTCP(t *testing.T) {
	for _, tc := range []struct {
		line   float64 // Mbit/s; the link in the middle has 60
		buffer int
		least  float64 // of the link, that the flow has
	}{
		{100, 32 << 10, 0.1}, {100, 256 << 10, 0.2}, {60, 256 << 10, 0.2}, {100, 1 << 20, 0.15},
	} {
		const link = 60 * mbit
		w := newWorld(t, 700, config{payload: link * 6, line: tc.line * mbit})
		w.middle = &port{rate: link, buffer: tc.buffer}
		for range 2 {
			w.join(0, path{delay: ms / 2}, nil)
		}
		f := w.tcp(0, ms)
		before := 0
		w.at(500*ms, func() { before = f.delivered })
		w.start(500 * ms)
		for !w.everyDone() {
			w.step(time.Minute)
		}
		took := (w.lastDone() - 500*ms).Seconds()
		flow, session := float64(f.delivered-before)/took/link, float64(len(w.payload))/took/link
		shares := fmt.Sprintf("line of %v Mbit/s, buffer of %d bytes: the flow has %.2f, the session %.2f",
			tc.line, tc.buffer, flow, session)
		t.Log(shares)
		if flow < tc.least || session < 0.3 {
			t.Error(shares)
		}
	}
}
