package packet

import (
	"encoding/binary"
	"fmt"
)

// State is where a session or a receiver stands.
type State uint8

// The states of a session: waiting, running, ended. Those of a receiver: the others.
const (
	StateWaiting   State = iota + 1 // session: no data yet
	StateRunning                    // session: data and repair flow
	StateEnded                      // session: no more data comes; what is missing comes by unicast
	StateReceiving                  // receiver: takes part in the multicast
	StateUnicast                    // receiver: left the group, fetches the rest from the sender
	StateDone                       // receiver: has every byte, written and verified
	StateFailed                     // receiver: gave up
)

var stateNames = [...]string{
	StateWaiting: "waiting", StateRunning: "running", StateEnded: "ended",
	StateReceiving: "receiving", StateUnicast: "unicast", StateDone: "done", StateFailed: "failed",
}

func (s State) String() string {
	if s == 0 || int(s) >= len(stateNames) {
		return fmt.Sprintf("state %d", uint8(s))
	}
	return stateNames[s]
}

// Status is the sender's word on the session, signed. Size 32.
type Status struct {
	Serial      uint64  `offset:"0x0"` // grows with every status; older ones are ignored
	State       State   `offset:"0x8"` // waiting, running or ended
	_           [3]byte `offset:"0x9"`
	Poll        uint32  `offset:"0xc"`  // changes when every receiver shall report at once
	ReportEvery uint32  `offset:"0x10"` // milliseconds between a receiver's reports
	Spread      uint32  `offset:"0x14"` // milliseconds within which to answer a poll
	Rate        uint64  `offset:"0x18"` // bytes per second that the sender sends at most
}

const statusSize = 32

// Append appends the body.
func (s Status) Append(b []byte) []byte {
	b, _ = binary.Append(b, binary.LittleEndian, s) // fixed size: cannot go wrong
	return b
}

// ParseStatus reads a status whose signature Verify took off.
func ParseStatus(b []byte) (Status, error) {
	var s Status
	if len(b) < statusSize {
		return s, fmt.Errorf("%w: status of %d bytes", ErrMalformed, len(b))
	}
	if _, err := binary.Decode(b, binary.LittleEndian, &s); err != nil {
		return Status{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if s.State < StateWaiting || s.State > StateEnded {
		return Status{}, fmt.Errorf("%w: a session in %v", ErrMalformed, s.State)
	}
	return s, nil
}

// Announce tells where a session is to be had. Size 64.
type Announce struct {
	Sender [32]byte `offset:"0x0"`  // the sender's Ed25519 key; the code names its hash
	Addr   [16]byte `offset:"0x20"` // the sender's address, IPv4 mapped into IPv6
	Port   uint16   `offset:"0x30"` // of its HTTPS server
	_      [14]byte `offset:"0x32"`
}

const announceSize = 64

// Append appends the body.
func (a Announce) Append(b []byte) []byte {
	b, _ = binary.Append(b, binary.LittleEndian, a)
	return b
}

// ParseAnnounce reads an announcement whose signature is still behind it: the key to check it
// with stands in it.
func ParseAnnounce(b []byte) (Announce, error) {
	var a Announce
	if len(b) < announceSize {
		return a, fmt.Errorf("%w: announcement of %d bytes", ErrMalformed, len(b))
	}
	if _, err := binary.Decode(b, binary.LittleEndian, &a); err != nil {
		return Announce{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return a, nil
}

// Verb is what an order asks for.
type Verb uint8

// The orders.
const (
	VerbForget Verb = iota + 1 // the last report is heard; the receiver may go
	VerbLeave                  // leave the group, continue by unicast
	VerbHeard                  // a report is heard: the answer shows that answers arrive
)

// Order is the sender's word to one receiver. Size 8.
type Order struct {
	Verb   Verb    `offset:"0x0"`
	Reason Reason  `offset:"0x1"`
	_      [6]byte `offset:"0x2"`
}

const orderSize = 8

// Append appends the body.
func (o Order) Append(b []byte) []byte {
	b, _ = binary.Append(b, binary.LittleEndian, o)
	return b
}

// ParseOrder reads an order.
func ParseOrder(b []byte) (Order, error) {
	var o Order
	if len(b) < orderSize {
		return o, fmt.Errorf("%w: order of %d bytes", ErrMalformed, len(b))
	}
	if _, err := binary.Decode(b, binary.LittleEndian, &o); err != nil {
		return Order{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if o.Verb < VerbForget || o.Verb > VerbHeard {
		return Order{}, fmt.Errorf("%w: order %d", ErrMalformed, o.Verb)
	}
	return o, nil
}
