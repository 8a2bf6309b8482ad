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
	"io"
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
	frames   map[chunk.ID]*frame // chunks of one frame share it
	bytes    int64
	versions map[string][]version // by sequence
	last     map[string]uint64    // the highest number that each image has used
	sessions map[*session]bool
	readers  int
	marked   map[chunk.ID]time.Time // by a collection, for the next one
}

type frame struct {
	bytes   []byte
	entries []chunk.Entry
}

func (f *frame) length(id chunk.ID) int {
	i := slices.IndexFunc(f.entries, func(e chunk.Entry) bool { return e.ID == id })
	return f.entries[i].Length
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
	return &Store{key: key, decoder: d, frames: map[chunk.ID]*frame{}, versions: map[string][]version{},
		last: map[string]uint64{}, sessions: map[*session]bool{}, marked: map[chunk.ID]time.Time{}}, nil
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
	given := map[*frame]bool{}
	for _, id := range ids {
		f, err := s.frame(ctx, id)
		if err != nil {
			return err
		}
		if given[f] {
			continue
		}
		given[f] = true
		if err := yield(f.bytes); err != nil {
			return err
		}
	}
	return nil
}

// Layout gives the frames that Frames would hand out for ids, and for each id its frame.
func (s *Store) Layout(ids []chunk.ID) (frames []chunk.FrameSize, of []int, err error) {
	given := map[*frame]int{}
	for _, id := range ids {
		f, err := s.frame(context.Background(), id)
		if err != nil {
			return nil, nil, err
		}
		if _, ok := given[f]; !ok {
			h, err := chunk.ParseFrameHeader(f.bytes)
			if err != nil {
				return nil, nil, err
			}
			given[f] = len(frames)
			frames = append(frames, chunk.FrameSize{Bytes: len(f.bytes), Chunks: len(h.Entries)})
		}
		of = append(of, given[f])
	}
	return frames, of, nil
}

func (s *Store) frame(ctx context.Context, id chunk.ID) (*frame, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.frames[id]
	if f == nil {
		return nil, &chunk.MissingError{ID: id}
	}
	if _, _, err := s.decoder.Decode(f.bytes, nil); err != nil {
		return nil, chunk.Damaged(id, err)
	}
	return f, nil
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
	i := s.find(name, sequence)
	if sequence == 0 {
		i = len(s.versions[name]) - 1
	}
	if i < 0 {
		return nil, fmt.Errorf("%w: %s@%d", chunkstore.ErrNotFound, name, sequence)
	}
	return slices.Clone(s.versions[name][i].envelope), ctx.Err()
}

// find gives the place of a version, or -1.
func (s *Store) find(name string, sequence uint64) int {
	return slices.IndexFunc(s.versions[name], func(v version) bool { return v.summary.Sequence == sequence })
}

// Delete implements chunkstore.Store.
func (s *Store) Delete(ctx context.Context, name string, sequence uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	i := s.find(name, sequence)
	if i < 0 {
		return fmt.Errorf("delete %s@%d: %w", name, sequence, chunkstore.ErrNotFound)
	}
	if s.versions[name] = slices.Delete(s.versions[name], i, i+1); len(s.versions[name]) == 0 {
		delete(s.versions, name)
	}
	return nil
}

// Pin implements chunkstore.Reader.
func (s *Store) Pin(ctx context.Context) (io.Closer, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.readers++
	return &pin{store: s}, nil
}

type pin struct {
	store *Store
	once  sync.Once
}

func (p *pin) Close() error {
	p.once.Do(func() {
		p.store.mu.Lock()
		defer p.store.mu.Unlock()
		p.store.readers--
	})
	return nil
}

