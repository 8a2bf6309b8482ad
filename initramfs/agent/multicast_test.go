package agent

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"clonecast/internal/await"
	"clonecast/internal/image"
	"clonecast/internal/multicast"
	"clonecast/internal/multicast/blocks"
	"clonecast/internal/multicast/packet"
	"clonecast/internal/protocol"
)

// cast is a session of the test server, sent on the loopback interface.
type cast struct {
	*multicast.Session
	payload *multicast.ImagePayload
	parts   *protocol.SessionParts
	end     context.CancelFunc
	ended   chan struct{}
}

// testRate is slow enough for a busy machine; slowRate, for a deploy that must be caught in the
// middle, lasts a quarter of a minute.
const (
	testRate = 4e6
	slowRate = 5e5
)

// newest is the newest version of the operation's image.
func (s *testServer) newest() (*image.Manifest, error) {
	envelope, err := s.store.Manifest(context.Background(), s.ops[0].Image, 0)
	if err != nil {
		return nil, err
	}
	m, _, err := image.Open(envelope, s.store.TrustedKeys())
	return m, err
}

// newCast makes a session of the newest version of the operation's image.
func (s *testServer) newCast() (*cast, error) {
	m, err := s.newest()
	if err != nil {
		return nil, err
	}
	return s.castOf(nil, m)
}

