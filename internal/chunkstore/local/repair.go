package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"clonecast/internal/chunk"
	"clonecast/internal/chunkstore"
	"clonecast/internal/image"
	"clonecast/internal/vfs"

	"github.com/klauspost/compress/zstd"
)

// RepairOptions say what a repair may use.
type RepairOptions struct {
	From     chunkstore.Reader       // where lost chunks and manifests may be, or nil
	NewKey   bool                    // make a new signing key when the old one is lost
	Progress func(done, total int64) // bytes read, may be nil
}

// RepairReport tells what a repair did.
type RepairReport struct {
	Found     []chunkstore.Problem // when the store was opened, and by the check that came first
	Restored  []string             // files that were made anew
	NewKey    bool                 // a signing key was made
	Bytes     int64                // of packs that were read
	Moved     int                  // chunks of damaged packs that were sound
	Healed    int                  // chunks that came from the other store
	Manifests []string             // made anew from the copy or from the other store, as image@sequence
	Replaced  int                  // damaged packs that were removed
	Lost      []chunkstore.Problem // what could not be healed
}

// A repair mends format, directories and keys, then reads everything, like a check. Then
//
//	manifests that are damaged or lost come from their copies
//	the sound frames of damaged packs go into new packs
//	manifests without a sound copy come from the other store, if a trusted key signed them
//	chunks without a sound copy that a version needs come from the other store
//	damaged packs go, but for those that may hold something of a chunk that is still lost
//
// Every frame is verified before it is written, and nothing goes before what replaces it is
// durable and was read back from the medium. So a repair may run beside captures and readers and
// may be cut at any point.
type repairer struct {
	*checker
	ctx    context.Context
	from   chunkstore.Reader
	newKey bool
	writer packWriter
	sieve  *chunk.Sieve
	report RepairReport
	moved  map[chunk.ID]bool // chunks in new packs
	lost   map[chunk.ID]bool
}

// Repair heals a store as far as it can. ErrBusy while a collection runs.
func (s *Store) Repair(ctx context.Context, opts RepairOptions) (RepairReport, error) {
	if err := s.writable(); err != nil {
		return RepairReport{}, fmt.Errorf("repair store: %w", err)
	}
	sieve, err := chunk.NewSieve(zstd.SpeedDefault)
	if err != nil {
		return RepairReport{}, err
	}
	defer sieve.Close()
	lock, err := s.fs.Lock(collectLock)
	if errors.Is(err, vfs.ErrLocked) {
		return RepairReport{}, fmt.Errorf("repair store: %w", chunkstore.ErrBusy)
	}
	if err != nil {
		return RepairReport{}, fmt.Errorf("repair store: %w", full(err))
	}
	r := &repairer{checker: newChecker(s, chunkstore.CheckOptions{ReadData: true, Progress: opts.Progress}), ctx: ctx,
		from: opts.From, newKey: opts.NewKey, writer: packWriter{store: s}, sieve: sieve,
		moved: map[chunk.ID]bool{}, lost: map[chunk.ID]bool{}}
	if err := errors.Join(r.run(), r.writer.seal(), lock.Close()); err != nil {
		return RepairReport{}, fmt.Errorf("repair store: %w", err)
	}
	return r.report, nil
}

func (r *repairer) run() error {
	if err := r.mendBase(); err != nil {
		return err
	}
	if err := r.checker.run(r.ctx); err != nil {
		return err
	}
	restored := r.store.takeRestored()
	r.report.Found, r.report.Bytes = slices.Concat(restored, r.checker.report.Problems), r.checker.report.Bytes
	for _, p := range restored {
		r.report.Restored = append(r.report.Restored, p.Object)
	}
	if err := r.dropMarks(); err != nil {
		return err
	}
	damaged, err := r.damaged()
	if err != nil {
		return err
	}
	for _, name := range damaged {
		if err := r.rescue(name); err != nil {
			return fmt.Errorf("rescue %s: %w", packPath(name), err)
		}
	}
	for _, v := range slices.Concat(r.half, r.broken) {
		if err := r.manifest(v); err != nil {
			return err
		}
	}
	if err := r.chunks(); err != nil {
		return err
	}
	if err := r.writer.seal(); err != nil {
		return err
	}
	if err := r.writer.readBack(r.ctx); err != nil {
		return err
	}
	return r.replace(damaged)
}

