package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"

	"clonecast/internal/chunk"
	"clonecast/internal/chunkstore"
	"clonecast/internal/image"
	"clonecast/internal/vfs"

	"github.com/klauspost/compress/zstd"
)

// A collection is the first or the second mark of packs, or both.
//
//	first   list what all versions need; condemn packs of which less than half is needed,
//	        after that half was written to new packs; begin a new epoch
//	second  when MinAge has passed and all older epochs are empty: list again what is needed;
//	        for each needed chunk of a condemned pack read and verify a copy elsewhere, and
//	        remove the packs where that worked; of the others move what is needed to new
//	        packs, then prove and remove as before
//
// A capture that began before the first mark may rely on condemned packs: it holds its
// epoch. One that began after it treats their chunks as missing. So the second mark sees
// every version that can need them, and a crash between any two steps leaves a store in which
// the next collection does the rest.
//
// Nothing is removed on the word of a write that went well: every copy that replaces one is read
// from the medium, after its pack was synced. The first write that fails is the last one of
// this collection: on a full disk it goes on to remove what needs no copy, else it stops.
type collector struct {
	store  *Store
	opts   chunkstore.CollectOptions
	report chunkstore.CollectReport
	now    time.Time

	census *census
	reader packReader
	writer packWriter
	sieve  *chunk.Sieve      // made when it is needed
	sound  map[location]bool // frames of the census that were read: whether they are
	moved  map[chunk.ID]bool // to new packs
}

// Collect implements chunkstore.Store. A version whose manifest is damaged stops it: nobody
// knows what that needs.
func (s *Store) Collect(ctx context.Context, opts chunkstore.CollectOptions) (chunkstore.CollectReport, error) {
	c := &collector{store: s, opts: opts, now: s.opts.Now(),
		reader: packReader{store: s, fresh: true}, writer: packWriter{store: s}}
	defer c.close()
	if err := c.lockedRun(ctx); err != nil {
		return chunkstore.CollectReport{}, fmt.Errorf("collect: %w", err)
	}
	return c.report, nil
}

func (c *collector) close() {
	c.reader.close()
	if c.sieve != nil {
		c.sieve.Close()
	}
}

func (c *collector) lockedRun(ctx context.Context) error {
	if c.opts.DryRun {
		return c.run(ctx)
	}
	if err := c.store.writable(); err != nil {
		return err
	}
	lock, err := c.store.fs.Lock(collectLock)
	if errors.Is(err, vfs.ErrLocked) {
		return chunkstore.ErrBusy
	}
	if err != nil {
		return full(err)
	}
	err = c.store.complete() // what a failed write left with one manifest
	if err == nil {
		err = c.run(ctx)
	}
	return errors.Join(err, c.writer.discard(), lock.Close())
}

func (c *collector) run(ctx context.Context) error {
	if err := c.count(ctx); err != nil {
		return err
	}
	c.report.Bytes = c.census.size()
	m, err := c.store.readMarks()
	if err != nil {
		return err
	}
	if m != nil {
		if m, err = c.second(ctx, m); err != nil {
			return err
		}
	}
	if m != nil {
		c.settle()
	} else {
		if m, err = c.first(ctx); err != nil {
			return err
		}
		if m != nil && c.opts.MinAge <= 0 {
			if m, err = c.second(ctx, m); err != nil {
				return err
			}
		}
	}
	c.tellWaiting(m)
	return nil
}

// tellWaiting reports what is left to a later collection. A dry run may speak of a mark that it
// would make: nothing is due by that.
func (c *collector) tellWaiting(m *marks) {
	if m == nil {
		return
	}
	for i := range c.census.packs {
		if p := &c.census.packs[i]; m.packs[p.name] {
			c.report.Condemned++
			c.report.Waiting += p.size
		}
	}
	if c.report.Condemned > 0 && m.made {
		c.report.Due = m.time.Add(c.opts.MinAge)
	}
}

// count lists packs and what of them is needed now. Packs come first: a capture that
// publishes meanwhile has its packs in place before its manifest, and only a pack that was
// seen can be removed.
func (c *collector) count(ctx context.Context) (err error) {
	if err := c.store.refresh(); err != nil {
		return err
	}
	if c.census, err = c.store.countPacks(ctx); err != nil {
		return err
	}
	c.sound, c.moved = map[location]bool{}, map[chunk.ID]bool{}
	c.report.Versions = 0
	err = c.store.eachVersion(ctx, func(m *image.Manifest, _ image.VersionID) error {
		c.report.Versions++
		for id := range m.Chunks() {
			c.census.need(id)
		}
		return nil
	})
	if err != nil || c.opts.DryRun {
		return err
	}
	// What is not listed was deleted, but perhaps on no medium yet: a power cut would bring back
	// a version whose chunks are gone.
	return c.store.syncImages()
}

// settle leaves each needed chunk live in one place and adds up what is needed.
func (c *collector) settle() {
	c.census.settle()
	c.report.Live = 0
	for i := range c.census.packs {
		c.report.Live += c.census.packs[i].liveBytes()
	}
}

