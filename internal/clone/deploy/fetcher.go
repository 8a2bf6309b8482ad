package deploy

import (
	"bytes"
	"context"
	"iter"
	"slices"

	"clonecast/internal/chunk"
	"clonecast/internal/clone"
	"clonecast/internal/quantity"
)

// fetcher is one worker that fetches chunks and writes them.
type fetcher struct {
	*writing
	decoder *chunk.Decoder
	bases   bases
	plain   []byte // of the frame at hand
	now     []byte // what the disk holds at the piece at hand
	at      map[chunk.ID][]clone.Piece

	deltaDecoder *chunk.DeltaDecoder // nil until it is needed, as is held
	held         []byte              // what the disk holds at the places of a group
}

func newFetcher(w *writing, bases bases) (*fetcher, error) {
	decoder, err := chunk.NewDecoder()
	if err != nil {
		return nil, err
	}
	plain := clone.AlignedBuffer(chunk.MaxFrameChunks * int(chunk.Size))
	return &fetcher{writing: w, decoder: decoder, bases: bases, plain: plain}, nil
}

func (f *fetcher) close() {
	f.decoder.Close()
	if f.deltaDecoder != nil {
		f.deltaDecoder.Close()
	}
}

// group fetches the chunks of a group and writes them.
func (f *fetcher) group(ctx context.Context, group []clone.Piece) error {
	ids, err := f.expect(slices.Values(group))
	if err != nil || len(ids) == 0 {
		return err
	}
	if err := f.get(ctx, ids); err != nil {
		return err
	}
	return f.came()
}

// expect notes which chunks belong where and gives their ids. Those of zeroes it writes.
func (f *fetcher) expect(group iter.Seq[clone.Piece]) (ids []chunk.ID, err error) {
	f.at = make(map[chunk.ID][]clone.Piece)
	for p := range group {
		id := f.id(p)
		if id == clone.ZeroID(p.Length) {
			if err := f.piece(p, make([]byte, p.Length)); err != nil {
				return nil, err
			}
			continue
		}
		if f.at[id] == nil {
			ids = append(ids, id)
		}
		f.at[id] = append(f.at[id], p)
	}
	return ids, nil
}

// came reports a chunk that is still expected.
func (f *fetcher) came() error {
	for id := range f.at {
		return &chunk.MissingError{ID: id}
	}
	return nil
}

// get gets verified chunks and writes them.
func (f *fetcher) get(ctx context.Context, ids []chunk.ID) error {
	s := f.means.Source
	if s.Plain == nil {
		return f.deltas(ctx, ids)
	}
	return s.Plain(ctx, ids, func(h chunk.FrameHeader, plain []byte) error {
		f.fetched(h.Size())
		return f.chunks(h, plain)
	})
}

func (f *fetcher) decode(frame []byte) (chunk.FrameHeader, []byte, error) {
	h, plain, err := f.decoder.Decode(frame, f.plain)
	if err != nil {
		return h, nil, err
	}
	f.plain = plain
	f.fetched(len(frame))
	return h, plain, nil
}

// chunks writes those chunks of a frame that the group waits for.
func (f *fetcher) chunks(h chunk.FrameHeader, plain []byte) error {
	at := 0
	for _, e := range h.Entries {
		for _, p := range f.at[e.ID] {
			if p.Length != e.Length {
				return &chunk.InvalidError{ID: e.ID, Problem: "its length differs from the manifest's"}
			}
			if err := f.piece(p, plain[at:at+e.Length]); err != nil {
				return err
			}
		}
		delete(f.at, e.ID)
		at += e.Length
	}
	return nil
}

// piece writes one verified chunk: all of its allocated bytes, or where most of the region
// was kept only the blocks that differ. The start of a partition is kept for the end.
func (f *fetcher) piece(p clone.Piece, b []byte) error {
	defer f.written.add(p.Allocated())
	r := &f.plan.Regions[p.Region]
	if r.Withheld && p.Start == r.Start {
		f.heads.put(p, bytes.Clone(b))
		return nil
	}
	if !r.update() {
		for _, e := range joinNear(p.Extents) {
			if err := f.writeAt(b[e.Start:e.End()], p.Start+e.Start); err != nil {
				return err
			}
		}
		return nil
	}
	if f.now == nil {
		f.now = clone.AlignedBuffer(int(chunk.Size))
	}
	now := f.now[:p.Length]
	if _, err := clone.ReadBatch(f.target, []clone.Piece{p}, now); err != nil {
		return err
	}
	for _, e := range p.Extents {
		if err := f.writeChanged(b[e.Start:e.End()], now[e.Start:e.End()], p.Start+e.Start); err != nil {
			return err
		}
	}
	return nil
}

func (w *writing) fetched(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.result.Fetched += quantity.Bytes(n)
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
