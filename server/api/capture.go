package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"clonecast/internal/chunk"
	"clonecast/internal/chunkstore"
	"clonecast/internal/image"
	"clonecast/internal/protocol"
	"clonecast/server/tasks"
)

// captureSilence is how long a capture may be silent. A machine at work reports every second, so
// one that is silent has lost its power or its network, perhaps for ever, and what its session
// pins holds up every collection.
const captureSilence = 30 * time.Minute

// captures holds the store's session of every capture that runs. After a restart of the server,
// and after a silence, a session is begun anew: the chunks that were sent are in the store.
type captures struct {
	log     *slog.Logger
	silence time.Duration
	// gone is told of a silent machine that others follow.
	gone func(machine, task string, index int, silent time.Duration)

	mu        sync.Mutex
	byMachine map[string]*capture
	changed   map[string]chan struct{} // by task: closed when its cast has more parts, or another outline
	publish   sync.Mutex               // manifests are big: one at a time
}

type capture struct {
	mu      sync.RWMutex // held for writing by Close
	task    string
	index   int
	casts   bool // others follow
	session chunkstore.Session
	closed  bool
	cast    *cast // for followers, guarded by captures.mu; nil before the outline

	heard  time.Time   // guarded by captures.mu
	expiry *time.Timer // looks whether it is silent; guarded by captures.mu
}

// get gives the machine's session for an operation.
func (s *captures) get(
	ctx context.Context, store chunkstore.Store, machine string, op tasks.Operation,
) (*capture, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.byMachine[machine]; c != nil {
		if c.task == op.TaskID && c.index == op.Index {
			c.heard = time.Now()
			return c, nil
		}
		c.expiry.Stop()
		if err := c.close(); err != nil {
			return nil, fmt.Errorf("end an earlier capture: %w", err)
		}
		delete(s.byMachine, machine)
	}
	session, err := store.Begin(ctx)
	if err != nil {
		return nil, fmt.Errorf("begin capture: %w", err)
	}
	if s.byMachine == nil {
		s.byMachine = map[string]*capture{}
	}
	c := &capture{task: op.TaskID, index: op.Index, casts: op.Cast, session: session, heard: time.Now()}
	c.expiry = time.AfterFunc(s.silence, func() { s.expire(machine, c) })
	s.byMachine[machine] = c
	return c, nil
}

// hear notes that a machine lives.
func (s *captures) hear(machine string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.byMachine[machine]; c != nil {
		c.heard = time.Now()
	}
}

// expire ends a capture of which nothing was heard for too long. A call of its machine that is
// still at work is no silence.
func (s *captures) expire(machine string, c *capture) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byMachine[machine] != c {
		return
	}
	silent := time.Since(c.heard)
	busy := !c.mu.TryLock()
	if busy || silent < s.silence {
		if !busy {
			c.mu.Unlock()
		}
		c.expiry.Reset(max(s.silence-silent, time.Second))
		return
	}
	delete(s.byMachine, machine)
	c.closed = true
	err := c.session.Close()
	c.mu.Unlock()
	s.log.Warn("a capture was silent for too long: what it holds in the store is given back, its chunks stay",
		"machine", machine, "task", c.task, "silent", silent.Round(time.Second), "error", err)
	if c.casts {
		go s.gone(machine, c.task, c.index, silent)
	}
}

func (c *capture) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	return c.session.Close()
}

// use runs f while the session cannot be closed.
func (c *capture) use(f func(chunkstore.Session) error) error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.closed {
		return cancelled()
	}
	return f(c.session)
}

// end closes a machine's session if it has one.
func (s *captures) end(machine string, log *slog.Logger) {
	s.mu.Lock()
	c := s.byMachine[machine]
	delete(s.byMachine, machine)
	s.mu.Unlock()
	if c == nil {
		return
	}
	c.expiry.Stop()
	if err := c.close(); err != nil {
		log.Error("end capture", "machine", machine, "error", err)
	}
}

func (s *captures) closeAll() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, c := range s.byMachine {
		c.expiry.Stop()
		errs = append(errs, c.close())
	}
	clear(s.byMachine)
	return errors.Join(errs...)
}

func cancelled() error {
	return &protocol.Problem{Code: protocol.CodeCancelled, Title: "the operation is over or was cancelled"}
}

// running gives the operation that the caller runs, if it is of one of the kinds and this boot's.
func (a *API) running(r *http.Request, kinds ...string) (tasks.Operation, string, error) {
	c := callerOf(r.Context())
	op, creator, found, err := a.Tasks.Current(r.Context(), c.machine)
	if err != nil {
		return tasks.Operation{}, "", err
	}
	if !found || op.Boot() != c.boot {
		return tasks.Operation{}, "", cancelled()
	}
	if !slices.Contains(kinds, op.Kind) {
		return tasks.Operation{}, "", &protocol.Problem{
			Code: protocol.CodeForbidden, Title: "the machine's operation is no " + kinds[0]}
	}
	return op, creator, nil
}

// session gives the store's session of the caller's running capture.
func (a *API) session(r *http.Request) (*capture, tasks.Operation, string, error) {
	op, creator, err := a.running(r, protocol.OpCapture)
	if err != nil {
		return nil, op, "", err
	}
	c, err := a.captures.get(context.WithoutCancel(r.Context()), a.Store, callerOf(r.Context()).machine, op)
	return c, op, creator, err
}

// readIDs reads a body of chunk ids.
func readIDs(w http.ResponseWriter, r *http.Request) ([]chunk.ID, error) {
	b, in, err := body(w, r, int64(protocol.MaxIDs*len(chunk.ID{})))
	if err != nil {
		return nil, err
	}
	defer in.done()
	return parseIDs(b)
}

