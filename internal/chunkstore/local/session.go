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
)

var errClosed = errors.New("the capture session is closed")

// session is one capture. Its pin keeps every pack that it relies on: those that it saw
// and that were not condemned when it began. Chunks of condemned packs count as missing.
type session struct {
	store     *Store
	own       bool // frames are this process's work
	pin       io.Closer
	condemned map[string]bool // packs

	mu     sync.Mutex
	err    error // the first failure; final
	writer packWriter
	staged map[chunk.ID]bool // in the writer's pack
}

// Begin implements chunkstore.Store.
func (s *Store) Begin(ctx context.Context) (chunkstore.Session, error) { return s.open(ctx, false) }

// BeginOwn is Begin for a capture by this process: it made the frames itself, of bytes that it
// hashed, so that only their form is verified.
func (s *Store) BeginOwn(ctx context.Context) (chunkstore.Session, error) {
	return s.open(ctx, true)
}

func (s *Store) open(ctx context.Context, own bool) (chunkstore.Session, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := s.writable(); err != nil {
		return nil, fmt.Errorf("begin capture: %w", err)
	}
	n, err := s.begin(ctx)
	if err != nil {
		return nil, fmt.Errorf("begin capture: %w", err)
	}
	n.own = own
	return n, nil
}

// begin pins first, then reads which packs are condemned, then looks which there are. In
// this order a pack that is not condemned and there stays until the pin ends.
func (s *Store) begin(ctx context.Context) (*session, error) {
	if err := s.beginEpoch(1); err != nil {
		return nil, err
	}
	pin, err := s.Pin(ctx)
	if err != nil {
		return nil, err
	}
	n := &session{store: s, pin: pin, staged: map[chunk.ID]bool{}, writer: packWriter{store: s}}
	m, err := s.readMarks()
	if err == nil {
		err = s.refresh()
	}
	if err != nil {
		return nil, errors.Join(err, pin.Close())
	}
	if m != nil {
		n.condemned = m.packs
	}
	return n, nil
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

func (n *session) has(id chunk.ID) bool {
	_, ok := n.store.has(id, n.condemned)
	return ok || n.staged[id]
}

// PutFrame implements chunkstore.Session.
func (n *session) PutFrame(ctx context.Context, frame []byte) (int64, error) {
	verify := n.store.verify
	if n.own {
		verify = form
	}
	h, err := verify(frame)
	if err != nil {
		return 0, fmt.Errorf("store frame: %w", err)
	}
	return n.put(ctx, h, frame)
}

// form verifies only the form of a frame.
func form(frame []byte) (chunk.FrameHeader, error) {
	h, err := chunk.ParseFrameHeader(frame)
	if err == nil && len(frame) != h.Size() {
		err = fmt.Errorf("%w: %d bytes, header says %d", chunk.ErrFrame, len(frame), h.Size())
	}
	return h, err
}

func (n *session) put(ctx context.Context, h chunk.FrameHeader, frame []byte) (int64, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := errors.Join(ctx.Err(), n.err, n.store.writable()); err != nil {
		return 0, err
	}
	known := true
	for _, e := range h.Entries {
		known = known && n.has(e.ID)
	}
	if known {
		return 0, nil
	}
	sealed, err := n.writer.add(frame, h.Entries)
	if sealed {
		clear(n.staged)
	}
	if err != nil {
		n.err = fmt.Errorf("store frame: %w", err)
		return 0, n.err
	}
	for _, e := range h.Entries {
		n.staged[e.ID] = true
	}
	return int64(len(frame)), nil
}

func (n *session) seal() error {
	clear(n.staged)
	return n.writer.seal()
}

// Publish implements chunkstore.Session.
func (n *session) Publish(ctx context.Context, m *image.Manifest) ([]byte, image.Version, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := errors.Join(ctx.Err(), n.err, n.store.writable()); err != nil {
		return nil, image.Version{}, err
	}
	if err := n.seal(); err != nil {
		n.err = fmt.Errorf("publish %s: %w", m.Image, err)
		return nil, image.Version{}, n.err
	}
	envelope, version, err := n.store.publish(ctx, m, n.condemned)
	if err != nil {
		return nil, image.Version{}, fmt.Errorf("publish %s: %w", m.Image, err)
	}
	return envelope, version, nil
}

// SignOutline implements chunkstore.Session.
func (n *session) SignOutline(ctx context.Context, o *image.Outline) ([]byte, image.CastID, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := errors.Join(ctx.Err(), n.err); err != nil {
		return nil, image.CastID{}, err
	}
	return image.SealOutline(o, n.store.signing)
}

// SignPart implements chunkstore.Session. Chunks are readable once their pack is sealed.
func (n *session) SignPart(ctx context.Context, p *image.Part) ([]byte, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := errors.Join(ctx.Err(), n.err); err != nil {
		return nil, err
	}
	if err := n.seal(); err != nil {
		n.err = fmt.Errorf("seal part %d: %w", p.Number, err)
		return nil, n.err
	}
	var missing []chunk.ID
	for _, id := range p.Chunks {
		if !n.has(id) {
			missing = append(missing, id)
		}
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("part %d: %w", p.Number, &chunkstore.IncompleteError{Missing: missing})
	}
	return image.SealPart(p, n.store.signing)
}

// Close implements chunkstore.Session.
func (n *session) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if errors.Is(n.err, errClosed) {
		return nil
	}
	err := errors.Join(n.seal(), n.pin.Close())
	n.err = errClosed
	if err != nil {
		return fmt.Errorf("close capture session: %w", err)
	}
	return nil
}
