package clone

import (
	"io"
	"iter"
	"unsafe"

	"clonecast/internal/chunk"
	"clonecast/internal/image"
	"clonecast/internal/quantity"
)

// piece is one chunk's place on the disk.
type piece struct {
	region  int            // index of the content that it belongs to
	number  int            // position in the content's list of chunks
	start   quantity.Bytes // from the start of the disk
	length  int
	extents []quantity.Extent // allocated bytes, from the piece's start
}

// pieces gives the chunks that a content's extents touch, in order.
func pieces(region int, c *image.Content) iter.Seq[piece] {
	return func(yield func(piece) bool) {
		var p piece
		number := 0
		for _, e := range c.Extents {
			for at := e.Start; at < e.End(); {
				base := at / chunk.Size * chunk.Size
				if p.extents == nil || p.start != c.Start+base {
					if p.extents != nil && !yield(p) {
						return
					}
					p = piece{region: region, number: number, start: c.Start + base, length: int(min(chunk.Size, c.Length-base))}
					number++
				}
				end := min(e.End(), base+chunk.Size)
				p.extents = append(p.extents, quantity.Extent{Start: at - base, Length: end - at})
				at = end
			}
		}
		if p.extents != nil {
			yield(p)
		}
	}
}

// batches groups the pieces of contents: up to limit neighbours of one content.
func batches(contents []*image.Content, limit int) iter.Seq[[]piece] {
	return func(yield func([]piece) bool) {
		for i, c := range contents {
			var group []piece
			for p := range pieces(i, c) {
				if len(group) == limit || len(group) > 0 && p.start != group[len(group)-1].start+chunk.Size {
					if !yield(group) {
						return
					}
					group = nil
				}
				group = append(group, p)
			}
			if group != nil && !yield(group) {
				return
			}
		}
	}
}

// alignedBuffer makes n bytes at an address that direct I/O takes.
func alignedBuffer(n int) []byte {
	const alignment = 4096
	b := make([]byte, n+alignment)
	skip := alignment - int(uintptr(unsafe.Pointer(&b[0]))%alignment)
	return b[skip : skip+n : skip+n]
}

// span is the length from the first piece's start to the last one's end.
func span(group []piece) int {
	last := group[len(group)-1]
	return int(last.start-group[0].start) + last.length
}

// readBatch reads a group of neighbouring pieces into buf and zeroes what is not
// allocated. It returns the bytes read. Free blocks between allocated ones are read
// along where that saves calls; if that fails, only what is allocated is asked for.
func readBatch(r io.ReaderAt, group []piece, buf []byte) (int, error) {
	n, allocated := span(group), 0
	for _, p := range group {
		for _, e := range p.extents {
			allocated += int(e.Length)
		}
	}
	if 2*allocated >= n {
		if err := readFull(r, buf[:n], group[0].start); err == nil {
			zeroFree(group, buf[:n])
			return n, nil
		}
	}
	clear(buf[:n])
	for _, p := range group {
		base := p.start - group[0].start
		for _, e := range p.extents {
			if err := readFull(r, buf[base+e.Start:base+e.End()], p.start+e.Start); err != nil {
				return 0, err
			}
		}
	}
	return allocated, nil
}

// zeroFree clears the bytes of buf that no extent covers.
func zeroFree(group []piece, buf []byte) {
	at := quantity.Bytes(0)
	for _, p := range group {
		base := p.start - group[0].start
		for _, e := range p.extents {
			clear(buf[at : base+e.Start])
			at = base + e.End()
		}
	}
	clear(buf[at:])
}

// readFull reads all of b; a disk that ends early is an error.
func readFull(r io.ReaderAt, b []byte, off quantity.Bytes) error {
	n, err := r.ReadAt(b, int64(off))
	if n == len(b) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return &ReadError{Offset: off + quantity.Bytes(n), Err: err}
}

// plain gives the bytes of piece i of a group that readBatch read.
func plain(group []piece, i int, buf []byte) []byte {
	base := int(group[i].start - group[0].start)
	return buf[base : base+group[i].length]
}
