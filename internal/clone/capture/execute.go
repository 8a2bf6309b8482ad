package capture

import (
	"context"
	"errors"
	"fmt"
	"io"

	"clonecast/internal/chunk"
	"clonecast/internal/chunkstore"
	"clonecast/internal/clone"
	"clonecast/internal/clone/rescue"
	"clonecast/internal/image"
	"clonecast/internal/quantity"

	"github.com/klauspost/compress/zstd"
)

// Sink takes a capture. Its methods may be called concurrently.
type Sink interface {
	// Missing tells for each chunk whether it must be sent.
	Missing(ctx context.Context, ids []chunk.ID) ([]bool, error)
	// PutFrame stores a frame and returns how many bytes that added.
	PutFrame(ctx context.Context, frame []byte) (int64, error)
	// Publish makes m a version. A *chunkstore.IncompleteError asks for another pass.
	Publish(ctx context.Context, m *image.Manifest) (envelope []byte, version image.Version, err error)
}

// Followers are machines that become the version while it is being captured.
type Followers interface {
	// Outline tells what will be captured, before any content is read: m without chunk ids.
	Outline(ctx context.Context, m *image.Manifest) error
	// Stored tells the ids of the next chunks of the version, in the manifest's order, once the
	// sink has them.
	Stored(ctx context.Context, ids []chunk.ID) error
}

// Means are how a plan is executed.
type Means struct {
	Sink      Sink
	Followers Followers // nil when nobody follows
	Level     zstd.EncoderLevel
	Progress  clone.Progress

	// FillBadSectors stores zeroes in the place of what cannot be read. Without it the capture
	// fails with an *rescue.UnreadableError once everything else was read.
	FillBadSectors bool
}

// Result is what a capture did.
type Result struct {
	Version   image.Version
	Allocated quantity.Bytes // bytes that the version stores
	Read      quantity.Bytes // bytes read from the disk
	Stored    quantity.Bytes // new bytes in the store, compressed

	Unreadable []*rescue.UnreadableError // what was filled, by disk
}

// maxPasses bounds how often a capture is repeated because the store lost chunks
// meanwhile (a server that crashed).
const maxPasses = 3

// Execute stores the disks that p was made of as the next version of its image, one disk after the
// other.
func Execute(ctx context.Context, p *Plan, disks []Disk, m Means) (Result, error) {
	if m.Followers != nil {
		if err := m.Followers.Outline(ctx, p.Manifest); err != nil {
			return Result{}, fmt.Errorf("announce the capture: %w", err)
		}
	}
	var result Result
	for pass := 1; ; pass++ {
		result.Unreadable = nil
		err := storeDisks(ctx, disks, p.Manifest, m, &result)
		if err != nil {
			return Result{}, err
		}
		_, result.Version, err = m.Sink.Publish(ctx, p.Manifest)
		var incomplete *chunkstore.IncompleteError
		if errors.As(err, &incomplete) && pass < maxPasses {
			m.Followers = nil // they know of all chunks; what they lack comes with the version
			continue
		}
		if err != nil {
			return Result{}, fmt.Errorf("publish image %s: %w", p.Manifest.Image, err)
		}
		return result, nil
	}
}

// Run makes the plan for disks and executes it.
func Run(ctx context.Context, disks []Disk, opts Options, m Means) (Result, error) {
	p, err := NewPlan(disks, opts)
	if err != nil {
		return Result{}, err
	}
	return Execute(ctx, p, disks, m)
}

// storeDisks stores the contents of all disks and adds what that took to the result.
func storeDisks(ctx context.Context, disks []Disk, manifest *image.Manifest, m Means, result *Result) error {
	var total, done quantity.Bytes
	for c := range manifest.Regions() {
		total += c.Allocated()
	}
	result.Allocated = total
	progress := m.Progress
	for i, disk := range disks {
		if progress != nil {
			m.Progress = func(phase string, n, _ quantity.Bytes) { progress(phase, done+n, total) }
		}
		reader := newDiscardReader(newBlankReader(disk.Reader, disk.Layout), disk.Layout)
		part, err := storeContents(ctx, reader, clone.Contents(&manifest.Disks[i]), m)
		if err != nil {
			return unreadableOf(err, i)
		}
		done += part.Allocated
		result.Read += part.Read - reader.filled()
		result.Stored += part.Stored
		for _, bad := range part.Unreadable {
			bad.Disk = i
			result.Unreadable = append(result.Unreadable, bad)
		}
	}
	return nil
}

// unreadableOf says of which disk of the capture an UnreadableError tells.
func unreadableOf(err error, disk int) error {
	var bad *rescue.UnreadableError
	if errors.As(err, &bad) {
		bad.Disk = disk
	}
	return err
}

// storeContents reads, hashes, compresses and stores all contents of a disk, and fills in their
// chunk ids.
func storeContents(ctx context.Context, disk io.ReaderAt, contents []*image.Content, m Means) (Result, error) {
	s := newPipeline(disk, contents, m)
	if err := s.run(ctx); err != nil {
		return Result{}, err
	}
	var bad *rescue.UnreadableError
	if err := s.rescue.Unreadable(); errors.As(err, &bad) {
		if !m.FillBadSectors {
			return Result{}, err
		}
		s.result.Unreadable = append(s.result.Unreadable, bad)
	}
	return s.result, nil
}
