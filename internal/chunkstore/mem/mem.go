// Package mem is a chunk store in memory, for tests and for transfers that need no disk.
//
// It keeps frames as they came and forgets them with the process.
package mem

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"clonecast/internal/chunk"
	"clonecast/internal/chunkstore"
	"clonecast/internal/image"
)

// Store is an empty store after New.
type Store struct {
	key ed25519.PrivateKey

	mu       sync.Mutex
	decoder  *chunk.Decoder
	frames   map[chunk.ID]*[]byte // chunks of one frame share the pointer
	bytes    int64
	versions map[string][]version // by sequence
}

type version struct {
	envelope []byte
	summary  image.Version
	chunks   []chunk.ID
}

var _ chunkstore.Store = (*Store)(nil)

// New makes a store with a signing key of its own.
func New() (*Store, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make signing key: %w", err)
	}
	d, err := chunk.NewDecoder()
	if err != nil {
		return nil, err
	}
	return &Store{key: key, decoder: d, frames: map[chunk.ID]*[]byte{}, versions: map[string][]version{}}, nil
}

// Close frees the store.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.decoder.Close()
	return nil
}

// TrustedKeys implements chunkstore.Reader.
func (s *Store) TrustedKeys() []ed25519.PublicKey {
	return []ed25519.PublicKey{s.key.Public().(ed25519.PublicKey)}
}

// Frames implements chunkstore.Reader.
func (s *Store) Frames(ctx context.Context, ids []chunk.ID, yield func(frame []byte) error) error {
	given := map[*[]byte]bool{}
	for _, id := range ids {
		frame, err := s.frame(ctx, id)
		if err != nil {
			return err
		}
		if given[frame] {
			continue
		}
		given[frame] = true
		if err := yield(*frame); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) frame(ctx context.Context, id chunk.ID) (*[]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	frame := s.frames[id]
	if frame == nil {
		return nil, &chunk.MissingError{ID: id}
	}
	if _, _, err := s.decoder.Decode(*frame, nil); err != nil {
		return nil, &chunk.InvalidError{ID: id, Problem: err.Error()}
	}
	return frame, nil
}

// Images implements chunkstore.Reader.
func (s *Store) Images(ctx context.Context) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.versions)), ctx.Err()
}

// Versions implements chunkstore.Reader.
func (s *Store) Versions(ctx context.Context, name string) ([]image.Version, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []image.Version
	for _, v := range s.versions[name] {
		list = append(list, v.summary)
	}
	if list == nil {
		return nil, fmt.Errorf("%w: %s", chunkstore.ErrNotFound, name)
	}
	return list, ctx.Err()
}

// Manifest implements chunkstore.Reader.
func (s *Store) Manifest(ctx context.Context, name string, sequence uint64) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	versions := s.versions[name]
	if sequence == 0 {
		sequence = uint64(len(versions))
	}
	if sequence == 0 || sequence > uint64(len(versions)) {
		return nil, fmt.Errorf("%w: %s@%d", chunkstore.ErrNotFound, name, sequence)
	}
	return slices.Clone(versions[sequence-1].envelope), ctx.Err()
}

// Begin implements chunkstore.Store.
func (s *Store) Begin(ctx context.Context) (chunkstore.Session, error) {
	return &session{store: s}, ctx.Err()
}

// Check implements chunkstore.Store.
func (s *Store) Check(ctx context.Context, opts chunkstore.CheckOptions) (chunkstore.CheckReport, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := chunkstore.CheckReport{Chunks: len(s.frames), Bytes: s.bytes}
	bad := map[chunk.ID]string{}
	if opts.ReadData {
		r.BytesRead = s.bytes
		for id, frame := range s.frames {
			if _, _, err := s.decoder.Decode(*frame, nil); err != nil {
				bad[id] = err.Error()
			}
		}
	}
	for name, versions := range s.versions {
		r.Versions += len(versions)
		for _, v := range versions {
			for _, id := range v.chunks {
				problem, found := bad[id]
				if s.frames[id] == nil {
					problem, found = "is missing", true
				}
				if found {
					r.Problems = append(r.Problems, chunkstore.Problem{Object: "chunk " + id.String(), Problem: problem,
						Affects: []string{fmt.Sprintf("%s@%d", name, v.summary.Sequence)}})
				}
			}
		}
	}
	if opts.Progress != nil {
		opts.Progress(r.Bytes, r.Bytes)
	}
	return r, ctx.Err()
}

type session struct {
	store *Store

	mu     sync.Mutex
	closed bool
}

func (n *session) use(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return errors.New("the capture session is closed")
	}
	return ctx.Err()
}

// Missing implements chunkstore.Session.
func (n *session) Missing(ctx context.Context, ids []chunk.ID) ([]bool, error) {
	if err := n.use(ctx); err != nil {
		return nil, err
	}
	n.store.mu.Lock()
	defer n.store.mu.Unlock()
	missing := make([]bool, len(ids))
	for i, id := range ids {
		missing[i] = n.store.frames[id] == nil
	}
	return missing, nil
}

// PutFrame implements chunkstore.Session.
func (n *session) PutFrame(ctx context.Context, frame []byte) (int64, error) {
	if err := n.use(ctx); err != nil {
		return 0, err
	}
	s := n.store
	s.mu.Lock()
	defer s.mu.Unlock()
	h, _, err := s.decoder.Decode(frame, nil)
	if err != nil {
		return 0, fmt.Errorf("store frame: %w", err)
	}
	stored := int64(0)
	frame = slices.Clone(frame)
	for _, e := range h.Entries {
		if s.frames[e.ID] == nil {
			s.frames[e.ID] = &frame
			stored = int64(len(frame))
		}
	}
	s.bytes += stored
	return stored, nil
}

// Publish implements chunkstore.Session.
func (n *session) Publish(ctx context.Context, m *image.Manifest) ([]byte, image.Version, error) {
	if err := n.use(ctx); err != nil {
		return nil, image.Version{}, err
	}
	s := n.store
	s.mu.Lock()
	defer s.mu.Unlock()
	next := version{}
	var missing []chunk.ID
	for i := range m.Disks {
		for _, c := range m.Disks[i].Contents() {
			next.chunks = append(next.chunks, c.Chunks...)
		}
	}
	for _, id := range next.chunks {
		if s.frames[id] == nil {
			missing = append(missing, id)
		}
	}
	if len(missing) > 0 {
		return nil, image.Version{}, &chunkstore.IncompleteError{Missing: missing}
	}
	stamped := *m
	stamped.Sequence, stamped.Parent, stamped.Created = uint64(len(s.versions[m.Image]))+1, image.VersionID{}, time.Now().Unix()
	if last := len(s.versions[m.Image]); last > 0 {
		stamped.Parent = s.versions[m.Image][last-1].summary.ID
	}
	envelope, id, err := image.Seal(&stamped, s.key)
	if err != nil {
		return nil, image.Version{}, fmt.Errorf("publish %s: %w", m.Image, err)
	}
	next.envelope, next.summary = envelope, stamped.Summary(id)
	s.versions[m.Image] = append(s.versions[m.Image], next)
	return slices.Clone(envelope), next.summary, nil
}

// Close implements chunkstore.Session.
func (n *session) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	return nil
}
