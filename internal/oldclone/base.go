package clone

import (
	"context"

	"clonecast/internal/chunk"
	"clonecast/internal/image"
)

// DeltaSource is a Source that can send a chunk as its difference from another one.
type DeltaSource interface {
	Source
	// Deltas gives differences that together hold the chunks and nothing else.
	Deltas(ctx context.Context, wants []chunk.Want, yield func(delta []byte) error) error
}

// bases knows what the target may have held before: the chunks of a parent version, by
// their place on the disk.
type bases map[int64][]basePiece

type basePiece struct {
	piece
	id chunk.ID
}

// maxBases bounds the memory of the bases to some 16 MiB: differences are for small changes.
const maxBases = 1 << 16

// newBases lists the parent's chunks at the places of those chunks that differ, unless these
// are too many.
func newBases(d *deploy, parent *image.Manifest) bases {
	if parent == nil {
		return nil
	}
	out := bases{}
	for i, c := range d.contents {
		if !d.delta[i] {
			continue
		}
		for p := range pieces(i, c) {
			if !d.differ[i][p.number] {
				continue
			}
			if len(out) == maxBases {
				return nil
			}
			out[int64(p.start)] = nil
		}
	}
	for i := range parent.Disks {
		for _, c := range contentsOf(&parent.Disks[i]) {
			for p := range pieces(0, c) {
				if at, ok := out[int64(p.start)]; ok {
					out[int64(p.start)] = append(at, basePiece{p, c.Chunks[p.number]})
				}
			}
		}
	}
	return out
}

// find reads what the target holds at a chunk's place into buf. It gives the chunk of the
// parent that this proves to be, or nothing.
func (b bases) find(t Target, p piece, buf []byte) (chunk.ID, []byte) {
	for _, base := range b[int64(p.start)] {
		buf := buf[:base.length]
		if _, err := readBatch(t, []piece{base.piece}, buf); err == nil && chunk.Sum(buf) == base.id {
			return base.id, buf
		}
	}
	return chunk.ID{}, nil
}

// deltas fetches chunks as differences from what the disk holds, and writes them.
func (w *writer) deltas(ctx context.Context, s DeltaSource, ids []chunk.ID) error {
	if w.deltaDecoder == nil {
		d, err := chunk.NewDeltaDecoder()
		if err != nil {
			return err
		}
		w.deltaDecoder, w.held = d, alignedBuffer(deltaPieces*int(chunk.Size))
	}
	held := make(map[chunk.ID][]byte)
	wants := make([]chunk.Want, len(ids))
	for i, id := range ids {
		base, b := w.bases.find(w.target, w.at[id][0], w.held[i*int(chunk.Size):])
		wants[i] = chunk.Want{ID: id, Base: base}
		held[base] = b
	}
	return s.Deltas(ctx, wants, func(delta []byte) error {
		h, plain, err := w.deltaDecoder.Decode(delta, w.plain, func(id chunk.ID) []byte { return held[id] })
		if err != nil {
			return err
		}
		w.plain = plain
		w.fetched(h.Size())
		return w.chunks(h.FrameHeader, plain)
	})
}
