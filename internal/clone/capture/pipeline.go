package capture

import (
	"context"
	"fmt"
	"io"
	"slices"

	"clonecast/internal/chunk"
	"clonecast/internal/clone"
	"clonecast/internal/clone/rescue"
	"clonecast/internal/image"
	"clonecast/internal/quantity"

	"golang.org/x/sync/errgroup"
)

// pipeline is one pass of a capture over the disk. Batches go through five stages that
// run side by side, each keeping the disk's order:
//
//	read     the bytes of neighbouring chunks; hash them; ask which the store lacks
//	collect  the lacking ones into frames, the rest is dropped
//	encode   the frames
//	send     them to the store, two at a time
//	account  what became of them, and tell followers
//
// What cannot be read becomes zero, so that the whole disk is read and all that is wrong
// with it is known at once; the capture then fails unless the operator wants the zeroes.
//
// Every stage works in the buffer that the first one filled, and there is a fixed number
// of them: that bounds the memory.
type pipeline struct {
	disk     io.ReaderAt
	contents []*image.Content
	means    Means
	result   Result
	rescue   rescue.Reader
	free     chan *batch
}

// framePieces is how many chunks are read together and compressed into one frame: the
// more, the better they compress.
const framePieces = chunk.MaxFrameChunks

// batch is the buffer of up to framePieces chunks on its way through the stages.
type batch struct {
	group     []clone.Piece
	buf       []byte // plain bytes of the group, then of the entries; its capacity is fixed
	ids       []chunk.ID
	missing   []bool
	read      int
	entries   []chunk.Entry
	frame     []byte
	stored    int64 // bytes that the frame added to the store
	ready     chan struct{}
	announced []chunk.ID // what followers are told once the frame is stored
}

func newPipeline(disk io.ReaderAt, contents []*image.Content, m Means) *pipeline {
	s := &pipeline{disk: disk, contents: contents, means: m, free: make(chan *batch, 2*clone.Workers()+2)}
	s.rescue.Disk = disk
	if !m.FillBadSectors {
		s.rescue.Limit = rescue.Tolerated
	}
	for _, c := range contents {
		c.Chunks = make([]chunk.ID, image.ChunkCount(c.Extents))
		s.result.Allocated += c.Allocated()
	}
	for range cap(s.free) {
		s.free <- &batch{}
	}
	return s
}

// run lets all batches pass through the stages.
func (s *pipeline) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	groups, frames := make(chan *batch), make(chan *batch)
	g.Go(func() error { return s.split(ctx, groups) })
	read := inOrder(ctx, g, groups, clone.Workers(), func() (func(*batch) error, error) {
		return func(b *batch) error { return s.prepare(ctx, b) }, nil
	})
	g.Go(func() error { return s.collect(ctx, read, frames) })
	encoded := inOrder(ctx, g, frames, clone.Workers(), func() (func(*batch) error, error) {
		enc, err := chunk.NewEncoder(s.means.Level)
		return func(b *batch) error {
			if b.frame = b.frame[:0]; len(b.entries) > 0 {
				b.frame = enc.AppendFrame(b.frame, b.entries, b.buf)
			}
			return nil
		}, err
	})
	sent := inOrder(ctx, g, encoded, uploads, func() (func(*batch) error, error) {
		return func(b *batch) error { return s.send(ctx, b) }, nil
	})
	g.Go(func() error { return s.account(ctx, sent) })
	return g.Wait()
}

// inOrder processes the batches that come in with parallel workers, which newWorker makes, and
// hands them on in the order in which they came.
func inOrder(
	ctx context.Context, g *errgroup.Group, in <-chan *batch, workers int, newWorker func() (func(*batch) error, error),
) <-chan *batch {
	work, order, out := make(chan *batch), make(chan *batch, 2*clone.Workers()+2), make(chan *batch)
	g.Go(func() error {
		defer close(work)
		defer close(order)
		for b := range in {
			b.ready = make(chan struct{})
			order <- b // has room for all batches that there are
			if err := send(ctx, work, b); err != nil {
				return err
			}
		}
		return nil
	})
	for range workers {
		g.Go(func() error {
			do, err := newWorker()
			if err != nil {
				return err
			}
			for b := range work {
				if err := do(b); err != nil {
					return err
				}
				close(b.ready)
			}
			return nil
		})
	}
	g.Go(func() error {
		defer close(out)
		for b := range order {
			select {
			case <-b.ready:
			case <-ctx.Done():
				return ctx.Err()
			}
			if err := send(ctx, out, b); err != nil {
				return err
			}
		}
		return nil
	})
	return out
}

