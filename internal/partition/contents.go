package partition

import (
	"bytes"
	"fmt"
	"io"

	"clonecast/internal/quantity"
)

// Contents reads saved table sectors as if they were the disk; what was not saved
// is zero.
type Contents []Content

// ReadAt implements io.ReaderAt.
func (c Contents) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, io.ErrUnexpectedEOF
	}
	clear(p)
	for _, s := range c {
		if rel := off - int64(s.Start); rel >= 0 && rel < int64(len(s.Data)) {
			copy(p, s.Data[rel:])
		} else if rel < 0 && -rel < int64(len(p)) {
			copy(p[-rel:], s.Data)
		}
	}
	return len(p), nil
}

// Clone gives sectors that can be changed without changing c's.
func (c Contents) Clone() Contents {
	out := make(Contents, len(c))
	for i, s := range c {
		out[i] = Content{Start: s.Start, Data: bytes.Clone(s.Data)}
	}
	return out
}

// Put writes b over the saved sectors at off, all of which must be saved in one run.
func (c Contents) Put(off quantity.Bytes, b []byte) error {
	for _, s := range c {
		if rel := off - s.Start; rel >= 0 && rel <= quantity.Bytes(len(s.Data)-len(b)) {
			copy(s.Data[rel:], b)
			return nil
		}
	}
	return fmt.Errorf("the %d bytes at byte %d are not among the saved table sectors", len(b), int64(off))
}
