package disktest

import (
	"io"
	"syscall"

	"clonecast/internal/quantity"
)

// Faulty is a disk with places that cannot be read: a read that touches one fails as the
// kernel's do.
type Faulty struct {
	io.ReaderAt
	Bad []quantity.Extent // normalized
}

// ReadAt implements io.ReaderAt.
func (f *Faulty) ReadAt(p []byte, off int64) (int, error) {
	if quantity.Overlaps(f.Bad, quantity.Extent{Start: quantity.Bytes(off), Length: quantity.Bytes(len(p))}) {
		return 0, syscall.EIO
	}
	return f.ReaderAt.ReadAt(p, off)
}
