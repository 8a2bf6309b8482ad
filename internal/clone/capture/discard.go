package capture

import (
	"cmp"
	"io"
	"slices"
	"sync/atomic"

	"clonecast/internal/clone/layout"
	"clonecast/internal/quantity"
)

// discardReader reads a disk as a capture sees it: bytes that are not content
// (filesystem.Discard) are not read, their fill byte comes in their place.
type discardReader struct {
	disk  io.ReaderAt
	fills []fill // by start, apart
	count atomic.Int64
}

// fill is a run of bytes of the disk that all have one value.
type fill struct {
	quantity.Extent
	value byte
}

func newDiscardReader(disk io.ReaderAt, l *layout.Layout) *discardReader {
	r := &discardReader{disk: disk}
	for i := range l.Partitions {
		p := &l.Partitions[i]
		for _, d := range p.Discards() {
			for _, e := range d.Extents {
				r.fills = append(r.fills, fill{quantity.Extent{Start: p.Start + e.Start, Length: e.Length}, d.Fill})
			}
		}
	}
	slices.SortFunc(r.fills, func(a, b fill) int { return cmp.Compare(a.Start, b.Start) })
	return r
}

// filled is how many of the bytes handed out so far were not read.
func (r *discardReader) filled() quantity.Bytes { return quantity.Bytes(r.count.Load()) }

func (r *discardReader) ReadAt(b []byte, off int64) (int, error) {
	start := quantity.Bytes(off)
	next, _ := slices.BinarySearchFunc(r.fills, start, func(f fill, at quantity.Bytes) int {
		if f.End() <= at {
			return -1
		}
		return 1
	})
	done := 0
	for _, f := range r.fills[next:] {
		from, to := int(max(f.Start-start, 0)), int(min(f.End()-start, quantity.Bytes(len(b))))
		if f.Start-start >= quantity.Bytes(len(b)) {
			break
		}
		if n, err := r.read(b[done:from], off+int64(done)); n < from-done {
			return done + n, err
		}
		for i := range b[from:to] {
			b[from+i] = f.value
		}
		r.count.Add(int64(to - from))
		done = to
	}
	n, err := r.read(b[done:], off+int64(done))
	return done + n, err
}

// read reads from the disk what is not empty: a read of nothing may still fail.
func (r *discardReader) read(b []byte, off int64) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	return r.disk.ReadAt(b, off)
}