// takeRestored gives what was made anew since the store was opened, once.
func (s *Store) takeRestored() []chunkstore.Problem {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.restored
	s.restored = nil
	return list
}

// mendBase mends what everything else relies on, reads it again, and reports what is lost of it.
func (r *repairer) mendBase() error {
	s := r.store
	b, err := inspect(s.fs, false)
	if err != nil {
		return err
	}
	if err := s.alone(r.ctx, func() error { return s.mend(b.flaws) }); err != nil {
		return err
	}
	if s.trusted, s.signing = b.trusted, b.signing; s.signing == nil && r.newKey {
		if err := s.alone(r.ctx, s.newKey); err != nil {
			return fmt.Errorf("make a new signing key: %w", err)
		}
		r.report.NewKey = true
	}
	if b, err = inspect(s.fs, false); err != nil {
		return err
	}
	s.trusted, s.signing = b.trusted, b.signing
	for _, f := range b.flaws {
		r.report.Lost = append(r.report.Lost, f.Problem)
	}
	return s.recover() // Open left it: it relies on the base
}

// dropMarks removes the damaged mark of a collection.
func (r *repairer) dropMarks() error {
	for _, p := range r.report.Found {
		if p.Object == marksFile {
			r.report.Restored = append(r.report.Restored, marksFile)
			return r.store.removeMarks()
		}
	}
	return nil
}