// first condemns packs. It gives nil when there are none.
func (c *collector) first(ctx context.Context) (*marks, error) {
	c.settle()
	m := &marks{time: c.now, packs: map[string]bool{}}
	var sparse []*countedPack
	for i := range c.census.packs {
		p := &c.census.packs[i]
		live := p.liveBytes()
		switch {
		case c.now.Sub(p.modified) < c.opts.MinAge: // what a cut capture left is there for the next one
		case live == 0:
			m.packs[p.name] = true
		case live < p.size/2:
			sparse = append(sparse, p)
		}
	}
	moved, err := c.evacuate(ctx, sparse)
	if err != nil {
		return nil, err
	}
	for _, p := range moved {
		m.packs[p.name] = true
	}
	if len(m.packs) == 0 || c.opts.DryRun {
		return m, nil
	}
	if m.epoch, err = c.store.epoch(); err != nil {
		return nil, err
	}
	if err := c.store.writeMarks(m); err != nil {
		return nil, err
	}
	m.made = true
	return m, c.store.beginEpoch(m.epoch + 1)
}

// second removes the packs of a first mark whose time has come. It gives nil when that
// mark is done with.
func (c *collector) second(ctx context.Context, m *marks) (*marks, error) {
	if len(m.packs) == 0 {
		return nil, nil
	}
	if m.time.After(c.now) && !c.opts.DryRun { // the clock was wrong, then or now
		m.time = c.now
		if err := c.store.writeMarks(m); err != nil {
			return nil, err
		}
	}
	if c.now.Sub(m.time) < c.opts.MinAge || c.opts.DryRun {
		return m, nil
	}
	empty, err := c.store.drain(m.epoch)
	if err != nil {
		return nil, err
	}
	if !empty {
		c.report.Pinned = true
		return m, nil
	}
	// Whoever relied on these packs has published, or never will.
	if err := c.count(ctx); err != nil {
		return nil, err
	}
	if err := c.removeOrMove(ctx, m); err != nil {
		return nil, err
	}
	if err := c.store.removeMarks(); err != nil {
		return nil, err
	}
	return nil, c.count(ctx)
}

// removeOrMove removes condemned packs of whose needed chunks there are proven copies
// elsewhere. Of sparse ones it makes the copies, and removes those where that can be proven.
func (c *collector) removeOrMove(ctx context.Context, m *marks) error {
	left, err := c.removeProven(ctx, m, m.packs)
	if err != nil {
		return err
	}
	var sparse []*countedPack
	for _, p := range left {
		if p.liveBytes() < p.size/2 {
			sparse = append(sparse, p)
		} else {
			c.keep(p, "versions need it again")
		}
	}
	moved, err := c.evacuate(ctx, sparse)
	if err != nil || len(moved) == 0 {
		return err
	}
	names := map[string]bool{}
	for _, p := range moved {
		names[p.name] = true
	}
	if err := c.count(ctx); err != nil {
		return err
	}
	if left, err = c.removeProven(ctx, m, names); err != nil {
		return err
	}
	for _, p := range left {
		c.keep(p, "what was moved out of it cannot be read back")
		c.store.log.Error("a collection cannot read back what it wrote", "pack", packPath(p.name))
	}
	return nil
}

// removeProven removes those of the named condemned packs that hold no needed chunk but such
// as were read and verified in a pack that stays, and lists the others.
func (c *collector) removeProven(
	ctx context.Context, m *marks, names map[string]bool,
) (left []*countedPack, err error) {
	var remove []*countedPack
	done, total := int64(0), c.census.sizeOf(names)
	for i := range c.census.packs {
		p := &c.census.packs[i]
		if !names[p.name] {
			continue
		}
		if err := c.forget(ctx, p, m); err != nil {
			return nil, err
		}
		if p.liveBytes() == 0 {
			remove = append(remove, p)
		} else {
			left = append(left, p)
		}
		done += p.size
		c.progress(done, total)
	}
	return left, c.remove(ctx, remove)
}

func (c *collector) progress(done, total int64) {
	if c.opts.Progress != nil {
		c.opts.Progress(done, total)
	}
}

func (c *collector) keep(p *countedPack, format string, args ...any) {
	c.report.Kept = append(c.report.Kept, packPath(p.name)+": "+fmt.Sprintf(format, args...))
}

// forget clears the need of those chunks of a condemned pack that were read and verified in
// a pack that stays.
func (c *collector) forget(ctx context.Context, p *countedPack, m *marks) error {
	for i := range p.frames {
		f := &p.frames[i]
		for k := range uint32(f.chunks) {
			if err := ctx.Err(); err != nil {
				return err
			}
			if f.live>>k&1 == 1 && c.elsewhere(c.census.index.ids[f.first+k], m) {
				f.live &^= 1 << k
			}
		}
	}
	return nil
}

