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
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"clonecast/internal/multicast/packet"
	"clonecast/internal/protocol"
)

// Paths of the session's HTTPS server.
const (
	pathSession = "/v1/session"
	pathJoin    = "/v1/join"
	pathBlocks  = "/v1/blocks" // ?first=N&count=N
	pathReport  = "/v1/report" // a report and its answer as they are sent by UDP
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
func (o *offer) serve(ctx context.Context) error {
	cert, err := certificate(o.opts.Signer)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler: o, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(o.opts.Log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() {
		patience, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_ = server.Shutdown(patience) // whoever is still there has its answer, or is too slow
	})
	defer stop()
	config := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}
	listener := tls.NewListener(o.listener, config)
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve HTTPS: %w", err)
	}
	return nil
}

// ServeHTTP answers one request of a receiver that shows the session's token.
func (o *offer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), []byte("Bearer "+o.token)) != 1 {
		http.Error(w, "this session needs its pairing code or key file", http.StatusForbidden)
		return
	}
	switch r.Method + " " + r.URL.Path {
	case "GET " + pathSession:
		answer(w, o.description())
	case "POST " + pathJoin:
		o.serveJoin(w, r)
	case "GET " + pathBlocks:
		o.serveBlocks(w, r)
	case "POST " + pathReport:
		o.serveReport(w, r)
	default:
		http.NotFound(w, r)
	}
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the receiver is gone: nothing to be done
}

func (o *offer) serveJoin(w http.ResponseWriter, r *http.Request) {
	var request protocol.SessionJoin
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, protocol.MaxSessionJoin)).Decode(&request); err != nil {
		http.Error(w, "the request is not understood: "+err.Error(), http.StatusBadRequest)
		return
	}
	from, _ := netip.ParseAddrPort(r.RemoteAddr) // only shown
	place, err := o.session.Join(from, request)
	switch {
	case errors.Is(err, ErrEnded):
		http.Error(w, err.Error(), http.StatusGone)
	case errors.Is(err, ErrRequest):
		http.Error(w, err.Error(), http.StatusBadRequest)
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	default:
		o.begin()
		answer(w, place)
	}
}

// serveReport takes a report that does not get through by UDP.
func (o *offer) serveReport(w http.ResponseWriter, r *http.Request) {
	report, err := io.ReadAll(http.MaxBytesReader(w, r.Body, packet.MaxSize))
	if err != nil {
		http.Error(w, "the report is not understood: "+err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	_, _ = w.Write(o.session.Report(report)) // the receiver is gone: nothing to be done
	o.begin()
}

// serveBlocks sends blocks by unicast.
func (o *offer) serveBlocks(w http.ResponseWriter, r *http.Request) {
	first, err1 := strconv.Atoi(r.URL.Query().Get("first"))
	count, err2 := strconv.Atoi(r.URL.Query().Get("count"))
	if err1 != nil || err2 != nil {
		http.Error(w, "no such blocks", http.StatusBadRequest)
		return
	}
	err := o.session.Blocks(r.Context(), first, count, func(plain []byte) error {
		_, err := w.Write(plain)
		return err
	})
	switch {
	case err == nil || r.Context().Err() != nil:
	case errors.Is(err, ErrRequest):
		http.Error(w, err.Error(), http.StatusBadRequest)
	default:
		o.opts.Log.Error("send blocks by unicast", "cause", err)
		panic(http.ErrAbortHandler) // the receiver sees that the answer is cut
	}
}
