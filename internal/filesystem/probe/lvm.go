package probe

import (
	"fmt"
	"io"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
	"clonecast/internal/volumes/lvm"
)

const (
	// blockOfMark is what is stored around a mark, so that extents stay aligned.
	blockOfMark = 4 * quantity.KiB

	// swapHeader covers the header of a swap area with any size of pages.
	swapHeader = 64 * quantity.KiB
)

// readLVM reads an LVM2 physical volume: what LVM itself uses, and what is used of each
// logical volume by what that holds. A logical volume without a map of its own is used as a
// whole; one that forbids a capture forbids that of the physical volume.
func readLVM(r io.ReaderAt, size quantity.Bytes) (filesystem.Volume, error) {
	p, doubt, err := lvm.Read(r, size)
	if err != nil {
		return filesystem.Volume{}, err
	}
	v := filesystem.Volume{Type: lvm.Format, UUID: p.UUID, Doubt: doubt}
	if doubt != nil {
		return v, nil
	}
	var used filesystem.Map
	room := maxDiscardPieces
	for _, e := range p.Own {
		used.Add(e.Start, e.Length)
	}
	for i := range p.Volumes {
		l := &p.Volumes[i]
		inner, err := read(l, l.Size, append(readers(), nestedLVM))
		if err != nil {
			return filesystem.Volume{}, fmt.Errorf("logical volume %s: %w", l.Name, err)
		}
		if inner.Doubt != nil && inner.Doubt.Refuse {
			refused := *inner.Doubt
			refused.Reason = fmt.Sprintf("logical volume %s: %s", l.Name, refused.Reason)
			return filesystem.Volume{Type: v.Type, UUID: v.UUID, Doubt: &refused}, nil
		}
		for _, note := range inner.Notes {
			v.Notes = append(v.Notes, fmt.Sprintf("logical volume %s: %s", l.Name, note))
		}
		for _, e := range usedBy(inner, l.Size) {
			for piece := range l.Map(e) {
				used.Add(piece.Start, piece.Length)
			}
		}
		if inner.Doubt != nil {
			v.Whole = append(v.Whole, wholeOf(l, inner))
		}
		for _, d := range inner.Discarded {
			if on, ok := discardOn(l, d, room); ok {
				v.Discarded = append(v.Discarded, on)
				room -= len(on.Extents)
			}
		}
	}
	v.BlockSize = blockOfMark
	v.Size = p.Size
	v.Allocated = used.Extents()
	return v, nil
}

// usedBy lists what a logical volume of the given size needs: the map of what it holds, and
// the places where a mark from a disk's old life could win a probe, as nothing wipes them
// inside of a physical volume.
func usedBy(v filesystem.Volume, size quantity.Bytes) []quantity.Extent {
	if v.Doubt != nil {
		return []quantity.Extent{{Length: size}}
	}
	var used filesystem.Map
	for _, e := range v.Allocated {
		used.Add(e.Start, e.Length)
	}
	if v.Allocated == nil { // swap
		used.Add(0, min(swapHeader, size))
	}
	for _, s := range Signatures(size) {
		start := s.Offset / blockOfMark * blockOfMark
		end := (s.Offset + s.Length() + blockOfMark - 1) / blockOfMark * blockOfMark
		used.Add(start, min(end, size)-start)
	}
	return used.Extents()
}

// wholeOf describes a logical volume that is used as a whole.
func wholeOf(l *lvm.Logical, inner filesystem.Volume) filesystem.Part {
	part := filesystem.Part{Name: "logical volume " + l.Name, Type: inner.Type, Doubt: inner.Doubt}
	pieces := 0
	for place := range l.Map(quantity.Extent{Length: l.Size}) {
		if pieces++; pieces > 1 {
			part.Place = quantity.Extent{}
			break
		}
		part.Place = place
	}
	return part
}

// maxDiscardPieces bounds what stripes make of all Discards: 1 MiB of memory.
const maxDiscardPieces = 1 << 16

// discardOn gives what a logical volume discards as a part of its physical volume; not if
// that is in more pieces than there is room for.
func discardOn(l *lvm.Logical, d filesystem.Discard, room int) (filesystem.Discard, bool) {
	out := filesystem.Discard{What: fmt.Sprintf("%s of logical volume %s", d.What, l.Name), Fill: d.Fill}
	for _, e := range d.Extents {
		for piece := range l.Map(e) {
			if len(out.Extents) == room {
				return out, false
			}
			out.Extents = append(out.Extents, piece)
		}
	}
	out.Extents = quantity.Normalize(out.Extents)
	return out, true
}

// nestedLVM finds physical volumes inside of logical volumes; they are not looked into.
func nestedLVM(r io.ReaderAt, size quantity.Bytes) (filesystem.Volume, error) {
	p, _, err := lvm.Read(r, size)
	if err != nil {
		return filesystem.Volume{}, err
	}
	doubt := container("LVM2 physical volume")
	return filesystem.Volume{Type: lvm.Format, UUID: p.UUID, Doubt: &doubt}, nil
}
