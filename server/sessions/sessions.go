// Package sessions runs the multicast sessions of deploys.
//
// A session belongs to an operation of a task. The first machine that asks for it makes it; it waits until
// its rule says start, runs until its machines are done, and then frees all that it holds:
//
//	waiting -> running -> ended
//
//	Session    a machine asks for the session of its operation
//	Join       it has compared its disk and wants a place
//	Blocks     it fetches what it cannot get by multicast
//	List, Get, Start, Drop, Readmit    what admins see and do
//
// A machine that comes when the session has ended goes by unicast, or waits in a new session with others
// that come late. Sessions of one interface share its rate: each that runs has an equal part of it.
//
// Sessions live in memory. After a restart of the server the machines ask again, and there is a new one.
package sessions

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"clonecast/internal/chunkstore"
	"clonecast/internal/image"
	"clonecast/internal/multicast"
	"clonecast/internal/multicast/packet"
	"clonecast/internal/protocol"
	"clonecast/server/tasks"
)

// Limits and timing.
const (
	maxSessions  = 8  // at once: each may take 100 MB
	maxEnded     = 50 // ended ones that are remembered
	lookEvery    = 100 * time.Millisecond
	refreshEvery = time.Second
	maxJoins     = 50               // of one machine in a session: each costs memory until the end
	maxDeserted  = 30 * time.Minute // for which a session waits though nothing is heard of any machine
)

// Orders are the tasks that sessions belong to.
type Orders interface {
	Get(ctx context.Context, id string) (tasks.Task, error)
}

// Store is where versions come from.
type Store interface {
	chunkstore.Reader
	multicast.FrameStore
}

// Config is what a manager works on.
type Config struct {
	Orders    Orders
	Store     Store
	Interface string
	MaxRate   float64           // bytes per second on the wire, of all sessions together; 0: as fast as the interface
	Querier   multicast.Querier // of the interface; may be nil
	Log       *slog.Logger
	Now       func() time.Time
}

// Manager runs the sessions.
type Manager struct {
	Config

	making sync.Mutex // one session is made at a time

	mu     sync.Mutex // guards what is below, and what it points to
	closed bool
	all    []*session     // in the order in which they were made
	count  map[string]int // sessions that a task has had
}

// session is one session. What the manager's lock guards is marked.
type session struct {
	id      string
	op      protocol.Operation // as the machine has it that came first
	rule    protocol.StartRule
	group   netip.AddrPort
	table   []byte
	parts   *protocol.SessionParts // of a cast, else nil
	created time.Time

	sender *multicast.Session
	pin    io.Closer
	ctx    context.Context // of whatever uses sender
	cancel context.CancelFunc
	kick   chan struct{}
	users  sync.WaitGroup // calls that use sender
	done   chan struct{}  // closed when all is freed

	// Guarded:
	runs      map[string]string // state of the operation, by machine
	places    map[string]uint32 // by machine
	joins     map[string]int    // how many places a machine was given
	dropped   map[string]bool   // machines
	firstJoin time.Time
	deserted  time.Time // since when nothing is heard of any machine
	began     time.Time
	ended     time.Time
	over      bool // sender is not to be used any more
	summary   multicast.SendSummary
	failure   string
}

// New makes a manager. Close it to end all sessions.
func New(c Config) *Manager { return &Manager{Config: c, count: map[string]int{}} }

// Close ends all sessions and waits until they are gone.
func (m *Manager) Close() error {
	m.making.Lock()
	defer m.making.Unlock()
	m.mu.Lock()
	m.closed = true
	all := slices.Clone(m.all)
	m.mu.Unlock()
	for _, s := range all {
		s.cancel()
	}
	for _, s := range all {
		<-s.done
	}
	return nil
}

// none is the answer to a machine that is to go on by unicast.
func none(format string, a ...any) error {
	return &protocol.Problem{Code: protocol.CodeNotFound, Title: fmt.Sprintf(format, a...)}
}

var errNone = none("this operation has no multicast session")

// payload is what a session is to send.
type payload struct {
	parts *protocol.SessionParts // of a cast, else nil
	open  func() (*image.Manifest, error)
}

// open gives the session that takes receivers of an operation, or nil.
func (m *Manager) open(op tasks.Operation) *session {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.all {
		if s.of(op) && s.state() != packet.StateEnded {
			return s
		}
	}
	return nil
}

// of tells whether it is a session of an operation, on whatever machine.
func (s *session) of(op tasks.Operation) bool {
	return s.op.TaskID == op.TaskID && s.op.Index == op.Index
}

// state is where a session stands.
func (s *session) state() packet.State {
	if s.over {
		return packet.StateEnded
	}
	return s.sender.State()
}

