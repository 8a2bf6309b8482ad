package multicast

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"testing"
	"time"

	"clonecast/internal/multicast/blocks"
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
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
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

// goneHost forgets the session once a place is given.
type goneHost struct{ Host }

func (goneHost) Blocks(context.Context, int, int, func(io.Reader) error) error {
	return fmt.Errorf("blocks: %w", ErrGone)
}

// TestGone lets the session be forgotten while a block must come by unicast: that is the end, at once.
func TestGone(t *testing.T) {
	_, payload := payloadOf(20*blocks.Size + 1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	f, sent := found(ctx, t, offered(t, payload))
	same, err := Offered(described(f), goneHost{f.host}, f.log)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	_, err = same.Receive(ctx, blocks.FullSet(same.Geometry().Count()), func(b int, _ []byte) error {
		if b == 3 {
			return ErrLater
		}
		return nil
	}, nil)
	if took := time.Since(began); !errors.Is(err, ErrGone) || took > fetchPatience {
		t.Errorf("Receive: %v after %v, want ErrGone at once", err, took)
	}
	cancel()
	<-sent
}

// TestOfferedNonsense refuses descriptions that nobody can follow.
func TestOfferedNonsense(t *testing.T) {
	good := protocol.Session{Session: 1, Group: netip.MustParseAddrPort("239.255.128.1:9068"), Control: netip.MustParseAddrPort("127.0.0.1:9"), Payload: 1, Sender: make([]byte, 32)}
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