// castOf makes a session of what a manifest names; it may be that of parts that are followed.
func (s *testServer) castOf(parts *protocol.SessionParts, m *image.Manifest) (*cast, error) {
	payload, err := multicast.NewImagePayload(s.store, m)
	if err != nil {
		return nil, err
	}
	_, signer, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	session, err := multicast.NewSession(multicast.SessionOptions{
		Interface: "lo", Signer: signer, MaxRate: s.rate,
		Payload: payload.Size(), Source: payload, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &cast{session, payload, parts, cancel, make(chan struct{})}
	go func() {
		defer close(c.ended)
		_ = session.Run(ctx)
		if ctx.Err() != nil {
			_ = session.Close()
		}
	}()
	s.t.Cleanup(c.stop)
	s.casts = append(s.casts, c)
	return c, nil
}

// stop ends a session as the end of the server's process would.
func (c *cast) stop() {
	c.end()
	<-c.ended
}

// gone tells whether the session has been stopped, or is over for all.
func (c *cast) gone() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

var errNoCast = &protocol.Problem{Code: protocol.CodeNotFound, Title: "there is no session"}

// multicast answers the calls of sessions. The lock is held.
func (s *testServer) multicast(w http.ResponseWriter, r *http.Request, body []byte, reply func(any) error) error {
	var c *cast
	if n := len(s.casts); n > 0 && !s.casts[n-1].gone() {
		c = s.casts[n-1]
	}
	var parts *protocol.SessionParts
	open := s.newest
	if s.follows != nil && r.URL.Path == protocol.PathSession {
		var err error
		if parts, open, err = s.follows.next(r.URL.Query().Get("from")); err != nil {
			return err
		}
		if c != nil && *c.parts != *parts {
			c = nil
		}
	}
	if c == nil && s.casting && r.URL.Path == protocol.PathSession {
		m, err := open()
		if err != nil {
			return err
		}
		if c, err = s.castOf(parts, m); err != nil {
			return err
		}
	}
	if c == nil {
		return errNoCast
	}
	switch r.URL.Path {
	case protocol.PathSession:
		if c.State() == packet.StateEnded {
			return errNoCast
		}
		answer := protocol.Session{
			Session: c.ID(), Group: c.Group(), Control: c.Control(), Payload: c.Payload(),
			Sender: c.Sender(), Table: c.payload.Table(), Parts: c.parts,
		}
		if c.State() == packet.StateWaiting {
			answer.Waiting = protocol.SessionWaiting{Machines: s.startAt, Present: c.Present()}
		}
		if r.URL.Query().Get("known") == strconv.FormatUint(c.ID(), 10) {
			answer.Table = nil
		}
		return reply(answer)
	case protocol.PathSessionJoin:
		var q protocol.SessionJoin
		if err := json.Unmarshal(body, &q); err != nil {
			return err
		}
		place, err := c.Join(netip.AddrPort{}, q)
		if errors.Is(err, multicast.ErrEnded) {
			return errNoCast
		}
		if err != nil {
			return err
		}
		if c.Present() >= s.startAt {
			c.Start()
		}
		return reply(place)
	}
	if r.URL.Path == protocol.PathSessionReport {
		_, err := w.Write(c.Report(body))
		return err
	}
	first, _ := strconv.Atoi(r.URL.Query().Get("first"))
	count, _ := strconv.Atoi(r.URL.Query().Get("count"))
	s.mu.Unlock() // it may take its time
	defer s.mu.Lock()
	return c.Blocks(r.Context(), first, count, func(plain []byte) error {
		_, err := w.Write(plain)
		return err
	})
}

// castable makes a server that deploys the image "lab" in a session that begins when so many machines have joined.
func castable(t *testing.T, startAt int) (*testServer, []byte) {
	t.Helper()
	s, content := captured(t, newAuthority(t, nil))
	s.casting, s.startAt = true, startAt
	s.ops[0].Multicast = true
	return s, content
}

// deployed gives the result of the only operation, which must be done.
func (b *bench) deployed() (deployResult, []string) {
	b.t.Helper()
	if len(b.statuses) != 1 || b.statuses[0].State != protocol.StateDone {
		b.t.Fatalf("statuses = %+v\n%s", b.statuses, b.screen)
	}
	var r deployResult
	if err := json.Unmarshal(b.statuses[0].Result, &r); err != nil || r.Multicast == nil {
		b.t.Fatalf("result = %s, %v", b.statuses[0].Result, err)
	}
	return r, b.statuses[0].Notes
}

// noted tells whether one of the notes holds the words.
func noted(notes []string, words string) bool {
	return slices.ContainsFunc(notes, func(n string) bool { return strings.Contains(n, words) })
}

// A machine that wants multicast gets everything in the session, and says so.
func TestDeployByMulticast(t *testing.T) {
	s, content := castable(t, 1)
	b := newBench(t, s, diskFile(t, "target", true))
	if _, err := b.run(); err != nil {
		t.Fatal(err)
	}
	wantDisk(t, b.disk, content)
	r, notes := b.deployed()
	if r.Multicast.Multicast < 6<<20 || r.Multicast.Unicast != 0 || r.Multicast.State != "done" ||
		s.calls[protocol.PathChunks]+s.calls[protocol.PathDeltas] > 0 {
		t.Errorf("%+v, notes %q, calls %v; want all by multicast", *r.Multicast, notes, s.calls)
	}
	if len(s.casts) != 1 {
		t.Errorf("%d sessions", len(s.casts))
	}
}

// A machine whose disk is as it should be takes part in the session, so that nobody waits for it, and writes nothing.
func TestMulticastNothingNeeded(t *testing.T) {
	s, content := castable(t, 1)
	b := newBench(t, s, diskFile(t, "target", false))
	if err := os.WriteFile(b.disk.Path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := b.run(); err != nil {
		t.Fatal(err)
	}
	if r, notes := b.deployed(); r.Written != 0 || *r.Multicast != (multicastResult{State: "done"}) ||
		s.calls[protocol.PathSessionJoin] != 1 {
		t.Errorf("%+v, %+v, notes %q, calls %v", r, *r.Multicast, notes, s.calls)
	}
}

// Without a session all comes by unicast, and the report says why.
func TestNoMulticastSession(t *testing.T) {
	s, content := castable(t, 1)
	s.casting = false
	b := newBench(t, s, diskFile(t, "target", true))
	if _, err := b.run(); err != nil {
		t.Fatal(err)
	}
	wantDisk(t, b.disk, content)
	r, notes := b.deployed()
	if r.Multicast.State != "unicast" || r.Multicast.Unicast != r.Fetched || r.Fetched == 0 ||
		!noted(notes, "no multicast session") || !strings.Contains(b.screen.String(), "there is no session") {
		t.Errorf("%+v, %+v, notes %q", r, *r.Multicast, notes)
	}
}

// A session that cannot be received is no reason to fail.
func TestMulticastNonsense(t *testing.T) {
	for name, answer := range map[string]string{
		"no JSON": "{",
		"empty":   "{}",
		"no table": `{"session":"1","group":"239.255.128.1:9068","control":"127.0.0.1:9","payload":1000,` +
			`"sender":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}`,
		"no such road": `{"session":"1","group":"239.255.128.1:9068","control":"240.0.0.1:9","payload":1000,` +
			`"sender":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}`,
	} {
		t.Run(name, func(t *testing.T) {
			s, content := castable(t, 1)
			s.hook = func(w http.ResponseWriter, r *http.Request, _ int) bool {
				if r.URL.Path != protocol.PathSession {
					return false
				}
				_, _ = w.Write([]byte(answer))
				return true
			}
			b := newBench(t, s, diskFile(t, "target", true))
			if _, err := b.run(); err != nil {
				t.Fatal(err)
			}
			wantDisk(t, b.disk, content)
			if r, notes := b.deployed(); r.Multicast.State != "unicast" || len(notes) == 0 ||
				s.calls[protocol.PathSession] > maxSessions+1 {
				t.Errorf("%+v, notes %q, calls %v", *r.Multicast, notes, s.calls)
			}
		})
	}
}

// caught makes the first session slow, waits in the background until its receiver has some of the blocks, and then does
// something.
func (s *testServer) caught(do func(c *cast)) {
	s.rate = slowRate
	go func() {
		var first *cast
		if !await.True(func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			if len(s.casts) > 0 {
				first = s.casts[0]
			}
			return s.t.Context().Err() != nil || first != nil && finished(first) >= 512<<10
		}) || s.t.Context().Err() != nil {
			return
		}
		s.mu.Lock()
		s.rate = testRate
		s.mu.Unlock()
		do(first)
	}()
}

// finished is what all receivers of a session have, in bytes.
func finished(c *cast) (bytes int64) {
	for _, r := range c.Summary().Receivers {
		bytes += r.Finished
	}
	return bytes
}

// When the server restarts in the middle, the machine gets the rest in the session that there is then;
// or by unicast, if there is none.
func TestServerRestartsDuringSession(t *testing.T) {
	for _, another := range []bool{true, false} {
		t.Run(strconv.FormatBool(another), func(t *testing.T) {
			t.Parallel()
			s, content := castable(t, 1)
			s.caught(func(c *cast) {
				s.mu.Lock()
				s.casting = another
				s.mu.Unlock()
				c.stop()
				s.restart(300 * time.Millisecond)
			})
			b := newBench(t, s, diskFile(t, "target", true))
			if _, err := b.run(); err != nil {
				t.Fatal(err)
			}
			wantDisk(t, b.disk, content)
			r, notes := b.deployed()
			if r.Multicast.Multicast == 0 || !noted(notes, "no such session any more") {
				t.Errorf("%+v, notes %q", *r.Multicast, notes)
			}
			state := map[bool]string{true: "done", false: "unicast"}[another]
			if r.Multicast.State != state || (len(s.casts) == 2) != another || (r.Multicast.Unicast == 0) != another {
				t.Errorf("%+v after %d sessions, notes %q; want the state %s", *r.Multicast, len(s.casts), notes, state)
			}
		})
	}
}

// A machine that is told to leave fetches the rest of the session's blocks by unicast and says why.
func TestToldToLeaveSession(t *testing.T) {
	t.Parallel()
	s, content := castable(t, 1)
	s.caught(func(c *cast) {
		other := protocol.SessionJoin{
			Nonce: make([]byte, protocol.NonceSize), AES: true,
			Need: blocks.FullSet(blocks.Geometry{Payload: c.Payload()}.Count()).AppendBinary(nil),
		}
		if _, err := c.Join(netip.AddrPort{}, other); err != nil { // the session is not over while this one may come
			t.Error(err)
		}
		c.SetMaxRate(testRate) // of which unicast has a part
		c.Drop(1, packet.ReasonNetwork)
	})
	b := newBench(t, s, diskFile(t, "target", true))
	if _, err := b.run(); err != nil {
		t.Fatal(err)
	}
	wantDisk(t, b.disk, content)
	if r, notes := b.deployed(); r.Multicast.Multicast == 0 || r.Multicast.Unicast == 0 ||
		r.Multicast.Reason != packet.ReasonNetwork.String() || !noted(notes, r.Multicast.Reason) {
		t.Errorf("%+v, notes %q", *r.Multicast, notes)
	}
}

// While a session waits for others the disk is as it was, the screen and the server see what is waited for, and the
// operator can call it off.
func TestCancelWaitingForSession(t *testing.T) {
	t.Parallel()
	s, _ := castable(t, 3)
	var phases []string
	s.hook = func(_ http.ResponseWriter, r *http.Request, _ int) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.cancel = s.cancel || len(s.casts) > 0 && s.casts[0].Present() > 0 && s.beats > 1
		return false
	}
	s.seen = func(st protocol.Status) {
		if st.Progress != nil && !slices.Contains(phases, st.Progress.Phase) {
			phases = append(phases, st.Progress.Phase)
		}
	}
	b := newBench(t, s, diskFile(t, "target", true))
	if outcome, err := b.run(); outcome != LocalBoot || err != nil {
		t.Fatalf("Run = %v, %v", outcome, err)
	}
	wantUntouched(t, b.disk)
	if len(s.statuses) != 1 || s.statuses[0].State != protocol.StateFailed || s.statuses[0].Error != errCancelled.Error() {
		t.Errorf("statuses = %+v", s.statuses)
	}
	waiting := "waiting for 2 of 3 machines"
	if !strings.Contains(b.screen.String(), waiting) || !slices.Contains(phases, waiting) {
		t.Errorf("phases %q, screen:\n%s", phases, b.screen)
	}
	if n := s.casts[0].Present(); n != 0 {
		t.Errorf("%d receivers are still present", n)
	}
}

// The operator calls off a deploy in the middle of a session.
func TestCancelDuringSession(t *testing.T) {
	s, _ := castable(t, 1)
	s.caught(func(*cast) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.cancel = true
	})
	b := newBench(t, s, diskFile(t, "target", true))
	if outcome, err := b.run(); outcome != LocalBoot || err != nil {
		t.Fatalf("Run = %v, %v", outcome, err)
	}
	if len(s.statuses) != 1 || s.statuses[0].Error != errCancelled.Error() {
		t.Errorf("statuses = %+v", s.statuses)
	}
	if got := readDisk(t, b.disk); got[510] == 0x55 {
		t.Error("a disk whose deploy was called off boots")
	}
}

