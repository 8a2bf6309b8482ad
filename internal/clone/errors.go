package clone

import (
	"fmt"

	"clonecast/internal/quantity"
)

// RefusedError says that nothing was done because it would be wrong or unsafe.
type RefusedError struct {
	Reason string
	Remedy string
}

func (e *RefusedError) Error() string { return e.Reason }

// ReadError reports bytes of a disk that cannot be read.
type ReadError struct {
	Offset quantity.Bytes
	Err    error
}

func (e *ReadError) Error() string {
	return fmt.Sprintf("read disk at byte %d: %v", int64(e.Offset), e.Err)
}
func (e *ReadError) Unwrap() error { return e.Err }
func (e *ReadError) Hint() string  { return failingDisk }

// WriteError reports bytes of a disk that cannot be written.
type WriteError struct {
	Offset quantity.Bytes
	Err    error
}

func (e *WriteError) Error() string {
	return fmt.Sprintf("write disk at byte %d: %v", int64(e.Offset), e.Err)
}
func (e *WriteError) Unwrap() error { return e.Err }
func (e *WriteError) Hint() string  { return failingDisk }

// MediumError reports a disk that gives back other bytes than were written.
type MediumError struct{ Offset quantity.Bytes }

func (e *MediumError) Error() string {
	return fmt.Sprintf("the disk gives back other bytes than were written at byte %d: it is faulty", int64(e.Offset))
}
func (e *MediumError) Hint() string { return failingDisk }

// failingDisk is what to do about a disk that does not read or write.
const failingDisk = "the disk is probably failing; test it (SMART) and replace it"
