// Package deploy makes targets hold the disks of a version.
//
// The target itself is the state; no progress file is trusted. NewPlan reads and decides, Execute
// does what the Plan says:
//
//	compare     read what the target holds: every chunk that matches already is kept
//	save table  hand out the old table, if it changes
//	prepare     let a source that has its own order wait until chunks can come
//	invalidate  zero the table; flush
//	withhold    zero the first bytes of each partition to be written; flush
//	wipe        zero stale marks of the target's old life
//	fetch       fetch and verify the chunks that differ, write their allocated bytes
//	trim        tell the disk which bytes are free, if wanted; flush
//	verify      read back what was written
//	finish      first chunks of partitions, swap headers; flush; table, LBA 0 last; flush
//	grow        make file systems as large as the partitions that became longer
//
// Where a partition is kept, the boot code goes instead of the table (keep.go). Of several disks
// each step is done for all before the next one begins, and the first disk is finished last.
//
// A disk that is cut anywhere before the last step does not boot, and the same call finishes it. If
// nothing differs nothing is written. Bytes outside the allocated extents are not touched, but for
// marks of file systems that would otherwise come alive, and free bytes of the partitions that
// are written, which may be trimmed.
package deploy

import (
	"context"
	"fmt"
	"io"

	"clonecast/internal/chunk"
	"clonecast/internal/clone"
	"clonecast/internal/image"
	"clonecast/internal/partition"
	"clonecast/internal/partition/saved"
	"clonecast/internal/quantity"
)

// Target is a disk that a deploy writes.
type Target interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
	// DropCache makes later reads come from the medium.
	DropCache() error
	// Trim tells the disk which bytes nobody needs any more. What they read as afterwards is not
	// defined. errors.ErrUnsupported says that it cannot.
	Trim(start, length quantity.Bytes) error
}

// Disk is a disk of a version and the target that is to hold it.
type Disk struct {
	Image    *image.Disk
	Target   Target
	Geometry clone.Geometry
}

// Source is where the chunks come from that a target lacks. What a source can do, its fields say.
type Source struct {
	Name string // for people: "the store"

	// Frames gives frames that together hold every id. See chunkstore.Reader for the promises.
	Frames func(ctx context.Context, ids []chunk.ID, yield func(frame []byte) error) error

	// Plain, if not nil, is used in place of Frames: it gives plain bytes that this process has
	// verified already.
	Plain func(ctx context.Context, ids []chunk.ID, yield func(h chunk.FrameHeader, plain []byte) error) error

	// Deltas, if not nil, gives differences that together hold the chunks and nothing else.
	Deltas func(ctx context.Context, wants []chunk.Want, yield func(delta []byte) error) error

	// Prepare, if not nil, marks a source that gives frames in an order of its own, as a multicast
	// session does: Frames is asked once, for all chunks of all disks. Prepare is told which these
	// are before anything on a disk is changed, and may wait until they can come.
	Prepare func(ctx context.Context, ids []chunk.ID) error
}

// Options say what is wanted of a deploy.
type Options struct {
	Verify bool // read back what was written
	Trim   bool // tell the disks which bytes of the partitions that are written are free
	Show   bool // find out what the targets hold now, for people to see

	// Grow names partitions that take the free room behind them.
	Grow image.Grow
}

// Means are how a plan is executed.
type Means struct {
	Source Source

	// SaveTable takes the target's old table before the first write, if the table changes
	// or a partition is kept. An error ends the deploy. It is not called for a disk
	// without a table. Disks count from 0. Nil when nobody wants it.
	SaveTable func(ctx context.Context, disk int, c saved.Copy) error

	// Begin, if not nil, is told of a disk before the first byte of it is written. An error ends the deploy.
	Begin func(ctx context.Context, disk int) error

	// Grower makes those file systems larger that Execute cannot; without one they stay.
	Grower Grower

	// Parent is a version that the disks may have held before, nil when none is known. A source
	// with Deltas then sends differences from those of its chunks that are on the disk.
	Parent *image.Manifest

	Progress clone.Progress
}

// Result is what a deploy did to a disk.
type Result struct {
	Compared quantity.Bytes // allocated bytes of the version, all of them compared
	Kept     quantity.Bytes // bytes that the disk held already
	Differ   quantity.Bytes // bytes of chunks that differ, table and swap headers
	Written  quantity.Bytes // bytes written
	Fetched  quantity.Bytes // bytes of frames from the source
	Verified quantity.Bytes // bytes read back
	Trimmed  quantity.Bytes // free bytes that the disk was told of
	Grown    []Grown        // the partitions that were to grow
	Whole    bool           // the disk holds the version, what comes after that may have failed
}

// Add adds the figures of another disk.
func (r *Result) Add(o Result) {
	r.Compared += o.Compared
	r.Kept += o.Kept
	r.Differ += o.Differ
	r.Written += o.Written
	r.Fetched += o.Fetched
	r.Verified += o.Verified
	r.Trimmed += o.Trimmed
	r.Grown = append(r.Grown, o.Grown...)
}

// Run makes the plan for disks and executes it. The results are by disk; there are none if a target
// is refused.
func Run(ctx context.Context, disks []Disk, opts Options, m Means) ([]Result, error) {
	p, err := NewPlan(ctx, disks, m.Source, opts, m.Progress)
	if err != nil {
		return nil, err
	}
	return Execute(ctx, p, disks, m)
}

// Fits refuses a target that cannot hold the disk as it is.
func Fits(d *image.Disk, g clone.Geometry) error {
	if d.LogicalSector != g.LogicalSector {
		return &clone.RefusedError{
			Reason: fmt.Sprintf("the image was made on sectors of %d bytes, the target has sectors of %d bytes",
				d.LogicalSector, g.LogicalSector),
			Remedy: "use a disk with the same logical sector size; " +
				"many NVMe disks can be reformatted with `nvme format --lbaf`",
		}
	}
	if need := needs(d); g.Size < need {
		return &clone.RefusedError{
			Reason: fmt.Sprintf("the target has %v (%d bytes), the image needs %v (%d bytes)",
				g.Size, int64(g.Size), need, int64(need)),
			Remedy: "choose a disk at least as large, or capture an image whose partitions end earlier",
		}
	}
	return nil
}

// needs is the size of the smallest disk that holds d. Nothing moves but what a GPT has at
// the end of the disk.
func needs(d *image.Disk) quantity.Bytes {
	var need, tail quantity.Bytes
	for _, c := range d.Contents() {
		need = max(need, c.Start+c.Length)
	}
	for _, a := range d.Table {
		if d.TableKind == string(partition.GPT) && a.Start >= need {
			tail += quantity.Bytes(len(a.Data))
			continue
		}
		need = max(need, a.Start+quantity.Bytes(len(a.Data)))
	}
	return need + tail
}
