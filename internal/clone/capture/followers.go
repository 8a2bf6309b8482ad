package capture

import "clonecast/internal/chunk"

// unannounced are chunks that were read and that followers were not told of yet: a chunk may be
// announced once the frame that holds it, or the version that held it already, is in the store.
type unannounced struct {
	wanted bool // somebody follows
	ids    []chunk.ID
	last   int // how many of them are the last batch's
}

// manyUnannounced is how many chunks followers wait for a frame to become full.
const manyUnannounced = 8 * framePieces

func (u *unannounced) add(ids []chunk.ID) {
	if u.wanted {
		u.ids, u.last = append(u.ids, ids...), len(ids)
	}
}

func (u *unannounced) any() bool  { return len(u.ids) > 0 }
func (u *unannounced) many() bool { return len(u.ids) > manyUnannounced }

// all gives all of them.
func (u *unannounced) all() (ids []chunk.ID) {
	ids, u.ids, u.last = u.ids, nil, 0
	return ids
}

// storedWith gives those that are stored with a frame that has taken from the last batch b: if
// some of b is left, nothing of b.
func (u *unannounced) storedWith(b *batch) (ids []chunk.ID) {
	if len(b.entries) == 0 {
		return u.all()
	}
	n := len(u.ids) - u.last
	ids, u.ids = u.ids[:n:n], append([]chunk.ID(nil), u.ids[n:]...)
	return ids
}
