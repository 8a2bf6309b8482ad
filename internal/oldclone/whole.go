package clone

import (
	"context"

	"clonecast/internal/chunk"
)

// WholeSource is a Source that gives frames in an order of its own, as a multicast session does. Frames is
// asked once, for all chunks of all disks.
type WholeSource interface {
	Source
	// Prepare is told which chunks these will be, before anything on a disk is changed. It may
	// wait until they can come.
	Prepare(ctx context.Context, ids []chunk.ID) error
}

// prepare lets a WholeSource get ready.
func prepare(ctx context.Context, deploys []*deploy) error {
	source, ok := deploys[0].source.(WholeSource)
	if !ok {
		return nil
	}
	var ids []chunk.ID
	seen := map[chunk.ID]bool{}
	for _, d := range deploys {
		for p := range d.lacking() {
			if id := d.contents[p.region].Chunks[p.number]; id != zeroID(p.length) && !seen[id] {
				seen[id] = true
				ids = append(ids, id)
			}
		}
	}
	return source.Prepare(ctx, ids)
}

// writeAll brings what differs onto the disks.
func writeAll(ctx context.Context, deploys []*deploy) error {
	if source, ok := deploys[0].source.(WholeSource); ok {
		return writeWhole(ctx, deploys, source)
	}
	return each((*deploy).write)(ctx, deploys)
}

// writeWhole is write for all disks at once: a frame may hold chunks of any of them.
func writeWhole(ctx context.Context, deploys []*deploy, source WholeSource) error {
	counter := &writeCounter{tell: deploys[0].opts.Progress}
	for _, d := range deploys {
		counter.total += d.toWrite()
	}
	var writers []*writer
	var ids []chunk.ID
	seen := map[chunk.ID]bool{}
	for _, d := range deploys {
		w, err := d.newWriter(counter, nil)
		if err != nil {
			return err
		}
		defer w.close()
		writers = append(writers, w)
		own, err := w.begin()
		if err != nil {
			return ofDisk(err, d.number, len(deploys))
		}
		for _, id := range own {
			if !seen[id] {
				seen[id] = true
				ids = append(ids, id)
			}
		}
	}
	if len(ids) == 0 {
		return nil
	}
	first := writers[0]
	counter.done(0)
	err := source.Frames(ctx, ids, func(frame []byte) error {
		h, plain, err := first.decoder.Decode(frame, first.plain)
		if err != nil {
			return err
		}
		first.plain = plain
		first.fetched(len(frame))
		for i, w := range writers {
			if err := w.chunks(h, plain); err != nil {
				return ofDisk(err, i, len(writers))
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i, w := range writers {
		if err := w.came(); err != nil {
			return ofDisk(err, i, len(writers))
		}
	}
	return nil
}

// begin writes what needs no source and gives the ids of the chunks that do.
func (w *writer) begin() ([]chunk.ID, error) {
	if err := w.wipe(); err != nil {
		return nil, err
	}
	return w.expect(w.lacking())
}
