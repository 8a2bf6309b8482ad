package simulation

import (
	"flag"
	"fmt"
	"slices"
	"testing"
	"time"

	"clonecast/internal/multicast/packet"
)

var explore = flag.Int("explore", 0, "seeds per scenario")
var only = flag.String("scenario", "", "")

type scenario struct {
	name      string
	receivers int
	mbit      float64
	payload   int
	path      path
	setup     func(w *world)
	rate      float64
}

func scenarios() []scenario {
	per := func(run, every int) path { return path{delay: ms / 2, run: run, every: every} }
	ind := func(p float64) path { return path{delay: ms / 2, loss: p} }
	slowOne := func(rate float64) func(w *world) {
		return func(w *world) { w.nodes[0].path.rate = rate * mbit }
	}
	return []scenario{
		{"8-0", 8, 100, 32e6, ind(0), nil, .94},
		{"16-1", 16, 50, 32e6, ind(.01), nil, .90},
		{"12-2", 12, 60, 32e6, ind(.02), nil, .88},
		{"16-5", 16, 50, 32e6, ind(.05), nil, .84},
		{"10-8", 10, 60, 32e6, ind(.08), nil, .75},
		{"10-15", 10, 60, 32e6, ind(.15), nil, .6},
		{"4-25", 4, 60, 32e6, ind(.25), nil, .5},
		{"8-burst40", 8, 60, 32e6, per(40, 2000), nil, .86},
		{"8-rburst40", 8, 60, 32e6, path{delay: ms / 2, loss: .02, burst: 40}, nil, .80},
		{"8-rburst100", 8, 60, 32e6, path{delay: ms / 2, loss: .02, burst: 100}, nil, .7},
		{"8-burst40-10M", 8, 10, 8e6, per(40, 2000), nil, .86},
		{"4-slow-10%", 4, 100, 32e6, ind(0), slowOne(10), .9},
		{"4-slow-70%", 4, 100, 32e6, ind(0), slowOne(70), .62},
		{"4-slow-70%-8%", 4, 100, 32e6, ind(.08), slowOne(70), .5},
		{"3-all-40", 3, 100, 16e6, path{delay: ms / 2, rate: 40 * mbit}, nil, .35},
		{"3-all-40-small", 3, 100, 16e6, path{delay: ms / 2, rate: 40 * mbit, buffer: 32 << 10}, nil, .35},
		{"2-all-10-of-30-big", 2, 30, 46e6, path{delay: ms / 2, rate: 10 * mbit, buffer: 9 << 20}, nil, .30},
		{"2-all-20-of-30-big", 2, 30, 46e6, path{delay: ms / 2, rate: 20 * mbit, buffer: 9 << 20}, nil, .60},
	}
}

func (sc scenario) run(t *testing.T, seed uint64) (rate, wire float64, w *world) {
	w = newWorld(t, seed, config{payload: sc.payload, line: sc.mbit * mbit})
	for range sc.receivers {
		n := w.join(0, sc.path, nil)
		n.path.count = w.rng.IntN(max(sc.path.every, 1))
	}
	if sc.setup != nil {
		sc.setup(w)
	}
	w.run(100*ms, 10*time.Minute)
	last := time.Duration(0)
	for _, n := range w.nodes {
		if _, reason := n.r.State(); reason == packet.ReasonNone {
			last = max(last, n.done)
		}
	}
	return float64(sc.payload) / (sc.mbit * mbit) / (last - 100*ms).Seconds(), w.wire(), w
}

func TestExplore(t *testing.T) {
	for _, sc := range scenarios() {
		if *only != "" && *only != sc.name {
			continue
		}
		var rates, wires []float64
		left := ""
		for seed := range uint64(*explore) {
			rate, wire, w := sc.run(t, 500+seed)
			rates, wires = append(rates, rate), append(wires, wire)
			for _, r := range w.sender.Receivers() {
				if r.Reason != 0 {
					left += fmt.Sprint(" ", r.ID, ":", r.Reason.Cause())
				}
			}
		}
		if len(rates) == 0 {
			continue
		}
		slices.Sort(rates)
		slices.Sort(wires)
		m := len(rates) / 2
		mark := ""
		if rates[m] < sc.rate {
			mark = "  <<< " + fmt.Sprint(sc.rate)
		}
		fmt.Printf("%-20s rate %.3f (%.3f–%.3f) wire %.3f (–%.3f)%s%s\n", sc.name, rates[m], rates[0], rates[len(rates)-1],
			wires[m], wires[len(wires)-1], mark, left)
	}
}

func TestExploreTCP(t *testing.T) {
	for _, c := range []struct {
		mbit   float64 // bottleneck
		line   float64
		buffer int
		rtt    time.Duration
	}{
		{60, 100, 64 << 10, ms}, {60, 100, 256 << 10, ms}, {60, 100, 1 << 20, ms}, {60, 60, 256 << 10, ms},
		{60, 1000, 256 << 10, ms}, {60, 100, 256 << 10, 20 * ms}, {20, 100, 256 << 10, ms}, {60, 100, 32 << 10, ms},
	} {
		if *only != "" && *only != "tcp" {
			continue
		}
		var shares, sums []float64
		for seed := range uint64(*explore) {
			w := newWorld(t, 700+seed, config{payload: int(c.mbit * mbit * 6), line: c.line * mbit})
			w.middle = &port{rate: c.mbit * mbit, buffer: c.buffer}
			for range 2 {
				w.join(0, path{delay: ms / 2}, nil)
			}
			f := w.tcp(0, c.rtt)
			before := 0
			w.at(500*ms, func() { before = f.delivered })
			w.start(500 * ms)
			after := time.Duration(0)
			for !w.over {
				w.step(10 * time.Minute)
				if after == 0 && !slices.ContainsFunc(w.nodes, func(n *node) bool { return n.done < 0 }) {
					after = w.now
					f.stopped = true
				}
			}
			took := (after - 500*ms).Seconds()
			_ = before
			for _, r := range w.sender.Receivers() {
				if r.Reason != 0 {
					fmt.Println("left", r.ID, r.Reason)
				}
			}
			shares = append(shares, float64(f.delivered-before)/took/(c.mbit*mbit))
			sums = append(sums, float64(len(w.payload))/took/(c.mbit*mbit))
		}
		if len(shares) > 0 {
			slices.Sort(shares)
			slices.Sort(sums)
			m := len(shares) / 2
			fmt.Printf("tcp %v/%v Mbit/s buffer %d rtt %v: tcp %.2f (%.2f-%.2f), session %.2f (%.2f-%.2f)\n", c.mbit, c.line, c.buffer, c.rtt,
				shares[m], shares[0], shares[len(shares)-1], sums[m], sums[0], sums[len(sums)-1])
		}
	}
}
