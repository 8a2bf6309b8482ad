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
var ErrUnsupported = errors.New("unsupported partitioning")

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
