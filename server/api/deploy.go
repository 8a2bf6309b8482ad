package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"clonecast/internal/chunk"
	"clonecast/internal/chunkstore"
	"clonecast/internal/image"
	"clonecast/internal/partition/saved"
	"clonecast/internal/protocol"
	"clonecast/internal/quantity"
	"clonecast/server/tasks"

	"github.com/klauspost/compress/zstd"
)

// versions keeps what the server needs of the versions that are being deployed.
type versions struct {
	store chunkstore.Store
	mu    sync.Mutex
	kept  []*version // the most recently used last
}

// version is one version: its envelope, and the ids that its manifest names, sorted.
type version struct {
	id       image.VersionID
	parent   image.VersionID
	envelope []byte
	ids      []chunk.ID
}

// maxKept bounds the memory: a version of 100 GB has 12 MB of ids.
const maxKept = 4

// get loads a version of an image.
func (s *versions) get(ctx context.Context, name string, id image.VersionID) (*version, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.IndexFunc(s.kept, func(v *version) bool { return v.id == id }); i >= 0 {
		v := s.kept[i]
		s.kept = append(slices.Delete(s.kept, i, i+1), v)
		return v, nil
	}
	envelope, m, err := chunkstore.Open(ctx, s.store, name, id)
	if err != nil {
		return nil, err
	}
	v := &version{id: id, parent: m.Parent, envelope: envelope, ids: chunkIDs(m)}
	s.kept = append(s.kept, v)
	if len(s.kept) > maxKept {
		s.kept = slices.Delete(s.kept, 0, 1)
	}
	return v, nil
}

func compareIDs(a, b chunk.ID) int { return bytes.Compare(a[:], b[:]) }

func chunkIDs(m *image.Manifest) []chunk.ID {
	var ids []chunk.ID
	for id := range m.Chunks() {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, compareIDs)
	return slices.Clip(slices.Compact(ids))
}

func (v *version) has(id chunk.ID) bool {
	_, found := slices.BinarySearchFunc(v.ids, id, compareIDs)
	return found
}

// deploying gives the version that the caller's running deploy names, or that the capture which
// it follows has published.
func (a *API) deploying(r *http.Request) (*version, error) {
	op, _, err := a.running(r, protocol.OpDeploy, protocol.OpFollow)
	if err != nil {
		return nil, err
	}
	return a.deployed(r.Context(), op)
}

func (a *API) deployed(ctx context.Context, op tasks.Operation) (*version, error) {
	name := op.Version
	if op.Kind == protocol.OpFollow {
		var err error
		if name, err = a.followed(ctx, op); err != nil {
			return nil, err
		}
		if name == "" {
			return nil, &protocol.Problem{Code: protocol.CodeConflict,
				Title: "the capture that this machine follows is not published yet"}
		}
	}
	id, err := image.ParseVersionID(name)
	if err != nil {
		return nil, err
	}
	return a.versions.get(ctx, op.Image, id)
}

func (a *API) manifest(w http.ResponseWriter, r *http.Request) error {
	v, err := a.deploying(r)
	if err != nil {
		return err
	}
	return writeEnvelope(w, v.envelope)
}

// parent gives the version before the one that the machine deploys.
func (a *API) parent(w http.ResponseWriter, r *http.Request) error {
	v, err := a.parentOf(r)
	if err != nil {
		return err
	}
	return writeEnvelope(w, v.envelope)
}

// parentOf gives the parent of the version that the caller's running deploy names. None,
// or a deleted one, is chunkstore.ErrNotFound.
func (a *API) parentOf(r *http.Request) (*version, error) {
	v, err := a.deploying(r)
	if err != nil {
		return nil, err
	}
	op, _, err := a.running(r, protocol.OpDeploy, protocol.OpFollow)
	if err != nil {
		return nil, err
	}
	return a.versions.get(r.Context(), op.Image, v.parent)
}

func writeEnvelope(w http.ResponseWriter, envelope []byte) error {
	received(w)
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", fmt.Sprint(len(envelope)))
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(10 * time.Minute))
	_, _ = w.Write(envelope)
	return nil
}

// readable is the chunks that a machine may have.
type readable interface{ has(chunk.ID) bool }

// filter takes out of frames what a machine may not have: a frame that was stored with one
// version may hold chunks of another one.
type filter struct {
	readable
	sieve *chunk.Sieve // made when it is needed
}

// frame gives a frame that holds wanted chunks and no others. Its bytes are valid until the
// next call.
func (f *filter) frame(frame []byte) ([]byte, error) {
	if f.sieve == nil {
		h, err := chunk.ParseFrameHeader(frame)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(h.Entries, func(e chunk.Entry) bool { return !f.has(e.ID) }) {
			return frame, nil
		}
		if f.sieve, err = chunk.NewSieve(zstd.SpeedFastest); err != nil {
			return nil, err
		}
	}
	return f.sieve.Keep(frame, f.has)
}

func (f *filter) close() {
	if f.sieve != nil {
		f.sieve.Close()
	}
}

