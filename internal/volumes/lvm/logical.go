package lvm

import (
	"cmp"
	"io"
	"iter"
	"slices"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

// minStripe is the smallest stripe that LVM makes.
const minStripe = 4 * quantity.KiB

// Logical is a logical volume. It is read as a device of its own, through its ReadAt.
type Logical struct {
	Name     string
	Size     quantity.Bytes
	segments []segment // without gaps, from 0 to Size
	r        io.ReaderAt
}

// segment is a part of a logical volume.
type segment struct {
	start, length quantity.Bytes   // on the logical volume
	stripes       []quantity.Bytes // where on the physical volume each stripe begins
	stripeSize    quantity.Bytes   // where there are several
}

// Map gives the pieces of the physical volume that hold an extent of the logical volume, in
// order. The extent must lie inside the volume. Stripes can make very many of it.
func (l *Logical) Map(e quantity.Extent) iter.Seq[quantity.Extent] {
	return func(yield func(quantity.Extent) bool) {
		for at := e.Start; at < e.End(); {
			place, length := l.place(at)
			n := min(length, e.End()-at)
			if !yield(quantity.Extent{Start: place, Length: n}) {
				return
			}
			at += n
		}
	}
}

// place gives where a byte of the logical volume lies, and how many follow it there.
func (l *Logical) place(at quantity.Bytes) (place, length quantity.Bytes) {
	i, found := slices.BinarySearchFunc(l.segments, at,
		func(s segment, at quantity.Bytes) int { return cmp.Compare(s.start, at) })
	if !found {
		i--
	}
	s := l.segments[i]
	into := at - s.start
	if len(s.stripes) == 1 {
		return s.stripes[0] + into, s.length - into
	}
	stripe, rest := into/s.stripeSize, into%s.stripeSize
	n := quantity.Bytes(len(s.stripes))
	return s.stripes[stripe%n] + stripe/n*s.stripeSize + rest, s.stripeSize - rest
}

// ReadAt reads the logical volume.
func (l *Logical) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= int64(l.Size) {
		return 0, io.EOF
	}
	want := min(quantity.Bytes(len(p)), l.Size-quantity.Bytes(off))
	for done := quantity.Bytes(0); done < want; {
		place, length := l.place(quantity.Bytes(off) + done)
		b := p[done:min(done+length, want)]
		if err := filesystem.ReadFull(l.r, b, place); err != nil {
			return int(done), err
		}
		done += quantity.Bytes(len(b))
	}
	if want < quantity.Bytes(len(p)) {
		return int(want), io.EOF
	}
	return int(want), nil
}