// Collect implements chunkstore.Store. A frame is one pack to it: it goes with its last chunk.
func (s *Store) Collect(ctx context.Context, opts chunkstore.CollectOptions) (chunkstore.CollectReport, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return chunkstore.CollectReport{}, err
	}
	now, needed := time.Now(), s.needed()
	r := chunkstore.CollectReport{Bytes: s.bytes}
	for _, versions := range s.versions {
		r.Versions += len(versions)
	}
	waiting, freed := map[*frame]bool{}, map[*frame]bool{}
	for id, f := range s.frames {
		if needed[id] {
			delete(s.marked, id)
			continue
		}
		since, marked := s.marked[id]
		if !marked {
			since = now
		}
		old := (marked || opts.MinAge <= 0) && now.Sub(since) >= opts.MinAge
		switch {
		case opts.DryRun || !old || s.readers > 0:
			waiting[f] = true
			r.Pinned = s.readers > 0
			if !opts.DryRun {
				s.marked[id], marked = since, true
			}
			if due := since.Add(opts.MinAge); marked && (r.Due.IsZero() || due.Before(r.Due)) {
				r.Due = due
			}
		default:
			delete(s.frames, id)
			delete(s.marked, id)
			freed[f] = true
		}
	}
	return s.afterCollect(r, waiting, freed), nil
}

// afterCollect adds up which frames are gone and which wait.
func (s *Store) afterCollect(r chunkstore.CollectReport, waiting, freed map[*frame]bool) chunkstore.CollectReport {
	left := map[*frame]bool{}
	for _, f := range s.frames {
		left[f] = true
	}
	s.bytes = 0
	for f := range left {
		s.bytes += int64(len(f.bytes))
	}
	for f := range waiting {
		r.Condemned++
		r.Waiting += int64(len(f.bytes))
	}
	for f := range freed {
		if !left[f] {
			r.Removed++
		}
	}
	r.Freed = r.Bytes - s.bytes
	r.Live = s.bytes - r.Waiting
	return r
}

// needed are the chunks of versions and those that a session stored or asked for.
func (s *Store) needed() map[chunk.ID]bool {
	needed := map[chunk.ID]bool{}
	for _, versions := range s.versions {
		for _, v := range versions {
			for _, id := range v.chunks {
				needed[id] = true
			}
		}
	}
	for n := range s.sessions {
		maps.Copy(needed, n.pinned)
	}
	return needed
}

// Stats implements chunkstore.Store.
func (s *Store) Stats(ctx context.Context) (chunkstore.Stats, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := chunkstore.Stats{Bytes: s.bytes}
	users := map[chunk.ID]int{}
	for _, versions := range s.versions {
		for _, v := range versions {
			for id := range distinct(v.chunks) {
				users[id]++
			}
		}
	}
	packs := map[*frame]bool{}
	for _, f := range s.frames {
		packs[f] = true
	}
	r.Packs = len(packs)
	for _, name := range slices.Sorted(maps.Keys(s.versions)) {
		for _, v := range s.versions[name] {
			st := chunkstore.VersionStats{Version: v.summary}
			for id := range distinct(v.chunks) {
				plain, stored := s.sizes(id)
				st.Chunks++
				if users[id] == 1 {
					st.Own += plain
					st.OwnStored += stored
				} else {
					st.Shared += plain
					st.SharedStored += stored
				}
			}
			r.Logical += int64(v.summary.Allocated)
			r.Versions = append(r.Versions, st)
		}
	}
	for id := range users {
		plain, stored := s.sizes(id)
		r.Unique += plain
		r.Stored += stored
	}
	return r, ctx.Err()
}

func (s *Store) sizes(id chunk.ID) (plain, stored int64) {
	f := s.frames[id]
	return int64(f.length(id)), int64(len(f.bytes) / len(f.entries))
}

func distinct(ids []chunk.ID) map[chunk.ID]bool {
	set := map[chunk.ID]bool{}
	for _, id := range ids {
		set[id] = true
	}
	return set
}

// Begin implements chunkstore.Store.
func (s *Store) Begin(ctx context.Context) (chunkstore.Session, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := &session{store: s, pinned: map[chunk.ID]bool{}}
	s.sessions[n] = true
	return n, nil
}

