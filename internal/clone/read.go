package clone

import (
	"context"
	"io"
	"runtime"
	"sync"
	"unsafe"

	"clonecast/internal/chunk"
	"clonecast/internal/image"
	"clonecast/internal/quantity"

	"golang.org/x/sync/errgroup"
)

// maxWorkers bounds the memory on machines with many cores.
const maxWorkers = 8

// Workers is how many goroutines read, hash and compress side by side.
func Workers() int { return min(runtime.GOMAXPROCS(0), maxWorkers) }

// AlignedBuffer makes n bytes at an address that direct I/O takes.
func AlignedBuffer(n int) []byte {
	const alignment = 4096
	b := make([]byte, n+alignment)
	skip := alignment - int(uintptr(unsafe.Pointer(&b[0]))%alignment)
	return b[skip : skip+n : skip+n]
}

// Span is the length from the first piece's start to the last one's end.
func Span(group []Piece) int {
	last := group[len(group)-1]
	return int(last.Start-group[0].Start) + last.Length
}

// Plain gives the bytes of piece i of a group that ReadBatch read.
func Plain(group []Piece, i int, buf []byte) []byte {
	base := int(group[i].Start - group[0].Start)
	return buf[base : base+group[i].Length]
}

// ReadBatch reads a group of neighbouring pieces into buf and zeroes what is not
// allocated. It returns the bytes read. Free blocks between allocated ones are read
// along where that saves calls; if that fails, only what is allocated is asked for.
func ReadBatch(r io.ReaderAt, group []Piece, buf []byte) (int, error) {
	n, allocated := Span(group), 0
	for _, p := range group {
		allocated += int(p.Allocated())
	}
	if 2*allocated >= n {
		if err := ReadFull(r, buf[:n], group[0].Start); err == nil {
			zeroFree(group, buf[:n])
			return n, nil
		}
	}
	clear(buf[:n])
	for _, p := range group {
		base := p.Start - group[0].Start
		for _, e := range p.Extents {
			if err := ReadFull(r, buf[base+e.Start:base+e.End()], p.Start+e.Start); err != nil {
				return 0, err
			}
		}
	}
	return allocated, nil
}

// zeroFree clears the bytes of buf that no extent covers.
func zeroFree(group []Piece, buf []byte) {
	at := quantity.Bytes(0)
	for _, p := range group {
		base := p.Start - group[0].Start
		for _, e := range p.Extents {
			clear(buf[at : base+e.Start])
			at = base + e.End()
		}
	}
	clear(buf[at:])
}

// ReadFull reads all of b; a disk that ends early is an error. Errors are *ReadError.
func ReadFull(r io.ReaderAt, b []byte, off quantity.Bytes) error {
	n, err := r.ReadAt(b, int64(off))
	if n == len(b) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return &ReadError{Offset: off + quantity.Bytes(n), Err: err}
}

// batchPieces is how many chunks are read with one call and then hashed.
const batchPieces = 4

// HashPieces reads the pieces that want accepts (all when nil), side by side, and
// calls report, one call at a time, with whether the disk holds the chunk.
func HashPieces(ctx context.Context, r io.ReaderAt, contents []*image.Content, want func(Piece) bool,
	report func(p Piece, same bool)) error {
	g, ctx := errgroup.WithContext(ctx)
	work := make(chan []Piece)
	g.Go(func() error {
		defer close(work)
		for group := range Batches(contents, batchPieces) {
			if want != nil {
				group = wanted(group, want)
			}
			for len(group) > 0 {
				n := adjacent(group)
				select {
				case work <- group[:n]:
				case <-ctx.Done():
					return ctx.Err()
				}
				group = group[n:]
			}
		}
		return nil
	})
	var mu sync.Mutex
	for range Workers() + 1 {
		g.Go(func() error {
			buf := AlignedBuffer(batchPieces * int(chunk.Size))
			for group := range work {
				if _, err := ReadBatch(r, group, buf); err != nil {
					return err
				}
				for i, p := range group {
					same := Matches(contents[p.Region].Chunks[p.Number], Plain(group, i, buf))
					mu.Lock()
					report(p, same)
					mu.Unlock()
				}
			}
			return nil
		})
	}
	return g.Wait()
}

func wanted(group []Piece, want func(Piece) bool) []Piece {
	var out []Piece
	for _, p := range group {
		if want(p) {
			out = append(out, p)
		}
	}
	return out
}

// adjacent is how many pieces from the first on follow one another without a gap.
func adjacent(group []Piece) int {
	n := 1
	for n < len(group) && group[n].Start == group[n-1].Start+chunk.Size {
		n++
	}
	return n
}
