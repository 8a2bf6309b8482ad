package sessions

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"clonecast/internal/await"
	"clonecast/internal/chunk"
	"clonecast/internal/chunkstore/local"
	"clonecast/internal/image"
	"clonecast/internal/multicast"
	"clonecast/internal/multicast/blocks"
	"clonecast/internal/protocol"
	"clonecast/internal/quantity"
	"clonecast/server/database"
	"clonecast/server/tasks"

	"github.com/klauspost/compress/zstd"
)

// pinned counts the pins on a store.
type pinned struct {
	*local.Store
	pins atomic.Int32
}

func (p *pinned) Pin(ctx context.Context) (io.Closer, error) {
	pin, err := p.Store.Pin(ctx)
	if err != nil {
		return nil, err
	}
	p.pins.Add(1)
	return &countedPin{Closer: pin, of: p}, nil
}

type countedPin struct {
	io.Closer
	of *pinned
}

func (c *countedPin) Close() error {
	c.of.pins.Add(-1)
	return c.Closer.Close()
}

// room is a manager with real tasks and a real store, and machines m0, m1, … Its clock can be put forward.
type room struct {
	t       *testing.T
	store   *pinned
	db      *sql.DB
	orders  *tasks.Service
	manager *Manager
	ahead   atomic.Int64 // of the clock
	version map[string]string
	payload map[string][]byte // by image
}

// testRate is that of all sessions together: an image of 2 MB takes a tenth of a second.
const testRate = 20e6

