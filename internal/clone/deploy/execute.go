package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"clonecast/internal/chunk"
	"clonecast/internal/clone"
	"clonecast/internal/partition/saved"
	"clonecast/internal/quantity"
)

// Execute does the steps of p on the disks that it was made of. The results are by disk, also when
// a step fails.
func Execute(ctx context.Context, p *Plan, disks []Disk, m Means) ([]Result, error) {
	e := &execution{plan: p, means: m}
	e.written = &counter{phase: clone.PhaseWrite, total: p.lacking(), tell: m.Progress}
	verified := &counter{phase: clone.PhaseVerify, total: p.lacking(), tell: m.Progress}
	for i := range p.Disks {
		plan := &p.Disks[i]
		begin := sync.OnceValue(func() error {
			if m.Begin == nil {
				return nil
			}
			return m.Begin(ctx, i)
		})
		e.disks = append(e.disks, &writing{number: i, plan: plan, target: disks[i].Target, means: m, begin: begin,
			written: e.written, verified: verified,
			result: Result{Compared: plan.Compared, Kept: plan.Kept, Differ: plan.Differ,
				Grown: slices.Clone(plan.Growth)}})
	}
	err := e.run(ctx)
	var results []Result
	for _, d := range e.disks {
		results = append(results, d.result)
	}
	return results, err
}

// execution is a plan being executed.
type execution struct {
	plan  *Plan
	disks []*writing
	means Means

	written *counter // of all disks
}

// writing is what happens to one target.
type writing struct {
	number int
	plan   *DiskPlan
	target Target
	means  Means
	heads  heads        // first chunks that wait for the end
	begin  func() error // before the first write

	written, verified *counter // of all disks

	mu     sync.Mutex // guards result while workers write
	result Result
}

func (e *execution) run(ctx context.Context) error {
	for _, s := range e.plan.Steps {
		var err error
		if s.Disk == AllDisks {
			err = e.step(ctx, s)
		} else {
			err = clone.OfDisk(e.disks[s.Disk].step(ctx, s), s.Disk, len(e.disks))
		}
		if err != nil {
			return fmt.Errorf("%s: %w", s.Do, err)
		}
	}
	return nil
}

// step does what is done for all disks at once.
func (e *execution) step(ctx context.Context, s Step) error {
	switch s.Do {
	case Prepare:
		return e.means.Source.Prepare(ctx, e.ids())
	case Fetch:
		return e.fetchAll(ctx)
	}
	return fmt.Errorf("there is no such step for all disks")
}

