package clone

import (
	"context"
	"errors"
	"fmt"
	"io"

	"clonecast/internal/chunk"
	"clonecast/internal/chunkstore"
	"clonecast/internal/image"
	"clonecast/internal/quantity"

	"github.com/klauspost/compress/zstd"
)

// CaptureOptions say what a capture is called and how it goes.
type CaptureOptions struct {
	Image, Comment, Origin, Creator, Engine string

	Force bool // capture a hibernated system all the same
	// FillBadSectors stores zeroes in the place of what cannot be read. Without it the capture
	// fails with an *UnreadableError once everything else was read.
	FillBadSectors bool

	Verify   bool // decode every frame again before it is stored; a store on a server always does
	Level    zstd.EncoderLevel
	Progress Progress

	// stored is LiveSink.Stored, nil when nobody follows.
	stored func(ctx context.Context, ids []chunk.ID) error
}

// CaptureResult is what a capture did.
type CaptureResult struct {
	Version   image.Version
	Allocated quantity.Bytes // bytes that the version stores
	Read      quantity.Bytes // bytes read from the disk
	Stored    quantity.Bytes // new bytes in the store, compressed

	Unreadable []*UnreadableError // what was filled, by disk
}

// maxPasses bounds how often a capture is repeated because the store lost chunks
// meanwhile (a server that crashed).
const maxPasses = 3

// Captured is a disk to capture, and what Inspect found on it.
type Captured struct {
	Disk   io.ReaderAt
	Layout *Layout
}

// Capture stores the disk that layout describes as the next version of an image.
func Capture(ctx context.Context, disk io.ReaderAt, layout *Layout, sink Sink, opts CaptureOptions) (CaptureResult, error) {
	return CaptureDisks(ctx, []Captured{{disk, layout}}, sink, opts)
}

// CaptureDisks stores several disks as one version, one after the other.
func captureDisksOld(ctx context.Context, disks []Captured, sink Sink, opts CaptureOptions) (CaptureResult, error) {
	if err := image.CheckName(opts.Image); err != nil {
		return CaptureResult{}, err
	}
	m := &image.Manifest{Image: opts.Image, Comment: opts.Comment, Origin: opts.Origin, Creator: opts.Creator, Engine: opts.Engine}
	for _, c := range disks {
		if err := c.Layout.refusal(opts.Force); err != nil {
			return CaptureResult{}, err
		}
		d, err := c.Layout.manifestDisk(c.Disk)
		if err != nil {
			return CaptureResult{}, err
		}
		m.Disks = append(m.Disks, d)
	}
	if live, ok := sink.(LiveSink); ok {
		if err := live.Outline(ctx, m); err != nil {
			return CaptureResult{}, fmt.Errorf("announce the capture: %w", err)
		}
		opts.stored = live.Stored
	}
	var result CaptureResult
	for pass := 1; ; pass++ {
		result.Unreadable = nil
		err := storeDisks(ctx, disks, m, sink, opts, &result)
		if err != nil {
			return CaptureResult{}, err
		}
		_, result.Version, err = sink.Publish(ctx, m)
		var incomplete *chunkstore.IncompleteError
		if errors.As(err, &incomplete) && pass < maxPasses {
			opts.stored = nil // followers know of all chunks; what they lack comes with the version
			continue
		}
		if err != nil {
			return CaptureResult{}, fmt.Errorf("publish image %s: %w", opts.Image, err)
		}
		return result, nil
	}
}

// storeDisks stores the contents of all disks and adds what that took to the result.
func storeDisks(ctx context.Context, disks []Captured, m *image.Manifest, sink Sink, opts CaptureOptions, result *CaptureResult) error {
	var total, done quantity.Bytes
	for i := range m.Disks {
		for _, c := range contentsOf(&m.Disks[i]) {
			total += c.Allocated()
		}
	}
	result.Allocated = total
	progress := opts.Progress
	for i, c := range disks {
		if progress != nil {
			opts.Progress = func(phase string, n, _ quantity.Bytes) { progress(phase, done+n, total) }
		}
		var part CaptureResult
		reader := newDiscardReader(newBlankReader(c.Disk, c.Layout), c.Layout)
		if err := storeContents(ctx, reader, contentsOf(&m.Disks[i]), sink, opts, &part); err != nil {
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
	var bad *UnreadableError
	if errors.As(err, &bad) {
		bad.Disk = disk
	}
	return err
}

// contentsOf gives pointers to the disk's boot areas and partitions' contents.
func contentsOf(d *image.Disk) []*image.Content {
	var contents []*image.Content
	for i := range d.Boot {
		contents = append(contents, &d.Boot[i])
	}
	for i := range d.Partitions {
		contents = append(contents, &d.Partitions[i].Content)
	}
	return contents
}
