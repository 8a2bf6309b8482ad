package agent

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	"clonecast/internal/chunk"
	"clonecast/internal/chunkstore"
	"clonecast/internal/image"
	"clonecast/internal/protocol"
)

// testCast is what two test servers share: one that a machine is captured to, and one that another
// machine follows from.
type testCast struct {
	mu      sync.Mutex
	news    *sync.Cond
	outline []byte
	chain   image.Chain
	parts   [][]byte
	version string
	failure string
	casts   int
	keys    []ed25519.PublicKey
	limit   uint64 // parts that followers hear of, 0: all

	change func(part int, envelope []byte) []byte // of parts on their way
}

func newTestCast() *testCast {
	c := &testCast{}
	c.news = sync.NewCond(&c.mu)
	return c
}

// captured answers the calls of the machine that is captured.
func (c *testCast) captured(path string, body []byte, session chunkstore.Session, reply func(any) error) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.news.Broadcast()
	switch path {
	case protocol.PathOutline:
		o, err := image.ParseOutline(body)
		if err != nil {
			return true, err
		}
		c.casts++
		o.Task, o.Nonce[0] = "t1", byte(c.casts)
		envelope, id, err := session.SignOutline(context.Background(), o)
		if err != nil {
			return true, err
		}
		c.outline, c.chain, c.parts = envelope, image.NewChain(o, id), nil
		return true, reply(protocol.OutlineResponse{Cast: id.String()})
	case protocol.PathPart:
		if image.CastID(body) != c.chain.Cast {
			return true, &protocol.Problem{Code: protocol.CodeNotFound, Title: "another cast"}
		}
		p := c.chain.Part(splitIDs(body[40:]))
		if first := binary.LittleEndian.Uint64(body[32:]); first != p.First {
			return true, fmt.Errorf("part at %d, want %d", first, p.First)
		}
		envelope, err := session.SignPart(context.Background(), p)
		if err == nil {
			err = c.chain.Add(p)
		}
		if err != nil {
			return true, err
		}
		c.parts = append(c.parts, envelope)
		return true, reply(struct{}{})
	}
	return false, nil
}

// hook answers the calls of the machine that follows.
func (c *testCast) hook(w http.ResponseWriter, r *http.Request, _ int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	problem := func(code string, status int, title string) bool {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(protocol.Problem{Code: code, Title: title, Hint: "look at the other machine"})
		return true
	}
	switch path, rest := r.URL.Path, ""; {
	case path == protocol.PathFollow:
		var known protocol.Followed
		if json.NewDecoder(r.Body).Decode(&known) != nil {
			return problem(protocol.CodeInvalid, 400, "not understood")
		}
		for c.version == "" && c.failure == "" &&
			(c.outline == nil || known.Cast == c.chain.Cast.String() && known.Parts == c.chain.Parts) {
			c.news.Wait()
		}
		if c.failure != "" {
			return problem(protocol.CodeConflict, 409, c.failure)
		}
		now := protocol.Followed{Version: c.version}
		if c.outline != nil {
			now.Cast, now.Parts = c.chain.Cast.String(), c.count()
			if known.Parts == c.limit {
				c.limit, now.Parts = 0, c.chain.Parts
			}
		}
		_ = json.NewEncoder(w).Encode(now)
		return true
	case strings.HasPrefix(path, protocol.PathFollowOutline):
		_, _ = w.Write(c.outline)
		return true
	case strings.HasPrefix(path, protocol.PathFollowPart):
		rest = strings.TrimPrefix(path, protocol.PathFollowPart)
		var number int
		if _, err := fmt.Sscanf(rest, c.chain.Cast.String()+"/%d", &number); err != nil {
			return problem(protocol.CodeNotFound, 404, "another cast")
		}
		envelope := c.parts[number]
		if c.change != nil {
			envelope = c.change(number, bytes.Clone(envelope))
		}
		_, _ = w.Write(envelope)
		return true
	}
	return false
}