// tableCost is how many times its length a saved table takes when it is parsed and written anew.
const tableCost = 4

// maxDisk bounds the number of an operation's disk.
const maxDisk = 64

// saveTable keeps the old partition table of a disk that is about to be overwritten.
func (a *API) saveTable(w http.ResponseWriter, r *http.Request) error {
	op, _, err := a.running(r, protocol.OpDeploy, protocol.OpFollow)
	if err != nil {
		return err
	}
	disk, err := strconv.Atoi(r.PathValue("disk"))
	if err != nil || disk < 0 || disk >= maxDisk {
		return invalidBody("disk %q is no number below %d", r.PathValue("disk"), maxDisk)
	}
	raw, in, err := body(w, r, protocol.MaxTable)
	if err != nil {
		return err
	}
	defer in.done()
	received(w)
	if err := in.more(quantity.Bytes(tableCost * len(raw))); err != nil {
		return err
	}
	c, err := saved.Parse(raw)
	if err != nil {
		return invalidBody("%v", err)
	}
	content, err := c.Marshal() // what was understood, and nothing else
	if err != nil {
		return err
	}
	if err := a.Tasks.SaveTable(r.Context(), callerOf(r.Context()).machine, op, disk, content); err != nil {
		return err
	}
	return writeJSON(w, struct{}{})
}

// frameTimeout is how long a machine may take to accept one frame (4 MiB at most): a
// stalled one is let go, it asks again for what it lacks.
const frameTimeout = time.Minute

func (a *API) chunks(w http.ResponseWriter, r *http.Request) error {
	mine, err := a.readable(r)
	if err != nil {
		return err
	}
	ids, err := readIDs(w, r)
	if err != nil {
		return err
	}
	if err := allowed(mine, ids); err != nil {
		return err
	}
	only := filter{readable: mine}
	defer only.close()
	return a.stream(w, r, func(write func([]byte) error) error {
		return a.Store.Frames(r.Context(), ids, func(frame []byte) error {
			frame, err := only.frame(frame)
			if err != nil {
				return err
			}
			return write(frame)
		})
	})
}

// readable gives the chunks that the caller may have: those of the version that it deploys, or of
// the parts that it follows.
func (a *API) readable(r *http.Request) (readable, error) {
	op, _, err := a.running(r, protocol.OpDeploy, protocol.OpFollow)
	if err != nil {
		return nil, err
	}
	if op.Kind == protocol.OpFollow {
		version, err := a.followed(r.Context(), op)
		if err != nil {
			return nil, err
		}
		if version == "" {
			return a.captures.cast(op)
		}
	}
	return a.deployed(r.Context(), op)
}

// allowed refuses chunks that are not for the caller.
func allowed(mine readable, ids []chunk.ID) error {
	for _, id := range ids {
		if !mine.has(id) {
			return &protocol.Problem{Code: protocol.CodeForbidden,
				Title: fmt.Sprintf("chunk %v is not part of the version that this machine deploys", id)}
		}
	}
	return nil
}

// deltas sends chunks as differences from chunks of the parent version. Other bases are
// left out: how well a chunk compresses against one would tell what is in it.
func (a *API) deltas(w http.ResponseWriter, r *http.Request) error {
	v, err := a.deploying(r)
	if err != nil {
		return err
	}
	ids, err := readIDs(w, r)
	if err != nil {
		return err
	}
	if len(ids)%2 != 0 {
		return invalidBody("%d chunk ids are no pairs", len(ids))
	}
	parent, err := a.parentOf(r)
	if errors.Is(err, chunkstore.ErrNotFound) {
		parent, err = &version{}, nil
	}
	if err != nil {
		return err
	}
	var wants []chunk.Want
	for pair := range slices.Chunk(ids, 2) {
		want := chunk.Want{ID: pair[0], Base: pair[1]}
		if err := allowed(v, pair[:1]); err != nil {
			return err
		}
		if !parent.has(want.Base) {
			want.Base = chunk.ID{}
		}
		wants = append(wants, want)
	}
	differ, err := a.differ()
	if err != nil {
		return err
	}
	return a.stream(w, r, func(write func([]byte) error) error { return differ.Deltas(r.Context(), wants, write) })
}

// stream answers with what send writes.
func (a *API) stream(w http.ResponseWriter, r *http.Request, send func(write func([]byte) error) error) error {
	received(w)
	w.Header().Set("Content-Type", "application/octet-stream")
	control := http.NewResponseController(w)
	begun := false
	err := send(func(b []byte) error {
		begun = true
		if err := control.SetWriteDeadline(time.Now().Add(frameTimeout)); err != nil {
			return err
		}
		_, err := w.Write(b)
		return err
	})
	if err != nil && begun {
		if r.Context().Err() == nil {
			a.Log.Error("send chunks", "machine", callerOf(r.Context()).machine, "error", err)
		}
		panic(http.ErrAbortHandler) // the only way to tell the machine that frames are missing
	}
	if err != nil {
		w.Header().Del("Content-Type")
	}
	return err
}
