package capture

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"clonecast/internal/clone"
	"clonecast/internal/quantity"
)

// UnreadableError reports bytes of a disk that could not be read, in smaller reads and
// several tries either.
type UnreadableError struct {
	Disk    int               // of the capture, from 0
	Extents []quantity.Extent // from the start of the disk, in order
	Err     error             // of the first of them
}

func (e *UnreadableError) Error() string {
	first := e.Extents[0]
	return fmt.Sprintf("%v of the disk in %d places cannot be read, the first at byte %d: %v",
		quantity.Total(e.Extents), len(e.Extents), int64(first.Start), e.Err)
}
func (e *UnreadableError) Unwrap() error { return e.Err }

// Hint says what to do.
func (e *UnreadableError) Hint() string {
	return "replace the disk; to capture it all the same, with zeroes in these places: --fill-bad-sectors"
}

// rescue reads what can still be read of a failing disk. What cannot becomes zero and is
// remembered.
type rescue struct {
	disk  io.ReaderAt
	limit quantity.Bytes // how much may be unreadable; 0 is any

	mu    sync.Mutex
	bad   []quantity.Extent
	total quantity.Bytes
	err   error // the first
}

// rescueSteps are the lengths in which a read that failed is repeated, each aligned on the
// disk. Few steps: a disk may take seconds for each sector that it gives up. The
// smallest is the page of the cache, which is read whole or not at all.
var rescueSteps = []quantity.Bytes{64 * quantity.KiB, 4 * quantity.KiB}

// rescueTries is how often the smallest step is read before it counts as unreadable.
const rescueTries = 3

// maxUnreadable ends the reading of a disk that gives nothing any more, unless what is
// unreadable is to be filled.
const maxUnreadable = 64 * quantity.MiB

// batch is readBatch for a group that could not be read.
func (r *rescue) batch(group []clone.Piece, buf []byte) (int, error) {
	clear(buf[:clone.Span(group)])
	n := 0
	for _, p := range group {
		base := p.Start - group[0].Start
		for _, e := range p.Extents {
			if err := r.read(buf[base+e.Start:base+e.End()], p.Start+e.Start, rescueSteps); err != nil {
				return 0, err
			}
			n += int(e.Length)
		}
	}
	return n, nil
}

// read reads b at off, and if that fails in the given steps.
func (r *rescue) read(b []byte, off quantity.Bytes, steps []quantity.Bytes) error {
	err := clone.ReadFull(r.disk, b, off)
	if err == nil || errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	if len(steps) == 0 {
		for range rescueTries - 1 {
			if clone.ReadFull(r.disk, b, off) == nil {
				return nil
			}
		}
		clear(b)
		return r.note(quantity.Extent{Start: off, Length: quantity.Bytes(len(b))}, err)
	}
	for len(b) > 0 {
		n := min(int(steps[0]-off%steps[0]), len(b))
		if err := r.read(b[:n], off, steps[1:]); err != nil {
			return err
		}
		b, off = b[n:], off+quantity.Bytes(n)
	}
	return nil
}

// note remembers unreadable bytes. It fails when there are too many.
func (r *rescue) note(e quantity.Extent, err error) error {
	r.mu.Lock()
	r.bad = append(r.bad, e)
	if r.err == nil {
		r.err = err
	}
	r.total += e.Length
	many := r.limit > 0 && r.total > r.limit
	r.mu.Unlock()
	if many {
		return r.unreadable()
	}
	return nil
}

// unreadable tells what could not be read; nil when all could.
func (r *rescue) unreadable() *UnreadableError {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.bad) == 0 {
		return nil
	}
	return &UnreadableError{Extents: quantity.Normalize(slices.Clone(r.bad)), Err: r.err}
}