// count is how many parts followers hear of.
func (c *testCast) count() uint64 {
	if c.limit > 0 {
		return min(c.limit, c.chain.Parts)
	}
	return c.chain.Parts
}

// next gives the parts from one on, and what their chunks are.
func (c *testCast) next(from string) (*protocol.SessionParts, func() (*image.Manifest, error), error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	first, err := strconv.ParseUint(from, 10, 64)
	if err != nil || first >= c.count() {
		return nil, nil, errNoCast
	}
	o, _, err := image.OpenOutline(c.outline, c.keys)
	if err != nil {
		return nil, nil, err
	}
	var ids []chunk.ID
	start := uint64(0)
	for i, envelope := range c.parts[:c.count()] {
		p, err := image.OpenPart(envelope, c.keys)
		if err != nil {
			return nil, nil, err
		}
		if uint64(i) == first {
			start = p.First
		}
		if uint64(i) >= first {
			ids = append(ids, p.Chunks...)
		}
	}
	parts := &protocol.SessionParts{Cast: c.chain.Cast.String(), First: first, End: c.count()}
	return parts, func() (*image.Manifest, error) { return o.Slice(start, ids) }, nil
}

// publish tells followers of the version.
func (c *testCast) publish(version string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.version = version
	c.news.Broadcast()
}

// casting makes the two servers. They share the store.
func casting(t *testing.T) (c *testCast, from, to *testServer) {
	c = newTestCast()
	ca := newAuthority(t, nil)
	from = newTestServer(t, ca, protocol.Operation{Kind: protocol.OpCapture, Image: "lab", Cast: true})
	from.cast = c
	to = newTestServer(t, ca, protocol.Operation{Kind: protocol.OpFollow, Image: "lab", From: "m0"})
	to.store, to.hook, c.keys = from.store, c.hook, from.store.TrustedKeys()
	return c, from, to
}

func result(t *testing.T, s *testServer) (r deployResult) {
	t.Helper()
	if len(s.statuses) != 1 {
		t.Fatalf("statuses = %+v", s.statuses)
	}
	if err := json.Unmarshal(s.statuses[0].Result, &r); err != nil {
		t.Fatalf("result %s: %v", s.statuses[0].Result, err)
	}
	return r
}

// One machine is captured while another one becomes it.
func TestCast(t *testing.T) {
	c, from, to := casting(t)
	source := diskFile(t, "source", false)
	captured := make(chan error, 1)
	go func() {
		_, err := newBench(t, from, source).run()
		if err == nil {
			c.publish(from.published.Version)
		}
		captured <- err
	}()
	b := newBench(t, to, diskFile(t, "target", true))
	outcome, err := b.run()
	if err := <-captured; err != nil {
		t.Fatal(err)
	}
	if outcome != LocalBoot || err != nil {
		t.Fatalf("Run = %v, %v\n%s", outcome, err, b.screen)
	}
	content, err := os.ReadFile(source.Path)
	if err != nil {
		t.Fatal(err)
	}
	wantDisk(t, b.disk, content)
	if r := result(t, to); r.Version != from.published.Version || r.Sequence != 1 {
		t.Errorf("result %+v, want version %s", r, from.published.Version)
	}
	if len(c.parts) < 4 {
		t.Errorf("the capture was told in %d parts", len(c.parts))
	}
}

// castNow captures a disk, and gives what a follower will see.
func castNow(t *testing.T) (c *testCast, from, to *testServer, content []byte) {
	t.Helper()
	c, from, to = casting(t)
	source := diskFile(t, "source", false)
	if _, err := newBench(t, from, source).run(); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(source.Path)
	if err != nil {
		t.Fatal(err)
	}
	return c, from, to, content
}

