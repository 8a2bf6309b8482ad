package probe

import (
	"io"

	"clonecast/internal/filesystem"
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

// Signatures gives every place of a partition of the given size where a mark left
// over from earlier use could win a later probe, sorted in no particular order.
// What lies there is stale only if the bytes are not part of what the partition
// holds now.
func Signatures(size quantity.Bytes) []Signature {
	var out []Signature
	for _, k := range append(kinds(size), markers(size)...) {
		for _, p := range k.places {
			if p.inside(size) {
				out = append(out, Signature{Type: k.name, Offset: p.offset, Magic: []byte(p.magic)})
			}
		}
	}
	return out
}

// place is where a format has its mark. check, if set, must agree; it gets a
// function that reads n bytes at an offset from the mark.
type place struct {
	offset quantity.Bytes
	magic  string
	check  func(at func(off, n quantity.Bytes) []byte) bool
}

func (p place) inside(size quantity.Bytes) bool {
	return p.offset >= 0 && p.offset+quantity.Bytes(len(p.magic)) <= size
}

// found looks for the mark at p.
func (p place) found(w *window) bool {
	if !p.inside(w.size) || string(w.bytes(p.offset, quantity.Bytes(len(p.magic)))) != p.magic {
		return false
	}
	return p.check == nil || p.check(func(off, n quantity.Bytes) []byte { return w.bytes(p.offset+off, n) })
}

// findKinds looks for the formats that are only named.
func findKinds(r io.ReaderAt, size quantity.Bytes) ([]filesystem.Volume, error) {
	w := &window{r: r, size: size, blocks: map[quantity.Bytes][]byte{}}
	var found []filesystem.Volume
	for _, k := range kinds(size) {
		for _, p := range k.places {
			if p.found(w) {
				found = append(found, k.volume(w, p.offset))
				break
			}
		}
		if w.err != nil {
			return nil, w.err
		}
	}
	return found, nil
}
