package multicast

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"clonecast/internal/await"
	"clonecast/internal/multicast/blocks"
	"clonecast/internal/multicast/packet"
	"clonecast/internal/protocol"
)

// found offers a payload on the loopback interface and finds the session.
func found(ctx context.Context, t *testing.T, opts SendOptions) (f *Found, sent <-chan error) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		_, err := Send(ctx, opts)
		done <- err
	}()
	f, err := Find(ctx, "lo", opts.Pairing, opts.Log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f, done
}

// described is what a server would say of a session that was found.
func described(f *Found) protocol.Session {
	d := f.Description
	return protocol.Session{Session: d.Session, Group: d.Group, Control: d.Control, Payload: d.Payload, Sender: f.sender}
}

// TestOffered receives a session that a server describes, by the interface that leads to its sender.
func TestOffered(t *testing.T) {
	plain, payload := payloadOf(20*blocks.Size + 1)
	ctx := await.Context(t)
	f, sent := found(ctx, t, offered(t, payload))
	same, err := Offered(described(f), f.host, f.log)
	if err != nil || same.ifi.Name != "lo" {
		t.Fatalf("Offered: %+v, %v", same, err)
	}
	var mu sync.Mutex
	got := make([]byte, len(plain))
	_, err = same.Receive(ctx, blocks.FullSet(same.Geometry().Count()), func(b int, block []byte) error {
		mu.Lock()
		defer mu.Unlock()
		copy(got[same.Geometry().Offset(b):], block)
		return nil
	}, nil)
	if err != nil || !bytes.Equal(got, plain) {
		t.Errorf("Receive: %v, equal %v", err, bytes.Equal(got, plain))
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

// goneHost forgets the session once a place is given, and counts how often it must say so.
type goneHost struct {
	Host
	asked atomic.Int32
}

func (h *goneHost) Blocks(context.Context, int, int, func(io.Reader) error) error {
	h.asked.Add(1)
	return fmt.Errorf("blocks: %w", ErrGone)
}

// TestGone lets the session be forgotten while a block must come by unicast: that is the end, at once.
func TestGone(t *testing.T) {
	_, payload := payloadOf(20*blocks.Size + 1)
	ctx, cancel := context.WithCancel(await.Context(t))
	defer cancel()
	f, sent := found(ctx, t, offered(t, payload))
	host := &goneHost{Host: f.host}
	same, err := Offered(described(f), host, f.log)
	if err != nil {
		t.Fatal(err)
	}
	_, err = same.Receive(ctx, blocks.FullSet(same.Geometry().Count()), func(b int, _ []byte) error {
		if b == 3 {
			return ErrLater
		}
		return nil
	}, nil)
	if asked := host.asked.Load(); !errors.Is(err, ErrGone) || asked != 1 {
		t.Errorf("Receive: %v when the sender was asked %d times, want ErrGone at once", err, asked)
	}
	cancel()
	<-sent
}

// TestBegin takes the end of a reception that was called off for no beginning: a deploy would change its disk.
func TestBegin(t *testing.T) {
	enough := errors.New("enough")
	ctx, stop := context.WithCancelCause(t.Context())
	stop(enough)
	r := &Reception{begun: make(chan struct{})}
	close(r.begun)
	for range 100 { // what is ready is chosen at random
		if err := r.Begin(ctx); !errors.Is(err, enough) {
			t.Fatalf("Begin = %v, want %v", err, enough)
		}
	}
	if err := r.Begin(t.Context()); err != nil {
		t.Errorf("Begin = %v", err)
	}
}

// joinedHost does something when a place is given.
type joinedHost struct {
	Host
	joined func()
}

func (h joinedHost) Join(ctx context.Context, q protocol.SessionJoin) (protocol.SessionPlace, error) {
	defer h.joined()
	return h.Host.Join(ctx, q)
}

// TestGoodbye stops the sender in the middle: receivers hear that at once, and that nobody is there to fetch from.
func TestGoodbye(t *testing.T) {
	_, payload := payloadOf(200 * blocks.Size)
	opts := offered(t, payload)
	opts.MaxRate = 2e6
	ctx := await.Context(t)
	sending, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		_, err := Send(sending, opts)
		done <- err
	}()
	f, err := Find(ctx, "lo", opts.Pairing, opts.Log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	need := blocks.FullSet(f.Geometry().Count())
	summary, err := f.Receive(ctx, need, func(int, []byte) error { return nil }, func(done, _ int64) {
		if done > 0 {
			stop()
		}
	})
	if !errors.Is(err, ErrGone) || summary.Reason != packet.ReasonEnded {
		t.Errorf("Receive = %v, reason %v; want that the session has ended and is gone", err, summary.Reason)
	}
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Send = %v", err)
	}
}

// TestPrepare waits for a session to begin before a deploy changes its disk, and leaves a session that does not begin.
func TestPrepare(t *testing.T) {
	dir, _ := captureRandom(t, 6<<20)
	store, _, m, err := openVersion(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	payload, err := NewImagePayload(store, m)
	if err != nil {
		t.Fatal(err)
	}
	_, reader := payloadOf(1)
	opts := offered(t, reader)
	opts.Payload, opts.Source, opts.Receivers = payload.Size(), payload, 2
	ctx := await.Context(t)
	f, sent := found(ctx, t, opts)
	source := func() *ImageSource {
		s, err := NewImageSource(f, m, payload.Table())
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	enough := errors.New("enough")
	early, stop := context.WithCancelCause(ctx)
	host := f.host
	f.host = joinedHost{host, func() { stop(enough) }}
	impatient := source()
	if err := impatient.Prepare(early, payloadChunks(m)); !errors.Is(err, enough) {
		t.Errorf("Prepare for a session that waits for another receiver = %v", err)
	}
	impatient.Close()
	if summary, joined := impatient.Summary(); !joined || summary.State != packet.StateFailed {
		t.Errorf("who gives up waiting ends as %+v, %v", summary, joined)
	}
	joined := make(chan struct{}, 2)
	f.host = joinedHost{host, func() { joined <- struct{}{} }}
	first, second := source(), source()
	defer first.Close()
	defer second.Close()
	ready := make(chan error, 1)
	go func() { ready <- first.Prepare(ctx, payloadChunks(m)) }()
	// The sender may not know yet that the impatient one has left: with the second alone it would begin, and soon end.
	<-joined
	if err := second.Prepare(ctx, nil); err != nil { // needs nothing, and counts
		t.Errorf("Prepare for nothing = %v", err)
	}
	if err := <-ready; err != nil {
		t.Fatalf("Prepare = %v", err)
	}
	frames := 0
	if err := first.Frames(ctx, payloadChunks(m), func([]byte) error { frames++; return nil }); err != nil || frames == 0 {
		t.Errorf("Frames = %v, %d frames", err, frames)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

// TestReceivingRoom keeps what receiving takes within the memory that there is.
func TestReceivingRoom(t *testing.T) {
	if got := roomIn(8 << 30); got != fullRoom {
		t.Errorf("with 8 GiB: %+v, want %+v", got, fullRoom)
	}
	for _, available := range []int64{-1, 0, 1 << 20} {
		if got := roomIn(available); got != leastRoom {
			t.Errorf("with %d bytes: %+v, want %+v", available, got, leastRoom)
		}
	}
	for available := int64(128 << 20); available <= 4<<30; available += 64 << 20 {
		r := roomIn(available)
		if all := 2*int64(r.blocks)*blocks.Size + int64(r.partial) + 2*int64(r.buffer); all > available/2 {
			t.Errorf("with %d MiB: %+v may take %d MiB", available>>20, r, all>>20)
		}
	}
	for text, want := range map[string]int64{
		"MemTotal:  4 kB\nMemAvailable:   1234 kB\n": 1234 << 10,
		"":                                      math.MaxInt64,
		"MemAvailable: -1 kB":                   math.MaxInt64,
		"MemAvailable: 99999999999999999999 kB": math.MaxInt64,
		"MemAvailable:":                         math.MaxInt64,
	} {
		if got := parseAvailable([]byte(text)); got != want {
			t.Errorf("parseAvailable(%q) = %d, want %d", text, got, want)
		}
	}
}

// TestOfferedNonsense refuses descriptions that nobody can follow.
func TestOfferedNonsense(t *testing.T) {
	good := protocol.Session{
		Session: 1, Payload: 1, Sender: make([]byte, 32),
		Group:   netip.MustParseAddrPort("239.255.128.1:9068"),
		Control: netip.MustParseAddrPort("127.0.0.1:9"),
	}
	if _, err := Offered(good, nil, nil); err != nil {
		t.Errorf("Offered(%+v) = %v", good, err)
	}
	for name, change := range map[string]func(*protocol.Session){
		"no payload":          func(s *protocol.Session) { s.Payload = 0 },
		"a negative payload":  func(s *protocol.Session) { s.Payload = -1 },
		"too large a payload": func(s *protocol.Session) { s.Payload = blocks.MaxPayload + 1 },
		"no group":            func(s *protocol.Session) { s.Group = netip.AddrPort{} },
		"one computer":        func(s *protocol.Session) { s.Group = s.Control },
		"a group of IPv6":     func(s *protocol.Session) { s.Group = netip.MustParseAddrPort("[ff02::1]:9068") },
		"no control":          func(s *protocol.Session) { s.Control = netip.AddrPort{} },
		"half a key":          func(s *protocol.Session) { s.Sender = s.Sender[:16] },
	} {
		bad := good
		change(&bad)
		if f, err := Offered(bad, nil, nil); err == nil {
			t.Errorf("%s: Offered(%+v) = %+v", name, bad, f)
		}
	}
}