// elsewhere tells whether a copy of a chunk was read and verified in a pack that stays.
func (c *collector) elsewhere(id chunk.ID, m *marks) bool {
	for e := range c.census.index.find(id) {
		at := c.census.index.at[e]
		p, f := &c.census.packs[at.pack], c.census.frame(at)
		if m.packs[p.name] {
			continue
		}
		sound, known := c.sound[at]
		if !known {
			_, err := c.reader.frame(id, copyOf{at, p.name, frame{offset: f.offset, size: f.size}})
			if err != nil && !errors.Is(err, errGone) {
				c.store.log.Error("a copy of a chunk cannot be read", "chunk", id, "pack", packPath(p.name), "cause", err)
			}
			sound = err == nil
			c.sound[at] = sound
		}
		if sound {
			return true
		}
	}
	return false
}

// evacuate writes the needed chunks of packs to new packs and lists the packs of which that
// worked. When there is no room it lists none.
func (c *collector) evacuate(ctx context.Context, packs []*countedPack) (moved []*countedPack, err error) {
	if c.opts.DryRun {
		for _, p := range packs {
			c.report.Rewritten += p.liveBytes()
		}
		return packs, nil
	}
	total, done := int64(0), int64(0)
	for _, p := range packs {
		total += p.liveBytes()
	}
	for _, p := range packs {
		var unreadable *unreadableError
		if err = c.evacuatePack(ctx, p); err == nil {
			moved = append(moved, p)
		} else if errors.As(err, &unreadable) {
			c.keep(p, "%v", err)
			err = nil
		} else {
			break
		}
		done += p.liveBytes()
		c.progress(done, total)
	}
	if err == nil {
		err = c.writer.seal()
	}
	if errors.Is(err, chunkstore.ErrFull) {
		c.store.log.Warn("the collection moves no more chunks", "cause", err)
		for _, p := range packs {
			c.keep(p, "there is no room to move what is needed of it")
		}
		return nil, nil
	}
	return moved, err
}

// unreadableError tells that a needed chunk cannot be read, so that its pack must stay.
type unreadableError struct{ err error }

func (e *unreadableError) Error() string { return e.err.Error() }
func (e *unreadableError) Unwrap() error { return e.err }

func (c *collector) evacuatePack(ctx context.Context, p *countedPack) error {
	for _, f := range p.frames {
		if err := ctx.Err(); err != nil {
			return err
		}
		wanted := c.census.liveIDs(f)
		for _, id := range wanted {
			if c.moved[id] {
				continue
			}
			b, _, err := c.reader.chunk(id, c.store.copies(id))
			if errors.Is(err, errGone) {
				err = &chunk.MissingError{ID: id}
			}
			if err != nil {
				return &unreadableError{err}
			}
			if err := c.write(b, func(id chunk.ID) bool { return slices.Contains(wanted, id) && !c.moved[id] }); err != nil {
				return err
			}
		}
	}
	return nil
}

// write puts the wanted chunks of a verified frame into a new pack.
func (c *collector) write(frame []byte, wanted func(chunk.ID) bool) error {
	if c.sieve == nil {
		var err error
		if c.sieve, err = chunk.NewSieve(zstd.SpeedDefault); err != nil {
			return err
		}
	}
	kept, err := c.sieve.Keep(frame, wanted)
	if err != nil {
		return err
	}
	h, err := chunk.ParseFrameHeader(kept)
	if err != nil {
		return err
	}
	if _, err := c.writer.add(kept, h.Entries); err != nil {
		return fmt.Errorf("move chunks: %w", err)
	}
	for _, e := range h.Entries {
		c.moved[e.ID] = true
	}
	c.report.Rewritten += int64(len(kept))
	return nil
}

func (c *collector) remove(ctx context.Context, packs []*countedPack) error {
	var names []string
	freed := int64(0)
	for _, p := range packs {
		names = append(names, p.name)
		freed += p.size
	}
	if err := c.store.removePacks(ctx, names); err != nil {
		return err
	}
	c.report.Removed += len(packs)
	c.report.Freed += freed
	return nil
}

// removePacks takes packs away, some at a time.
func (s *Store) removePacks(ctx context.Context, names []string) error {
	for some := range slices.Chunk(names, 64) {
		if err := s.removeSome(ctx, some); err != nil {
			return err
		}
	}
	return nil
}

// removeSome removes indexes first: an index without a pack is a sign of loss. The packs'
// locks keep others from making the indexes anew meanwhile.
func (s *Store) removeSome(ctx context.Context, names []string) (err error) {
	locks := map[string]io.Closer{}
	defer func() {
		for name, lock := range locks {
			err = errors.Join(err, s.unlock(name, lock))
		}
	}()
	for _, name := range names {
		lock, err := s.waitForLock(ctx, stagedLock(name))
		if err != nil {
			return err
		}
		locks[name] = lock
		if err := s.fs.Remove(idxPath(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := s.fs.SyncDir(indexDir); err != nil {
		return err
	}
	gone := map[string]bool{}
	for _, name := range names {
		if err := s.fs.Remove(packPath(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return errors.Join(err, s.refresh())
		}
		gone[name] = true
	}
	s.dropPacks(gone)
	return s.fs.SyncDir(packsDir)
}
