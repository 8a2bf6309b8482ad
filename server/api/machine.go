package api

import (
	"errors"
	"net/http"
	"sync"
	"time"

	"clonecast/internal/protocol"
	"clonecast/internal/text"
	"clonecast/server/database"
)

// How often a pending machine registers again, and how long it waits before it boots its own disk, in seconds.
const (
	pollSeconds = 5
	waitSeconds = 120
)

func (a *API) machineRoutes() {
	a.handle("GET /healthz", public, func(w http.ResponseWriter, _ *http.Request) error {
		_, _ = w.Write([]byte("ok\n"))
		return nil
	})
	a.handle("POST "+protocol.PathRegister, public, a.register)
	a.handle("POST "+protocol.PathLogon, public, a.logon)
	a.handle("POST "+protocol.PathNext, forMachine, a.next)
	a.handle("POST "+protocol.PathStatus, forMachine, a.status)
	a.handle("POST "+protocol.PathLogoff, forMachine, a.logoff)
	a.handle("POST "+protocol.PathMissing, forMachine, a.missing)
	a.handle("POST "+protocol.PathFrame, forMachine, a.frame)
	a.handle("POST "+protocol.PathPublish, forMachine, a.publish)
	a.handle("POST "+protocol.PathOutline, forMachine, a.outline)
	a.handle("POST "+protocol.PathPart, forMachine, a.part)
	a.handle("POST "+protocol.PathFollow, forMachine, a.followCast)
	a.handle("GET "+protocol.PathFollowOutline+"{cast}", forMachine, a.followOutline)
	a.handle("GET "+protocol.PathFollowPart+"{cast}/{number}", forMachine, a.followPart)
	a.handle("GET "+protocol.PathManifest, forMachine, a.manifest)
	a.handle("POST "+protocol.PathChunks, forMachine, a.chunks)
	a.handle("GET "+protocol.PathParent, forMachine, a.parent)
	a.handle("POST "+protocol.PathDeltas, forMachine, a.deltas)
	a.handle("GET "+protocol.PathSession, forMachine, a.describeSession)
	a.handle("POST "+protocol.PathSessionJoin, forMachine, a.joinSession)
	a.handle("GET "+protocol.PathSessionBlocks, forMachine, a.sessionBlocks)
	a.handle("POST "+protocol.PathSessionReport, forMachine, a.reportToSession)
	a.handle("POST "+protocol.PathTable+"{disk}", forMachine, a.saveTable)
}

func (a *API) register(w http.ResponseWriter, r *http.Request) error {
	var q protocol.RegisterRequest
	if err := readJSON(w, r, &q); err != nil {
		return err
	}
	if q.Version != protocol.Version {
		return &protocol.Problem{Code: protocol.CodeVersion,
			Title: "the appliance speaks another version of the protocol than this server",
			Hint:  "restart clonecast serve so that it builds the appliance again, then boot this PC again"}
	}
	m, err := a.Machines.Register(r.Context(), q.Facts, host(r))
	if err != nil {
		return err
	}
	a.Seen(q.BootToken, m.ID)
	answer := protocol.RegisterResponse{MachineID: m.ID, State: m.State, Name: m.Name}
	if m.State == protocol.MachinePending {
		answer.PollSeconds, answer.WaitSeconds = pollSeconds, waitSeconds
		answer.Message = "this PC waits for adoption as " + m.Name + "; on the server: clonecast machine adopt " + m.ID
	}
	return writeJSON(w, answer)
}

