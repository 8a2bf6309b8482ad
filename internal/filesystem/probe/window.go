package probe

import (
	"errors"
	"fmt"
	"io"

	"clonecast/internal/quantity"
)

// windowBlock is the unit in which window reads: the marks lie close together.
const windowBlock = 64 * quantity.KiB

// window reads small pieces of a partition and keeps the blocks they lie in. The
// first error sticks; what could not be read is zero.
type window struct {
	r      io.ReaderAt
	size   quantity.Bytes
	blocks map[quantity.Bytes][]byte
	err    error
}

func newWindow(r io.ReaderAt, size quantity.Bytes) *window {
	return &window{r: r, size: size, blocks: map[quantity.Bytes][]byte{}}
}

// bytes gives n bytes at off; what lies outside the partition is zero.
func (w *window) bytes(off, n quantity.Bytes) []byte {
	out := make([]byte, n)
	done := max(0, -off) // in front of the partition
	for done < n && off+done < w.size {
		start := (off + done) / windowBlock * windowBlock
		b := w.block(start)
		inBlock := off + done - start
		if inBlock >= quantity.Bytes(len(b)) {
			break
		}
		done += quantity.Bytes(copy(out[done:], b[inBlock:]))
	}
	return out
}
func (w *window) block(start quantity.Bytes) []byte {
	if b, ok := w.blocks[start]; ok || w.err != nil || start >= w.size {
		return b
	}
	b := make([]byte, min(windowBlock, w.size-start))
	if n, err := w.r.ReadAt(b, int64(start)); n < len(b) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		w.err = fmt.Errorf("read %d bytes at byte %d: %w", len(b), int64(start), err)
		return nil
	}
	w.blocks[start] = b
	return b
}
