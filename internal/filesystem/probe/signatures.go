package probe

import (
	"bytes"
	"cmp"
	"slices"

	"clonecast/internal/quantity"
)

// Signature is a mark by which a program recognises the format of a partition.
type Signature struct {
	Type   string // as blkid names the format
	Offset quantity.Bytes
	Magic  []byte
}

// Length is the number of bytes of the mark.
func (s Signature) Length() quantity.Bytes { return quantity.Bytes(len(s.Magic)) }

// Signatures gives every place of a partition or disk of the given size where a mark left over
// from earlier use could win a later probe, sorted by offset. What lies there is stale only if the
// bytes are not part of what the partition holds now. There are some thousand: Areas groups them.
func Signatures(size quantity.Bytes) []Signature {
	var out []Signature
	for _, k := range append(kinds(size), readable(size)...) {
		for _, p := range slices.Concat(k.places, k.copies) {
			if p.inside(size) {
				out = append(out, Signature{Type: k.name, Offset: p.offset, Magic: []byte(p.magic)})
			}
		}
	}
	slices.SortStableFunc(out, func(a, b Signature) int { return cmp.Compare(a.Offset, b.Offset) })
	return out
}

// Area is a run of bytes that is to be read at once to look for the signatures in it.
type Area struct {
	quantity.Extent
	Signatures []Signature // sorted by offset, inside the Extent
}

// maxArea bounds the length of an Area but for the magic that begins last in it.
const maxArea = 256 * quantity.KiB

// Areas groups Signatures(size) so that few reads find them all: what lies less than 64 KiB apart
// shares an area.
func Areas(size quantity.Bytes) []Area {
	const gap = 64 * quantity.KiB
	var out []Area
	for _, s := range Signatures(size) {
		end := s.Offset + s.Length()
		if n := len(out); n > 0 && s.Offset-out[n-1].End() < gap && s.Offset-out[n-1].Start < maxArea {
			a := &out[n-1]
			a.Signatures = append(a.Signatures, s)
			a.Length = max(a.End(), end) - a.Start
			continue
		}
		out = append(out, Area{quantity.Extent{Start: s.Offset, Length: s.Length()}, []Signature{s}})
	}
	return out
}

// Found gives the signatures whose magic is there. data are the bytes of the area's Extent.
func (a Area) Found(data []byte) []Signature {
	var out []Signature
	for _, s := range a.Signatures {
		if bytes.HasPrefix(data[s.Offset-a.Start:], s.Magic) {
			out = append(out, s)
		}
	}
	return out
}
