package tftp

import (
	"context"
	"net"
	"sync/atomic"
	"time"
)

// job is what the server keeps of a transfer under way.
type job struct {
	request string // as it came
	begun   time.Time
	end     context.CancelFunc
	conn    atomic.Pointer[net.UDPConn]
	heard   atomic.Bool // the client has acknowledged anything
	again   atomic.Bool // the client has sent its request again
	hurried int         // how often that was answered
}

// onTheWay is how long after a request its copy may come, made twice by the network. No PC is reset and asks again so
// soon.
const onTheWay = 250 * time.Millisecond

// mostHurries bounds what somebody brings about who forges requests.
const mostHurries = 3

// repeats tells whether a request is the one of j once more: the first answer was lost or is late, or the network made
// two of one. It belongs to j then, whose port the client may already know.
func (j *job) repeats(next *job) bool {
	return next.request == j.request && (!j.heard.Load() || next.begun.Sub(j.begun) < onTheWay)
}

// hurry has the first answer sent again now, unless the client has it.
func (j *job) hurry() {
	if j.heard.Load() || j.hurried >= mostHurries {
		return
	}
	j.hurried++
	j.again.Store(true)
	if conn := j.conn.Load(); conn != nil {
		_ = conn.SetReadDeadline(time.Unix(1, 0)) // of a transfer that has just ended
	}
}
