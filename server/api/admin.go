package api

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"clonecast/internal/protocol"
	"clonecast/server/machines"
	"clonecast/server/sessions"
	"clonecast/server/tasks"
)

// Status is what the server is and does.
type Status struct {
	Build      string   `json:"build"`
	Interface  string   `json:"interface"`
	Listening  []string `json:"listening"`
	DHCP       string   `json:"dhcp"`
	Appliances []string `json:"appliances"`
	Machines   int      `json:"machines"`
	Pending    int      `json:"pending"`
	Running    int      `json:"running_tasks"`
	Images     int      `json:"images"`
}

// MachineDetail is a machine with what it was and does.
type MachineDetail struct {
	MachineLine
	History []machines.History `json:"history"`
	Tasks   []tasks.Task       `json:"tasks"` // not over
}

type in struct{}

type byID struct {
	ID string `path:"id" maxLength:"128"`
}

type out[T any] struct{ Body T }

// humaError carries our problems through the framework.
type humaError struct{ *protocol.Problem }

func (e *humaError) GetStatus() int            { return statusOf(e.Code) }
func (e *humaError) ContentType(string) string { return "application/problem+json" }
func (e *humaError) Unwrap() error             { return e.Problem }

// operation adds an admin call whose body and answer are JSON.
func operation[I, O any](a *API, h huma.API, method, path, summary string, f func(context.Context, *I) (O, error)) {
	id := strings.NewReplacer("/api/v1/", "-", "/", "-", "{", "", "}", "").Replace(strings.ToLower(method) + path)
	op := huma.Operation{OperationID: id, Method: method, Path: path, Summary: summary, MaxBodyBytes: 1 << 20}
	huma.Register(h, op, func(ctx context.Context, i *I) (*out[O], error) {
		o, err := f(ctx, i)
		if err != nil {
			r, _ := http.NewRequest(method, path, nil)
			return nil, &humaError{a.problemOf(r, err)}
		}
		return &out[O]{o}, nil
	})
}

