package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"clonecast/internal/chunk"
	"clonecast/internal/chunkstore"
	"clonecast/internal/chunkstore/mem"
	"clonecast/internal/image"
	"clonecast/internal/partition/saved"
	"clonecast/internal/protocol"
)

// authority is a CA with one server certificate.
type authority struct {
	ca   *x509.Certificate
	leaf tls.Certificate
}

func newAuthority(t *testing.T, change func(leaf *x509.Certificate)) authority {
	t.Helper()
	caKey, caErr := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err = errors.Join(caErr, err); err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().AddDate(-9, 0, 0), NotAfter: time.Now().AddDate(20, 0, 0),
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	if ca, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
	}
	if change != nil {
		change(leaf)
	}
	der, err = x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	return authority{ca, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}}
}

// testServer speaks the protocol from a store in memory. Its fields may be changed while
// nobody calls.
type testServer struct {
	t       *testing.T
	ca      authority
	store   *mem.Store
	address string

	mu         sync.Mutex
	http       *http.Server
	adoptAfter int // register calls; -1 never
	wait       int
	ops        []protocol.Operation
	tokens     map[string]bool
	logons     int
	capture    chunkstore.Session
	statuses   []protocol.Status // final ones
	beats      int
	cancel     bool
	logoffs    []protocol.LogoffRequest
	calls      map[string]int
	published  *protocol.PublishResponse
	tables     map[string]saved.Copy // by disk
	cast       *testCast             // where outline and parts go
	follows    *testCast             // where they come from
	// hook runs before a call is answered; true means that it answered.
	hook func(w http.ResponseWriter, r *http.Request, nth int) bool
	// envelope changes a manifest before it is sent.
	envelope func([]byte) []byte
	casts    []*cast // sessions that were made; the last one is the one to join
	startAt  int     // a session begins when so many have joined
	casting  bool    // a session is made when one is asked for
	rate     float64 // of a session that is made
	// seen is shown the reports of running operations; may be nil.
	seen func(protocol.Status)
}

func newTestServer(t *testing.T, ca authority, ops ...protocol.Operation) *testServer {
	t.Helper()
	store, err := mem.New()
	if err != nil {
		t.Fatal(err)
	}
	for i := range ops {
		ops[i].TaskID, ops[i].Index = "t1", i
	}
	s := &testServer{
		t: t, ca: ca, store: store, address: "127.0.0.1:0", ops: ops, rate: testRate,
		tokens: map[string]bool{}, calls: map[string]int{}, tables: map[string]saved.Copy{},
	}
	s.start()
	t.Cleanup(s.stop)
	return s
}

func (s *testServer) start() {
	s.t.Helper()
	l, err := net.Listen("tcp", s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.address = l.Addr().String()
	server := &http.Server{
		Handler:   http.HandlerFunc(s.serve),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{s.ca.leaf}, MinVersion: tls.VersionTLS13},
		ErrorLog:  nullLog(),
	}
	s.mu.Lock()
	s.http = server
	s.mu.Unlock()
	go func() { _ = server.ServeTLS(l, "", "") }()
}

func (s *testServer) stop() { _ = s.http.Close() }

// restart ends the process, as far as a client can tell: connections break, sessions are
// forgotten, and so is what a capture pinned.
func (s *testServer) restart(away time.Duration) {
	s.mu.Lock()
	_ = s.http.Close()
	s.tokens = map[string]bool{}
	s.capture = nil
	s.mu.Unlock()
	time.Sleep(away)
	s.start()
}

func (s *testServer) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.calls[r.URL.Path]++
	nth, hook := s.calls[r.URL.Path], s.hook
	s.mu.Unlock()
	if hook != nil && hook(w, r, nth) {
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	if err := s.answer(w, r, body); err != nil {
		p := &protocol.Problem{}
		if !errors.As(err, &p) {
			p = &protocol.Problem{Code: protocol.CodeInternal, Title: err.Error()}
		}
		statuses := map[string]int{
			protocol.CodeUnauthorized: 401, protocol.CodeIncomplete: 409, protocol.CodeNotFound: 404,
			protocol.CodeCancelled: 409, protocol.CodeInternal: 500,
		}
		w.WriteHeader(statuses[p.Code])
		_ = json.NewEncoder(w).Encode(p)
	}
}

