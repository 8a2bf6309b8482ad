package deploy

import (
	"context"

	"clonecast/internal/chunk"
	"clonecast/internal/clone"
	"clonecast/internal/image"
	"clonecast/internal/quantity"
)

// bases knows what the target may have held before: the chunks of a parent version, by
// their place on the disk.
type bases map[quantity.Bytes][]basePiece

type basePiece struct {
	clone.Piece
	id chunk.ID
}

// maxBases bounds the memory of the bases to some 16 MiB: differences are for small changes.
const maxBases = 1 << 16

// newBases lists the parent's chunks at the places of those chunks that differ, unless these
// are too many.
func newBases(w *writing, parent *image.Manifest) bases {
	if parent == nil || w.means.Source.Deltas == nil {
		return nil
	}
	out := bases{}
	for p := range w.lacking() {
		if !w.plan.Regions[p.Region].update() {
			continue
		}
		if len(out) == maxBases {
			return nil
		}
		out[p.Start] = nil
	}
	for i := range parent.Disks {
		for _, c := range clone.Contents(&parent.Disks[i]) {
			for p := range clone.Pieces(0, c) {
				if at, ok := out[p.Start]; ok {
					out[p.Start] = append(at, basePiece{p, c.Chunks[p.Number]})
				}
			}
		}
	}
	return out
}

// find reads what the target holds at a chunk's place into buf. It gives the chunk of the
// parent that this proves to be, or nothing.
func (b bases) find(t Target, p clone.Piece, buf []byte) (chunk.ID, []byte) {
	for _, base := range b[p.Start] {
		buf := buf[:base.Length]
		if _, err := clone.ReadBatch(t, []clone.Piece{base.Piece}, buf); err == nil && chunk.Sum(buf) == base.id {
			return base.id, buf
		}
	}
	return chunk.ID{}, nil
}

// deltas fetches chunks as differences from what the disk holds, and writes them.
func (f *fetcher) deltas(ctx context.Context, ids []chunk.ID) error {
	if f.deltaDecoder == nil {
		d, err := chunk.NewDeltaDecoder()
		if err != nil {
			return err
		}
		f.deltaDecoder, f.held = d, clone.AlignedBuffer(deltaPieces*int(chunk.Size))
	}
	held := make(map[chunk.ID][]byte)
	wants := make([]chunk.Want, len(ids))
	for i, id := range ids {
		base, b := f.bases.find(f.target, f.at[id][0], f.held[i*int(chunk.Size):])
		wants[i] = chunk.Want{ID: id, Base: base}
		held[base] = b
	}
	return f.means.Source.Deltas(ctx, wants, func(delta []byte) error {
		h, plain, err := f.deltaDecoder.Decode(delta, f.plain, func(id chunk.ID) []byte { return held[id] })
		if err != nil {
			return err
		}
		f.plain = plain
		f.fetched(h.Size())
		return f.chunks(h.FrameHeader, plain)
	})
}
