package partition

import (
	"errors"
	"fmt"

	"clonecast/internal/quantity"
)

// ErrNotFound reports that the disk does not carry the format asked for.
var ErrNotFound = errors.New("no such partition table")

// ErrUnsupported reports a scheme that is recognised but not understood well
// enough to say which bytes belong to which partition (Windows dynamic disks).
var ErrUnsupported error = unsupported{}

type unsupported struct{}

func (unsupported) Error() string { return "unsupported partitioning" }

// Hint is the way round.
func (unsupported) Hint() string { return wholeDisk }

// wholeDisk is the way round a table that cannot be used.
const wholeDisk = "to capture the disk as it is, without its table: --whole-disk"

// CorruptError reports a table that contradicts itself or the disk it stands on.
type CorruptError struct {
	Format    Kind
	Structure string // "EBR", "primary header", "partition 3"
	Offset    quantity.Bytes
	Problem   string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("%s: %s at byte %d: %s", e.Format, e.Structure, int64(e.Offset), e.Problem)
}

// Hint is the way round.
func (e *CorruptError) Hint() string { return wholeDisk }

// UnreadableError reports a part of a table that cannot be read and that nothing else can
// stand in for.
type UnreadableError struct {
	Structure string // "sector 0", "EBR"
	Offset    quantity.Bytes
	Err       error // of the disk
}

func (e *UnreadableError) Error() string {
	return fmt.Sprintf("the %s at byte %d cannot be read: %v", e.Structure, int64(e.Offset), e.Err)
}

func (e *UnreadableError) Unwrap() error { return e.Err }

// Hint is the way round.
func (e *UnreadableError) Hint() string {
	return wholeDisk + ", with --fill-bad-sectors for what cannot be read"
}

// SectorSizeError reports a table that counts in other sectors than the disk has: read with the
// disk's, it names the wrong bytes.
type SectorSizeError struct {
	Disk    quantity.SectorSize // logical sectors of the disk
	Counted quantity.SectorSize // in which the table counts
}

func (e *SectorSizeError) Error() string {
	return fmt.Sprintf("the partition table counts in sectors of %d bytes, but the disk has sectors of %d bytes",
		e.Counted, e.Disk)
}

// Hint says how the disk can be read.
func (e *SectorSizeError) Hint() string {
	return fmt.Sprintf("attach it as it was when it was partitioned (in the USB case, or without it), "+
		"or read it through losetup -b %d; %s",
		e.Counted, wholeDisk)
}
