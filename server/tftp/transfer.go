package tftp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"
)

// Patience of a transfer. The first answer goes out three times at most, to
// whoever sent the request; a client that has answered is waited for longer.
const (
	firstTries  = 3
	tries       = 6
	firstWait   = time.Second
	longestWait = 8 * time.Second
	maxTransfer = 10 * time.Minute
)

// errGone is the usual end of a PC that was switched off, or that had all it
// wanted: many ask for the size only.
var errGone = errors.New("client is gone")

// transfer sends one file over conn, which is connected to the client.
func transfer(ctx context.Context, conn *net.UDPConn, data []byte, s settings, j *job) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	t := &sending{
		ctx: ctx, conn: conn, window: newWindow(data, s), buf: make([]byte, 0, 4+s.block),
		wait: firstWait, end: time.Now().Add(maxTransfer), job: j,
	}
	if s.timeout > 0 {
		t.wait = time.Duration(s.timeout) * time.Second
	}
	if len(s.accept) > 0 {
		t.hello = oack(s.accept)
	}
	return t.run()
}

// sending is a transfer under way.
type sending struct {
	ctx    context.Context
	conn   *net.UDPConn
	window *window
	hello  []byte // the OACK, until it was acknowledged
	job    *job
	buf    []byte
	wait   time.Duration
	end    time.Time
}

func (t *sending) run() error {
	if err := t.send(); err != nil {
		return err
	}
	wait, left := t.wait, firstTries-1
	deadline := time.Now().Add(wait)
	for !t.window.done() {
		moved, err := t.receive(deadline)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if t.ctx.Err() != nil {
				return t.ctx.Err()
			}
			if time.Now().After(t.end) {
				return errGone
			}
			if t.job.again.Swap(false) {
				break // asked for once more: neither patience nor tries change
			}
			if left == 0 {
				return errGone
			}
			left--
			wait = min(2*wait, max(longestWait, t.wait))
		case err != nil:
			return err
		case !moved:
			continue // the deadline stays: noise does not keep a transfer alive
		default:
			wait, left = t.wait, tries-1
		}
		if t.window.done() {
			return nil
		}
		if err := t.send(); err != nil {
			return err
		}
		deadline = time.Now().Add(wait)
	}
	return nil
}

// send sends the OACK or the window.
func (t *sending) send() error {
	if t.hello != nil {
		return t.write(t.hello)
	}
	for n := t.window.acked + 1; n <= t.window.last(); n++ {
		if err := t.write(t.window.packet(t.buf, n)); err != nil {
			return err
		}
	}
	return nil
}

func (t *sending) write(b []byte) error {
	if _, err := t.conn.Write(b); err != nil && !errors.Is(err, syscall.ENOBUFS) {
		return gone(err)
	}
	return nil
}

// receive takes one packet; moved tells whether something is to be sent for it.
func (t *sending) receive(deadline time.Time) (moved bool, err error) {
	if t.ctx.Err() != nil {
		return false, t.ctx.Err()
	}
	if err := t.conn.SetReadDeadline(deadline); err != nil {
		return false, err
	}
	var b [maxRequest]byte
	n, err := t.conn.Read(b[:])
	if err != nil {
		return false, gone(err)
	}
	if n < 4 {
		return false, nil
	}
	switch binary.BigEndian.Uint16(b[:]) {
	case opError:
		return false, fmt.Errorf("%w: error %d", errGone, binary.BigEndian.Uint16(b[2:]))
	case opAck:
		t.job.heard.Store(true)
		number := binary.BigEndian.Uint16(b[2:])
		if t.hello != nil {
			if number != 0 {
				return false, nil
			}
			t.hello = nil
			return true, nil
		}
		return t.window.ack(number), nil
	}
	return false, nil
}

// gone maps the ICMP answer of a closed port.
func gone(err error) error {
	if errors.Is(err, syscall.ECONNREFUSED) {
		return errGone
	}
	return err
}
