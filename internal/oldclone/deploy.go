package clone

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"clonecast/internal/image"
	"clonecast/internal/partition"
	"clonecast/internal/partition/saved"
	"clonecast/internal/quantity"
)

// DeployOptions say how a deploy goes.
type DeployOptions struct {
	DryRun bool // compare and plan, write nothing
	Verify bool // read back what was written
	Trim   bool // tell a Trimmer which bytes of the partitions that are written are free

	// SaveTable takes the target's old table before the first write, if the table changes
	// or a partition is kept. An error ends the deploy. It is not called for a disk
	// without a table. Disks count from 0.
	SaveTable func(ctx context.Context, disk int, c saved.Copy) error

	// Grow names partitions that take the free room behind them, Grower makes those of
	// their file systems larger that Deploy cannot; without one they stay.
	Grow   image.Grow
	Grower Grower

	// Parent is a version that the disk may have held before, nil when none is known. A
	// DeltaSource then sends differences from those of its chunks that are on the disk.
	Parent *image.Manifest

	Progress Progress
}

// DeployResult is what a deploy did, or with DryRun would do.
type DeployResult struct {
	Compared quantity.Bytes // allocated bytes of the version, all of them compared
	Kept     quantity.Bytes // bytes that the disk held already
	Differ   quantity.Bytes // bytes of chunks that differ, table and swap headers
	Written  quantity.Bytes // bytes written
	Fetched  quantity.Bytes // bytes of frames from the source
	Verified quantity.Bytes // bytes read back
	Trimmed  quantity.Bytes // free bytes that the disk was told of
	Grown    []Grown        // the partitions that were to grow
}

// Add adds the figures of another disk.
func (r *DeployResult) Add(o DeployResult) {
	r.Compared += o.Compared
	r.Kept += o.Kept
	r.Differ += o.Differ
	r.Written += o.Written
	r.Fetched += o.Fetched
	r.Verified += o.Verified
	r.Grown = append(r.Grown, o.Grown...)
	r.Trimmed += o.Trimmed
}

// deploy is one running deploy.
type deploy struct {
	number   int // of the disk, from 0
	disk     *image.Disk
	target   Target
	source   Source
	geometry Geometry
	opts     DeployOptions

	contents []*image.Content
	isHead   []bool          // by content: its first bytes are written last
	differ   [][]bool        // by content and chunk: must be written
	delta    []bool          // by content: most of it was kept, write only blocks that differ
	finals   []final         // swap headers and table, in the order of writing
	table    []final         // those of the table
	old      partition.Table // the target's, if a partition is kept
	wipes    []final         // stale signatures to zero

	lengths map[int]quantity.Bytes // of partitions that grow, by number

	heads headStore

	mu     sync.Mutex // guards result while workers write
	result DeployResult
}

// final is a small run of bytes that is written at the end.
type final struct {
	start quantity.Bytes
	data  []byte
}

func newDeploy(number int, d *image.Disk, t Target, g Geometry, source Source, opts DeployOptions) (*deploy, error) {
	if err := fits(d, g); err != nil {
		return nil, err
	}
	old, err := keepable(d, t, g)
	if err != nil {
		return nil, err
	}
	dep := &deploy{number: number, old: old, disk: d, target: t, source: source, geometry: g, opts: opts, contents: contentsOf(d)}
	for i, c := range dep.contents {
		dep.isHead = append(dep.isHead, i >= len(d.Boot))
		dep.differ = append(dep.differ, make([]bool, len(c.Chunks)))
	}
	dep.delta = make([]bool, len(dep.contents))
	if dep.result.Grown, err = PlanGrowth(d, g, opts.Grow[number]); err != nil {
		return nil, err
	}
	dep.lengths = lengthsOf(dep.result.Grown)
	swaps, table, err := finals(d, g, dep.lengths)
	if err != nil {
		return nil, err
	}
	dep.finals, dep.table = append(swaps, table...), table
	return dep, nil
}