// get gives the session of an operation, and makes it if there is none. An error means that the machine
// goes by unicast.
func (m *Manager) get(ctx context.Context, machine string, op tasks.Operation, p payload) (*session, error) {
	if s := m.open(op); s != nil {
		return s, nil
	}
	m.making.Lock()
	defer m.making.Unlock()
	if s := m.open(op); s != nil {
		return s, nil // made meanwhile
	}
	runs, _, err := m.states(ctx, op.Operation)
	if err != nil {
		return nil, err
	}
	if err := m.worthwhile(op, runs); err != nil {
		return nil, err
	}
	s, err := m.make(ctx, op, p, runs)
	if err != nil {
		m.Log.Error("no multicast session: the machines go by unicast", "task", op.TaskID, "error", err)
		return nil, none("no multicast session: %v", err)
	}
	m.Log.Info("multicast session", "session", s.id, "task", op.TaskID, "image", op.Image,
		"group", s.group, "bytes", s.sender.Payload(), "first", machine)
	return s, nil
}

// worthwhile tells why there will be no new session.
func (m *Manager) worthwhile(op tasks.Operation, runs map[string]string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	live, earlier, busy := 0, false, map[string]bool{}
	for _, s := range m.all {
		if !s.over {
			live++
		}
		if !s.of(op) {
			continue
		}
		earlier = true
		for machine := range s.places {
			busy[machine] = busy[machine] || s.fetches(machine)
		}
	}
	left := 0
	for machine, state := range runs {
		if !tasks.Over(state) && !busy[machine] {
			left++
		}
	}
	switch {
	case m.closed:
		return none("the server is about to stop")
	case earlier && left < 2:
		return none("the multicast session has ended")
	case live >= maxSessions:
		m.Log.Warn("no multicast session: too many run", "task", op.TaskID, "limit", maxSessions)
		return none("%d multicast sessions run already", live)
	}
	return nil
}

// fetches tells whether a machine still gets something from the session by unicast.
func (s *session) fetches(machine string) bool {
	if s.over {
		return false
	}
	for _, r := range s.sender.Summary().Receivers {
		if r.Receiver == s.places[machine] {
			return r.State == packet.StateUnicast.String()
		}
	}
	return false
}

// states gives the states of an operation by machine, and when one that is at it was last heard of. Nobody
// waits for a machine that has not come to follow a cast: it can at any time. Nor for one of which nothing was
// heard for too long: it hangs or is off, and comes late if it comes back.
func (m *Manager) states(
	ctx context.Context, op protocol.Operation,
) (runs map[string]string, heard time.Time, err error) {
	t, err := m.Orders.Get(ctx, op.TaskID)
	if err != nil {
		return nil, time.Time{}, err
	}
	runs = map[string]string{}
	for _, r := range t.Runs {
		if op.Index >= len(r.Operations) {
			continue
		}
		its := r.Operations[op.Index]
		if its.Kind != op.Kind || op.Kind == protocol.OpFollow && its.State == tasks.Queued {
			continue
		}
		if its.Silent && m.Now().Sub(its.Heard) > tasks.AbsentAfter {
			continue
		}
		runs[r.MachineID] = its.State
		if its.Heard.After(heard) {
			heard = its.Heard
		}
	}
	return runs, heard, nil
}

// make opens what a new session sends, and runs it.
func (m *Manager) make(
	ctx context.Context, op tasks.Operation, p payload, runs map[string]string,
) (s *session, err error) {
	pin, err := m.Store.Pin(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, pin.Close())
		}
	}()
	manifest, err := p.open()
	if err != nil {
		return nil, err
	}
	payload, err := multicast.NewImagePayload(m.Store, manifest)
	if err != nil {
		return nil, err
	}
	sender, err := m.sender(payload)
	if err != nil {
		return nil, err
	}
	s = &session{
		op: op.Operation, group: sender.Group(), table: payload.Table(), parts: p.parts, created: m.Now(),
		sender: sender, pin: pin, kick: make(chan struct{}, 1), done: make(chan struct{}),
		runs: runs, places: map[string]uint32{}, joins: map[string]int{}, dropped: map[string]bool{}, deserted: m.Now(),
	}
	if op.Start != nil {
		s.rule = *op.Start
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	m.mu.Lock()
	defer m.mu.Unlock()
	m.count[op.TaskID]++
	if s.id = op.TaskID; m.count[op.TaskID] > 1 {
		s.id = fmt.Sprintf("%s-%d", op.TaskID, m.count[op.TaskID])
	}
	m.all = append(m.all, s)
	m.forget()
	go m.run(s)
	return s, nil
}