// A session that the server ends while it waits is no reason to wait longer.
func TestSessionEndsWhileWaiting(t *testing.T) {
	t.Parallel()
	s, content := castable(t, 2)
	s.hook = func(_ http.ResponseWriter, r *http.Request, _ int) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.casts) > 0 && s.casts[0].Present() > 0 && s.casting {
			s.casting = false
			go s.casts[0].stop()
		}
		return false
	}
	b := newBench(t, s, diskFile(t, "target", true))
	if _, err := b.run(); err != nil {
		t.Fatal(err)
	}
	wantDisk(t, b.disk, content)
	if r, notes := b.deployed(); r.Multicast.State != "unicast" || r.Multicast.Multicast != 0 ||
		!noted(notes, "there is no session") {
		t.Errorf("%+v, notes %q", *r.Multicast, notes)
	}
}

// A receiver's reports go over HTTPS where UDP does not bring them. What is no report gets no answer.
func TestReportBySessionHost(t *testing.T) {
	s, _ := castable(t, 1)
	b := newBench(t, s, diskFile(t, "target", true))
	if err := b.agent.client.logon(t.Context(), "m1"); err != nil {
		t.Fatal(err)
	}
	var host multicast.Host = sessionHost{transfer{b.agent.client}}
	if _, err := host.Report(t.Context(), []byte("early")); !errors.Is(err, multicast.ErrGone) {
		t.Errorf("without a session: %v", err)
	}
	if _, err := s.newCast(); err != nil {
		t.Fatal(err)
	}
	if answer, err := host.Report(t.Context(), []byte("nonsense")); err != nil || len(answer) != 0 {
		t.Errorf("a report that is none: %q, %v", answer, err)
	}
	join := protocol.SessionJoin{Nonce: make([]byte, protocol.NonceSize), AES: true}
	place, err := sessionHost{transfer{b.agent.client}}.Join(t.Context(), join)
	if err != nil {
		t.Fatal(err)
	}
	up, err := packet.NewKey(place.Own, s.casts[0].ID(), packet.PurposeUp, false)
	if err != nil {
		t.Fatal(err)
	}
	report, err := up.Seal(nil, packet.Header{Kind: packet.KindReport, Block: place.Receiver},
		packet.Report{State: packet.StateDone}.Append(nil))
	if err != nil {
		t.Fatal(err)
	}
	if answer, err := host.Report(t.Context(), report); err != nil || len(answer) == 0 {
		t.Errorf("a report that says done: %q, %v, want the sender's order", answer, err)
	}
}

func TestWaitingText(t *testing.T) {
	for want, w := range map[string]protocol.SessionWaiting{
		"":                            {},
		"waiting for 1 of 3 machines": {Machines: 3, Present: 2, StartsAt: 1},
		"waiting for the session to begin; machines here: 3":          {Machines: 3, Present: 3, StartsAt: 1},
		"waiting for an admin to start the session; machines here: 2": {Manual: true, Machines: 3, Present: 2},
	} {
		if got := waitingText(w); got != want {
			t.Errorf("waitingText(%+v) = %q, want %q", w, got, want)
		}
	}
}
