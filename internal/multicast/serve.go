package multicast

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"clonecast/internal/multicast/blocks"
	"clonecast/internal/multicast/packet"
	"clonecast/internal/multicast/sender"
	"clonecast/internal/protocol"
)

// Paths of the session's HTTPS server.
const (
	pathSession = "/v1/session"
	pathJoin    = "/v1/join"
	pathBlocks  = "/v1/blocks" // ?first=N&count=N
)

// certificate wraps the session's key for TLS. Only the key in it counts.
func certificate(signer ed25519.PrivateKey) (tls.Certificate, error) {
	// The times mean nothing: receivers trust the key, and no clock.
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, signer.Public(), signer)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make the session's certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: signer}, nil
}

// serve answers receivers over HTTPS until the context ends.
func (c *cast) serve(ctx context.Context) error {
	cert, err := certificate(c.opts.Signer)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler: c, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(c.opts.Log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() {
		patience, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_ = server.Shutdown(patience) // whoever is still there has its answer, or is too slow
	})
	defer stop()
	listener := tls.NewListener(c.listener, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13})
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve HTTPS: %w", err)
	}
	return nil
}

// ServeHTTP answers one request of a receiver that shows the session's token.
func (c *cast) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), []byte("Bearer "+c.token)) != 1 {
		http.Error(w, "this session needs its pairing code or key file", http.StatusForbidden)
		return
	}
	switch r.Method + " " + r.URL.Path {
	case "GET " + pathSession:
		answer(w, c.description)
	case "POST " + pathJoin:
		c.serveJoin(w, r)
	case "GET " + pathBlocks:
		c.serveBlocks(w, r)
	default:
		http.NotFound(w, r)
	}
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the receiver is gone: nothing to be done
}

func (c *cast) serveJoin(w http.ResponseWriter, r *http.Request) {
	var request protocol.SessionJoin
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, protocol.MaxSessionJoin)).Decode(&request); err != nil {
		http.Error(w, "the request is not understood: "+err.Error(), http.StatusBadRequest)
		return
	}
	if len(request.Nonce) != protocol.NonceSize {
		http.Error(w, "the request has no nonce", http.StatusBadRequest)
		return
	}
	need, err := blocks.ParseSet(request.Need, blocks.Geometry{Payload: c.opts.Payload}.Count())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	from, _ := netip.ParseAddrPort(r.RemoteAddr) // only shown
	place, err := c.add(from, string(request.Nonce), need, request.AES)
	switch {
	case errors.Is(err, sender.ErrEnded):
		http.Error(w, err.Error(), http.StatusGone)
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	default:
		answer(w, place)
	}
}

// serveBlocks sends blocks by unicast.
func (c *cast) serveBlocks(w http.ResponseWriter, r *http.Request) {
	geo := blocks.Geometry{Payload: c.opts.Payload}
	first, err1 := strconv.Atoi(r.URL.Query().Get("first"))
	count, err2 := strconv.Atoi(r.URL.Query().Get("count"))
	if err1 != nil || err2 != nil || first < 0 || count < 1 || count > protocol.MaxBlocks || first >= geo.Count() || count > geo.Count()-first {
		http.Error(w, "no such blocks", http.StatusBadRequest)
		return
	}
	buf := make([]byte, blocks.Size)
	for b := first; b < first+count; b++ {
		if !c.yield(r.Context()) {
			return
		}
		plain := buf[:geo.Length(b)]
		if err := c.opts.Source.Block(b, plain); err != nil {
			c.opts.Log.Error("read a block for unicast", "block", b, "cause", err)
			panic(http.ErrAbortHandler) // the receiver sees that the answer is cut
		}
		if _, err := w.Write(plain); err != nil {
			return
		}
	}
}

// unicastShare is the part of the rate that receivers by unicast have together while others
// still receive by multicast: those must not lose by who could not keep up.
const unicastShare = 0.02

// yield waits until the next block may be sent by unicast. It tells whether somebody still wants it.
func (c *cast) yield(ctx context.Context) bool {
	c.mu.Lock()
	c.unicastAt = max(c.unicastAt, c.clock.now()) + time.Duration(blocks.Size/(unicastShare*c.opts.MaxRate)*float64(time.Second))
	turn := c.unicastAt
	c.mu.Unlock()
	for ctx.Err() == nil {
		c.mu.Lock()
		wait := turn - c.clock.now()
		if c.sender.State() != packet.StateRunning {
			wait, c.unicastAt = 0, 0
		}
		c.mu.Unlock()
		if wait <= 0 {
			return true
		}
		select {
		case <-time.After(min(wait, 50*time.Millisecond)):
		case <-ctx.Done():
		}
	}
	return false
}
