// Package rescue reads what can still be read of a failing disk.
//
// A read that fails is repeated in smaller steps, the smallest several times. What stays unreadable
// becomes zero and is remembered, so that the whole of a disk is read and all that is wrong with it
// is known at once. Whether zeroes will do is the caller's to decide.
package rescue

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

// Reader reads a disk. It may be used by several goroutines.
type Reader struct {
	Disk  io.ReaderAt
	Limit quantity.Bytes // how much may be unreadable; 0 is any

	mu    sync.Mutex
	bad   []quantity.Extent
	total quantity.Bytes
	err   error // the first
}

// steps are the lengths in which a read that failed is repeated, each aligned on the disk. Few
// steps: a disk may take seconds for each sector that it gives up. The smallest is the page of the
// cache, which is read whole or not at all.
var steps = []quantity.Bytes{64 * quantity.KiB, 4 * quantity.KiB}

// tries is how often the smallest step is read before it counts as unreadable.
const tries = 3

// Tolerated ends the reading of a disk that gives nothing any more, unless what is unreadable is to
// be filled.
const Tolerated = 64 * quantity.MiB

// ReadAt reads b; what stays unreadable of it is zero. It fails at the disk's end, and with an
// *UnreadableError where more than Limit is unreadable.
func (r *Reader) ReadAt(b []byte, off int64) (int, error) {
	n, err := r.Disk.ReadAt(b, off)
	if n == len(b) || err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	if err := r.read(b, quantity.Bytes(off), steps); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Batch is clone.ReadBatch for a group that could not be read: only what is allocated is asked for.
func (r *Reader) Batch(group []clone.Piece, buf []byte) (int, error) {
	clear(buf[:clone.Span(group)])
	n := 0
	for _, p := range group {
		base := p.Start - group[0].Start
		for _, e := range p.Extents {
			if err := r.read(buf[base+e.Start:base+e.End()], p.Start+e.Start, steps); err != nil {
				return 0, err
			}
			n += int(e.Length)
		}
	}
	return n, nil
}

// read reads b at off, and if that fails in the given steps.
func (r *Reader) read(b []byte, off quantity.Bytes, steps []quantity.Bytes) error {
	err := clone.ReadFull(r.Disk, b, off)
	if err == nil || errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	if len(steps) == 0 {
		for range tries - 1 {
			if clone.ReadFull(r.Disk, b, off) == nil {
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
func (r *Reader) note(e quantity.Extent, err error) error {
	r.mu.Lock()
	r.bad = append(r.bad, e)
	if r.err == nil {
		r.err = err
	}
	r.total += e.Length
	many := r.Limit > 0 && r.total > r.Limit
	r.mu.Unlock()
	if many {
		return r.Unreadable()
	}
	return nil
}

// Unreadable tells what could not be read; nil when all could. It is an *UnreadableError.
func (r *Reader) Unreadable() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.bad) == 0 {
		return nil
	}
	return &UnreadableError{Extents: quantity.Normalize(slices.Clone(r.bad)), Err: r.err}
}
