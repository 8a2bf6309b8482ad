package api

import (
	"context"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"clonecast/internal/multicast/packet"
	"clonecast/internal/protocol"
	"clonecast/server/sessions"
	"clonecast/server/tasks"
)

// describeSession gives a machine the multicast session of its deploy.
func (a *API) describeSession(w http.ResponseWriter, r *http.Request) error {
	op, _, err := a.running(r, protocol.OpDeploy, protocol.OpFollow)
	if err != nil {
		return err
	}
	describe := a.Sessions.Session
	if op.Kind == protocol.OpFollow {
		if describe, err = a.nextParts(r, op); err != nil {
			return err
		}
	}
	session, err := describe(r.Context(), callerOf(r.Context()).machine, op)
	if err != nil {
		return err
	}
	if r.URL.Query().Get("known") == strconv.FormatUint(session.Session, 10) {
		session.Table = nil
	}
	received(w)
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(10 * time.Minute))
	return writeJSON(w, session)
}

// joinSession gives a machine its place.
func (a *API) joinSession(w http.ResponseWriter, r *http.Request) error {
	op, _, err := a.running(r, protocol.OpDeploy, protocol.OpFollow)
	if err != nil {
		return err
	}
	var q protocol.SessionJoin
	if err := readJSONOf(w, r, protocol.MaxSessionJoin, joinCost, &q); err != nil {
		return err
	}
	from, _ := netip.ParseAddrPort(r.RemoteAddr) // only shown
	place, err := a.Sessions.Join(callerOf(r.Context()).machine, op, from, q)
	if err != nil {
		return err
	}
	return writeJSON(w, place)
}

// sessionBlocks sends blocks of the session by unicast.
func (a *API) sessionBlocks(w http.ResponseWriter, r *http.Request) error {
	op, _, err := a.running(r, protocol.OpDeploy, protocol.OpFollow)
	if err != nil {
		return err
	}
	first, err1 := strconv.Atoi(r.URL.Query().Get("first"))
	count, err2 := strconv.Atoi(r.URL.Query().Get("count"))
	if err1 != nil || err2 != nil {
		return invalidBody("first and count must be numbers")
	}
	return a.stream(w, r, func(write func([]byte) error) error {
		return a.Sessions.Blocks(r.Context(), callerOf(r.Context()).machine, op, first, count, write)
	})
}

// reportToSession takes a receiver's report where UDP does not bring it.
func (a *API) reportToSession(w http.ResponseWriter, r *http.Request) error {
	op, _, err := a.running(r, protocol.OpDeploy, protocol.OpFollow)
	if err != nil {
		return err
	}
	report, in, err := body(w, r, packet.MaxSize)
	if err != nil {
		return err
	}
	defer in.done()
	answer, err := a.Sessions.Report(callerOf(r.Context()).machine, op, report)
	if err != nil {
		return err
	}
	_, _ = w.Write(answer) // the machine is gone: nothing to be done
	return nil
}

type bySession struct {
	ID      string `path:"id" maxLength:"64"`
	Machine string `path:"machine" maxLength:"128" doc:"by name, id or MAC"`
}

func (a *API) startSession(ctx context.Context, i *byID) (sessions.Session, error) {
	if err := a.Sessions.Start(i.ID); err != nil {
		return sessions.Session{}, err
	}
	a.Log.Info("multicast session started by hand", "session", i.ID, "by", callerOf(ctx).admin)
	return a.Sessions.Get(ctx, i.ID)
}

type addIn struct {
	ID      string `path:"id" maxLength:"64"`
	Machine string `path:"machine" maxLength:"128" doc:"by name, id or MAC"`
	Body    struct {
		DryRun bool `json:"dry_run,omitempty" doc:"say what would happen and change nothing"`
		Unseen bool `json:"unseen,omitempty" doc:"add it although its disks, as they were last seen, do not fit the rules"`
	}
}

// Added is what became of a machine that was added to a session.
type Added struct {
	Session sessions.Session `json:"session"`
	Machine Target           `json:"machine"`
	Version Version          `json:"version"`
}

