package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"

	"clonecast/internal/protocol"
	"clonecast/internal/quantity"
)

// What bodies of requests may take of the memory, all of them together. What does not fit is refused as busy, with
// the time after which to try again; appliances do.
//
//	strangers   register, log on, log in: their bodies together
//	machines    those of all machines that are logged on
//	one         of these, those of one machine; one machine that asks for too much takes nobody else's part
const (
	strangersRoom  = 32 * quantity.MiB
	leastRoom      = 256 * quantity.MiB // of machines, however little memory the server has
	memoryShare    = 4                  // else machines have this part of the server's memory
	retryAfter     = "2"                // seconds
	firstAllocated = 64 << 10           // of a body; it grows as bytes arrive, never on a promise
)

// Limits of JSON bodies. What a machine tells of its hardware is a few KB.
const (
	maxJSON       = 64 << 10
	maxStatusJSON = 1 << 20
	// jsonCost is how many times its length a body may take when it is parsed: every item of a list may become a disk,
	// and lists grow by allocating anew. An item has a comma behind it or is the last one, and what machines send has
	// one comma in eight bytes at most: with more, a few bytes would become a lot of memory.
	jsonCost   = 140
	fewCommas  = 256
	commaEvery = 8
	// joinCost is the same for a SessionJoin, which has no lists.
	joinCost = 8
)

// bodies counts the bytes of bodies that are being read or worked on.
type bodies struct {
	mu        sync.Mutex
	room      quantity.Bytes // of machines
	machines  quantity.Bytes
	strangers quantity.Bytes
	by        map[string]quantity.Bytes // by machine
}

// newBodies sizes the room of machines by the server's memory.
func newBodies() *bodies {
	room := leastRoom
	if all, ok := memoryTotal(); ok {
		room = max(room, all/memoryShare)
	}
	return &bodies{room: room, by: map[string]quantity.Bytes{}}
}

// memoryTotal is the computer's memory.
func memoryTotal() (quantity.Bytes, bool) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, false
	}
	var kib int64
	if _, err := fmt.Sscanf(string(text), "MemTotal: %d kB", &kib); err != nil {
		return 0, false
	}
	return quantity.Bytes(kib) * quantity.KiB, true
}

// errNoRoom says that other bodies take all the memory that bodies may have.
var errNoRoom = &protocol.Problem{Code: protocol.CodeBusy, Title: "the server has its hands full", Hint: "try again"}

// take reserves bytes for a caller, a machine or "" for a stranger.
func (b *bodies) take(machine string, n quantity.Bytes) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case machine == "" && b.strangers+n > strangersRoom:
		return errNoRoom
	case machine == "":
		b.strangers += n
		return nil
	case n > b.room:
		return &protocol.Problem{Code: protocol.CodeInvalid,
			Title: fmt.Sprintf("the body is longer than %v, which is what this server's memory allows", b.room)}
	// Whoever has much already leaves the second half to others.
	case b.machines+n > b.room || b.by[machine] > 0 && b.by[machine]+n > b.room/2 && b.by[machine]+n > n:
		return errNoRoom
	}
	b.machines += n
	b.by[machine] += n
	return nil
}

func (b *bodies) give(machine string, n quantity.Bytes) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if machine == "" {
		b.strangers -= n
		return
	}
	b.machines -= n
	if b.by[machine] -= n; b.by[machine] <= 0 {
		delete(b.by, machine)
	}
}

// reading is a body on its way into memory.
type reading struct {
	bodies  *bodies
	machine string
	held    quantity.Bytes
}

// more reserves further bytes.
func (r *reading) more(n quantity.Bytes) error {
	if err := r.bodies.take(r.machine, n); err != nil {
		return err
	}
	r.held += n
	return nil
}

// done gives the memory back. The body must not be used any more.
func (r *reading) done() {
	r.bodies.give(r.machine, r.held)
	r.held = 0
}

type bodiesKey struct{}

// body reads a body of at most limit bytes. Memory is reserved and allocated as bytes arrive: at most twice as many
// as have come, and no more than the request says that it has. The caller gives it back by done when the body is not
// needed any more.
func body(w http.ResponseWriter, r *http.Request, limit int64) (b []byte, in *reading, err error) {
	shared, _ := r.Context().Value(bodiesKey{}).(*bodies)
	in = &reading{bodies: shared, machine: callerOf(r.Context()).machine}
	defer func() {
		if err != nil {
			in.done()
		}
	}()
	if r.ContentLength > limit {
		return nil, in, &http.MaxBytesError{Limit: limit}
	}
	most := limit
	if r.ContentLength >= 0 {
		most = r.ContentLength
	}
	from := http.MaxBytesReader(w, r.Body, limit)
	b = []byte{}
	for {
		if len(b) == cap(b) && int64(len(b)) < most {
			size := min(max(2*int64(cap(b)), firstAllocated), most)
			if err := in.more(quantity.Bytes(size - int64(cap(b)))); err != nil {
				return nil, in, err
			}
			b = append(make([]byte, 0, size), b...)
		}
		room := b[len(b):cap(b)]
		if len(room) == 0 {
			room = make([]byte, 1) // only the end may come
		}
		n, err := from.Read(room)
		if n > 0 && len(b) == cap(b) {
			return nil, in, &http.MaxBytesError{Limit: most}
		}
		b = b[:len(b)+n]
		if errors.Is(err, io.EOF) {
			return b, in, nil
		}
		if err != nil {
			return nil, in, err
		}
	}
}

// readJSON reads a body that is one JSON value.
func readJSON(w http.ResponseWriter, r *http.Request, v any) error {
	return readJSONOf(w, r, maxJSON, jsonCost, v)
}

// readJSONOf reads a body that is one JSON value of at most limit bytes, which takes cost times as much when it is
// parsed.
func readJSONOf(w http.ResponseWriter, r *http.Request, limit int64, cost int, v any) error {
	b, in, err := body(w, r, limit)
	if err != nil {
		return err
	}
	defer in.done()
	if err := in.more(quantity.Bytes(cost * len(b))); err != nil {
		return err
	}
	if n := bytes.Count(b, []byte(",")); n > fewCommas+len(b)/commaEvery {
		return invalidBody("the body has %d items and fields, that is too many for its length", n)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(v); err != nil {
		return invalidBody("the body is not the JSON that %s takes: %v", r.URL.Path, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return invalidBody("the body goes on after its JSON value")
	}
	return nil
}
