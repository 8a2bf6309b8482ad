package deploy

import (
	"context"
	"iter"
	"slices"

	"clonecast/internal/chunk"
	"clonecast/internal/clone"

	"golang.org/x/sync/errgroup"
)

// fetchPieces is how many chunks one call to the source asks for.
const fetchPieces = 1024

// deltaPieces is the same for chunks that are fetched as differences: the bases of all of them
// are in memory meanwhile.
const deltaPieces = 32

// fetchers is how many decode and write side by side, so that fetching, decoding and writing
// overlap also when each of them waits.
const fetchers = 4

// fetch brings every chunk that differs onto the disk, but for the heads, which it keeps.
func (w *writing) fetch(ctx context.Context) error {
	s := w.means.Source
	if s.Plain == nil {
		if err := w.fetchFrames(ctx); err != nil || s.Deltas == nil {
			return err
		}
	}
	return w.fetchGroups(ctx)
}

// fetchGroups fetches chunk by chunk: plain ones, or differences.
func (w *writing) fetchGroups(ctx context.Context) error {
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

// arrived is a frame, and where the chunks of it go that are wanted.
type arrived struct {
	frame []byte
	at    map[chunk.ID][]clone.Piece
}

// fetchFrames fetches whole frames, each once: a capture compresses neighbours together, also across the end of a
// partition, so the calls to the source go through the disk without regard to partitions, and what a frame brings of
// the next call's chunks is taken at once.
func (w *writing) fetchFrames(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	work, free := make(chan arrived), make(chan []byte, 2*fetchers)
	for range cap(free) {
		free <- nil
	}
	for range fetchers {
		g.Go(func() error {
			f, err := newFetcher(w, nil)
			if err != nil {
				return err
			}
			defer f.close()
			for a := range work {
				h, plain, err := f.decode(a.frame)
				if err != nil {
					return err
				}
				f.at = a.at
				if err := f.chunks(h, plain); err != nil {
					return err
				}
				free <- a.frame
			}
			return nil
		})
	}
	g.Go(func() error {
		defer close(work)
		f, err := newFetcher(w, nil)
		if err != nil {
			return err
		}
		defer f.close()
		return f.ask(ctx, func(frame []byte, at map[chunk.ID][]clone.Piece) error {
			select {
			case b := <-free:
				a := arrived{append(b[:0], frame...), at}
				select {
				case work <- a:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	})
	return g.Wait()
}

// ask asks for the frames of all pieces that are not fetched as differences, and hands them on with where their
// chunks go.
func (f *fetcher) ask(ctx context.Context, take func(frame []byte, at map[chunk.ID][]clone.Piece) error) error {
	next, stop := iter.Pull(f.lacking())
	defer stop()
	waiting := map[chunk.ID][]clone.Piece{} // those of this call and the first of the next one
	var order []chunk.ID                    // the same
	for more := true; more || len(order) > 0; {
		for more && len(order) < fetchPieces+chunk.MaxFrameChunks {
			var p clone.Piece
			if p, more = next(); !more {
				break
			}
			id := f.id(p)
			switch {
			case f.byDelta(p):
			case id == clone.ZeroID(p.Length):
				if err := f.piece(p, make([]byte, p.Length)); err != nil {
					return err
				}
			default:
				if waiting[id] == nil {
					order = append(order, id)
				}
				waiting[id] = append(waiting[id], p)
			}
		}
		var ids []chunk.ID
		asked := min(fetchPieces, len(order))
		if !more {
			asked = len(order)
		}
		seen := map[chunk.ID]bool{}
		for _, id := range order[:asked] {
			if waiting[id] != nil && !seen[id] { // else a frame of the call before had it
				ids, seen[id] = append(ids, id), true
			}
		}
		order = slices.Delete(order, 0, asked)
		if len(ids) == 0 {
			continue
		}
		err := f.means.Source.Frames(ctx, ids, func(frame []byte) error {
			h, err := chunk.ParseFrameHeader(frame)
			if err != nil {
				return err
			}
			at := map[chunk.ID][]clone.Piece{}
			for _, e := range h.Entries {
				if where := waiting[e.ID]; where != nil {
					at[e.ID] = where
					delete(waiting, e.ID)
				}
			}
			if len(at) == 0 {
				return nil
			}
			return take(frame, at)
		})
		if err != nil {
			return err
		}
		for _, id := range ids {
			if waiting[id] != nil {
				return &chunk.MissingError{ID: id}
			}
		}
	}
	return nil
}

// byDelta tells whether a piece is fetched as a difference.
func (w *writing) byDelta(p clone.Piece) bool {
	return w.means.Source.Deltas != nil && w.plan.Regions[p.Region].update()
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
			if w.means.Source.Plain == nil && !w.byDelta(p) {
				continue // came in a frame
			}
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