func (a *API) logon(w http.ResponseWriter, r *http.Request) error {
	var q protocol.LogonRequest
	if err := readJSON(w, r, &q); err != nil {
		return err
	}
	m, err := a.Machines.Get(r.Context(), q.MachineID)
	if err != nil {
		return err
	}
	if m.State != protocol.MachineAdopted {
		return &protocol.Problem{Code: protocol.CodePending, Title: "this PC is not adopted",
			Hint: "on the server: clonecast machine adopt " + m.ID}
	}
	// One identity at two places within seconds is two PCs, or one and an impostor.
	if other := a.recent.elsewhere(m.ID, host(r), a.Now()); other != "" {
		a.Log.Warn("duplicate identity", "machine", m.ID, "name", m.Name, "active", other, "refused", host(r))
		note := a.Now().UTC().Format("2006-01-02 15:04") + ": duplicate identity: " + host(r) +
			" wanted to log on while " + other + " was active"
		return errors.Join(a.Machines.Note(r.Context(), m.ID, note), &protocol.Problem{
			Code:  protocol.CodeConflict,
			Title: "another PC with the same identity is active",
			Hint:  "look for two PCs with the same serial number; 'clonecast machine show " + m.Name + "'",
		})
	}
	token, hash := newToken()
	now := a.Now()
	_, err = a.DB.ExecContext(r.Context(), `INSERT INTO machine_sessions (token_hash, machine_id, boot, address, expires)
		VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (machine_id) DO UPDATE SET token_hash = excluded.token_hash, boot = excluded.boot,
			address = excluded.address, expires = excluded.expires`,
		hash, m.ID, text.Clean(q.BootToken, 64), host(r), database.Millis(now.Add(machineTokenLife)))
	if err != nil {
		return err
	}
	a.Log.Info("machine logged on", "machine", m.ID, "name", m.Name, "address", host(r))
	return writeJSON(w, protocol.LogonResponse{Token: token, ServerTime: now.Unix()})
}

func (a *API) next(w http.ResponseWriter, r *http.Request) error {
	c := callerOf(r.Context())
	op, err := a.Tasks.Next(r.Context(), c.machine, c.boot)
	if err != nil {
		return err
	}
	if op.Kind != protocol.OpCapture {
		a.captures.end(c.machine, a.Log)
	}
	return writeJSON(w, op)
}

func (a *API) status(w http.ResponseWriter, r *http.Request) error {
	var st protocol.Status
	if err := readJSONOf(w, r, maxStatusJSON, jsonCost, &st); err != nil {
		return err
	}
	c := callerOf(r.Context())
	a.captures.hear(c.machine)
	answer, err := a.Tasks.Report(r.Context(), c.machine, st)
	if err != nil {
		return err
	}
	if answer.Cancel || st.State != protocol.StateRunning {
		a.captures.end(c.machine, a.Log)
	}
	return writeJSON(w, answer)
}

func (a *API) logoff(w http.ResponseWriter, r *http.Request) error {
	var q protocol.LogoffRequest
	if err := readJSON(w, r, &q); err != nil {
		return err
	}
	c := callerOf(r.Context())
	kept, err := a.Tasks.LogOff(r.Context(), c.machine, q)
	if err != nil {
		return err
	}
	if q.Error != "" && !kept && !q.Reported { // nothing was ordered that could bear the error
		note := a.Now().UTC().Format("2006-01-02 15:04") + ": failed before it had anything to do: " + q.Error
		if q.Hint != "" {
			note += "; " + q.Hint
		}
		if err := a.Machines.Note(r.Context(), c.machine, note); err != nil {
			return err
		}
	}
	a.captures.end(c.machine, a.Log)
	a.recent.forget(c.machine)
	_, err = a.DB.ExecContext(r.Context(), "DELETE FROM machine_sessions WHERE machine_id = $1", c.machine)
	if err != nil {
		return err
	}
	a.Log.Info("machine logged off",
		"machine", c.machine, "reason", text.Clean(q.Reason, 100), "error", text.Clean(q.Error, 500))
	return writeJSON(w, struct{}{})
}

// recent remembers from where machines called lately.
type recent struct {
	mu   sync.Mutex
	seen map[string]visit // by machine
}

type visit struct {
	host string
	at   time.Time
}

// A PC that lost its power needs longer than this to come back.
const activeFor = 10 * time.Second

func (s *recent) touch(machine, host string, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen == nil {
		s.seen = map[string]visit{}
	}
	s.seen[machine] = visit{host, now}
}

// elsewhere gives the address from which a machine is active, when it is not host.
func (s *recent) elsewhere(machine, host string, now time.Time) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v, ok := s.seen[machine]; ok && v.host != host && now.Sub(v.at) < activeFor {
		return v.host
	}
	return ""
}

// last gives when a machine called last, zero when that is not known.
func (s *recent) last(machine string) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen[machine].at
}

func (s *recent) forget(machine string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.seen, machine)
}
