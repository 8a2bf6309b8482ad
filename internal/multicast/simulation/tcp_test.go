package simulation

import "time"

// tcp is a flow like TCP's (Reno) that passes the middle of the network beside a session: as many packets on their way
// as its window, one more per round without loss, half as many after one.
type tcp struct {
	w         *world
	port      *port
	rtt       time.Duration // without what waits in the port
	window    float64
	threshold float64
	flying    int
	sent      int
	recovery  int // the window was halved: not again for a loss of a packet before this one
	heard     time.Duration
	delivered int // bytes
}

const tcpPacket = 1514

func (w *world) tcp(at time.Duration, rtt time.Duration) *tcp {
	f := &tcp{w: w, port: w.middle, rtt: rtt, window: 10, threshold: 1e9}
	w.at(at, func() { f.heard = w.now; f.send(); f.watch() })
	return f
}

func (f *tcp) send() {
	for ; f.flying < int(f.window); f.flying++ {
		f.sent++
		n := f.sent
		if out, ok := f.port.pass(f.w.now, tcpPacket); ok {
			f.w.at(out+f.rtt, func() { f.acknowledged() })
		} else { // packets behind it tell of the loss
			f.w.at(f.port.freeAt+f.rtt, func() { f.lost(n) })
		}
	}
}

func (f *tcp) acknowledged() {
	f.flying--
	f.heard = f.w.now
	f.delivered += tcpPacket
	if f.window < f.threshold {
		f.window++
	} else {
		f.window += 1 / f.window
	}
	f.send()
}

func (f *tcp) lost(n int) {
	f.flying--
	if n > f.recovery {
		f.window = max(f.window/2, 2)
		f.threshold, f.recovery = f.window, f.sent
	}
	f.send()
}

// watch begins anew with one packet when nothing was heard for 200 ms.
func (f *tcp) watch() {
	if f.w.now-f.heard > 200*time.Millisecond {
		f.threshold, f.window, f.heard = max(f.window/2, 2), 1, f.w.now
	}
	f.send()
	f.w.at(f.w.now+50*time.Millisecond, f.watch)
}
