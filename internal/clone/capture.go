package clone

import (
	"context"
	"errors"
	"fmt"
	"io"

	"clonecast/internal/chunkstore"
	"clonecast/internal/image"
	"clonecast/internal/quantity"

	"github.com/klauspost/compress/zstd"
)

// CaptureOptions say what a capture is called and how it goes.
type CaptureOptions struct {
	Image, Comment, Origin, Creator, Engine string

	Force    bool // capture a hibernated system all the same
	Verify   bool // decode every frame again before it is stored; a store on a server always does
	Level    zstd.EncoderLevel
	Progress Progress
}

// CaptureResult is what a capture did.
type CaptureResult struct {
	Version   image.Version
	Allocated quantity.Bytes // bytes that the version stores
	Read      quantity.Bytes // bytes read from the disk
	Stored    quantity.Bytes // new bytes in the store, compressed
}

// maxPasses bounds how often a capture is repeated because the store lost chunks
// meanwhile (a server that crashed).
const maxPasses = 3

// Capture stores the disk that layout describes as the next version of an image.
func Capture(ctx context.Context, disk io.ReaderAt, layout *Layout, sink Sink, opts CaptureOptions) (CaptureResult, error) {
	if err := image.CheckName(opts.Image); err != nil {
		return CaptureResult{}, err
	}
	if err := layout.refusal(opts.Force); err != nil {
		return CaptureResult{}, err
	}
	d, err := layout.manifestDisk(disk)
	if err != nil {
		return CaptureResult{}, err
	}
	m := &image.Manifest{Image: opts.Image, Comment: opts.Comment, Origin: opts.Origin, Creator: opts.Creator,
		Engine: opts.Engine, Disks: []image.Disk{d}}
	reader := newDiscardReader(newBlankReader(disk, layout), layout)
	var result CaptureResult
	for pass := 1; ; pass++ {
		if err := storeContents(ctx, reader, contentsOf(&m.Disks[0]), sink, opts, &result); err != nil {
			return CaptureResult{}, err
		}
		_, result.Version, err = sink.Publish(ctx, m)
		var incomplete *chunkstore.IncompleteError
		if errors.As(err, &incomplete) && pass < maxPasses {
			continue
		}
		if err != nil {
			return CaptureResult{}, fmt.Errorf("publish image %s: %w", opts.Image, err)
		}
		result.Read -= reader.filled()
		return result, nil
	}
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