// damaged lists the packs to replace: not those whose writer is just sealing them. A pack that
// has lost its index only got that back when the store was opened.
func (r *repairer) damaged() (names []string, err error) {
	for _, name := range slices.Sorted(maps.Keys(r.faulty)) {
		lock, err := r.store.fs.Lock(stagedLock(name))
		if errors.Is(err, vfs.ErrLocked) {
			delete(r.faulty, name)
			continue
		}
		if err != nil {
			return nil, full(err)
		}
		if err := r.store.unlock(name, lock); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, nil
}

// sound tells whether a chunk has a sound copy that stays.
func (r *repairer) sound(id chunk.ID) bool {
	if r.moved[id] {
		return true
	}
	for e := range r.index.find(id) {
		at := r.index.at[e]
		_, bad := r.bad[at]
		if _, faulty := r.faulty[r.names[at.pack]]; !bad && !faulty {
			return true
		}
	}
	return false
}

// rescue writes the sound frames of a damaged pack to new packs. It goes by the pack's own
// headers: the index may be that of another one.
func (r *repairer) rescue(name string) error {
	f, err := r.store.fs.Open(packPath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	frames, _, err := r.store.surveyPack(f, info.Size())
	if err != nil {
		return err
	}
	for _, frame := range frames {
		if err := r.ctx.Err(); err != nil {
			return err
		}
		b := make([]byte, frame.size)
		if err := readAt(f, b, int64(frame.offset)); err != nil {
			return err
		}
		n, err := r.write(b, func(id chunk.ID) bool { return !r.sound(id) })
		if err != nil {
			return err
		}
		r.report.Moved += n
	}
	return nil
}

// write stores the wanted chunks of a frame, if it is sound, and says how many that are.
func (r *repairer) write(frame []byte, wanted func(chunk.ID) bool) (int, error) {
	if _, err := r.store.verify(frame); err != nil {
		return 0, nil
	}
	kept, err := r.sieve.Keep(frame, wanted)
	if err != nil || kept == nil {
		return 0, err
	}
	h, err := chunk.ParseFrameHeader(kept)
	if err != nil {
		return 0, err
	}
	if _, err := r.writer.add(kept, h.Entries); err != nil {
		return 0, err
	}
	for _, e := range h.Entries {
		r.moved[e.ID] = true
	}
	return len(h.Entries), nil
}

// manifest brings a damaged or lost manifest back, and its copy.
func (r *repairer) manifest(v versionName) error {
	path := manifestPath(v.image, v.sequence)
	envelope, err := r.goodManifest(v)
	if r.ctx.Err() != nil {
		return r.ctx.Err()
	}
	if err != nil {
		lost := chunkstore.Problem{Object: path, Problem: err.Error(), Affects: []string{v.String()}}
		r.report.Lost = append(r.report.Lost, lost)
		return nil
	}
	err = r.store.alone(r.ctx, func() error {
		for _, file := range both(path) {
			if have, err := readFile(r.store.fs, file, maxEnvelope); err == nil && bytes.Equal(have, envelope) {
				continue
			}
			if err := r.store.keep(file, 0o600, envelope); err != nil {
				return err
			}
			r.report.Restored = append(r.report.Restored, file)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	r.report.Manifests = append(r.report.Manifests, v.String())
	return nil
}

// goodManifest gives the envelope of a version: its own, from whichever file is sound, or that of
// the other store.
func (r *repairer) goodManifest(v versionName) ([]byte, error) {
	envelope, _, _, err := r.store.manifest(v.image, v.sequence)
	if err == nil || !isDamage(err) && !errors.Is(err, fs.ErrNotExist) {
		return envelope, err
	}
	if r.from == nil {
		return nil, errors.New("it and its copy are damaged, and there is no other store to take it from")
	}
	envelope, err = r.from.Manifest(r.ctx, v.image, v.sequence)
	if err != nil {
		return nil, fmt.Errorf("the other store: %w", err)
	}
	m, _, err := image.Open(envelope, r.store.trusted)
	if err != nil {
		return nil, fmt.Errorf("the other store's: %w", err)
	}
	if m.Image != v.image || m.Sequence != v.sequence {
		return nil, fmt.Errorf("the other store's is that of %s@%d", m.Image, m.Sequence)
	}
	return envelope, nil
}

// chunks heals what each version needs and reports what stays lost.
func (r *repairer) chunks() error {
	names, err := r.store.Images(r.ctx)
	if err != nil {
		return err
	}
	for _, name := range names {
		sequences, err := r.store.sequences(name)
		if err != nil {
			return err
		}
		for _, n := range sequences {
			_, m, _, err := r.store.manifest(name, n)
			if isDamage(err) || errors.Is(err, fs.ErrNotExist) {
				continue // reported, or deleted meanwhile
			}
			if err != nil {
				return err
			}
			if err := r.version(versionName{name, n}, m); err != nil {
				return err
			}
		}
	}
	return r.ctx.Err()
}

func (r *repairer) version(v versionName, m *image.Manifest) error {
	lost := map[chunk.ID]bool{}
	var first error
	for id := range m.Chunks() {
		if err := r.ctx.Err(); err != nil {
			return err
		}
		if r.sound(id) {
			continue
		}
		why, err := r.heal(id)
		if err != nil {
			return err
		}
		if why != nil {
			lost[id], r.lost[id] = true, true
			if first == nil {
				first = why
			}
		}
	}
	if len(lost) > 0 {
		r.report.Lost = append(r.report.Lost, chunkstore.Problem{Object: manifestPath(v.image, v.sequence),
			Problem: fmt.Sprintf("%d of its chunks are lost; the first: %v", len(lost), first), Affects: []string{v.String()}})
	}
	return nil
}

// heal fetches a chunk from the other store. Why it stays lost is not an error.
func (r *repairer) heal(id chunk.ID) (why, err error) {
	if r.from == nil {
		return &chunk.MissingError{ID: id}, nil
	}
	if r.lost[id] {
		return fmt.Errorf("the other store: %w", &chunk.MissingError{ID: id}), nil
	}
	why = r.from.Frames(r.ctx, []chunk.ID{id}, func(frame []byte) error {
		var n int
		n, err = r.write(frame, func(got chunk.ID) bool { return got == id || r.needs(got) })
		r.report.Healed += n
		return err
	})
	if err != nil || r.sound(id) {
		return nil, err
	}
	if why == nil {
		why = &chunk.MissingError{ID: id}
	}
	return fmt.Errorf("the other store: %w", why), nil
}

// needs tells whether a chunk was here once and has no sound copy: it comes along with another
// one of its frame.
func (r *repairer) needs(id chunk.ID) bool {
	for range r.index.find(id) {
		return !r.sound(id)
	}
	return false
}

// replace removes damaged packs whose sound frames are in new ones.
func (r *repairer) replace(damaged []string) error {
	keep := map[string]bool{}
	for id := range r.lost {
		for e := range r.index.find(id) {
			keep[r.names[r.index.at[e].pack]] = true
		}
	}
	var remove []string
	for _, name := range damaged {
		if gaps := r.faulty[name]; !keep[name] && !(gaps && len(r.lost) > 0) {
			remove = append(remove, name)
		}
	}
	r.report.Replaced = len(remove)
	return r.store.removePacks(r.ctx, remove)
}
