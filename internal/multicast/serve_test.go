package multicast

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"clonecast/internal/await"
	"clonecast/internal/multicast/blocks"
	"clonecast/internal/protocol"
)

// payloadOf makes random bytes and a source of them.
func payloadOf(n int) ([]byte, *bytes.Reader) {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{3}).Read(b)
	return b, bytes.NewReader(b)
}

// offered are the options of a session on the loopback interface.
func offered(t *testing.T, payload *bytes.Reader) SendOptions {
	t.Helper()
	pairing, signer, err := NewPairing()
	if err != nil {
		t.Fatal(err)
	}
	return SendOptions{
		Interface: "lo", Pairing: pairing, Signer: signer, Receivers: 1, MaxRate: testRate,
		Payload: payload.Size(), Source: FileSource(payload, payload.Size()),
		Details: json.RawMessage(`{}`), Log: slog.New(slog.DiscardHandler),
	}
}

// served is a session whose HTTPS server answers.
func served(t *testing.T, payload *bytes.Reader) *offer {
	t.Helper()
	c, err := newOffer(offered(t, payload))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		c.close()
	})
	return c
}

// TestServer asks the session's server for what it must give and for what it must not.
func TestServer(t *testing.T) {
	plain, payload := payloadOf(3*blocks.Size + 100)
	c := served(t, payload)
	at := c.listener.Addr().(*net.TCPAddr).AddrPort()
	public := c.opts.Signer.Public().(ed25519.PublicKey)
	good := newClient(at, public, c.token)
	defer good.close()
	join := func(nonce string) string {
		request := protocol.SessionJoin{Nonce: []byte(nonce), AES: true, Need: blocks.FullSet(4).AppendBinary(nil)}
		b, err := json.Marshal(request)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for _, tc := range []struct {
		method, path, body string
		code               int // 0: 200
	}{
		{"GET", pathSession, "", 0},
		{"GET", pathBlocks + "?first=0&count=4", "", 0},
		{"GET", pathBlocks + "?first=0&count=5", "", 400},
		{"GET", pathBlocks + "?first=4&count=1", "", 400},
		{"GET", pathBlocks + "?first=-1&count=1", "", 400},
		{"GET", pathBlocks + "?first=0&count=0", "", 400},
		{"GET", pathBlocks + "?first=9223372036854775807&count=2", "", 400},
		{"GET", pathBlocks, "", 400},
		{"POST", pathJoin, join("sixteen bytes..."), 0},
		{"POST", pathJoin, join("sixteen bytes..."), 0},
		{"POST", pathJoin, join("short"), 400},
		{"POST", pathJoin, strings.Replace(join("sixteen bytes..."), `"need":"`, `"need":"////`, 1), 400},
		{"POST", pathJoin, "{", 400},
		{"POST", pathSession, "", 404},
		{"GET", "/", "", 404},
	} {
		body, err := good.do(t.Context(), tc.method, tc.path, strings.NewReader(tc.body))
		var status *statusError
		if tc.code == 0 && err != nil || tc.code != 0 && (!errors.As(err, &status) || status.code != tc.code) {
			t.Errorf("%s %s: %v, want %d", tc.method, tc.path, err, tc.code)
		}
		if err == nil {
			got, err := io.ReadAll(body)
			body.Close()
			if strings.HasPrefix(tc.path, pathBlocks) && (err != nil || !bytes.Equal(got, plain)) {
				t.Errorf("%s: %d bytes that are not the payload's (%v)", tc.path, len(got), err)
			}
		}
	}
	if n := len(c.session.Summary().Receivers); n != 1 {
		t.Errorf("%d places were given for one nonce", n)
	}

	stranger := newClient(at, public, strings.Repeat("0", 64))
	defer stranger.close()
	var status *statusError
	_, err := stranger.do(t.Context(), "GET", pathSession, nil)
	if !errors.As(err, &status) || status.code != http.StatusForbidden {
		t.Errorf("without the token: %v, want 403", err)
	}
	_, other, err := NewPairing()
	if err != nil {
		t.Fatal(err)
	}
	wary := newClient(at, other.Public().(ed25519.PublicKey), c.token)
	defer wary.close()
	_, err = wary.do(t.Context(), "GET", pathSession, nil)
	if err == nil || !strings.Contains(err.Error(), "not the session's sender") {
		t.Errorf("a server with another key is trusted: %v", err)
	}
}

// TestLater receives by code, with a sink that at first has no room for some blocks: they come by
// unicast, and all bytes are there in the end.
func TestLater(t *testing.T) {
	plain, payload := payloadOf(20*blocks.Size + 1)
	opts := offered(t, payload)
	opts.MaxRate *= 10 // unicast has a small part of it
	ctx := await.Context(t)
	sent := make(chan error, 1)
	go func() {
		_, err := Send(ctx, opts)
		sent <- err
	}()
	code, err := ParseCode(opts.Pairing.Code())
	if err != nil {
		t.Fatal(err)
	}
	found, err := Find(ctx, "lo", code, opts.Log)
	if err != nil {
		t.Fatal(err)
	}
	defer found.Close()
	var mu sync.Mutex
	got, refused := make([]byte, len(plain)), map[int]int{}
	summary, err := found.Receive(ctx, blocks.FullSet(found.Geometry().Count()), func(b int, block []byte) error {
		mu.Lock()
		defer mu.Unlock()
		if b%5 == 0 && refused[b] < 2 {
			refused[b]++
			return ErrLater
		}
		copy(got[found.Geometry().Offset(b):], block)
		return nil
	}, nil)
	if err != nil || !bytes.Equal(got, plain) {
		t.Errorf("Receive: %v, equal %v", err, bytes.Equal(got, plain))
	}
	if summary.Fetched < 4*blocks.Size {
		t.Errorf("%d bytes came by unicast, want those of 5 blocks", summary.Fetched)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

// TestCancel ends a sender that nobody answers, and a receiver that knows another code.
func TestCancel(t *testing.T) {
	_, payload := payloadOf(100)
	opts := offered(t, payload)
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(300*time.Millisecond, func() { cancel(why) })
	other, _, err := NewPairing()
	if err != nil {
		t.Fatal(err)
	}
	lost := make(chan error, 1)
	go func() {
		_, err := Find(ctx, "lo", other, opts.Log)
		lost <- err
	}()
	if _, err := Send(ctx, opts); !errors.Is(err, why) {
		t.Errorf("Send = %v, want %v", err, why)
	}
	if err := <-lost; !errors.Is(err, why) {
		t.Errorf("Find = %v, want %v", err, why)
	}
	if _, _, err := localAddress("no-such-interface"); err == nil {
		t.Error("an interface that is not there has an address")
	}
}
