package clone

import (
	"context"
	"errors"
	"fmt"

	"clonecast/internal/image"
	"clonecast/internal/quantity"
)

// Trimmer is a Target that can be told which bytes nobody needs any more. What they read as
// afterwards is not defined. errors.ErrUnsupported says that it cannot.
type Trimmer interface {
	Trim(start, length quantity.Bytes) error
}

// A disk is told of free bytes in runs of whole blocks and not too short, since a disk may
// ignore those; and not too long, so that a deploy can be cancelled.
const (
	trimGrain    = quantity.Bytes(4096)
	trimShortest = 64 * quantity.KiB
	trimLongest  = quantity.GiB
)

// trim tells the target which bytes of the partitions that were written are free. That
// comes after the chunks are written: what is free now may have been a base.
func (d *deploy) trim(ctx context.Context) error {
	t, ok := d.target.(Trimmer)
	if !ok || !d.opts.Trim {
		return nil
	}
	for i := range d.disk.Partitions {
		for _, e := range d.free(len(d.disk.Boot) + i) {
			for e.Length > 0 {
				if err := ctx.Err(); err != nil {
					return err
				}
				n := min(e.Length, trimLongest)
				err := t.Trim(e.Start, n)
				if errors.Is(err, errors.ErrUnsupported) {
					return nil
				}
				if err != nil {
					return fmt.Errorf("at byte %d: %w", int64(e.Start), err)
				}
				d.result.Trimmed += n
				e = quantity.Extent{Start: e.Start + n, Length: e.Length - n}
			}
		}
	}
	return nil
}

// free lists the bytes of the disk that partition content i leaves free, if all of them are
// ours: the partition is stored by its allocation map, is being written, and nothing else
// has a place in it.
func (d *deploy) free(i int) []quantity.Extent {
	c := d.contents[i]
	if d.disk.Partitions[i-len(d.disk.Boot)].Mode != image.ModeClone || !touched(d.differ[i]) {
		return nil
	}
	overlaps := func(start, length quantity.Bytes) bool { return start < c.Start+c.Length && c.Start < start+length }
	for k, other := range d.contents {
		if k != i && overlaps(other.Start, other.Length) {
			return nil
		}
	}
	for _, f := range d.finals {
		if overlaps(f.start, quantity.Bytes(len(f.data))) {
			return nil
		}
	}
	var out []quantity.Extent
	add := func(start, end quantity.Bytes) {
		start, end = c.Start+start, c.Start+end
		start, end = (start+trimGrain-1)/trimGrain*trimGrain, end/trimGrain*trimGrain
		if end-start >= trimShortest {
			out = append(out, quantity.Extent{Start: start, Length: end - start})
		}
	}
	at := quantity.Bytes(0)
	for _, e := range c.Extents {
		add(at, e.Start)
		at = e.End()
	}
	add(at, c.Length)
	return out
}