// Check implements chunkstore.Store.
func (s *Store) Check(ctx context.Context, opts chunkstore.CheckOptions) (chunkstore.CheckReport, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := chunkstore.CheckReport{Chunks: len(s.frames), Bytes: s.bytes}
	bad := map[chunk.ID]string{}
	if opts.ReadData {
		r.BytesRead = s.bytes
		for id, f := range s.frames {
			if _, _, err := s.decoder.Decode(f.bytes, nil); err != nil {
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

// session is one capture; the store's mutex guards it.
type session struct {
	store  *Store
	pinned map[chunk.ID]bool
	closed bool
}

func (n *session) use(ctx context.Context) error {
	if n.closed {
		return errors.New("the capture session is closed")
	}
	return ctx.Err()
}

// Missing implements chunkstore.Session.
func (n *session) Missing(ctx context.Context, ids []chunk.ID) ([]bool, error) {
	n.store.mu.Lock()
	defer n.store.mu.Unlock()
	if err := n.use(ctx); err != nil {
		return nil, err
	}
	missing := make([]bool, len(ids))
	for i, id := range ids {
		missing[i] = n.store.frames[id] == nil
		n.pinned[id] = true
	}
	return missing, nil
}

// PutFrame implements chunkstore.Session.
func (n *session) PutFrame(ctx context.Context, b []byte) (int64, error) {
	s := n.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := n.use(ctx); err != nil {
		return 0, err
	}
	h, _, err := s.decoder.Decode(b, nil)
	if err != nil {
		return 0, fmt.Errorf("store frame: %w", err)
	}
	stored := int64(0)
	f := &frame{slices.Clone(b), h.Entries}
	for _, e := range h.Entries {
		n.pinned[e.ID] = true
		if s.frames[e.ID] == nil {
			s.frames[e.ID] = f
			stored = int64(len(b))
		}
	}
	s.bytes += stored
	return stored, nil
}

// Publish implements chunkstore.Session.
func (n *session) Publish(ctx context.Context, m *image.Manifest) ([]byte, image.Version, error) {
	s := n.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := n.use(ctx); err != nil {
		return nil, image.Version{}, err
	}
	next, err := s.next(m)
	if err != nil {
		return nil, image.Version{}, fmt.Errorf("publish %s: %w", m.Image, err)
	}
	s.versions[m.Image] = append(s.versions[m.Image], next)
	s.last[m.Image] = next.summary.Sequence
	return slices.Clone(next.envelope), next.summary, nil
}

// next makes the next version of an image.
func (s *Store) next(m *image.Manifest) (version, error) {
	if err := m.Validate(); err != nil {
		return version{}, err
	}
	chunks, err := s.complete(m)
	if err != nil {
		return version{}, err
	}
	stamped := *m
	stamped.Sequence, stamped.Parent, stamped.Created = s.last[m.Image]+1, image.VersionID{}, time.Now().Unix()
	if last := len(s.versions[m.Image]); last > 0 {
		stamped.Parent = s.versions[m.Image][last-1].summary.ID
	}
	envelope, id, err := image.Seal(&stamped, s.key)
	return version{envelope, stamped.Summary(id), chunks}, err
}

// complete lists the chunks of m, or tells which are missing or have another length.
func (s *Store) complete(m *image.Manifest) (chunks []chunk.ID, err error) {
	var missing []chunk.ID
	for id, length := range m.Chunks() {
		chunks = append(chunks, id)
		if f := s.frames[id]; f == nil {
			missing = append(missing, id)
		} else if have := f.length(id); have != length {
			return nil, &chunkstore.LengthError{ID: id, Have: have, Want: length}
		}
	}
	if len(missing) > 0 {
		return nil, &chunkstore.IncompleteError{Missing: missing}
	}
	return chunks, nil
}

// SignOutline implements chunkstore.Session.
func (n *session) SignOutline(ctx context.Context, o *image.Outline) ([]byte, image.CastID, error) {
	n.store.mu.Lock()
	defer n.store.mu.Unlock()
	if err := n.use(ctx); err != nil {
		return nil, image.CastID{}, err
	}
	return image.SealOutline(o, n.store.key)
}

// SignPart implements chunkstore.Session.
func (n *session) SignPart(ctx context.Context, p *image.Part) ([]byte, error) {
	n.store.mu.Lock()
	defer n.store.mu.Unlock()
	if err := n.use(ctx); err != nil {
		return nil, err
	}
	var missing []chunk.ID
	for _, id := range p.Chunks {
		if n.store.frames[id] == nil {
			missing = append(missing, id)
		}
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("part %d: %w", p.Number, &chunkstore.IncompleteError{Missing: missing})
	}
	return image.SealPart(p, n.store.key)
}

// Close implements chunkstore.Session.
func (n *session) Close() error {
	n.store.mu.Lock()
	defer n.store.mu.Unlock()
	n.closed = true
	delete(n.store.sessions, n)
	return nil
}