func newRoom(t *testing.T, rate float64) *room {
	t.Helper()
	dir := t.TempDir()
	store, err := local.Create(filepath.Join(dir, "store"), local.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	db, err := database.Open(t.Context(), filepath.Join(dir, "x.db"))
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	r := &room{t: t, store: &pinned{Store: store}, db: db, version: map[string]string{}, payload: map[string][]byte{}}
	r.orders = tasks.NewService(db, r.now, log)
	r.manager = New(Config{Orders: r.orders, Store: r.store, Interface: "lo", MaxRate: rate, Log: log, Now: r.now})
	t.Cleanup(func() {
		for _, f := range []func() error{r.manager.Close, db.Close, store.Close} {
			if err := f(); err != nil {
				t.Error(err)
			}
		}
	})
	return r
}

func (r *room) now() time.Time { return time.Now().Add(time.Duration(r.ahead.Load())) }

// image captures a disk of random bytes.
func (r *room) image(name string, chunks int) {
	r.t.Helper()
	session, err := r.store.Begin(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	defer session.Close()
	enc, err := chunk.NewEncoder(zstd.SpeedFastest)
	if err != nil {
		r.t.Fatal(err)
	}
	random := rand.NewChaCha8([32]byte([]byte(fmt.Sprintf("%32s", name))))
	var ids []chunk.ID
	for range chunks {
		plain := make([]byte, chunk.Size)
		random.Read(plain)
		ids = append(ids, chunk.Sum(plain))
		frame := enc.AppendFrame(nil, []chunk.Entry{{ID: chunk.Sum(plain), Length: len(plain)}}, plain)
		if _, err := session.PutFrame(r.t.Context(), frame); err != nil {
			r.t.Fatal(err)
		}
		r.payload[name] = append(r.payload[name], frame...)
	}
	length := quantity.Bytes(chunks) * chunk.Size
	_, v, err := session.Publish(r.t.Context(), &image.Manifest{
		Image: name, Created: 1, Engine: "test",
		Disks: []image.Disk{{
			Size: length + 1<<20, LogicalSector: 512, PhysicalSector: 512, TableKind: "none",
			Partitions: []image.Partition{{Number: 1, Mode: image.ModeRaw, Content: image.Content{
				Start: 1 << 20, Length: length, Extents: []quantity.Extent{{Length: length}}, Chunks: ids,
			}}},
		}},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.version[name] = v.ID.String()
}

// deploy orders an image for the machines from..to-1.
func (r *room) deploy(name string, rule protocol.StartRule, from, to int) tasks.Task {
	r.t.Helper()
	var machines []string
	for i := from; i < to; i++ {
		id := fmt.Sprint("m", i)
		_, err := r.db.Exec("INSERT INTO machines (id, name, state, facts, registered, last_seen) "+
			"VALUES ($1, $1, 'adopted', '{}', 1, 1) ON CONFLICT DO NOTHING", id)
		if err != nil {
			r.t.Fatal(err)
		}
		machines = append(machines, id)
	}
	task, err := r.orders.Create(r.t.Context(), tasks.New{
		Title: "deploy " + name, Creator: "root", Machines: machines,
		Operations: []protocol.Operation{
			{Kind: protocol.OpDeploy, Image: name, Version: r.version[name], Multicast: true, Start: &rule},
		},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return task
}

// machine is one that does its deploy.
type machine struct {
	r    *room
	id   string
	op   tasks.Operation
	full *atomic.Bool // its disk has no room for block 0 now: the machine cannot receive all
}

func (r *room) machine(n int) *machine {
	r.t.Helper()
	m := &machine{r: r, id: fmt.Sprint("m", n), full: new(atomic.Bool)}
	if _, err := r.orders.Next(r.t.Context(), m.id, "boot"); err != nil {
		r.t.Fatal(err)
	}
	op, _, found, err := r.orders.Current(r.t.Context(), m.id)
	if err != nil || !found {
		r.t.Fatalf("machine %s has operation %+v, %v", m.id, op, err)
	}
	m.op = op
	return m
}

// Join implements multicast.Host.
func (m *machine) Join(_ context.Context, q protocol.SessionJoin) (protocol.SessionPlace, error) {
	return m.r.manager.Join(m.id, m.op, netip.MustParseAddrPort("127.0.0.1:9"), q)
}

// Report implements multicast.Host.
func (m *machine) Report(_ context.Context, report []byte) ([]byte, error) {
	return m.r.manager.Report(m.id, m.op, report)
}

// Blocks implements multicast.Host.
func (m *machine) Blocks(ctx context.Context, first, count int, read func(io.Reader) error) error {
	var all bytes.Buffer
	err := m.r.manager.Blocks(ctx, m.id, m.op, first, count, func(plain []byte) error {
		_, err := all.Write(plain)
		return err
	})
	var p *protocol.Problem
	if errors.As(err, &p) && p.Code == protocol.CodeNotFound {
		return fmt.Errorf("%w: %w", multicast.ErrGone, err)
	}
	if err != nil {
		return err
	}
	return read(&all)
}

// receive gets all of the machine's session, in the background, and checks the bytes.
func (m *machine) receive(ctx context.Context) (done <-chan error) {
	m.r.t.Helper()
	session, err := m.r.manager.Session(m.r.t.Context(), m.id, m.op)
	if err != nil {
		m.r.t.Fatalf("machine %s: %v", m.id, err)
	}
	found, err := multicast.Offered(session, m, slog.New(slog.DiscardHandler))
	if err != nil {
		m.r.t.Fatal(err)
	}
	want := m.r.payload[m.op.Image]
	result := make(chan error, 1)
	go func() {
		got := make([]byte, session.Payload)
		var mu sync.Mutex
		_, err := found.Receive(ctx, blocks.FullSet(found.Geometry().Count()), func(b int, plain []byte) error {
			mu.Lock()
			defer mu.Unlock()
			if b == 0 && m.full.Load() {
				return multicast.ErrLater
			}
			copy(got[found.Geometry().Offset(b):], plain)
			return nil
		}, nil)
		if err == nil && !bytes.Equal(got, want) {
			err = errors.New("the bytes are wrong")
		}
		result <- err
	}()
	return result
}

func (m *machine) report(state string) {
	m.r.t.Helper()
	status := protocol.Status{TaskID: m.op.TaskID, Index: m.op.Index, State: state, Error: "disk is broken"}
	if _, err := m.r.orders.Report(m.r.t.Context(), m.id, status); err != nil {
		m.r.t.Fatal(err)
	}
}

// none expects that there is no session for the machine.
func (m *machine) none(what string) {
	m.r.t.Helper()
	_, err := m.r.manager.Session(m.r.t.Context(), m.id, m.op)
	var p *protocol.Problem
	if !errors.As(err, &p) || p.Code != protocol.CodeNotFound {
		m.r.t.Errorf("%s: %v, want code %s", what, err, protocol.CodeNotFound)
	}
}

// until waits for a session to be as it shall.
func (r *room) until(id, what string, ok func(Session) bool) Session {
	r.t.Helper()
	var s Session
	var err error
	if !await.True(func() bool {
		s, err = r.manager.Get(r.t.Context(), id)
		return err == nil && ok(s)
	}) {
		r.t.Fatalf("%s: session %s is %+v, %v", what, id, s, err)
	}
	return s
}

func ended(s Session) bool { return s.State == "ended" }

func present(n int) func(Session) bool {
	return func(s Session) bool { return s.Waiting != nil && s.Waiting.Present == n }
}

func states(s Session) string {
	var all []string
	for _, m := range s.Machines {
		all = append(all, m.State)
	}
	return fmt.Sprint(all)
}

func (r *room) finish(done ...<-chan error) {
	r.t.Helper()
	for i, c := range done {
		if err := <-c; err != nil {
			r.t.Errorf("machine %d: %v", i, err)
		}
	}
}

// held is what a process has in use, the database's files apart: it keeps as many open as were busy at once.
type held struct{ goroutines, files, pins int }

func (r *room) held() held {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		r.t.Fatal(err)
	}
	files := 0
	for _, e := range entries {
		if name, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && !strings.Contains(name, "/x.db") {
			files++
		}
	}
	return held{runtime.NumGoroutine(), files, int(r.store.pins.Load())}
}

// released waits until no more is in use than before.
func (r *room) released(before held) {
	r.t.Helper()
	var now held
	if !await.True(func() bool {
		now = r.held()
		return now.goroutines <= before.goroutines && now.files <= before.files && now.pins <= before.pins
	}) {
		stacks := make([]byte, 1<<16)
		r.t.Fatalf("in use: %+v, before %+v\n%s", now, before, stacks[:runtime.Stack(stacks, true)])
	}
}

// TestWholeRoom deploys to all machines of a task in one session, which then holds nothing any more.
func TestWholeRoom(t *testing.T) {
	r := newRoom(t, testRate)
	r.image("win", 8)
	task := r.deploy("win", protocol.StartRule{}, 0, 4)
	var machines []*machine
	for n := range 4 {
		machines = append(machines, r.machine(n))
	}
	before := r.held()
	var done []<-chan error
	for i, m := range machines {
		done = append(done, m.receive(t.Context()))
		if i == 1 {
			s := r.until(task.ID, "two wait", present(2))
			if s.State != "waiting" || s.Waiting.Machines != 4 || s.Waiting.StartsAt == 0 ||
				states(s) != "[waiting waiting expected expected]" {
				t.Errorf("the session is %+v", s)
			}
			if got := r.held(); got.pins != 1 || got.files <= before.files {
				t.Errorf("a session that waits holds %+v, before %+v: the test sees nothing", got, before)
			}
		}
	}
	r.finish(done...)
	s := r.until(task.ID, "all received", ended)
	if states(s) != "[done done done done]" || s.Error != "" || s.Sent != s.Payload ||
		s.Began.IsZero() || s.Ended.Before(s.Began) {
		t.Errorf("the session was %+v", s)
	}
	r.released(before)
	again := r.until(task.ID, "released", ended)
	if again.Wire < s.Wire || !again.Ended.Equal(s.Ended) || states(again) != states(s) {
		t.Errorf("later the session is %+v, it was %+v", again, s)
	}
	for _, m := range machines[:3] {
		m.report(protocol.StateDone)
	}
	machines[3].none("the only one left asks again")
}

// TestPatience does not wait for a machine that does not come. That one goes by unicast.
func TestPatience(t *testing.T) {
	r := newRoom(t, testRate)
	r.image("win", 4)
	task := r.deploy("win", protocol.StartRule{WaitSeconds: 3600}, 0, 2)
	first := r.machine(0)
	done := first.receive(t.Context())
	r.until(task.ID, "one waits", present(1))
	r.ahead.Store(int64(time.Hour))
	r.finish(done)
	r.until(task.ID, "ended", ended)
	first.report(protocol.StateDone)
	late := r.machine(1)
	late.none("late")
	s, err := r.manager.Get(t.Context(), task.ID)
	if err != nil || states(s) != "[done unicast]" || s.Machines[1].Reason == "" {
		t.Errorf("the session was %+v, %v", s, err)
	}
}

// TestStartAt waits for its time, though all are there.
func TestStartAt(t *testing.T) {
	r := newRoom(t, testRate)
	r.image("win", 4)
	at := time.Now().Add(time.Hour)
	task := r.deploy("win", protocol.StartRule{At: at.Unix()}, 0, 1)
	done := r.machine(0).receive(t.Context())
	if s := r.until(task.ID, "one waits", present(1)); s.Waiting.StartsAt != at.Unix() {
		t.Errorf("the session is %+v", s)
	}
	r.ahead.Store(int64(time.Hour))
	r.finish(done)
}

// TestFewerThanOrdered does not wait for machines that have failed.
func TestFewerThanOrdered(t *testing.T) {
	r := newRoom(t, testRate)
	r.image("win", 4)
	task := r.deploy("win", protocol.StartRule{Machines: 3}, 0, 3)
	a, b := r.machine(0).receive(t.Context()), r.machine(1).receive(t.Context())
	r.until(task.ID, "two wait", present(2))
	r.machine(2).report(protocol.StateFailed)
	r.finish(a, b)
	s := r.until(task.ID, "ended", ended)
	if states(s) != "[done done failed]" || s.Machines[2].Reason != "disk is broken" {
		t.Errorf("the session was %+v", s)
	}
}

// TestSecondSession gives those who come when the session has ended one of their own.
func TestSecondSession(t *testing.T) {
	r := newRoom(t, testRate)
	r.image("win", 4)
	task := r.deploy("win", protocol.StartRule{Machines: 2}, 0, 4)
	early := []*machine{r.machine(0), r.machine(1)}
	r.finish(early[0].receive(t.Context()), early[1].receive(t.Context()))
	r.until(task.ID, "ended", ended)
	for _, m := range early {
		m.report(protocol.StateDone)
	}
	r.finish(r.machine(2).receive(t.Context()), r.machine(3).receive(t.Context()))
	r.until(task.ID+"-2", "ended", ended)
	list, err := r.manager.List(t.Context())
	if err != nil || len(list) != 2 || list[0].ID != task.ID+"-2" {
		t.Errorf("sessions are %+v, %v", list, err)
	}
}

// TestBootsAgain lets a machine come back in the middle of a session: its first place is given up at once.
func TestBootsAgain(t *testing.T) {
	r := newRoom(t, testRate)
	r.image("win", 16)
	task := r.deploy("win", protocol.StartRule{}, 0, 2)
	crashing, crash := context.WithCancel(t.Context())
	first := r.machine(0)
	first.full.Store(true)
	lost, other := first.receive(crashing), r.machine(1).receive(t.Context())
	r.until(task.ID, "data flows", func(s Session) bool { return s.Sent > s.Payload/8 })
	crash()
	if err := <-lost; err == nil {
		t.Error("the first boot received all")
	}
	first.full.Store(false)
	r.finish(first.receive(t.Context()), other)
	if s := r.until(task.ID, "ended", ended); states(s) != "[done done]" || s.Machines[0].Finished != s.Payload {
		t.Errorf("the session was %+v", s)
	}
}

// TestCancelled drops a machine whose run is cancelled while data flows, and ends a session whose task is cancelled
// before it begins.
func TestCancelled(t *testing.T) {
	r := newRoom(t, testRate)
	r.image("win", 16)
	task := r.deploy("win", protocol.StartRule{}, 0, 2)
	a := r.machine(0)
	a.full.Store(true)
	stopped, other := a.receive(t.Context()), r.machine(1).receive(t.Context())
	r.until(task.ID, "data flows", func(s Session) bool { return s.State == "running" && s.Sent > 0 })
	if err := r.orders.CancelRun(t.Context(), task.ID, a.id); err != nil {
		t.Fatal(err)
	}
	if err := r.manager.Drop(task.ID, a.id); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Join(t.Context(), protocol.SessionJoin{Nonce: make([]byte, protocol.NonceSize)}); err == nil {
		t.Error("a machine that was dropped has joined again")
	}
	if err := <-stopped; err == nil {
		t.Error("a machine that was dropped has received all")
	}
	r.finish(other)
	if s := r.until(task.ID, "ended", ended); states(s) != "[dropped done]" {
		t.Errorf("the session was %+v", s)
	}

	task = r.deploy("win", protocol.StartRule{Manual: true}, 2, 4)
	before := r.held()
	waiting := r.machine(2)
	if _, err := waiting.r.manager.Session(t.Context(), waiting.id, waiting.op); err != nil {
		t.Fatal(err)
	}
	if _, err := r.orders.Cancel(t.Context(), task.ID); err != nil {
		t.Fatal(err)
	}
	if s := r.until(task.ID, "its task was cancelled", ended); !s.Began.IsZero() || s.Error != "" {
		t.Errorf("the session was %+v", s)
	}
	r.released(before)
}

// TestDeserted gives up a session of which no machine is heard any more, but not one whose machines still
// compare their disks.
func TestDeserted(t *testing.T) {
	r := newRoom(t, testRate)
	r.image("win", 2)
	task := r.deploy("win", protocol.StartRule{}, 0, 2)
	m := r.machine(0)
	if _, err := r.manager.Session(t.Context(), m.id, m.op); err != nil {
		t.Fatal(err)
	}
	r.ahead.Store(int64(maxDeserted - time.Minute))
	m.report(protocol.StateRunning)
	heard := func() bool {
		s, err := r.manager.find(task.ID)
		if err != nil {
			t.Fatal(err)
		}
		r.manager.mu.Lock()
		defer r.manager.mu.Unlock()
		return s.deserted.After(s.created.Add(maxDeserted / 2))
	}
	if !await.True(heard) {
		t.Fatal("the manager does not look at what machines report")
	}
	r.ahead.Store(int64(maxDeserted + time.Minute))
	r.until(task.ID, "still waits", func(s Session) bool { return s.State == "waiting" })
	r.ahead.Store(int64(3 * maxDeserted))
	r.until(task.ID, "is given up", ended)
}

// TestShares runs two sessions at once: each has half of the rate, and the one that lasts longer all of it in the end.
func TestShares(t *testing.T) {
	const rate = 8e6
	r := newRoom(t, rate)
	r.image("small", 8)
	r.image("large", 24)
	small := r.deploy("small", protocol.StartRule{Manual: true}, 0, 1)
	large := r.deploy("large", protocol.StartRule{Manual: true}, 1, 2)
	first, second := r.machine(0), r.machine(1)
	first.full.Store(true) // no session ends before it is looked at
	second.full.Store(true)
	a, b := first.receive(t.Context()), second.receive(t.Context())
	for _, id := range []string{small.ID, large.ID} {
		r.until(id, "joined", present(1))
		if err := r.manager.Start(id); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []string{small.ID, large.ID} {
		if s := r.until(id, "runs", func(s Session) bool { return s.State == "running" }); s.MaxRate != rate/2 {
			t.Errorf("session %s may send %d bytes per second, want half of %v", id, s.MaxRate, rate)
		}
	}
	first.full.Store(false)
	r.finish(a)
	r.until(small.ID, "ended", ended)
	r.until(large.ID, "has all of the rate", func(s Session) bool { return s.State == "running" && s.MaxRate == rate })
	second.full.Store(false)
	r.finish(b)
}

// TestUnicast fetches blocks of a session, from a place in it only.
func TestUnicast(t *testing.T) {
	r := newRoom(t, testRate)
	r.image("win", 4)
	r.deploy("win", protocol.StartRule{Manual: true}, 0, 2)
	m := r.machine(0)
	session, err := r.manager.Session(t.Context(), m.id, m.op)
	if err != nil {
		t.Fatal(err)
	}
	count := blocks.Geometry{Payload: session.Payload}.Count()
	all := func(m *machine, first, count int) ([]byte, error) {
		var got []byte
		err := m.Blocks(t.Context(), first, count, func(b io.Reader) (err error) {
			got, err = io.ReadAll(b)
			return err
		})
		return got, err
	}
	var p *protocol.Problem
	if _, err := all(m, 0, count); !errors.As(err, &p) || p.Code != protocol.CodeNotFound {
		t.Errorf("without a place: %v", err)
	}
	for name, bad := range map[string]protocol.SessionJoin{
		"no nonce": {}, "no set": {Nonce: make([]byte, protocol.NonceSize), Need: []byte{1, 255, 255, 3}},
	} {
		if _, err := m.Join(t.Context(), bad); !errors.As(err, &p) || p.Code != protocol.CodeInvalid {
			t.Errorf("joined with %s: %v", name, err)
		}
	}
	if _, err := m.Join(t.Context(), protocol.SessionJoin{Nonce: make([]byte, protocol.NonceSize)}); err != nil {
		t.Fatal(err)
	}
	for n := range maxJoins + 10 { // the same place once, then others, then no more
		nonce := []byte(fmt.Sprintf("%016d", n/2))
		need := blocks.FullSet(count).AppendBinary(nil)
		_, err := m.Join(t.Context(), protocol.SessionJoin{Nonce: nonce, Need: need})
		if err != nil {
			t.Fatalf("joined %d times: %v", n, err)
		}
	}
	var joined error
	for n := range maxJoins {
		_, joined = m.Join(t.Context(), protocol.SessionJoin{Nonce: []byte(fmt.Sprintf("%016d", 1000+n))})
	}
	if !errors.As(joined, &p) || p.Code != protocol.CodeNotFound {
		t.Errorf("a machine joins without end: %v", joined)
	}
	if got, err := all(m, 0, count); err != nil || !bytes.Equal(got, r.payload["win"]) {
		t.Errorf("Blocks = %d bytes, %v", len(got), err)
	}
	if _, err := all(m, count, 1); !errors.As(err, &p) || p.Code != protocol.CodeInvalid {
		t.Errorf("blocks behind the end: %v", err)
	}
	if _, err := all(r.machine(1), 0, 1); !errors.As(err, &p) || p.Code != protocol.CodeNotFound {
		t.Errorf("for a machine without a place: %v", err)
	}
}

// TestNoSession says why there is none, and keeps nothing.
func TestNoSession(t *testing.T) {
	r := newRoom(t, testRate)
	r.image("win", 1)
	r.deploy("win", protocol.StartRule{}, 0, 1)
	m := r.machine(0)
	before := r.held()
	r.manager.Interface = "no-such-interface"
	m.none("no interface")
	r.manager.Interface = "lo"
	other := *m
	other.op.Version = image.VersionID{1}.String()
	other.none("a version that is not there")
	other = *m
	other.op.Multicast = false
	other.none("not by multicast")
	r.released(before)
	if list, err := r.manager.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("sessions are %+v, %v", list, err)
	}
	if err := r.manager.Close(); err != nil {
		t.Fatal(err)
	}
	m.none("closed")
}

// TestCrowd lets many machines and admins come at once: there is one session, and it is over when the server
// stops, in whatever state it was.
func TestCrowd(t *testing.T) {
	r := newRoom(t, testRate)
	r.image("win", 4)
	task := r.deploy("win", protocol.StartRule{Machines: 30}, 0, 40)
	var machines []*machine
	for n := range 40 {
		machines = append(machines, r.machine(n))
	}
	before := r.held()
	var group sync.WaitGroup
	var ids sync.Map
	for _, m := range machines {
		group.Go(func() {
			s, err := r.manager.Session(t.Context(), m.id, m.op)
			if err != nil {
				t.Error(err)
				return
			}
			ids.Store(s.Session, true)
			nonce := []byte(fmt.Sprintf("%16s", m.id))
			join := protocol.SessionJoin{Nonce: nonce, Need: blocks.FullSet(4).AppendBinary(nil)}
			if _, err := m.Join(t.Context(), join); err != nil {
				t.Error(err)
			}
			if _, err := r.manager.Get(t.Context(), task.ID); err != nil {
				t.Error(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			err = r.manager.Blocks(ctx, m.id, m.op, 0, 1, func([]byte) error { return nil })
			if err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	count := 0
	ids.Range(func(any, any) bool { count++; return true })
	if count != 1 {
		t.Errorf("%d sessions for one operation", count)
	}
	if err := r.manager.Close(); err != nil {
		t.Error(err)
	}
	r.released(before)
}