func send[T any](ctx context.Context, to chan<- T, v T) error {
	select {
	case to <- v:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// split cuts the contents into groups of pieces, each with a free batch.
func (s *pipeline) split(ctx context.Context, groups chan<- *batch) error {
	defer close(groups)
	for group := range clone.Batches(s.contents, framePieces) {
		select {
		case b := <-s.free:
			b.group = group
			if err := send(ctx, groups, b); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// prepare reads and hashes the batch and asks what the store lacks of it.
func (s *pipeline) prepare(ctx context.Context, b *batch) error {
	if b.buf == nil { // only as many as the disk has work for
		b.buf = clone.AlignedBuffer(framePieces * int(chunk.Size))
	}
	b.buf = b.buf[:cap(b.buf)]
	var err error
	b.read, err = clone.ReadBatch(s.disk, b.group, b.buf)
	if err != nil && ctx.Err() == nil {
		b.read, err = s.rescue.Batch(b.group, b.buf)
	}
	if err != nil {
		return err
	}
	b.ids = b.ids[:0]
	for i := range b.group {
		b.ids = append(b.ids, chunk.Sum(clone.Plain(b.group, i, b.buf)))
	}
	if b.missing, err = s.means.Sink.Missing(ctx, b.ids); err != nil {
		return fmt.Errorf("ask for missing chunks: %w", err)
	}
	if len(b.missing) != len(b.ids) {
		return fmt.Errorf("ask for missing chunks: %d answers for %d chunks", len(b.missing), len(b.ids))
	}
	return nil
}

// collect fills frames with the chunks that the store lacks. A batch that lacks all of
// its chunks becomes a frame as it is.
func (s *pipeline) collect(ctx context.Context, read <-chan *batch, frames chan<- *batch) error {
	defer close(frames)
	var seen seenChunks
	var frame *batch // being filled: neither empty nor full
	var done quantity.Bytes
	waiting := unannounced{wanted: s.means.Followers != nil}
	for b := range read {
		for i, p := range b.group {
			s.contents[p.Region].Chunks[p.Number] = b.ids[i]
			done += p.Allocated()
		}
		s.result.Read += quantity.Bytes(b.read)
		if s.means.Progress != nil {
			s.means.Progress(clone.PhaseRead, done, s.result.Allocated)
		}
		b.keepMissing(&seen)
		waiting.add(b.ids)
		if frame != nil {
			frame.take(b)
			if frame.full() || waiting.many() {
				frame.announced = waiting.storedWith(b)
				if err := send(ctx, frames, frame); err != nil {
					return err
				}
				frame = nil
			}
		}
		switch {
		case frame == nil && (b.full() || len(b.entries) == 0 && waiting.any()):
			b.announced = waiting.all()
			if err := send(ctx, frames, b); err != nil {
				return err
			}
		case len(b.entries) == 0:
			s.free <- b
		default: // no other frame is being filled, or it would have taken these chunks
			frame = b
		}
	}
	if frame != nil {
		frame.announced = waiting.all()
		return send(ctx, frames, frame)
	}
	return nil
}

// keepMissing makes the entries of the chunks to send, and moves their bytes together at
// the start of the buffer.
func (b *batch) keepMissing(seen *seenChunks) {
	b.entries = b.entries[:0]
	at := 0
	for i, id := range b.ids {
		if b.missing[i] && seen.first(id) {
			b.entries = append(b.entries, chunk.Entry{ID: id, Length: b.group[i].Length})
			at += copy(b.buf[at:], clone.Plain(b.group, i, b.buf))
		}
	}
	b.buf = b.buf[:at]
}

func (b *batch) full() bool { return len(b.entries) == framePieces }

// take moves as many chunks of other as there is room for to the end of b.
func (b *batch) take(other *batch) {
	n := min(framePieces-len(b.entries), len(other.entries))
	length := 0
	for _, e := range other.entries[:n] {
		length += e.Length
	}
	b.entries = append(b.entries, other.entries[:n]...)
	b.buf = append(b.buf, other.buf[:length]...)
	other.entries = slices.Delete(other.entries, 0, n)
	other.buf = slices.Delete(other.buf, 0, length)
}

// uploads is how many frames are on their way to the store at once: while one is answered, which takes a round trip
// and a write, the next one goes out.
const uploads = 2

// send puts a batch's frame into the store.
func (s *pipeline) send(ctx context.Context, b *batch) (err error) {
	b.stored = 0
	if len(b.frame) == 0 {
		return nil
	}
	if b.stored, err = s.means.Sink.PutFrame(ctx, b.frame); err != nil {
		return fmt.Errorf("store chunks: %w", err)
	}
	return nil
}

// account adds up what was stored, and tells followers of it in the disk's order.
func (s *pipeline) account(ctx context.Context, sent <-chan *batch) error {
	for b := range sent {
		s.result.Stored += quantity.Bytes(b.stored)
		if len(b.announced) > 0 {
			if err := s.means.Followers.Stored(ctx, b.announced); err != nil {
				return fmt.Errorf("tell followers: %w", err)
			}
			b.announced = nil
		}
		s.free <- b
	}
	return nil
}

// seenChunks remembers the chunks that this pass already sends, so that equal ones on
// their way together go once. It forgets everything when it grows too large: a chunk
// sent twice costs time, never correctness.
type seenChunks map[chunk.ID]struct{}

const maxSeen = 1 << 18

func (s *seenChunks) first(id chunk.ID) bool {
	if _, ok := (*s)[id]; ok {
		return false
	}
	if *s == nil || len(*s) >= maxSeen {
		*s = make(seenChunks)
	}
	(*s)[id] = struct{}{}
	return true
}
