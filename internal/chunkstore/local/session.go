package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"clonecast/internal/chunk"
	"clonecast/internal/chunkstore"
	"clonecast/internal/image"
	"clonecast/internal/quantity"
	"clonecast/internal/vfs"
)

var errClosed = errors.New("the capture session is closed")

// session is one capture. Its chunks lie in a staged pack that only it sees; a full pack
// is sealed and then everybody's.
type session struct {
	store *Store

	mu     sync.Mutex
	err    error // the first failure; final
	name   string
	file   vfs.File // nil: no staged pack
	lock   io.Closer
	length int64
	frames []packFrame
	staged map[chunk.ID]bool
}

// Begin implements chunkstore.Store.
func (s *Store) Begin(ctx context.Context) (chunkstore.Session, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if s.opts.ReadOnly {
		return nil, errors.New("begin capture: the store was opened for reading only")
	}
	s.mu.RLock()
	failed := s.failed
	s.mu.RUnlock()
	if failed != nil {
		return nil, fmt.Errorf("begin capture: the store could not be written before: %w", failed)
	}
	if err := s.refresh(); err != nil {
		return nil, fmt.Errorf("begin capture: %w", err)
	}
	return &session{store: s, staged: map[chunk.ID]bool{}}, nil
}

// Missing implements chunkstore.Session.
func (n *session) Missing(ctx context.Context, ids []chunk.ID) ([]bool, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := errors.Join(ctx.Err(), n.err); err != nil {
		return nil, err
	}
	missing := make([]bool, len(ids))
	for i, id := range ids {
		missing[i] = !n.has(id)
	}
	return missing, nil
}

func (n *session) has(id chunk.ID) bool { return n.staged[id] || n.store.has(id) }

// PutFrame implements chunkstore.Session.
func (n *session) PutFrame(ctx context.Context, frame []byte) (int64, error) {
	h, err := n.store.verify(frame)
	if err != nil {
		return 0, fmt.Errorf("store frame: %w", err)
	}
	return n.put(ctx, h, frame)
}

// PutOwn is PutFrame for a frame that this process made itself of bytes that it hashed:
// only its form is verified.
func (n *session) PutOwn(ctx context.Context, frame []byte) (int64, error) {
	h, err := chunk.ParseFrameHeader(frame)
	if err == nil && len(frame) != h.Size() {
		err = fmt.Errorf("%w: %d bytes, header says %d", chunk.ErrFrame, len(frame), h.Size())
	}
	if err != nil {
		return 0, fmt.Errorf("store frame: %w", err)
	}
	return n.put(ctx, h, frame)
}

func (n *session) put(ctx context.Context, h chunk.FrameHeader, frame []byte) (int64, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := errors.Join(ctx.Err(), n.err); err != nil {
		return 0, err
	}
	ids := headerIDs(h)
	known := true
	for _, id := range ids {
		known = known && n.has(id)
	}
	if known {
		return 0, nil
	}
	if err := n.write(frame, ids); err != nil {
		n.err = fmt.Errorf("store frame: %w", err)
		return 0, n.err
	}
	return int64(len(frame)), nil
}

func (n *session) write(frame []byte, ids []chunk.ID) error {
	if n.file != nil && n.length+int64(len(frame)) > int64(n.store.opts.PackSize) {
		if err := n.seal(); err != nil {
			return err
		}
	}
	if n.file == nil {
		if err := n.stage(); err != nil {
			return err
		}
	}
	if _, err := n.file.Write(frame); err != nil {
		return full(err)
	}
	n.frames = append(n.frames, packFrame{uint32(n.length), uint32(len(frame)), ids})
	n.length += int64(len(frame))
	for _, id := range ids {
		n.staged[id] = true
	}
	return nil
}

// stage begins a new pack. The lock comes first, so that nobody salvages a pack that lives.
func (n *session) stage() error {
	s := n.store
	if reserve := s.opts.Reserve; reserve > 0 {
		free, err := s.fs.Free()
		if err != nil {
			return err
		}
		if free < int64(reserve)+int64(s.opts.PackSize) {
			return fmt.Errorf("%w: %v are free, %v of them are kept in reserve", chunkstore.ErrFull, quantity.Bytes(free), reserve)
		}
	}
	name := newPackName()
	lock, err := s.fs.Lock(stagedLock(name))
	if err != nil {
		return full(err)
	}
	f, err := s.fs.Create(stagedPack(name), 0o600)
	if err != nil {
		return errors.Join(full(err), s.unlock(name, lock))
	}
	n.name, n.file, n.lock = name, f, lock
	n.length, n.frames = int64(len(packMagic)), nil
	if _, err := io.WriteString(f, packMagic); err != nil {
		return full(err)
	}
	return nil
}

// seal ends the staged pack, if there is one. On an error it leaves to the next Open
// what can still be salvaged.
func (n *session) seal() error {
	if n.file == nil {
		return nil
	}
	s, f, lock := n.store, n.file, n.lock
	n.file, n.lock, n.staged = nil, nil, map[chunk.ID]bool{}
	var err error
	switch {
	case len(n.frames) == 0:
		err = errors.Join(f.Close(), s.fs.Remove(stagedPack(n.name)))
	case n.err != nil: // the last write may have left a part of a frame
		if err = f.Truncate(n.length); err != nil {
			return errors.Join(err, f.Close(), lock.Close())
		}
		fallthrough
	default:
		err = s.seal(f, n.name, n.length, n.frames)
	}
	return errors.Join(err, s.unlock(n.name, lock))
}

// Publish implements chunkstore.Session.
func (n *session) Publish(ctx context.Context, m *image.Manifest) ([]byte, image.Version, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := errors.Join(ctx.Err(), n.err); err != nil {
		return nil, image.Version{}, err
	}
	if err := n.seal(); err != nil {
		n.err = fmt.Errorf("publish %s: %w", m.Image, err)
		return nil, image.Version{}, n.err
	}
	envelope, version, err := n.store.publish(ctx, m)
	if err != nil {
		return nil, image.Version{}, fmt.Errorf("publish %s: %w", m.Image, err)
	}
	return envelope, version, nil
}

// Close implements chunkstore.Session.
func (n *session) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if errors.Is(n.err, errClosed) {
		return nil
	}
	err := n.seal()
	n.err = errClosed
	if err != nil {
		return fmt.Errorf("close capture session: %w", err)
	}
	return nil
}
