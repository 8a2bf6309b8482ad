package filesystem

import (
	"errors"
	"fmt"
	"io"

	"clonecast/internal/quantity"
)

// ReadFull fills b from r at off. The end of r inside b is io.ErrUnexpectedEOF.
func ReadFull(r io.ReaderAt, b []byte, off quantity.Bytes) error {
	n, err := r.ReadAt(b, int64(off))
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read %d bytes at byte %d: %w", len(b), int64(off), err)
}
