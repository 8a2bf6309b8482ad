package sessions

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"clonecast/internal/multicast"
	"clonecast/internal/multicast/packet"
	"clonecast/internal/protocol"
	"clonecast/server/tasks"
)

// States of a machine in a session.
const (
	Expected  = "expected"  // it has not joined yet, or nothing is heard of it any more
	Waiting   = "waiting"   // it has joined, the session has not begun
	Receiving = "receiving" // it receives by multicast
	Unicast   = "unicast"   // it fetches the rest by unicast
	Done      = "done"      // it has every block
	Failed    = "failed"    // its deploy failed
	Dropped   = "dropped"   // an admin let it go
)

// Session is what admins see of a session.
type Session struct {
	ID      string                   `json:"id"`
	Task    string                   `json:"task"`
	Title   string                   `json:"title"`
	State   string                   `json:"state"` // waiting, running or ended
	Rule    protocol.StartRule       `json:"rule"`
	Waiting *protocol.SessionWaiting `json:"waiting,omitempty"`
	Error   string                   `json:"error,omitempty"`
	Group   string                   `json:"group"`

	Payload   int64   `json:"bytes_payload"`
	Sent      int64   `json:"bytes_sent"` // of the payload, as a whole
	Wire      int64   `json:"bytes_wire"`
	Rate      int64   `json:"bytes_per_second"`     // on the wire, lately
	MaxRate   int64   `json:"max_bytes_per_second"` // its share of the interface
	Repair    int64   `json:"repair_symbols"`
	Seconds   float64 `json:"seconds"` // of the data phase, once the session has ended
	Receiving int     `json:"receiving"`

	Created  time.Time      `json:"created"`
	Began    time.Time      `json:"began,omitzero"`
	Ended    time.Time      `json:"ended,omitzero"`
	Machines []MachineState `json:"machines"`
}

// MachineState is a machine of a session.
type MachineState struct {
	ID       string  `json:"id"`
	Name     string  `json:"name"`
	State    string  `json:"state"`
	Cause    string  `json:"cause,omitempty"`  // why it is not receiving, where the session knows: a word for programs
	Reason   string  `json:"reason,omitempty"` // the same in words
	Hint     string  `json:"hint,omitempty"`   // what can be done about it
	Address  string  `json:"address,omitempty"`
	Loss     float64 `json:"loss"` // share of packets lost
	Needed   int64   `json:"bytes_needed"`
	Finished int64   `json:"bytes_finished"`  // verified and written
	Fetched  int64   `json:"fetched_unicast"` // bytes of these
}

// List gives all sessions that are known, the newest first.
func (m *Manager) List(ctx context.Context) ([]Session, error) {
	m.mu.Lock()
	all := slices.Clone(m.all)
	m.mu.Unlock()
	list := []Session{}
	for _, s := range slices.Backward(all) {
		one, err := m.view(ctx, s)
		if err != nil {
			return nil, err
		}
		list = append(list, one)
	}
	return list, nil
}

// Get gives a session.
func (m *Manager) Get(ctx context.Context, id string) (Session, error) {
	s, err := m.find(id)
	if err != nil {
		return Session{}, err
	}
	return m.view(ctx, s)
}

func (m *Manager) find(id string) (*session, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.all {
		if s.id == id {
			return s, nil
		}
	}
	return nil, &protocol.Problem{Code: protocol.CodeNotFound, Title: fmt.Sprintf("no session %q", id),
		Hint: "'clonecast session list' shows what there is; " +
			"a session has the number of its task, and is made when the task's first machine asks for it"}
}