func (s *testServer) answer(w http.ResponseWriter, r *http.Request, body []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	path := r.URL.Path
	reply := func(v any) error { return json.NewEncoder(w).Encode(v) }
	if path != protocol.PathRegister && path != protocol.PathLogon && !s.tokens[r.Header.Get("Authorization")] {
		return &protocol.Problem{Code: protocol.CodeUnauthorized, Title: "who are you"}
	}
	switch path {
	case protocol.PathRegister:
		state := protocol.MachinePending
		if s.adoptAfter >= 0 && s.calls[path] > s.adoptAfter {
			state = protocol.MachineAdopted
		}
		return reply(protocol.RegisterResponse{MachineID: "m1", State: state, PollSeconds: 1, WaitSeconds: s.wait})
	case protocol.PathLogon:
		s.logons++
		token := fmt.Sprintf("token%d", s.logons)
		s.tokens["Bearer "+token] = true
		return reply(protocol.LogonResponse{Token: token})
	case protocol.PathNext:
		if len(s.ops) == 0 {
			return reply(protocol.Operation{Kind: protocol.OpNone})
		}
		return reply(s.ops[0])
	case protocol.PathStatus:
		return s.status(reply, body)
	case protocol.PathLogoff:
		var q protocol.LogoffRequest
		err := json.Unmarshal(body, &q)
		s.logoffs = append(s.logoffs, q)
		return errors.Join(err, reply(struct{}{}))
	}
	return s.data(w, r, body, reply)
}

func (s *testServer) status(reply func(any) error, body []byte) error {
	var st protocol.Status
	if err := json.Unmarshal(body, &st); err != nil {
		return err
	}
	if st.State == protocol.StateRunning {
		s.beats++
		if s.seen != nil {
			s.seen(st)
		}
	} else {
		s.statuses = append(s.statuses, st)
		s.ops = s.ops[1:]
	}
	cancelled := s.cancel
	return reply(protocol.StatusResponse{Cancel: cancelled})
}

func (s *testServer) data(w http.ResponseWriter, r *http.Request, body []byte, reply func(any) error) error {
	ctx := context.Background()
	if s.capture == nil {
		var err error
		if s.capture, err = s.store.Begin(ctx); err != nil {
			return err
		}
	}
	if s.cast != nil {
		if done, err := s.cast.captured(r.URL.Path, body, s.capture, reply); done || err != nil {
			return err
		}
	}
	switch r.URL.Path {
	case protocol.PathMissing:
		missing, err := s.capture.Missing(ctx, splitIDs(body))
		if err != nil {
			return err
		}
		answer := make([]byte, len(missing))
		for i, m := range missing {
			answer[i] = map[bool]byte{true: 1}[m]
		}
		_, err = w.Write(answer)
		return err
	case protocol.PathFrame:
		n, err := s.capture.PutFrame(ctx, body)
		if err != nil {
			return err
		}
		return reply(map[string]int64{"stored": n})
	case protocol.PathPublish:
		m, err := image.Parse(body)
		if err != nil {
			return err
		}
		_, v, err := s.capture.Publish(ctx, m)
		var incomplete *chunkstore.IncompleteError
		if errors.As(err, &incomplete) {
			return &protocol.Problem{
				Code: protocol.CodeIncomplete, Title: err.Error(), Missing: []string{incomplete.Missing[0].String()},
			}
		}
		if err != nil {
			return err
		}
		s.published = &protocol.PublishResponse{Image: v.Image, Sequence: v.Sequence, Version: v.ID.String()}
		return reply(s.published)
	case protocol.PathParent:
		v, err := s.store.Versions(ctx, s.ops[0].Image)
		if err != nil {
			return err
		}
		envelope, err := s.store.Manifest(ctx, s.ops[0].Image, v[len(v)-2].Sequence)
		if err != nil {
			return err
		}
		_, err = w.Write(envelope)
		return err
	case protocol.PathDeltas:
		differ, err := chunkstore.NewDiffer(s.store)
		if err != nil {
			return err
		}
		var wants []chunk.Want
		for pair := range slices.Chunk(splitIDs(body), 2) {
			wants = append(wants, chunk.Want{ID: pair[0], Base: pair[1]})
		}
		return differ.Deltas(ctx, wants, func(delta []byte) error {
			_, err := w.Write(delta)
			return err
		})
	case protocol.PathManifest:
		envelope, err := s.store.Manifest(ctx, s.ops[0].Image, 0)
		if err != nil {
			return err
		}
		if s.envelope != nil {
			envelope = s.envelope(slices.Clone(envelope))
		}
		_, err = w.Write(envelope)
		return err
	case protocol.PathSession, protocol.PathSessionJoin, protocol.PathSessionBlocks, protocol.PathSessionReport:
		return s.multicast(w, r, body, reply)
	case protocol.PathChunks:
		return s.store.Frames(ctx, splitIDs(body), func(frame []byte) error {
			_, err := w.Write(frame)
			return err
		})
	}
	if disk, found := strings.CutPrefix(r.URL.Path, protocol.PathTable); found {
		c, err := saved.Parse(body)
		if err != nil {
			return err
		}
		s.tables[disk] = c
		return reply(struct{}{})
	}
	return fmt.Errorf("unknown path %s", r.URL.Path)
}

func splitIDs(b []byte) []chunk.ID {
	var ids []chunk.ID
	for id := range slices.Chunk(b, 32) {
		ids = append(ids, chunk.ID(id))
	}
	return ids
}