func (a *API) adminRoutes() {
	a.handle("POST /api/v1/login", public, a.login)
	a.handle("POST /api/v1/logout", forAdmin, a.logout)
	a.handle("GET /api/v1/tasks/{id}/follow", forAdmin, a.follow)
	a.handle("POST /api/v1/store/collect", forAdmin, a.collect)

	config := huma.DefaultConfig("clonecast", "1")
	config.DocsPath = "" // its page loads scripts from the internet
	config.OpenAPIPath = "/api/openapi"
	config.SchemasPath = "/api/schemas"
	config.CreateHooks = nil // no $schema links in answers
	h := humago.New(&humaMux{a}, config)

	operation(a, h, "GET", "/api/v1/status", "What the server is and does",
		func(ctx context.Context, _ *in) (Status, error) { return a.currentStatus(ctx) })
	operation(a, h, "GET", "/api/v1/machines", "All machines",
		func(ctx context.Context, _ *in) ([]MachineLine, error) { return a.machineLines(ctx) })
	operation(a, h, "GET", "/api/v1/machines/{id}", "A machine by id, name or MAC",
		func(ctx context.Context, i *byID) (MachineDetail, error) { return a.machineDetail(ctx, i.ID) })
	operation(a, h, "POST", "/api/v1/machines/{id}/adopt", "Adopt a machine, or change its name or address", a.adopt)
	operation(a, h, "DELETE", "/api/v1/machines/{id}", "Forget a machine", a.remove)
	operation(a, h, "GET", "/api/v1/tasks", "The newest tasks",
		func(ctx context.Context, _ *in) ([]tasks.Task, error) { return a.Tasks.List(ctx, 100) })
	operation(a, h, "GET", "/api/v1/tasks/{id}", "A task",
		func(ctx context.Context, i *byID) (tasks.Task, error) { return a.Tasks.Get(ctx, i.ID) })
	operation(a, h, "GET", "/api/v1/tasks/{id}/tables", "The partition tables that a task overwrote",
		func(ctx context.Context, i *byID) ([]tasks.SavedTable, error) { return a.Tasks.SavedTables(ctx, i.ID) })
	operation(a, h, "POST", "/api/v1/tasks", "Order a task", a.order)
	operation(a, h, "POST", "/api/v1/tasks/{id}/cancel", "Cancel a task", a.cancel)
	operation(a, h, "GET", "/api/v1/sessions", "The multicast sessions, the newest first",
		func(ctx context.Context, _ *in) ([]sessions.Session, error) { return a.Sessions.List(ctx) })
	operation(a, h, "GET", "/api/v1/sessions/{id}", "A multicast session with its machines",
		func(ctx context.Context, i *byID) (sessions.Session, error) { return a.Sessions.Get(ctx, i.ID) })
	operation(a, h, "POST", "/api/v1/sessions/{id}/start", "Start a session that waits", a.startSession)
	operation(a, h, "POST", "/api/v1/sessions/{id}/machines/{machine}/add",
		"Order a session's deploy for one more machine", a.addToSession)
	operation(a, h, "POST", "/api/v1/sessions/{id}/machines/{machine}/drop",
		"Cancel a machine's run and let it go", a.dropFromSession)
	operation(a, h, "POST", "/api/v1/sessions/{id}/machines/{machine}/retry",
		"Queue a machine's failed or cancelled run anew", a.retryInSession)
	operation(a, h, "GET", "/api/v1/images", "All images with their versions",
		func(ctx context.Context, _ *in) ([]Image, error) { return a.images(ctx) })
	operation(a, h, "GET", "/api/v1/images/{ref}", "A version: NAME, NAME@SEQUENCE or NAME@ID",
		func(ctx context.Context, i *byRef) (ImageDetail, error) { return a.imageDetail(ctx, i.Ref) })
	operation(a, h, "DELETE", "/api/v1/images/{ref}", "Delete a version: NAME@SEQUENCE or NAME@ID",
		func(ctx context.Context, i *byRef) (Version, error) { return a.deleteImage(ctx, i.Ref) })
}

// humaMux is the mux that the framework sees: its routes go through our table.
type humaMux struct{ *API }

func (a *API) currentStatus(ctx context.Context) (Status, error) {
	s := a.Status()
	var err error
	if s.Machines, s.Pending, err = a.Machines.Count(ctx); err != nil {
		return Status{}, err
	}
	if s.Running, err = a.Tasks.CountUnfinished(ctx); err != nil {
		return Status{}, err
	}
	names, err := a.Store.Images(ctx)
	s.Images = len(names)
	return s, err
}

// MachineLine is a machine with what it does now.
type MachineLine struct {
	machines.Machine
	Doing      *tasks.Operation       `json:"doing,omitempty"`
	Unfinished []tasks.UnfinishedDisk `json:"unfinished_disks,omitempty"`
}

func (a *API) machineLines(ctx context.Context) ([]MachineLine, error) {
	list, err := a.Machines.List(ctx)
	if err != nil {
		return nil, err
	}
	running, err := a.Tasks.Running(ctx)
	if err != nil {
		return nil, err
	}
	unfinished, err := a.Tasks.UnfinishedDisks(ctx)
	if err != nil {
		return nil, err
	}
	lines := []MachineLine{}
	for _, m := range list {
		a.seen(&m)
		line := MachineLine{Machine: m, Unfinished: unfinished[m.ID]}
		if op, ok := running[m.ID]; ok {
			line.Doing = &op
		}
		lines = append(lines, line)
	}
	return lines, nil
}

// seen makes the time at which a machine was last seen that of its last call.
func (a *API) seen(m *machines.Machine) {
	if at := a.recent.last(m.ID); at.After(m.LastSeen) {
		m.LastSeen = at
	}
}