// ids are those of the chunks that a source is asked for, each once.
func (e *execution) ids() []chunk.ID {
	var ids []chunk.ID
	seen := map[chunk.ID]bool{}
	for _, d := range e.disks {
		for p := range d.lacking() {
			if id := d.id(p); id != clone.ZeroID(p.Length) && !seen[id] {
				seen[id] = true
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// step does what is done for one disk.
func (w *writing) step(ctx context.Context, s Step) error {
	switch s.Do {
	case SaveTable:
		return w.saveTable(ctx)
	case Invalidate, Wipe:
		return w.patch(s)
	case Withhold:
		return w.withhold(s)
	case Fetch:
		return w.fetch(ctx)
	case Discard:
		return w.trim(ctx)
	case Flush:
		return w.target.Sync()
	case Verify:
		return w.verify(ctx, s)
	case Finish:
		return w.finish(s)
	case Extend:
		return w.grow(ctx)
	}
	return fmt.Errorf("there is no such step for a disk")
}

// saveTable hands out the old table before it is changed.
func (w *writing) saveTable(ctx context.Context) error {
	if w.means.SaveTable == nil {
		return nil
	}
	c, err := saved.Take(w.target, w.plan.Size, w.plan.LogicalSector)
	if err != nil || c.Empty() {
		return err
	}
	c.Model, c.Serial = w.plan.Model, w.plan.Serial
	return w.means.SaveTable(ctx, w.number, c)
}

// patch writes the step's patches. What makes a disk unbootable is flushed.
func (w *writing) patch(s Step) error {
	for _, r := range s.Patches {
		if err := w.writeAt(r.bytes(), r.Start); err != nil {
			return err
		}
	}
	if s.Do == Wipe {
		return nil
	}
	return w.target.Sync()
}

// withhold takes away the first bytes of partitions, and remembers the chunks that need not be fetched.
func (w *writing) withhold(s Step) error {
	for i := range w.plan.Regions {
		head, ok := w.plan.head(i)
		if !ok || w.plan.Regions[i].Write[0] {
			continue
		}
		buf := clone.AlignedBuffer(head.Length)
		if _, err := clone.ReadBatch(w.target, []clone.Piece{head}, buf); err != nil {
			return err
		}
		if !clone.Matches(w.id(head), buf) { // it did when the plan was made
			return &clone.MediumError{Offset: head.Start}
		}
		w.heads.put(head, buf)
	}
	return w.patch(s)
}

// trim tells the target which bytes of the partitions that were written are free. That
// comes after the chunks are written: what is free now may have been a base.
func (w *writing) trim(ctx context.Context) error {
	for i := range w.plan.Regions {
		for _, e := range w.plan.Regions[i].Trim {
			for e.Length > 0 {
				if err := ctx.Err(); err != nil {
					return err
				}
				n := min(e.Length, trimLongest)
				if err := w.begin(); err != nil {
					return err
				}
				err := w.target.Trim(e.Start, n)
				if errors.Is(err, errors.ErrUnsupported) {
					return nil
				}
				if err != nil {
					return fmt.Errorf("at byte %d: %w", int64(e.Start), err)
				}
				w.result.Trimmed += n
				e = quantity.Extent{Start: e.Start + n, Length: e.Length - n}
			}
		}
	}
	return nil
}

// verify reads back what was written.
func (w *writing) verify(ctx context.Context, s Step) error {
	if err := w.target.DropCache(); err != nil {
		return err
	}
	wanted := func(p clone.Piece) bool { return w.plan.Regions[p.Region].Write[p.Number] && !w.heads.has(p) }
	var bad error
	err := clone.HashPieces(ctx, w.target, w.plan.contents(), wanted, func(p clone.Piece, same bool) {
		w.result.Verified += p.Allocated()
		if !same && bad == nil {
			bad = &clone.MediumError{Offset: p.Start}
		}
		w.verified.add(p.Allocated())
	})
	if err := errors.Join(err, bad); err != nil {
		return err
	}
	return w.check(s.Patches)
}

// check finds out whether the medium holds patches.
func (w *writing) check(patches []Patch) error {
	for _, p := range patches {
		same, err := holds(w.target, p)
		if err != nil {
			return err
		}
		if !same {
			return &clone.MediumError{Offset: p.Start}
		}
	}
	return nil
}

// finish writes what makes the disk whole, LBA 0 last, and reads it back: the table is only written
// over first chunks that the medium holds.
func (w *writing) finish(s Step) error {
	for _, firmware := range []bool{false, true} {
		if err := w.putHeads(firmware); err != nil {
			return err
		}
	}
	for _, p := range s.Patches {
		if err := w.writeDiffering(p.bytes(), p.Start); err != nil {
			return err
		}
		if err := w.target.Sync(); err != nil {
			return err
		}
	}
	if err := w.target.DropCache(); err != nil {
		return err
	}
	if err := w.check(s.Patches); err != nil {
		return err
	}
	w.result.Whole = true
	return nil
}

// putHeads writes the first chunks that were withheld, from the firmware or from everybody, and reads
// them back.
func (w *writing) putHeads(firmware bool) error {
	var written []Patch
	for _, h := range w.heads.all() {
		if w.plan.Regions[h.Region].Firmware != firmware {
			continue
		}
		for _, e := range h.Extents {
			p := newPatch(h.Start+e.Start, h.data[e.Start:e.End()], "first chunk")
			if err := w.writeDiffering(p.Data, p.Start); err != nil {
				return err
			}
			written = append(written, p)
		}
	}
	if err := w.target.Sync(); err != nil {
		return err
	}
	if len(written) == 0 {
		return nil
	}
	if err := w.target.DropCache(); err != nil {
		return err
	}
	return w.check(written)
}

// blockSize is the grain in which a deploy leaves alone what is the same already.
const blockSize = 4096

// writeDiffering writes those blocks of b that the target does not hold at off.
func (w *writing) writeDiffering(b []byte, off quantity.Bytes) error {
	now := clone.AlignedBuffer(len(b))
	if err := clone.ReadFull(w.target, now, off); err != nil {
		return err
	}
	return w.writeChanged(b, now, off)
}

// writeChanged writes the blocks of b that differ from now, joined where they touch.
func (w *writing) writeChanged(b, now []byte, off quantity.Bytes) error {
	start := -1
	for at := 0; at <= len(b); at += blockSize {
		end := min(at+blockSize, len(b))
		changed := at < len(b) && string(b[at:end]) != string(now[at:end])
		if changed && start < 0 {
			start = at
		}
		if !changed && start >= 0 {
			if err := w.writeAt(b[start:min(at, len(b))], off+quantity.Bytes(start)); err != nil {
				return err
			}
			start = -1
		}
	}
	if start >= 0 {
		return w.writeAt(b[start:], off+quantity.Bytes(start))
	}
	return nil
}

// writeAt is the only place that writes to the target.
func (w *writing) writeAt(b []byte, off quantity.Bytes) error {
	if err := w.begin(); err != nil {
		return err
	}
	n, err := w.target.WriteAt(b, int64(off))
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return &clone.WriteError{Offset: off + quantity.Bytes(n), Err: err}
	}
	w.mu.Lock()
	w.result.Written += quantity.Bytes(n)
	w.mu.Unlock()
	return nil
}

// counter counts bytes of a phase for Progress.
type counter struct {
	phase string
	total quantity.Bytes
	tell  clone.Progress // may be nil

	mu   sync.Mutex
	done quantity.Bytes
}

func (c *counter) add(n quantity.Bytes) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done += n
	if c.tell != nil {
		c.tell(c.phase, c.done, c.total)
	}
}
