package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"clonecast/internal/chunk"
	"clonecast/internal/vfs"
)

// decoder is a frame decoder with its buffer.
type decoder struct {
	frames *chunk.Decoder
	plain  []byte
}

// decoders are alike for all stores, and dear to make.
var decoders sync.Pool // of *decoder

func newDecoder() (*decoder, error) {
	if d, ok := decoders.Get().(*decoder); ok {
		return d, nil
	}
	frames, err := chunk.NewDecoder()
	if err != nil {
		return nil, err
	}
	return &decoder{frames: frames}, nil
}

// verify decodes a frame and checks its chunks against their ids.
func (d *decoder) verify(frame []byte) (chunk.FrameHeader, error) {
	h, plain, err := d.frames.Decode(frame, d.plain)
	if err == nil {
		d.plain = plain
	}
	return h, err
}

func (s *Store) verify(frame []byte) (chunk.FrameHeader, error) {
	d, err := newDecoder()
	if err != nil {
		return chunk.FrameHeader{}, err
	}
	defer decoders.Put(d)
	return d.verify(frame)
}

// Frames implements chunkstore.Reader.
func (s *Store) Frames(ctx context.Context, ids []chunk.ID, yield func(frame []byte) error) error {
	r := packReader{store: s}
	return s.each(ctx, &r, ids, yield)
}

// Plain is Frames for a caller in this process, which need not decode and verify a second
// time: it gives the header of each frame and the verified bytes of its chunks.
func (s *Store) Plain(ctx context.Context, ids []chunk.ID, yield func(h chunk.FrameHeader, plain []byte) error) error {
	d, err := newDecoder()
	if err != nil {
		return err
	}
	defer decoders.Put(d)
	r := packReader{store: s, plain: d}
	return s.each(ctx, &r, ids, func([]byte) error { return yield(r.header, d.plain) })
}

// each gives the verified frames that together hold the chunks.
func (s *Store) each(ctx context.Context, r *packReader, ids []chunk.ID, yield func(frame []byte) error) error {
	defer r.close()
	given := map[location]bool{}
	for _, id := range ids {
		if err := ctx.Err(); err != nil {
			return err
		}
		copies, err := s.locate(id)
		if err != nil {
			return err
		}
		if anyOf(given, copies) {
			continue
		}
		b, at, err := r.chunk(id, copies)
		if errors.Is(err, errGone) {
			b, at, err = r.afresh(id)
		}
		if err != nil {
			return err
		}
		given[at] = true
		if err := yield(b); err != nil {
			return err
		}
	}
	return nil
}

func anyOf(set map[location]bool, copies []copyOf) bool {
	for _, c := range copies {
		if set[c.location] {
			return true
		}
	}
	return false
}

// copyOf is one place where a chunk lies.
type copyOf struct {
	location
	pack string
	frame
}

// locate finds the copies of a chunk; when there are none it looks for new packs first.
func (s *Store) locate(id chunk.ID) ([]copyOf, error) {
	if copies := s.copies(id); len(copies) > 0 {
		return copies, nil
	}
	if err := s.refresh(); err != nil {
		return nil, err
	}
	if copies := s.copies(id); len(copies) > 0 {
		return copies, nil
	}
	return nil, &chunk.MissingError{ID: id}
}

// copies lists sound copies before those that a read found damaged.
func (s *Store) copies(id chunk.ID) []copyOf {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var sound, bad []copyOf
	for e := range s.index.find(id) {
		at := s.index.at[e]
		p := s.packs[at.pack]
		c := copyOf{at, p.name, p.frames[at.frame]}
		if c.bad {
			bad = append(bad, c)
		} else {
			sound = append(sound, c)
		}
	}
	return append(sound, bad...)
}

// has tells whether the store has a copy of a chunk that no read found damaged and that is
// in none of the packs to avoid, and how long the chunk is.
func (s *Store) has(id chunk.ID, avoid map[string]bool) (length int, ok bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for e := range s.index.find(id) {
		at := s.index.at[e]
		if p := s.packs[at.pack]; !p.frames[at.frame].bad && !avoid[p.name] {
			return int(s.index.lengths[e]), true
		}
	}
	return 0, false
}