// view describes a session with its task's machines.
func (m *Manager) view(ctx context.Context, s *session) (Session, error) {
	t, err := m.Orders.Get(ctx, s.op.TaskID)
	if err != nil {
		return Session{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	sum := s.summary
	if !s.over {
		sum = s.sender.Summary()
	}
	if sum.State == packet.StateEnded {
		m.noteEnd(s)
	}
	out := Session{
		ID: s.id, Task: s.op.TaskID, Title: t.Title, State: s.state().String(),
		Rule: s.rule, Waiting: s.waiting(), Error: s.failure, Group: s.group.String(),
		Payload: sum.Payload, Sent: sum.FirstPass, Wire: int64(sum.Wire),
		Rate: int64(sum.Rate), MaxRate: int64(sum.MaxRate), Repair: int64(sum.Repair),
		Created: s.created, Began: s.began, Ended: s.ended, Machines: []MachineState{},
	}
	if out.State == packet.StateEnded.String() {
		out.Rate, out.Seconds = 0, sum.Seconds
	}
	receivers := map[uint32]multicast.ReceiverSummary{}
	for _, r := range sum.Receivers {
		receivers[r.Receiver] = r
	}
	for _, run := range t.Runs {
		if s.op.Index >= len(run.Operations) || run.Operations[s.op.Index].Kind != s.op.Kind {
			continue // it is captured, and others follow
		}
		one := MachineState{ID: run.MachineID, Name: run.Machine}
		receiver, joined := receivers[s.places[run.MachineID]]
		if joined {
			one.Address, one.Loss = receiver.Address, receiver.Loss
			one.Needed, one.Finished, one.Fetched = receiver.Needed, receiver.Finished, receiver.Fetched
		}
		if joined && receiver.Reason != "" {
			one.Cause, one.Hint = receiver.Cause, receiver.Hint
		}
		one.State, one.Reason = s.machine(run.Operations[s.op.Index], receiver, joined, s.dropped[run.MachineID])
		if one.State == Receiving {
			out.Receiving++
		}
		out.Machines = append(out.Machines, one)
	}
	slices.SortFunc(out.Machines, func(a, b MachineState) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// machine tells where a machine stands, from its operation and from its place in the session, and why.
func (s *session) machine(
	op tasks.Operation, r multicast.ReceiverSummary, joined, dropped bool,
) (state, reason string) {
	switch {
	case dropped || op.State == tasks.Cancelled || op.State == tasks.Skipped:
		return Dropped, "its run was cancelled"
	case op.State == tasks.Failed:
		return Failed, op.Error
	case op.State == tasks.Done:
		return Done, r.Reason
	case op.State == tasks.Queued:
		return Expected, ""
	case !joined && s.state() == packet.StateEnded && op.State == tasks.Running:
		return Unicast, "it did not join before the session ended"
	case !joined && op.Silent:
		return Expected, silence(op)
	case !joined:
		return Expected, ""
	}
	switch r.State {
	case "vanished":
		return Expected, silence(op)
	case packet.StateReceiving.String():
		if s.state() == packet.StateWaiting {
			return Waiting, ""
		}
		return Receiving, r.Reason
	case packet.StateFailed.String(): // of the session, not of the deploy
		return Unicast, cmp.Or(r.Reason, "it gave up the session")
	}
	return r.State, r.Reason // the others have the same words
}

// silence says since when nothing is heard of a machine.
func silence(op tasks.Operation) string {
	if !op.Silent {
		return "nothing is heard of it in the session"
	}
	return "nothing is heard of it since " + op.Heard.Local().Format(time.TimeOnly)
}

// Start begins a session that waits, whatever it waits for.
func (m *Manager) Start(id string) error {
	s, err := m.find(id)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case s.state() != packet.StateWaiting:
		return &protocol.Problem{
			Code: protocol.CodeConflict, Title: fmt.Sprintf("session %s does not wait: it is %v", id, s.state())}
	case s.sender.Present() == 0:
		return &protocol.Problem{Code: protocol.CodeConflict, Title: fmt.Sprintf("no machine has joined session %s yet", id),
			Hint: "'clonecast session show " + id + "' lists who is expected; a machine joins when it has compared its disk"}
	}
	m.start(s)
	return nil
}

// Drop lets a machine go at once. Its run is for the caller to cancel.
func (m *Manager) Drop(id, machine string) error {
	s, err := m.find(id)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s.dropped[machine] = true
	if receiver, ok := s.places[machine]; ok && !s.over {
		s.sender.Drop(receiver, packet.ReasonDropped)
	}
	return nil
}

// Readmit lets a machine that was dropped join again.
func (m *Manager) Readmit(id, machine string) error {
	s, err := m.find(id)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(s.dropped, machine)
	delete(s.places, machine)
	return nil
}
