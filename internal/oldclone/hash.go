package clone

import (
	"context"
	"io"
	"sync"

	"clonecast/internal/chunk"
	"clonecast/internal/image"

	"golang.org/x/sync/errgroup"
)

// batchPieces is how many chunks are read with one call and then hashed.
const batchPieces = 4

// hashPieces reads the pieces that want accepts (all when nil), side by side, and
// calls report, one call at a time, with whether the disk holds the chunk.
func hashPieces(ctx context.Context, r io.ReaderAt, contents []*image.Content, want func(piece) bool, report func(p piece, same bool)) error {
	g, ctx := errgroup.WithContext(ctx)
	work := make(chan []piece)
	g.Go(func() error {
		defer close(work)
		for group := range batches(contents, batchPieces) {
			if want != nil {
				group = wanted(group, want)
			}
			for len(group) > 0 {
				n := adjacent(group)
				select {
				case work <- group[:n]:
				case <-ctx.Done():
					return ctx.Err()
				}
				group = group[n:]
			}
		}
		return nil
	})
	var mu sync.Mutex
	for range workers() + 1 {
		g.Go(func() error {
			buf := alignedBuffer(batchPieces * int(chunk.Size))
			for group := range work {
				if _, err := readBatch(r, group, buf); err != nil {
					return err
				}
				for i, p := range group {
					same := matches(contents[p.region].Chunks[p.number], plain(group, i, buf))
					mu.Lock()
					report(p, same)
					mu.Unlock()
				}
			}
			return nil
		})
	}
	return g.Wait()
}

func wanted(group []piece, want func(piece) bool) []piece {
	var out []piece
	for _, p := range group {
		if want(p) {
			out = append(out, p)
		}
	}
	return out
}

// adjacent is how many pieces from the first on follow one another without a gap.
func adjacent(group []piece) int {
	n := 1
	for n < len(group) && group[n].start == group[n-1].start+chunk.Size {
		n++
	}
	return n
}

// matches tells whether b is the chunk id. A blank disk is the common case, and a look
// at a few bytes is cheaper than a hash: zeroes are only the chunk of zeroes.
func matches(id chunk.ID, b []byte) bool {
	if allZero(b) {
		return id == zeroID(len(b))
	}
	return chunk.Sum(b) == id
}

var fullZeroID = chunk.Sum(make([]byte, chunk.Size))

// zeroID is the id of n zero bytes.
func zeroID(n int) chunk.ID {
	if n == int(chunk.Size) {
		return fullZeroID
	}
	return chunk.Sum(make([]byte, n))
}