// Before the version is published nearly all is on the disk, and it does not boot.
func TestFollowAheadOfTheVersion(t *testing.T) {
	c, from, to, content := castNow(t)
	b := newBench(t, to, diskFile(t, "target", true))
	to.hook = func(w http.ResponseWriter, r *http.Request, n int) bool {
		if r.URL.Path == protocol.PathFollow && n == len(c.parts)+2 { // all parts are written
			disk, err := os.ReadFile(b.disk.Path)
			if err != nil || !bytes.Equal(disk[2<<20:8<<20], content[2<<20:8<<20]) || disk[510] != 0 {
				t.Errorf("before the publication the parts are not on the disk, or its table is: %v", err)
			}
			c.publish(from.published.Version)
		}
		return c.hook(w, r, n)
	}
	if _, err := b.run(); err != nil {
		t.Fatal(err)
	}
	wantDisk(t, b.disk, content)
	if r := result(t, to); r.Followed < 6<<20 || r.Written > 1<<20 {
		t.Errorf("result %+v: most of 7 MiB was to be written ahead of the version", r)
	}
}

// The cast begins again in the middle, with another outline.
func TestFollowAnotherCast(t *testing.T) {
	c, from, to, content := castNow(t)
	again := newTestServer(t, from.ca, protocol.Operation{Kind: protocol.OpCapture, Image: "lab", Cast: true})
	again.store, again.cast = from.store, c
	to.hook = func(w http.ResponseWriter, r *http.Request, n int) bool {
		if strings.HasSuffix(r.URL.Path, "/2") {
			if _, err := newBench(t, again, diskFile(t, "again", false)).run(); err != nil {
				t.Error(err)
			}
			c.publish(again.published.Version)
		}
		return c.hook(w, r, n)
	}
	b := newBench(t, to, diskFile(t, "target", true))
	if _, err := b.run(); err != nil {
		t.Fatalf("%v\n%s", err, b.screen)
	}
	wantDisk(t, b.disk, content)
	if c.casts != 2 || !strings.Contains(b.screen.String(), "the capture begins again") {
		t.Errorf("%d casts; %s", c.casts, b.screen)
	}
}

// Parts that are not what the server signed, or not in their place, are refused; so is a
// capture that has failed.
func TestFollowRefuses(t *testing.T) {
	other, _, err := func() ([]byte, image.CastID, error) {
		s := newTestServer(t, newAuthority(t, nil))
		session, err := s.store.Begin(t.Context())
		if err != nil {
			return nil, image.CastID{}, err
		}
		return session.SignOutline(t.Context(), &image.Outline{Task: "t1", Manifest: image.Manifest{
			Image: "lab", Disks: []image.Disk{{Size: 1 << 20, LogicalSector: 512}},
		}})
	}()
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		change func(c *testCast)
		want   string
	}{
		"a flipped bit": {func(c *testCast) {
			c.change = func(n int, b []byte) []byte { b[len(b)-1] ^= byte(n); return b }
		}, "not signed by a trusted key"},
		"parts exchanged": {func(c *testCast) {
			c.parts[1], c.parts[2] = c.parts[2], c.parts[1]
		}, "part 2 does not follow"},
		"a part again": {func(c *testCast) { c.parts[1] = c.parts[0] }, "part 0 does not follow"},
		"a part left out": {func(c *testCast) {
			c.parts = append(c.parts[:1], c.parts[2:]...)
			c.chain.Parts--
		}, "part 2 does not follow"},
		"another server's outline": {func(c *testCast) { c.outline = other }, "not signed by a trusted key"},
		"a failed capture":         {func(c *testCast) { c.failure = "the capture of a has failed: no power" }, "no power"},
	} {
		t.Run(name, func(t *testing.T) {
			c, _, to, _ := castNow(t)
			tc.change(c)
			b := newBench(t, to, diskFile(t, "target", true))
			if _, err := b.run(); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("Run = %v, want an error with %q", err, tc.want)
			}
			if len(to.statuses) != 1 || to.statuses[0].State != protocol.StateFailed ||
				!strings.Contains(to.statuses[0].Error, tc.want) {
				t.Errorf("statuses %+v", to.statuses)
			}
			disk, err := os.ReadFile(b.disk.Path)
			if err != nil || disk[510] != 0 {
				t.Errorf("the disk has a table: %v", err)
			}
		})
	}
}

