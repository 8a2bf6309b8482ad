package clone

import (
	"bytes"
	"cmp"
	"context"
	"iter"
	"slices"
	"sync"

	"clonecast/internal/chunk"
	"clonecast/internal/quantity"

	"golang.org/x/sync/errgroup"
)

// fetchPieces is how many chunks one call to the source asks for. Frames that lie across
// the border of two calls come twice: the more chunks a call, the fewer.
const fetchPieces = 1024

// deltaPieces is the same for chunks that are fetched as differences: the bases of all of them
// are in memory meanwhile.
const deltaPieces = 32

// writers is how many calls run side by side, so that fetching, decoding and writing
// overlap also when each of them waits.
const writers = 4

// write brings every chunk that differs onto the disk, but for the heads, which it keeps.
func (d *deploy) write(ctx context.Context) error {
	if err := d.wipe(); err != nil {
		return err
	}
	bases := newBases(d, d.opts.Parent)
	g, ctx := errgroup.WithContext(ctx)
	work := make(chan []piece)
	g.Go(func() error {
		defer close(work)
		for group := range d.groups() {
			if err := send(ctx, work, group); err != nil {
				return err
			}
		}
		return nil
	})
	counter := &writeCounter{tell: d.opts.Progress, total: d.toWrite()}
	for range writers {
		g.Go(func() error {
			w, err := d.newWriter(counter, bases)
			if err != nil {
				return err
			}
			defer w.close()
			for group := range work {
				if err := w.group(ctx, group); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// wipe zeroes stale signatures.
func (d *deploy) wipe() error {
	for _, w := range d.wipes {
		if err := d.writeAt(w.data, w.start); err != nil {
			return err
		}
	}
	return nil
}

// toWrite is the bytes of the chunks that differ.
func (d *deploy) toWrite() (total quantity.Bytes) {
	for p := range d.lacking() {
		total += quantity.Total(p.extents)
	}
	return total
}

// lacking gives the pieces that differ.
func (d *deploy) lacking() iter.Seq[piece] {
	return func(yield func(piece) bool) {
		for i, c := range d.contents {
			for p := range pieces(i, c) {
				if d.differ[i][p.number] && !yield(p) {
					return
				}
			}
		}
	}
}

// groups gives the pieces that differ in groups of one call to the source each: of one
// partition, so that all of a group are fetched as differences or none.
func (d *deploy) groups() iter.Seq[[]piece] {
	return func(yield func([]piece) bool) {
		var group []piece
		for p := range d.lacking() {
			if len(group) > 0 && group[0].region != p.region {
				if !yield(group) {
					return
				}
				group = nil
			}
			limit := fetchPieces
			if d.delta[p.region] {
				limit = deltaPieces
			}
			if group = append(group, p); len(group) == limit {
				if !yield(group) {
					return
				}
				group = nil
			}
		}
		if len(group) > 0 {
			yield(group)
		}
	}
}

// writer is one worker of the write phase.
type writer struct {
	*deploy
	decoder *chunk.Decoder
	counter *writeCounter
	bases   bases
	plain   []byte // of the frame at hand
	now     []byte // what the disk holds at the piece at hand
	at      map[chunk.ID][]piece

	deltaDecoder *chunk.DeltaDecoder // nil until it is needed, as is held
	held         []byte              // what the disk holds at the places of a group
}

func (d *deploy) newWriter(counter *writeCounter, bases bases) (*writer, error) {
	decoder, err := chunk.NewDecoder()
	if err != nil {
		return nil, err
	}
	return &writer{deploy: d, decoder: decoder, counter: counter, bases: bases, plain: alignedBuffer(framePieces * int(chunk.Size))}, nil
}

func (w *writer) close() {
	w.decoder.Close()
	if w.deltaDecoder != nil {
		w.deltaDecoder.Close()
	}
}

// group fetches the chunks of a group and writes them.
func (w *writer) group(ctx context.Context, group []piece) error {
	ids, err := w.expect(slices.Values(group))
	if err != nil || len(ids) == 0 {
		return err
	}
	if err := w.fetch(ctx, group, ids); err != nil {
		return err
	}
	return w.came()
}

// expect notes which chunks belong where and gives their ids. Those of zeroes it writes.
func (w *writer) expect(group iter.Seq[piece]) (ids []chunk.ID, err error) {
	w.at = make(map[chunk.ID][]piece)
	for p := range group {
		id := w.contents[p.region].Chunks[p.number]
		if id == zeroID(p.length) {
			if err := w.piece(p, make([]byte, p.length)); err != nil {
				return nil, err
			}
			continue
		}
		if w.at[id] == nil {
			ids = append(ids, id)
		}
		w.at[id] = append(w.at[id], p)
	}
	return ids, nil
}

// came reports a chunk that is still expected.
func (w *writer) came() error {
	for id := range w.at {
		return &chunk.MissingError{ID: id}
	}
	return nil
}

// fetch gets verified chunks and writes them.
func (w *writer) fetch(ctx context.Context, group []piece, ids []chunk.ID) error {
	switch s := w.source.(type) {
	case PlainSource:
		return s.Plain(ctx, ids, func(h chunk.FrameHeader, plain []byte) error {
			w.fetched(h.Size())
			return w.chunks(h, plain)
		})
	case DeltaSource:
		if w.delta[group[0].region] {
			return w.deltas(ctx, s, ids)
		}
	}
	return w.source.Frames(ctx, ids, func(frame []byte) error {
		h, plain, err := w.decoder.Decode(frame, w.plain)
		if err != nil {
			return err
		}
		w.plain = plain
		w.fetched(len(frame))
		return w.chunks(h, plain)
	})
}

// chunks writes those chunks of a frame that the group waits for.
func (w *writer) chunks(h chunk.FrameHeader, plain []byte) error {
	at := 0
	for _, e := range h.Entries {
		for _, p := range w.at[e.ID] {
			if p.length != e.Length {
				return &chunk.InvalidError{ID: e.ID, Problem: "its length differs from the manifest's"}
			}
			if err := w.piece(p, plain[at:at+e.Length]); err != nil {
				return err
			}
		}
		delete(w.at, e.ID)
		at += e.Length
	}
	return nil
}

// piece writes one verified chunk: all of its allocated bytes, or where most of the region
// was kept only the blocks that differ. The start of a partition is kept for the end.
func (w *writer) piece(p piece, b []byte) error {
	defer w.counter.done(quantity.Total(p.extents))
	if w.isHead[p.region] && p.start == w.contents[p.region].Start {
		w.heads.put(p.region, p, bytes.Clone(b))
		return nil
	}
	if !w.delta[p.region] {
		for _, e := range joinNear(p.extents) {
			if err := w.writeAt(b[e.Start:e.End()], p.start+e.Start); err != nil {
				return err
			}
		}
		return nil
	}
	if w.now == nil {
		w.now = alignedBuffer(int(chunk.Size))
	}
	now := w.now[:p.length]
	if _, err := readBatch(w.target, []piece{p}, now); err != nil {
		return err
	}
	for _, e := range p.extents {
		if err := w.writeChanged(b[e.Start:e.End()], now[e.Start:e.End()], p.start+e.Start); err != nil {
			return err
		}
	}
	return nil
}

// joinNear joins extents that only a few free blocks part: zeroes in free blocks do no
// harm, and one write is cheaper than two.
func joinNear(extents []quantity.Extent) []quantity.Extent {
	const near = 16 * quantity.KiB
	var out []quantity.Extent
	for _, e := range extents {
		if n := len(out); n > 0 && e.Start-out[n-1].End() <= near {
			out[n-1].Length = e.End() - out[n-1].Start
			continue
		}
		out = append(out, e)
	}
	return out
}

// writeCounter counts what writers do.
type writeCounter struct {
	tell  Progress // may be nil
	total quantity.Bytes

	mu      sync.Mutex
	written quantity.Bytes
}

func (c *writeCounter) done(n quantity.Bytes) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.written += n
	if c.tell != nil {
		c.tell(PhaseWrite, c.written, c.total)
	}
}

func (d *deploy) fetched(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.result.Fetched += quantity.Bytes(n)
}

// headStore keeps the first chunks of partitions until the end.
type headStore struct {
	mu    sync.Mutex
	heads map[int]head
}

type head struct {
	piece piece
	data  []byte
}

func (s *headStore) put(region int, p piece, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.heads == nil {
		s.heads = make(map[int]head)
	}
	s.heads[region] = head{p, data}
}

func (s *headStore) has(p piece) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	h, ok := s.heads[p.region]
	return ok && h.piece.number == p.number
}

// all gives the heads from the disk's start on.
func (s *headStore) all() []head {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []head
	for _, h := range s.heads {
		out = append(out, h)
	}
	slices.SortFunc(out, func(a, b head) int { return cmp.Compare(a.piece.start, b.piece.start) })
	return out
}
