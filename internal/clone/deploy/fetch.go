package deploy

import (
	"context"
	"iter"

	"clonecast/internal/chunk"
	"clonecast/internal/clone"

	"golang.org/x/sync/errgroup"
)

// fetchPieces is how many chunks one call to the source asks for. Frames that lie across
// the border of two calls come twice: the more chunks a call, the fewer.
const fetchPieces = 1024

// deltaPieces is the same for chunks that are fetched as differences: the bases of all of them
// are in memory meanwhile.
const deltaPieces = 32

// fetchers is how many calls run side by side, so that fetching, decoding and writing
// overlap also when each of them waits.
const fetchers = 4

// fetch brings every chunk that differs onto the disk, but for the heads, which it keeps.
func (w *writing) fetch(ctx context.Context) error {
	bases := newBases(w, w.means.Parent)
	g, ctx := errgroup.WithContext(ctx)
	work := make(chan []clone.Piece)
	g.Go(func() error {
		defer close(work)
		for group := range w.groups() {
			select {
			case work <- group:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	for range fetchers {
		g.Go(func() error {
			f, err := newFetcher(w, bases)
			if err != nil {
				return err
			}
			defer f.close()
			for group := range work {
				if err := f.group(ctx, group); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// fetchAll is fetch for all disks at once, from a source that has an order of its own: a frame
// may hold chunks of any of them.
func (e *execution) fetchAll(ctx context.Context) error {
	var fs []*fetcher
	for _, d := range e.disks {
		f, err := newFetcher(d, nil)
		if err != nil {
			return err
		}
		defer f.close()
		fs = append(fs, f)
		if _, err := f.expect(d.lacking()); err != nil {
			return clone.OfDisk(err, d.number, len(e.disks))
		}
	}
	ids := e.ids()
	if len(ids) == 0 {
		return nil
	}
	e.written.add(0)
	first := fs[0] // decodes for all
	err := e.means.Source.Frames(ctx, ids, func(frame []byte) error {
		h, plain, err := first.decode(frame)
		if err != nil {
			return err
		}
		for i, f := range fs {
			if err := f.chunks(h, plain); err != nil {
				return clone.OfDisk(err, i, len(fs))
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i, f := range fs {
		if err := f.came(); err != nil {
			return clone.OfDisk(err, i, len(fs))
		}
	}
	return nil
}

// id is the chunk that belongs to a place.
func (w *writing) id(p clone.Piece) chunk.ID {
	return w.plan.Regions[p.Region].Content.Chunks[p.Number]
}

// lacking gives the pieces that differ.
func (w *writing) lacking() iter.Seq[clone.Piece] {
	return func(yield func(clone.Piece) bool) {
		for i := range w.plan.Regions {
			r := &w.plan.Regions[i]
			if !r.touched() {
				continue
			}
			for p := range clone.Pieces(i, r.Content) {
				if r.Write[p.Number] && !yield(p) {
					return
				}
			}
		}
	}
}

// groups gives the pieces that differ in groups of one call to the source each: of one
// partition, so that all of a group are fetched as differences or none.
func (w *writing) groups() iter.Seq[[]clone.Piece] {
	return func(yield func([]clone.Piece) bool) {
		var group []clone.Piece
		for p := range w.lacking() {
			if len(group) > 0 && group[0].Region != p.Region {
				if !yield(group) {
					return
				}
				group = nil
			}
			limit := fetchPieces
			if w.plan.Regions[p.Region].update() {
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