// fits refuses a target that cannot hold the disk as it is.
func fits(d *image.Disk, g Geometry) error {
	if d.LogicalSector != g.LogicalSector {
		return &RefusedError{
			Reason: fmt.Sprintf("the image was made on sectors of %d bytes, the target has sectors of %d bytes", d.LogicalSector, g.LogicalSector),
			Remedy: "use a disk with the same logical sector size; many NVMe disks can be reformatted with `nvme format --lbaf`",
		}
	}
	if need := needs(d); g.Size < need {
		return &RefusedError{
			Reason: fmt.Sprintf("the target has %v (%d bytes), the image needs %v (%d bytes)", g.Size, int64(g.Size), need, int64(need)),
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

// compare finds what differs: chunks, finals, stale signatures.
func (d *deploy) compare(ctx context.Context) error {
	if err := d.compareChunks(ctx); err != nil {
		return err
	}
	for _, f := range d.finals {
		same, err := d.holds(f)
		if err != nil {
			return err
		}
		if !same {
			d.result.Differ += quantity.Bytes(len(f.data))
		}
	}
	var err error
	if d.wipes, err = d.staleSignatures(); err != nil {
		return err
	}
	for _, w := range d.wipes {
		d.result.Differ += quantity.Bytes(len(w.data))
	}
	return nil
}

func (d *deploy) compareChunks(ctx context.Context) error {
	var total quantity.Bytes
	for _, c := range d.contents {
		total += c.Allocated()
	}
	kept := make([]int, len(d.contents))
	err := hashPieces(ctx, d.target, d.contents, nil, func(p piece, same bool) {
		n := quantity.Total(p.extents)
		d.result.Compared += n
		if same {
			d.result.Kept += n
			kept[p.region]++
		} else {
			d.result.Differ += n
			d.differ[p.region][p.number] = true
		}
		d.progress(PhaseCompare, d.result.Compared, total)
	})
	if err != nil {
		return err
	}
	for i, c := range d.contents {
		d.delta[i] = 2*kept[i] > len(c.Chunks)
	}
	return nil
}

// holds tells whether the target has f's bytes already.
func (d *deploy) holds(f final) (bool, error) {
	b := make([]byte, len(f.data))
	if err := readFull(d.target, b, f.start); err != nil {
		return false, err
	}
	return string(b) == string(f.data), nil
}

// invalidate makes the disk unbootable before its first change: the table's first
// sector and GPT headers become zero (where a partition is kept, the boot code only), and
// the first bytes of each partition that will be written. The latter are remembered where
// they need not be fetched.
func (d *deploy) invalidate(ctx context.Context) error {
	leave, err := d.leavesTable()
	if err != nil {
		return err
	}
	if leave {
		err = d.invalidateBootCode()
	} else {
		err = d.invalidateTables()
	}
	if err != nil {
		return err
	}
	if err := d.target.Sync(); err != nil {
		return err
	}
	for i, c := range d.contents {
		if !d.isHead[i] || !touched(d.differ[i]) && !d.bootsFirmware(i) {
			continue
		}
		if err := d.invalidateHead(i, c); err != nil {
			return err
		}
	}
	return d.target.Sync()
}

func touched(differ []bool) bool {
	for _, b := range differ {
		if b {
			return true
		}
	}
	return false
}

const gptMagic = "EFI PART"

func (d *deploy) invalidateTables() error {
	for _, f := range append(d.oldHeaders(), d.finals...) {
		if err := d.invalidateTable(f); err != nil {
			return err
		}
	}
	return nil
}

func (d *deploy) invalidateTable(f final) error {
	sector := int(d.geometry.LogicalSector)
	if d.disk.TableKind == tableNone {
		return nil
	}
	b := make([]byte, len(f.data))
	if err := readFull(d.target, b, f.start); err != nil {
		return err
	}
	for at := 0; at+sector <= len(b); at += sector {
		s := b[at : at+sector]
		first := f.start == 0 && at == 0
		if !first && string(s[:8]) != gptMagic || allZero(s) {
			continue
		}
		if err := d.writeAt(make([]byte, sector), f.start+quantity.Bytes(at)); err != nil {
			return err
		}
	}
	return nil
}

// headLength is how much of a partition is zero until everything else is written.
// It holds the superblock or boot sector of every file system that is cloned.
const headLength = 64 * quantity.KiB

// invalidateHead zeroes the allocated bytes at the start of content i.
func (d *deploy) invalidateHead(i int, c *image.Content) error {
	var head piece
	for p := range pieces(i, c) {
		head = p
		break
	}
	if head.start != c.Start {
		return nil // nothing is allocated there
	}
	buf := alignedBuffer(head.length)
	if _, err := readBatch(d.target, []piece{head}, buf); err != nil {
		return err
	}
	if !d.differ[i][0] {
		d.heads.put(i, head, buf)
	}
	for _, e := range head.extents {
		end := min(e.End(), headLength)
		if e.Start >= end || allZero(buf[e.Start:end]) {
			continue
		}
		if err := d.writeAt(make([]byte, end-e.Start), c.Start+e.Start); err != nil {
			return err
		}
	}
	return nil
}

// verify reads back what was written.
func (d *deploy) verify(ctx context.Context) error {
	if !d.opts.Verify {
		return nil
	}
	if err := d.target.DropCache(); err != nil {
		return err
	}
	var total quantity.Bytes
	for i, c := range d.contents {
		for p := range pieces(i, c) {
			if d.toVerify(p) {
				total += quantity.Total(p.extents)
			}
		}
	}
	var bad error
	err := hashPieces(ctx, d.target, d.contents, d.toVerify, func(p piece, same bool) {
		d.result.Verified += quantity.Total(p.extents)
		if !same && bad == nil {
			bad = &MediumError{Offset: p.start}
		}
		d.progress(PhaseVerify, d.result.Verified, total)
	})
	return errors.Join(err, bad)
}

func (d *deploy) toVerify(p piece) bool {
	return d.differ[p.region][p.number] && !d.heads.has(p)
}

// MediumError reports a disk that gives back other bytes than were written.
type MediumError struct{ Offset quantity.Bytes }

func (e *MediumError) Error() string {
	return fmt.Sprintf("the disk gives back other bytes than were written at byte %d: it is faulty", int64(e.Offset))
}
func (e *MediumError) Hint() string { return failingDisk }

func (d *deploy) flush(context.Context) error {
	return d.target.Sync()
}

// finish writes what makes the disk whole, LBA 0 last, and reads it back.
func (d *deploy) finish(context.Context) error {
	for _, last := range []bool{false, true} {
		for _, h := range d.heads.all() {
			if d.bootsFirmware(h.piece.region) != last {
				continue
			}
			for _, e := range h.piece.extents {
				if err := d.writeDiffering(h.data[e.Start:e.End()], h.piece.start+e.Start); err != nil {
					return err
				}
			}
		}
		if err := d.target.Sync(); err != nil {
			return err
		}
	}
	for _, f := range d.finals {
		if err := d.writeDiffering(f.data, f.start); err != nil {
			return err
		}
		if err := d.target.Sync(); err != nil {
			return err
		}
	}
	if err := d.target.DropCache(); err != nil {
		return err
	}
	for _, f := range d.finals {
		same, err := d.holds(f)
		if err != nil {
			return err
		}
		if !same {
			return &MediumError{Offset: f.start}
		}
	}
	return nil
}

// blockSize is the grain in which a deploy leaves alone what is the same already.
const blockSize = 4096

// writeDiffering writes those blocks of b that the target does not hold at off.
func (d *deploy) writeDiffering(b []byte, off quantity.Bytes) error {
	now := alignedBuffer(len(b))
	if err := readFull(d.target, now, off); err != nil {
		return err
	}
	return d.writeChanged(b, now, off)
}

// writeChanged writes the blocks of b that differ from now, joined where they touch.
func (d *deploy) writeChanged(b, now []byte, off quantity.Bytes) error {
	start := -1
	for at := 0; at <= len(b); at += blockSize {
		end := min(at+blockSize, len(b))
		changed := at < len(b) && string(b[at:end]) != string(now[at:end])
		if changed && start < 0 {
			start = at
		}
		if !changed && start >= 0 {
			if err := d.writeAt(b[start:min(at, len(b))], off+quantity.Bytes(start)); err != nil {
				return err
			}
			start = -1
		}
	}
	if start >= 0 {
		return d.writeAt(b[start:], off+quantity.Bytes(start))
	}
	return nil
}

// writeAt is the only place that writes to the target.
func (d *deploy) writeAt(b []byte, off quantity.Bytes) error {
	n, err := d.target.WriteAt(b, int64(off))
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return &WriteError{Offset: off + quantity.Bytes(n), Err: err}
	}
	d.mu.Lock()
	d.result.Written += quantity.Bytes(n)
	d.mu.Unlock()
	return nil
}

func (d *deploy) progress(phase string, done, total quantity.Bytes) {
	if d.opts.Progress != nil {
		d.opts.Progress(phase, done, total)
	}
}

func allZero(b []byte) bool {
	for len(b) >= len(zeroBlock) {
		if string(b[:len(zeroBlock)]) != zeroBlock {
			return false
		}
		b = b[len(zeroBlock):]
	}
	return string(b) == zeroBlock[:len(b)]
}

var zeroBlock = string(make([]byte, blockSize))