// The outline is of another image, or of another task: nothing of it is used.
func TestFollowWrongOutline(t *testing.T) {
	for name, change := range map[string]func(op *protocol.Operation){
		"image": func(op *protocol.Operation) { op.Image = "other" },
		"task":  func(op *protocol.Operation) { op.TaskID = "t9" },
		"rule":  func(op *protocol.Operation) { op.Disks = []string{"size>=1T"} },
	} {
		_, _, to, _ := castNow(t)
		change(&to.ops[0])
		b := newBench(t, to, diskFile(t, "target", true))
		if _, err := b.run(); err == nil {
			t.Errorf("another %s: it is followed", name)
		}
		wantUntouched(t, b.disk)
	}
}

// The server restarts in the middle of the capture and has forgotten the cast: it is told again,
// and the capture goes on.
func TestCastToldAgain(t *testing.T) {
	c, from, to := casting(t)
	from.hook = func(_ http.ResponseWriter, r *http.Request, n int) bool {
		if r.URL.Path == protocol.PathPart && n == 3 {
			c.mu.Lock()
			c.outline, c.chain, c.parts = nil, image.Chain{}, nil
			c.mu.Unlock()
		}
		return false
	}
	source := diskFile(t, "source", false)
	if _, err := newBench(t, from, source).run(); err != nil {
		t.Fatal(err)
	}
	if c.casts != 2 || !c.chain.Whole() {
		t.Errorf("%d casts, the last one has %d of %d chunks", c.casts, c.chain.Next, c.chain.Count)
	}
	c.publish(from.published.Version)
	content, err := os.ReadFile(source.Path)
	if err != nil {
		t.Fatal(err)
	}
	b := newBench(t, to, diskFile(t, "target", true))
	if _, err := b.run(); err != nil {
		t.Fatal(err)
	}
	wantDisk(t, b.disk, content)
}

// Parts come in multicast sessions, as many at once as there are: the first two, then the others. Without
// a session they come by unicast.
func TestFollowByMulticast(t *testing.T) {
	for _, sessions := range []bool{true, false} {
		c, from, to, content := castNow(t)
		c.limit = 2
		all := c.chain.Parts
		to.ops[0].Multicast, to.follows, to.casting, to.startAt = true, c, sessions, 1
		to.hook = func(w http.ResponseWriter, r *http.Request, n int) bool {
			last := 4 // after the outline and two sessions
			if !sessions {
				last = int(all) + 2
			}
			if r.URL.Path == protocol.PathFollow && n == last {
				c.publish(from.published.Version)
			}
			return c.hook(w, r, n)
		}
		b := newBench(t, to, diskFile(t, "target", true))
		if _, err := b.run(); err != nil {
			t.Fatalf("%v\n%s", err, b.screen)
		}
		wantDisk(t, b.disk, content)
		r, notes := b.deployed()
		if !sessions {
			if r.Multicast.Multicast != 0 || len(to.casts) != 0 || r.Followed < 6<<20 {
				t.Errorf("%+v, %+v, %d sessions; want none", r, *r.Multicast, len(to.casts))
			}
			continue
		}
		if r.Multicast.Multicast < 6<<20 || r.Multicast.Unicast != 0 || r.Multicast.State != "done" || r.Followed < 6<<20 {
			t.Errorf("%+v, %+v, notes %q; want the parts by multicast", r, *r.Multicast, notes)
		}
		if len(to.casts) != 2 || to.casts[0].parts.End != 2 || to.casts[1].parts.End != all {
			t.Errorf("%d sessions, want one of two parts and one of the others", len(to.casts))
		}
	}
}
