package local

import (
	"hash/maphash"
	"iter"

	"clonecast/internal/chunk"
)

// location is where a chunk lies: a frame of a pack, both by number.
type location struct{ pack, frame uint32 }

// index maps chunks to locations; one may have several. It costs about 60 bytes
// per chunk and holds no pointers per entry, so that a store of 10 TiB (40 million
// chunks) fits in 2.5 GiB and the garbage collector does not walk it. It is an open-addressing
// hash table; the seed keeps a capture from choosing ids that collide.
type index struct {
	seed    maphash.Seed
	slots   []uint32 // entry number + 1; 0 is free
	ids     []chunk.ID
	lengths []uint32 // plain
	at      []location
}

func newIndex() index { return index{seed: maphash.MakeSeed(), slots: make([]uint32, 1024)} }

func (x *index) slot(id chunk.ID) int {
	return int(maphash.Bytes(x.seed, id[:]) & uint64(len(x.slots)-1))
}

func (x *index) add(c chunk.Entry, at location) {
	x.ids, x.lengths, x.at = append(x.ids, c.ID), append(x.lengths, uint32(c.Length)), append(x.at, at)
	if len(x.ids) > len(x.slots)/4*3 {
		x.slots = make([]uint32, 2*len(x.slots))
		for i := range x.ids {
			x.place(i)
		}
		return
	}
	x.place(len(x.ids) - 1)
}

func (x *index) place(entry int) {
	i := x.slot(x.ids[entry])
	for x.slots[i] != 0 {
		i = (i + 1) & (len(x.slots) - 1)
	}
	x.slots[i] = uint32(entry) + 1
}

// find gives the entries of a chunk: where the slices have its copies.
func (x *index) find(id chunk.ID) iter.Seq[int] {
	return func(yield func(int) bool) {
		for i := x.slot(id); x.slots[i] != 0; i = (i + 1) & (len(x.slots) - 1) {
			if e := int(x.slots[i]) - 1; x.ids[e] == id && !yield(e) {
				return
			}
		}
	}
}