// addToSession orders the deploy of a session's task for one more machine. It joins late.
func (a *API) addToSession(ctx context.Context, i *addIn) (Added, error) {
	s, err := a.Sessions.Get(ctx, i.ID)
	if err != nil {
		return Added{}, err
	}
	if s.State == "ended" {
		return Added{}, &protocol.Problem{Code: protocol.CodeConflict, Title: "session " + s.ID + " has ended",
			Hint: "order a deploy for the machine: clonecast task run deploy"}
	}
	t, err := a.Tasks.Get(ctx, s.Task)
	if err != nil {
		return Added{}, err
	}
	target, version, err := a.joining(ctx, i, t.Runs[0].Operations)
	if err != nil {
		return Added{}, err
	}
	if !i.Body.DryRun {
		if err := a.Tasks.AddRun(ctx, t.ID, target.ID); err != nil {
			return Added{}, err
		}
		a.Log.Info("machine added to a task",
			"task", t.ID, "machine", target.ID, "name", target.Name, "by", callerOf(ctx).admin)
		if s, err = a.Sessions.Get(ctx, i.ID); err != nil {
			return Added{}, err
		}
	}
	return Added{Session: s, Machine: target, Version: version}, nil
}

// joining tells what the deploy among operations would overwrite on the machine that is to be added.
func (a *API) joining(ctx context.Context, i *addIn, operations []tasks.Operation) (Target, Version, error) {
	n := slices.IndexFunc(operations, func(op tasks.Operation) bool { return op.Kind == protocol.OpDeploy })
	if n < 0 {
		return Target{}, Version{}, &protocol.Problem{Code: protocol.CodeConflict, Title: "the task deploys nothing"}
	}
	op := operations[n]
	v, manifest, err := a.version(ctx, op.Image+"@"+op.Version)
	if err != nil {
		return Target{}, Version{}, err
	}
	q := Order{Disks: op.Disks, Grow: op.Grow, DryRun: i.Body.DryRun, Unseen: i.Body.Unseen}
	t, err := a.versionTarget(ctx, q, i.Machine, manifest)
	return t, versionOf(v), err
}

// dropFromSession cancels a machine's run and lets it go at once.
func (a *API) dropFromSession(ctx context.Context, i *bySession) (sessions.Session, error) {
	s, id, err := a.inSession(ctx, i)
	if err != nil {
		return s, err
	}
	if err := a.Tasks.CancelRun(ctx, s.Task, id); err != nil {
		return s, err
	}
	if err := a.Sessions.Drop(s.ID, id); err != nil {
		return s, err
	}
	a.Log.Info("machine dropped from a session", "session", s.ID, "machine", id, "by", callerOf(ctx).admin)
	return a.Sessions.Get(ctx, i.ID)
}

// retryInSession queues a machine's failed or cancelled run anew.
func (a *API) retryInSession(ctx context.Context, i *bySession) (sessions.Session, error) {
	s, id, err := a.inSession(ctx, i)
	if err != nil {
		return s, err
	}
	if err := a.Tasks.RetryRun(ctx, s.Task, id); err != nil {
		return s, err
	}
	if err := a.Sessions.Readmit(s.ID, id); err != nil {
		return s, err
	}
	a.Log.Info("a machine's run is queued again", "task", s.Task, "machine", id, "by", callerOf(ctx).admin)
	return a.Sessions.Get(ctx, i.ID)
}

// inSession finds a session, and a machine of its task.
func (a *API) inSession(ctx context.Context, i *bySession) (sessions.Session, string, error) {
	s, err := a.Sessions.Get(ctx, i.ID)
	if err != nil {
		return s, "", err
	}
	m, err := a.Machines.Find(ctx, i.Machine)
	if err != nil {
		return s, "", err
	}
	for _, one := range s.Machines {
		if one.ID == m.ID {
			return s, m.ID, nil
		}
	}
	return s, "", &protocol.Problem{Code: protocol.CodeNotFound, Title: "machine " + m.Name + " is not in session " + s.ID,
		Hint: "clonecast session add " + s.ID + " " + m.Name}
}