// sender opens the sockets of a session, with a group that no other one has.
func (m *Manager) sender(payload *multicast.ImagePayload) (*multicast.Session, error) {
	_, signer, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	for {
		sender, err := multicast.NewSession(multicast.SessionOptions{
			Interface: m.Interface, Signer: signer, MaxRate: m.rate(), Payload: payload.Size(), Source: payload,
			Log: m.Log, Querier: m.Querier,
		})
		if err != nil || !m.taken(sender.Group()) {
			return sender, err
		}
		if err := sender.Close(); err != nil {
			return nil, err
		}
	}
}

func (m *Manager) taken(group netip.AddrPort) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.ContainsFunc(m.all, func(s *session) bool { return !s.over && s.group == group })
}

func (m *Manager) rate() float64 {
	if m.MaxRate > 0 {
		return m.MaxRate
	}
	return multicast.LinkRate(m.Interface)
}

// forget drops the oldest sessions that are over.
func (m *Manager) forget() {
	over := 0
	for i := len(m.all) - 1; i >= 0; i-- {
		if m.all[i].over {
			over++
		}
		if over > maxEnded {
			m.all = slices.Delete(m.all, i, i+1)
			over--
		}
	}
}

// run drives a session until it is over, and frees what it holds.
func (m *Manager) run(s *session) {
	defer close(s.done)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		m.watch(s)
	}()
	err := s.sender.Run(s.ctx)
	abandoned := s.ctx.Err() != nil
	s.cancel()
	<-watched
	m.mu.Lock()
	s.summary, s.over = s.sender.Summary(), true
	m.noteEnd(s)
	if err != nil && !abandoned {
		s.failure = err.Error()
	}
	m.mu.Unlock()
	s.users.Wait()
	err = errors.Join(s.sender.Close(), s.pin.Close())
	m.mu.Lock()
	s.sender, s.table = nil, nil
	m.mu.Unlock()
	m.Log.Info("multicast session ended", "session", s.id,
		"wire", s.summary.Wire, "repair", s.summary.Repair, "failure", s.failure, "error", err)
}

// watch looks after a session until its context ends.
func (m *Manager) watch(s *session) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for refreshed := time.Now(); ; {
		if time.Since(refreshed) >= refreshEvery {
			m.refresh(s)
			refreshed = time.Now()
		}
		m.look(s)
		select {
		case <-s.ctx.Done():
			return
		case <-tick.C:
		case <-s.kick:
		}
	}
}

// refresh reads what became of the machines' operations, and lets those go that were cancelled or failed.
func (m *Manager) refresh(s *session) {
	runs, heard, err := m.states(s.ctx, s.op)
	if err != nil {
		if s.ctx.Err() == nil {
			m.Log.Error("look after a multicast session", "session", s.id, "error", err)
		}
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s.runs = runs
	if heard.After(s.deserted) { // it may compare its disk for hours before it joins
		s.deserted = heard
	}
	for machine, state := range runs {
		if receiver, ok := s.places[machine]; ok && tasks.Over(state) && state != tasks.Done {
			s.sender.Drop(receiver, packet.ReasonDropped)
		}
	}
}

// look starts a session when it is time, shares the rate anew when it has ended, and gives it up when nobody wants it.
func (m *Manager) look(s *session) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch s.sender.State() {
	case packet.StateWaiting:
		present := s.sender.Present()
		if present > 0 {
			s.deserted = m.Now()
		}
		switch {
		case s.expected() == 0 && len(s.runs) > 0 || m.Now().Sub(s.deserted) > maxDeserted:
			s.cancel()
		case begins(s.rule, m.Now(), s.firstJoin, present, s.expected()):
			m.start(s)
		}
	case packet.StateEnded:
		m.noteEnd(s)
	}
}

// noteEnd gives the others a session's part of the rate once no more of it goes by multicast.
func (m *Manager) noteEnd(s *session) {
	if s.ended.IsZero() {
		s.ended = m.Now()
		m.share()
	}
}

// expected counts the machines that may want something from the session.
func (s *session) expected() int {
	n := 0
	for _, state := range s.runs {
		if !tasks.Over(state) {
			n++
		}
	}
	return n
}

// start begins a session that waits.
func (m *Manager) start(s *session) {
	s.sender.Start()
	s.began = m.Now()
	m.share()
	m.Log.Info("multicast session begins", "session", s.id, "machines", s.sender.Present())
}

// share gives every session that runs an equal part of the rate, and lets one that waits begin with what
// would be its part.
func (m *Manager) share() {
	running := 0
	for _, s := range m.all {
		if s.state() == packet.StateRunning {
			running++
		}
	}
	for _, s := range m.all {
		switch s.state() {
		case packet.StateRunning:
			s.sender.SetMaxRate(m.rate() / float64(running))
		case packet.StateWaiting:
			s.sender.SetMaxRate(m.rate() / float64(running+1))
		}
	}
}
