package api

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net/http"
	"sync"

	"clonecast/internal/chunk"
	"clonecast/internal/chunkstore"
	"clonecast/internal/image"
	"clonecast/internal/protocol"
	"clonecast/server/tasks"
)

// cast is what machines get that follow a running capture: outline and parts, signed. It lives
// as long as the capture's session.
type cast struct {
	id      image.CastID
	count   uint64 // chunks of the version
	outline []byte // envelope
	layout  *image.Outline

	mu     sync.RWMutex
	chain  image.Chain
	parts  [][]byte // envelopes
	starts []uint64 // of parts: the index of the first chunk
	order  []chunk.ID
	ids    map[chunk.ID]struct{}
}

// has tells whether a follower may read a chunk: it is in a part that was signed.
func (c *cast) has(id chunk.ID) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	_, ok := c.ids[id]
	return ok
}

func (c *cast) state() protocol.Followed {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return protocol.Followed{Cast: c.id.String(), Parts: c.chain.Parts}
}

// part gives the envelope of a part.
func (c *cast) part(number uint64) ([]byte, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if number >= uint64(len(c.parts)) {
		return nil, false
	}
	return c.parts[number], true
}

// add signs the next part. Chunks that are in a part already were sent again because the answer
// was lost.
func (c *cast) add(ctx context.Context, s chunkstore.Session, first uint64, ids []chunk.ID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if first+uint64(len(ids)) <= c.chain.Next {
		return nil
	}
	if first != c.chain.Next {
		return &protocol.Problem{Code: protocol.CodeConflict,
			Title: fmt.Sprintf("chunk %d does not follow the %d that are known", first, c.chain.Next)}
	}
	p, chain := c.chain.Part(ids), c.chain
	if err := chain.Add(p); err != nil {
		return invalidBody("%v", err)
	}
	envelope, err := s.SignPart(ctx, p)
	if err != nil {
		return err
	}
	for _, id := range ids {
		c.ids[id] = struct{}{}
	}
	c.starts, c.order = append(c.starts, first), append(c.order, ids...)
	c.chain, c.parts = chain, append(c.parts, envelope)
	return nil
}

// from gives the parts from one on that there are now, and what their chunks are.
func (c *cast) from(part uint64) (protocol.SessionParts, func() (*image.Manifest, error), error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if part >= c.chain.Parts {
		return protocol.SessionParts{}, nil, &protocol.Problem{
			Code: protocol.CodeNotFound, Title: fmt.Sprintf("there is no part %d yet", part)}
	}
	first, ids := c.starts[part], c.order[c.starts[part]:len(c.order):len(c.order)]
	return protocol.SessionParts{Cast: c.id.String(), First: part, End: c.chain.Parts},
		func() (*image.Manifest, error) { return c.layout.Slice(first, ids) }, nil
}

// noCast tells that a cast is not, or no longer, known.
func noCast() error {
	return &protocol.Problem{Code: protocol.CodeNotFound, Title: "the server does not know this cast"}
}

// cast gives the cast of the capture that an operation follows.
func (s *captures) cast(op tasks.Operation) (*cast, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.byMachine[op.From]
	if c == nil || c.task != op.TaskID || c.cast == nil {
		return nil, noCast()
	}
	return c.cast, nil
}

// news gives a channel that is closed at the next change of the cast of a task.
func (s *captures) news(task string) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed[task] == nil {
		if s.changed == nil {
			s.changed = map[string]chan struct{}{}
		}
		s.changed[task] = make(chan struct{})
	}
	return s.changed[task]
}

// tell closes the channel of news of a task after a change.
func (s *captures) tell(task string, change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	if changed := s.changed[task]; changed != nil {
		close(changed)
		delete(s.changed, task)
	}
}

// casting is session for a capture that others follow.
func (a *API) casting(r *http.Request) (*capture, tasks.Operation, string, error) {
	c, op, creator, err := a.session(r)
	if err == nil && !op.Cast {
		err = &protocol.Problem{Code: protocol.CodeForbidden, Title: "nobody follows this capture"}
	}
	return c, op, creator, err
}

// outline begins a cast. As in publish, the machine says what is on its disks, and nothing else.
func (a *API) outline(w http.ResponseWriter, r *http.Request) error {
	c, op, creator, err := a.casting(r)
	if err != nil {
		return err
	}
	machine, err := a.Machines.Get(r.Context(), callerOf(r.Context()).machine)
	if err != nil {
		return err
	}
	raw, in, err := body(w, r, maxOutline)
	if err != nil {
		return err
	}
	defer in.done()
	received(w)
	a.captures.publish.Lock()
	defer a.captures.publish.Unlock()
	o, err := image.ParseOutline(raw)
	if err != nil {
		return invalidBody("the outline is not accepted: %v", err)
	}
	if o.Manifest.Image != op.Image {
		return &protocol.Problem{Code: protocol.CodeForbidden,
			Title: fmt.Sprintf("the capture of %s cannot cast %s", op.Image, o.Manifest.Image)}
	}
	o.Manifest.Comment, o.Manifest.Creator, o.Manifest.Origin = op.Comment, creator, machine.Name
	o.Manifest.Sequence, o.Manifest.Parent, o.Manifest.Created = 0, image.VersionID{}, 0
	o.Task = op.TaskID
	_, _ = rand.Read(o.Nonce[:]) // crypto/rand never fails
	var begun *cast
	err = c.use(func(s chunkstore.Session) error {
		envelope, id, err := s.SignOutline(r.Context(), o)
		begun = &cast{id: id, count: o.Count(), outline: envelope, layout: o,
			chain: image.NewChain(o, id), ids: map[chunk.ID]struct{}{}}
		return err
	})
	if err != nil {
		return fmt.Errorf("sign the outline: %w", err)
	}
	a.captures.tell(op.TaskID, func() { c.cast = begun })
	a.Log.Info("cast begins", "machine", machine.Name, "task", op.TaskID, "chunks", begun.count)
	return writeJSON(w, protocol.OutlineResponse{Cast: begun.id.String()})
}

// maxOutline bounds an outline: a disk of a million extents has one of some 10 MB.
const maxOutline = 64 << 20

// partHeader is the length of a part's fields before the chunk ids.
const partHeader = len(image.CastID{}) + 8

// part makes a part of the next chunks of the version.
func (a *API) part(w http.ResponseWriter, r *http.Request) error {
	c, op, _, err := a.casting(r)
	if err != nil {
		return err
	}
	raw, in, err := body(w, r, int64(partHeader+image.MaxPart*len(chunk.ID{})))
	if err != nil {
		return err
	}
	defer in.done()
	if len(raw) < partHeader {
		return invalidBody("%d bytes are no part", len(raw))
	}
	ids, err := parseIDs(raw[partHeader:])
	if err != nil {
		return err
	}
	from := callerOf(r.Context()).machine
	known, err := a.captures.cast(tasks.Operation{Operation: protocol.Operation{TaskID: op.TaskID, From: from}})
	if err != nil {
		return err
	}
	if known.id != image.CastID(raw) {
		return noCast()
	}
	first := binary.LittleEndian.Uint64(raw[len(image.CastID{}):])
	if first > known.count {
		return invalidBody("the version has no chunk %d", first)
	}
	err = c.use(func(s chunkstore.Session) error { return known.add(r.Context(), s, first, ids) })
	if err != nil {
		return fmt.Errorf("make a part: %w", err)
	}
	a.captures.tell(op.TaskID, func() {})
	return writeJSON(w, struct{}{})
}
