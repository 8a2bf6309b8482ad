package clone

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"

	"clonecast/internal/chunk"
	"clonecast/internal/chunkstore"
	"clonecast/internal/image"
	"clonecast/internal/quantity"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"
)

// CaptureOptions say what a capture is called and how it goes.
type CaptureOptions struct {
	Image, Comment, Origin, Creator, Engine string

	Force    bool // capture a hibernated system all the same
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
	reader := newDiscardReader(disk, layout)
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

// batch is a group of pieces on its way through the pipeline.
type batch struct {
	group []piece
	buf   []byte // plain bytes of the group
	pack  []byte // plain bytes of the chunks to send, where they are not all of buf
	frame []byte
	ids   []chunk.ID
	read  int
	err   error
	ready chan struct{}
}

// storeContents reads, hashes, compresses and stores all contents, and fills in their
// chunk ids. Workers take batches side by side; the frames are stored in disk order.
func storeContents(ctx context.Context, disk io.ReaderAt, contents []*image.Content, sink Sink, opts CaptureOptions, result *CaptureResult) error {
	var total quantity.Bytes
	for _, c := range contents {
		c.Chunks = make([]chunk.ID, image.ChunkCount(c.Extents))
		total += c.Allocated()
	}
	result.Allocated = total
	workers := runtime.GOMAXPROCS(0) + 1
	pool := make(chan *batch, 2*workers)
	for range cap(pool) {
		pool <- &batch{buf: alignedBuffer(batchPieces * int(chunk.Size))}
	}
	work, order := make(chan *batch), make(chan *batch, cap(pool))
	seen := &seenChunks{}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(work)
		defer close(order)
		for group := range batches(contents) {
			select {
			case b := <-pool:
				b.group, b.ready = group, make(chan struct{})
				order <- b // has room for the whole pool
				select {
				case work <- b:
				case <-ctx.Done():
					return ctx.Err()
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	for range workers {
		g.Go(func() error {
			enc, err := chunk.NewEncoder(opts.Level)
			if err != nil {
				return err
			}
			for b := range work {
				if b.err = b.prepare(ctx, disk, sink, seen, enc); b.err != nil {
					return b.err
				}
				close(b.ready)
			}
			return nil
		})
	}
	g.Go(func() error {
		var done quantity.Bytes
		for b := range order {
			select {
			case <-b.ready:
			case <-ctx.Done():
				return ctx.Err()
			}
			if len(b.frame) > 0 {
				stored, err := sink.PutFrame(ctx, b.frame)
				if err != nil {
					return fmt.Errorf("store chunks: %w", err)
				}
				result.Stored += quantity.Bytes(stored)
			}
			for i, p := range b.group {
				contents[p.region].Chunks[p.number] = b.ids[i]
				done += quantity.Total(p.extents)
			}
			result.Read += quantity.Bytes(b.read)
			if opts.Progress != nil {
				opts.Progress(PhaseRead, done, total)
			}
			pool <- b
		}
		return nil
	})
	return g.Wait()
}

// prepare reads and hashes the batch and makes the frame of the chunks to send.
func (b *batch) prepare(ctx context.Context, disk io.ReaderAt, sink Sink, seen *seenChunks, enc *chunk.Encoder) error {
	var err error
	if b.read, err = readBatch(disk, b.group, b.buf); err != nil {
		return err
	}
	b.ids, b.frame = b.ids[:0], b.frame[:0]
	for i := range b.group {
		b.ids = append(b.ids, chunk.Sum(plain(b.group, i, b.buf)))
	}
	missing, err := sink.Missing(ctx, b.ids)
	if err != nil {
		return fmt.Errorf("ask for missing chunks: %w", err)
	}
	if len(missing) != len(b.ids) {
		return fmt.Errorf("ask for missing chunks: %d answers for %d chunks", len(missing), len(b.ids))
	}
	var entries []chunk.Entry
	b.pack = b.pack[:0]
	for i, id := range b.ids {
		if missing[i] && seen.first(id) {
			entries = append(entries, chunk.Entry{ID: id, Length: b.group[i].length})
			b.pack = append(b.pack, plain(b.group, i, b.buf)...)
		}
	}
	if len(entries) > 0 {
		b.frame = enc.AppendFrame(b.frame, entries, b.pack)
	}
	return nil
}

// seenChunks remembers the chunks that this pass already sends, so that equal ones on
// their way side by side go once. It forgets everything when it grows too large: a
// chunk sent twice costs time, never correctness.
type seenChunks struct {
	mu  sync.Mutex
	ids map[chunk.ID]struct{}
}

const maxSeen = 1 << 18

func (s *seenChunks) first(id chunk.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.ids[id]; ok {
		return false
	}
	if s.ids == nil || len(s.ids) >= maxSeen {
		s.ids = make(map[chunk.ID]struct{})
	}
	s.ids[id] = struct{}{}
	return true
}
