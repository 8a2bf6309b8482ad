package sessions

import (
	"context"
	"errors"
	"net/netip"

	"clonecast/internal/chunkstore"
	"clonecast/internal/image"
	"clonecast/internal/multicast"
	"clonecast/internal/multicast/packet"
	"clonecast/internal/protocol"
	"clonecast/server/tasks"
)

// Session gives a machine the session of its operation; CodeNotFound sends it on by unicast.
func (m *Manager) Session(ctx context.Context, machine string, op tasks.Operation) (protocol.Session, error) {
	if !op.Multicast {
		return protocol.Session{}, errNone
	}
	s, err := m.get(ctx, machine, op, payload{open: func() (*image.Manifest, error) { return m.version(ctx, op) }})
	if err != nil {
		return protocol.Session{}, err
	}
	return m.describe(s)
}

// Follow gives a machine the session of the next parts of the cast that it follows. open gives the
// manifest of their chunks, if there is no session yet.
func (m *Manager) Follow(
	ctx context.Context, machine string, op tasks.Operation,
	next protocol.SessionParts, open func() (*image.Manifest, error),
) (protocol.Session, error) {
	if !op.Multicast {
		return protocol.Session{}, errNone
	}
	s, err := m.get(ctx, machine, op, payload{parts: &next, open: open})
	if err != nil {
		return protocol.Session{}, err
	}
	if s.parts.Cast != next.Cast || s.parts.First != next.First {
		return protocol.Session{}, none("the multicast session is of other parts")
	}
	return m.describe(s)
}

// version opens the version that an operation deploys.
func (m *Manager) version(ctx context.Context, op tasks.Operation) (*image.Manifest, error) {
	id, err := image.ParseVersionID(op.Version)
	if err != nil {
		return nil, err
	}
	_, manifest, err := chunkstore.Open(ctx, m.Store, op.Image, id)
	return manifest, err
}

// describe is what a machine needs to know of a session.
func (m *Manager) describe(s *session) (protocol.Session, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.over {
		return protocol.Session{}, none("the multicast session has ended")
	}
	out := protocol.Session{
		Session: s.sender.ID(), Group: s.group, Control: s.sender.Control(), Payload: s.sender.Payload(),
		Sender: s.sender.Sender(), Table: s.table, Parts: s.parts,
	}
	if w := s.waiting(); w != nil {
		out.Waiting = *w
	}
	return out, nil
}

// waiting tells what a session waits for, nil when it does not.
func (s *session) waiting() *protocol.SessionWaiting {
	if s.state() != packet.StateWaiting {
		return nil
	}
	w := protocol.SessionWaiting{
		Machines: wanted(s.rule, s.expected()), Present: s.sender.Present(), Manual: s.rule.Manual,
	}
	if at := startsAt(s.rule, s.firstJoin); !at.IsZero() {
		w.StartsAt = at.Unix()
	}
	return &w
}

// Join gives a machine a place in the session of its operation. One that has a place already, but asks
// with another nonce, has booted again: the earlier place is given up.
func (m *Manager) Join(
	machine string, op tasks.Operation, from netip.AddrPort, q protocol.SessionJoin,
) (protocol.SessionPlace, error) {
	s := m.open(op)
	if s == nil {
		return protocol.SessionPlace{}, none("the multicast session has ended")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.over || s.dropped[machine] || q.Session != 0 && q.Session != s.sender.ID() {
		return protocol.SessionPlace{}, none("the multicast session has ended for this machine")
	}
	if s.joins[machine] >= maxJoins {
		return protocol.SessionPlace{}, none("this machine has joined the multicast session %d times", maxJoins)
	}
	place, err := s.sender.Join(from, q)
	switch {
	case errors.Is(err, multicast.ErrEnded):
		return protocol.SessionPlace{}, none("the multicast session has ended")
	case errors.Is(err, multicast.ErrRequest):
		return protocol.SessionPlace{}, &protocol.Problem{Code: protocol.CodeInvalid, Title: err.Error()}
	case err != nil:
		return protocol.SessionPlace{}, err
	}
	if earlier, ok := s.places[machine]; ok && earlier != place.Receiver {
		s.sender.Drop(earlier, packet.ReasonRejoined)
	}
	if s.places[machine] != place.Receiver {
		s.joins[machine]++
	}
	s.places[machine] = place.Receiver
	if s.firstJoin.IsZero() {
		s.firstJoin = m.Now()
	}
	select {
	case s.kick <- struct{}{}:
	default:
	}
	return place, nil
}

// Blocks gives a machine blocks of the session in which it has a place, for write to send. CodeNotFound
// comes before anything is written.
func (m *Manager) Blocks(
	ctx context.Context, machine string, op tasks.Operation, first, count int, write func(plain []byte) error,
) error {
	s := m.use(machine, op)
	if s == nil {
		return none("the multicast session has ended")
	}
	defer s.users.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	err := s.sender.Blocks(ctx, first, count, write)
	if errors.Is(err, multicast.ErrRequest) {
		return &protocol.Problem{Code: protocol.CodeInvalid, Title: err.Error()}
	}
	return err
}

// Report takes a report of a machine that UDP does not bring, and gives the sender's answer, empty for none.
func (m *Manager) Report(machine string, op tasks.Operation, report []byte) ([]byte, error) {
	s := m.use(machine, op)
	if s == nil {
		return nil, none("the multicast session has ended")
	}
	defer s.users.Done()
	return s.sender.Report(report), nil
}

// use gives the newest session in which a machine has a place. It stays until its users are done.
func (m *Manager) use(machine string, op tasks.Operation) *session {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := len(m.all) - 1; i >= 0; i-- {
		s := m.all[i]
		if _, has := s.places[machine]; has && !s.over && !s.dropped[machine] && s.of(op) {
			s.users.Add(1)
			return s
		}
	}
	return nil
}