func parseIDs(b []byte) ([]chunk.ID, error) {
	if len(b) == 0 || len(b)%len(chunk.ID{}) != 0 {
		return nil, invalidBody("%d bytes are no list of chunk ids", len(b))
	}
	ids := make([]chunk.ID, len(b)/len(chunk.ID{}))
	for i := range ids {
		copy(ids[i][:], b[i*len(ids[i]):])
	}
	return ids, nil
}

func (a *API) missing(w http.ResponseWriter, r *http.Request) error {
	c, _, _, err := a.session(r)
	if err != nil {
		return err
	}
	ids, err := readIDs(w, r)
	if err != nil {
		return err
	}
	var missing []bool
	err = c.use(func(s chunkstore.Session) (err error) {
		missing, err = s.Missing(r.Context(), ids)
		return err
	})
	if err != nil {
		return fmt.Errorf("look up chunks: %w", err)
	}
	answer := make([]byte, len(missing))
	for i, m := range missing {
		if m {
			answer[i] = 1
		}
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	_, _ = w.Write(answer)
	return nil
}

func (a *API) frame(w http.ResponseWriter, r *http.Request) error {
	c, _, _, err := a.session(r)
	if err != nil {
		return err
	}
	frame, in, err := body(w, r, int64(chunk.MaxFrameSize))
	if err != nil {
		return err
	}
	defer in.done()
	received(w)
	var stored int64
	err = c.use(func(s chunkstore.Session) (err error) {
		stored, err = s.PutFrame(r.Context(), frame)
		return err
	})
	var damaged *chunk.InvalidError
	if errors.Is(err, chunk.ErrFrame) || errors.As(err, &damaged) {
		return invalidBody("the frame was damaged on its way: %v", err)
	}
	if err != nil {
		return fmt.Errorf("store chunks: %w", err)
	}
	return writeJSON(w, map[string]int64{"stored": stored})
}

// publishedBefore finds the version that a capture published before the server died without
// telling the database: one that is m but for what the store sets, and not older than the
// operation.
func (a *API) publishedBefore(ctx context.Context, m *image.Manifest, started time.Time) (image.Version, bool, error) {
	list, err := a.Store.Versions(ctx, m.Image)
	if errors.Is(err, chunkstore.ErrNotFound) {
		return image.Version{}, false, nil
	}
	if err != nil {
		return image.Version{}, false, fmt.Errorf("versions of %s: %w", m.Image, err)
	}
	for _, v := range slices.Backward(list) {
		if v.Created < started.Unix() {
			break
		}
		envelope, err := a.Store.Manifest(ctx, v.Image, v.Sequence)
		if err != nil {
			return image.Version{}, false, fmt.Errorf("manifest of %s@%d: %w", v.Image, v.Sequence, err)
		}
		old, id, err := image.Open(envelope, a.Store.TrustedKeys())
		if err != nil {
			return image.Version{}, false, fmt.Errorf("manifest of %s@%d: %w", v.Image, v.Sequence, err)
		}
		same := *m
		same.Sequence, same.Parent, same.Created = old.Sequence, old.Parent, old.Created
		raw, err := same.MarshalBinary()
		if err != nil {
			return image.Version{}, false, err
		}
		if image.Identify(raw) == id {
			return v, true, nil
		}
	}
	return image.Version{}, false, nil
}

// publish makes a version. The machine says what is on its disks; by whom, when, why and
// under which name it is kept is what the admin ordered.
func (a *API) publish(w http.ResponseWriter, r *http.Request) error {
	c, op, creator, err := a.session(r)
	if err != nil {
		return err
	}
	machine, err := a.Machines.Get(r.Context(), callerOf(r.Context()).machine)
	if err != nil {
		return err
	}
	raw, in, err := body(w, r, image.MaxManifest)
	if err != nil {
		return err
	}
	defer in.done()
	received(w)
	a.captures.publish.Lock()
	defer a.captures.publish.Unlock()
	m, err := image.Parse(raw)
	if err != nil {
		return invalidBody("the manifest is not accepted: %v", err)
	}
	if m.Image != op.Image {
		return &protocol.Problem{Code: protocol.CodeForbidden,
			Title: fmt.Sprintf("the capture of %s cannot publish %s", op.Image, m.Image)}
	}
	m.Comment, m.Creator, m.Origin = op.Comment, creator, machine.Name
	// Asked again under the lock: the first answer may have been lost on its way.
	op, _, err = a.running(r, protocol.OpCapture)
	if err != nil {
		return err
	}
	if done := op.Published(); done != "" {
		return writeJSON(w, json.RawMessage(done))
	}
	v, done, err := a.publishedBefore(r.Context(), m, op.Started)
	if err != nil {
		return err
	}
	if !done {
		err = c.use(func(s chunkstore.Session) (err error) {
			_, v, err = s.Publish(context.WithoutCancel(r.Context()), m)
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("publish %s: %w", op.Image, err)
	}
	answer, err := json.Marshal(protocol.PublishResponse{Image: v.Image, Sequence: v.Sequence, Version: v.ID.String()})
	if err != nil {
		return err
	}
	if err := a.Tasks.SetPublished(context.WithoutCancel(r.Context()), machine.ID, op, string(answer)); err != nil {
		return err
	}
	a.Log.Info("version published",
		"image", v.Image, "sequence", v.Sequence, "version", v.ID.Short(), "machine", machine.Name)
	return writeJSON(w, json.RawMessage(answer))
}