func (s *Store) markBad(at location) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.packs[at.pack].frames[at.frame].bad = true
}

// packReader reads frames and keeps the pack of the last one open.
type packReader struct {
	store *Store
	fresh bool // read what the medium has, not what memory holds of it
	name  string
	file  vfs.File

	plain  *decoder // nil, or keeps the bytes of the last frame's chunks
	header chunk.FrameHeader
}

func (r *packReader) close() {
	if r.file != nil {
		_ = r.file.Close() // only read
		r.file = nil
	}
}

// errGone reports that all copies of a chunk were in packs that are no longer there.
var errGone = errors.New("its pack is gone")

// afresh looks for a chunk whose packs are gone: a collection may have moved it.
func (r *packReader) afresh(id chunk.ID) ([]byte, location, error) {
	if err := r.store.refresh(); err != nil {
		return nil, location{}, err
	}
	copies := r.store.copies(id)
	if len(copies) == 0 {
		return nil, location{}, &chunk.MissingError{ID: id}
	}
	b, at, err := r.chunk(id, copies)
	if errors.Is(err, errGone) {
		err = chunk.Damaged(id, err)
	}
	return b, at, err
}

// chunk gives the verified frame of the first sound copy of a chunk. A damaged copy is
// remembered, so that the next capture of the chunk heals the store.
func (r *packReader) chunk(id chunk.ID, copies []copyOf) ([]byte, location, error) {
	s := r.store
	var first error
	for _, c := range copies {
		if b := s.cache.get(c.location); b != nil && r.plain == nil {
			return b, c.location, nil
		}
		b, err := r.frame(id, c)
		if err == nil {
			s.cache.put(c.location, b)
			return b, c.location, nil
		}
		if errors.Is(err, errGone) {
			continue
		}
		var invalid *chunk.InvalidError
		if errors.As(err, &invalid) {
			s.markBad(c.location)
		}
		s.log.Error("a copy of a chunk cannot be read",
			"chunk", id, "pack", packPath(c.pack), "offset", c.offset, "cause", err)
		if first == nil {
			first = fmt.Errorf("read %s at byte %d: %w", packPath(c.pack), c.offset, err)
		}
	}
	if first == nil {
		first = errGone
	}
	return nil, location{}, first
}

func (r *packReader) verify(frame []byte) (chunk.FrameHeader, error) {
	if r.plain == nil {
		return r.store.verify(frame)
	}
	var err error
	r.header, err = r.plain.verify(frame)
	return r.header, err
}

// frame reads and verifies one frame that must hold the chunk.
func (r *packReader) frame(id chunk.ID, c copyOf) ([]byte, error) {
	if r.file == nil || r.name != c.pack {
		r.close()
		f, err := r.store.fs.Open(packPath(c.pack))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, errGone
		}
		if err != nil {
			return nil, err
		}
		if r.fresh {
			f.DropCache()
		}
		r.name, r.file = c.pack, f
	}
	b := make([]byte, c.size)
	if err := readAt(r.file, b, int64(c.offset)); err != nil {
		if isDamage(err) {
			return nil, &chunk.InvalidError{ID: id, Problem: "its pack is cut: " + err.Error()}
		}
		return nil, err
	}
	h, err := r.verify(b)
	if err != nil {
		return nil, chunk.Damaged(id, err)
	}
	for _, e := range h.Entries {
		if e.ID == id {
			return b, nil
		}
	}
	return nil, &chunk.InvalidError{ID: id, Problem: "another chunk is in its place"}
}

// provePack reads a whole pack from the medium and verifies every frame. Damage is an error.
func (s *Store) provePack(ctx context.Context, name string) error {
	f, err := s.fs.Open(packPath(name))
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	f.DropCache()
	_, end, err := scanPack(f, info.Size(), func(frame []byte) bool {
		_, err := s.verify(frame)
		return err == nil && ctx.Err() == nil
	})
	if err = errors.Join(err, ctx.Err()); err == nil && end != info.Size() {
		err = &damage{fmt.Errorf("no whole frame at byte %d", end)}
	}
	return err
}
