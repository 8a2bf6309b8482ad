// Package clone captures disks into versions and deploys versions to disks.
//
// It knows no device and no network, only the interfaces below.
//
// Capture: read the table and boot areas, probe every partition (Inspect), then read the
// allocated extents in disk order. Batches of neighbouring chunks are read, hashed and
// compressed side by side; frames are stored in disk order; the manifest is published
// last.
//
// Deploy: the disk itself is the state, no progress file is trusted.
//
//	compare    read what the target holds, keep every chunk that already matches
//	save       hand out the old table, if it changes
//	prepare    let a WholeSource wait until chunks can come
//	invalidate zero the table and the first bytes of each partition to be written; flush
//	write      fetch and verify the chunks that differ, write their allocated bytes; tell
//	           the disk which bytes are free, if wanted; flush
//	verify     read back what was written
//	finish     first bytes of partitions, swap headers; flush; table, LBA 0 last; flush
//	grow       make file systems as large as the partitions that became longer
//
// Where a partition is kept, the boot code goes instead of the table (kept.go). Of several
// disks each step is done for all before the next one begins (disks.go).
//
// A Follower writes most of a version before its manifest exists (follow.go).
//
// A disk that is cut anywhere before the last step does not boot, and the same call finishes it.
// If nothing differs nothing is written. Bytes outside the allocated extents are not
// touched, but for the signatures of file systems that would otherwise come alive, and
// free bytes of the partitions that are written, which may be trimmed.
package clone

import (
	"context"
	"fmt"
	"io"

	"clonecast/internal/chunk"
	"clonecast/internal/image"
	"clonecast/internal/quantity"
)

// Sink takes a capture.
type Sink interface {
	// Missing tells for each chunk whether it must be sent.
	Missing(ctx context.Context, ids []chunk.ID) ([]bool, error)
	// PutFrame stores a frame and returns how many bytes that added.
	PutFrame(ctx context.Context, frame []byte) (int64, error)
	// Publish makes m a version. A *chunkstore.IncompleteError asks for another pass.
	Publish(ctx context.Context, m *image.Manifest) (envelope []byte, version image.Version, err error)
}

// LiveSink is a Sink that hands a capture on to machines that follow it. See Follower.
type LiveSink interface {
	Sink
	// Outline tells what will be captured, before any content is read: m without chunk ids.
	Outline(ctx context.Context, m *image.Manifest) error
	// Stored tells the ids of the next chunks of the version, in the manifest's order, once the
	// sink has them.
	Stored(ctx context.Context, ids []chunk.ID) error
}

// OwnSink is a Sink in this process that need not verify what the engine has just made.
type OwnSink interface {
	Sink
	// PutOwn is PutFrame without decoding the frame again.
	PutOwn(ctx context.Context, frame []byte) (int64, error)
}

// Source hands out chunks. See chunkstore.Reader for the promises.
type Source interface {
	Frames(ctx context.Context, ids []chunk.ID, yield func(frame []byte) error) error
}

// PlainSource is a Source in this process whose chunks need not be verified again.
type PlainSource interface {
	Source
	// Plain is Frames with the plain bytes of each frame's chunks, verified.
	Plain(ctx context.Context, ids []chunk.ID, yield func(h chunk.FrameHeader, plain []byte) error) error
}

// Target is a disk that a deploy writes.
type Target interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
	// DropCache makes later reads come from the medium.
	DropCache() error
}

// Geometry is what a disk says of itself.
type Geometry struct {
	Size           quantity.Bytes
	LogicalSector  quantity.SectorSize
	PhysicalSector quantity.SectorSize
	Model, Serial  string
}

// Progress is called as work goes on: bytes done of total in a phase. It must be fast.
type Progress func(phase string, done, total quantity.Bytes)

// Phases of Progress.
const (
	PhaseRead    = "read"
	PhaseCompare = "compare"
	PhaseWrite   = "write"
	PhaseVerify  = "verify"
	PhaseFollow  = "follow"
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

// failingDisk is what to do about a disk that does not read or write.
const failingDisk = "the disk is probably failing; test it (SMART) and replace it"