func (a *API) machineDetail(ctx context.Context, ref string) (MachineDetail, error) {
	m, err := a.Machines.Find(ctx, ref)
	if err != nil {
		return MachineDetail{}, err
	}
	d := MachineDetail{MachineLine: MachineLine{Machine: m}}
	a.seen(&d.Machine)
	if d.Unfinished, err = a.Tasks.UnfinishedDisksOf(ctx, m.ID); err != nil {
		return MachineDetail{}, err
	}
	if op, _, found, err := a.Tasks.Current(ctx, m.ID); err != nil {
		return MachineDetail{}, err
	} else if found {
		d.Doing = &op
	}
	if d.History, err = a.Machines.History(ctx, m.ID); err != nil {
		return MachineDetail{}, err
	}
	d.Tasks, err = a.Tasks.Active(ctx, m.ID)
	return d, err
}

type adoptIn struct {
	ID   string `path:"id" maxLength:"128"`
	Body struct {
		Name string `json:"name,omitempty" maxLength:"63"`
		IP   string `json:"ip,omitempty" maxLength:"64" doc:"reserved address; none takes it away"`
	}
}

func (a *API) adopt(ctx context.Context, i *adoptIn) (machines.Machine, error) {
	m, err := a.Machines.Find(ctx, i.ID)
	if err != nil {
		return machines.Machine{}, err
	}
	adopted, err := a.Machines.Adopt(ctx, m.ID, machines.Adoption{Name: i.Body.Name, IP: i.Body.IP})
	if err == nil {
		a.Log.Info("machine adopted", "machine", m.ID, "name", adopted.Name, "by", callerOf(ctx).admin)
	}
	return adopted, err
}

func (a *API) remove(ctx context.Context, i *byID) (machines.Machine, error) {
	m, err := a.Machines.Find(ctx, i.ID)
	if err != nil {
		return machines.Machine{}, err
	}
	active, err := a.Tasks.Active(ctx, m.ID)
	if err != nil {
		return machines.Machine{}, err
	}
	if len(active) > 0 {
		return machines.Machine{}, &protocol.Problem{Code: protocol.CodeConflict, Title: "machine " + m.Name + " has a task",
			Hint: "clonecast task cancel " + active[0].ID}
	}
	a.captures.end(m.ID, a.Log)
	a.Log.Info("machine removed", "machine", m.ID, "name", m.Name, "by", callerOf(ctx).admin)
	return m, a.Machines.Remove(ctx, m.ID)
}

func (a *API) cancel(ctx context.Context, i *byID) (tasks.Task, error) {
	t, err := a.Tasks.Cancel(ctx, i.ID)
	if err != nil {
		return t, err
	}
	for _, r := range t.Runs {
		// Only a capture that was this task's: another may run on the machine by now.
		if _, _, found, err := a.Tasks.Current(ctx, r.MachineID); err == nil && !found {
			a.captures.end(r.MachineID, a.Log)
		}
	}
	a.Log.Info("task cancelled", "task", i.ID, "by", callerOf(ctx).admin)
	return t, nil
}

// follow streams a task as NDJSON, one line per change and at least one in five seconds,
// until it is over.
func (a *API) follow(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	if _, err := strconv.Atoi(id); err != nil {
		return &protocol.Problem{Code: protocol.CodeNotFound, Title: "no task " + strconv.Quote(id)}
	}
	control := http.NewResponseController(w)
	received(w)
	next, stop := a.Tasks.Watch(id, true)
	defer stop()
	begun := false
	for {
		changed := next()
		t, err := a.Tasks.Get(r.Context(), id)
		if err != nil {
			if begun {
				return nil
			}
			return err
		}
		if !begun {
			w.Header().Set("Content-Type", "application/x-ndjson")
			begun = true
		}
		err = errors.Join(control.SetWriteDeadline(time.Now().Add(30*time.Second)), writeLine(w, t), control.Flush())
		if err != nil || tasks.Over(t.State) {
			return nil // the reader is gone, or there is nothing more to tell
		}
		select {
		case <-r.Context().Done():
			return nil
		case <-time.After(5 * time.Second):
		case <-changed:
			time.Sleep(200 * time.Millisecond) // three hundred machines report each second
		}
	}
}
