package probe

import (
	"encoding/hex"
	"fmt"
	"io"
	"strings"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

// kind is a format that is known by its marks.
type kind struct {
	name   string // blkid's
	places []place
	most   int     // how many of the places must carry the mark; 0 stands for 1
	copies []place // further places of the mark, which alone make no volume
	doubt  filesystem.Doubt
	uuid   func(m mark) string
	label  func(m mark) string
}

// find gives the first of the places that carry the mark.
func (k kind) find(w *window) (mark, bool) {
	var first mark
	found := 0
	for _, p := range k.places {
		m, ok := p.find(w)
		if !ok {
			continue
		}
		if found++; found == 1 {
			first = m
		}
		if found >= k.most {
			return first, true
		}
	}
	return mark{}, false
}

func (k kind) volume(m mark) filesystem.Volume {
	doubt := k.doubt
	v := filesystem.Volume{Type: k.name, Doubt: &doubt}
	if k.uuid != nil {
		v.UUID = k.uuid(m)
	}
	if k.label != nil {
		v.Label = k.label(m)
	}
	return v
}

// place is where a format has its mark. check, if set, must agree.
type place struct {
	offset quantity.Bytes
	magic  string
	check  func(m mark) bool
}

func (p place) inside(size quantity.Bytes) bool {
	return p.offset >= 0 && p.offset+quantity.Bytes(len(p.magic)) <= size
}

// find looks for the mark.
func (p place) find(w *window) (mark, bool) {
	m := mark{w, p.offset}
	if !p.inside(w.size) || string(m.bytes(0, quantity.Bytes(len(p.magic)))) != p.magic {
		return mark{}, false
	}
	return m, p.check == nil || p.check(m)
}

// at gives one place for each of the magics.
func at(offset quantity.Bytes, magics ...string) []place {
	var out []place
	for _, magic := range magics {
		out = append(out, place{offset: offset, magic: magic})
	}
	return out
}

// checked gives one place for each of the magics, all with the same check.
func checked(offset quantity.Bytes, check func(m mark) bool, magics ...string) []place {
	out := at(offset, magics...)
	for i := range out {
		out[i].check = check
	}
	return out
}

// fromEnd is the offset of a sector of 512 bytes, counted from the last one, which is 1.
func fromEnd(size, sectors quantity.Bytes) quantity.Bytes { return (size/sector - sectors) * sector }

const sector = 512

// kinds lists the formats that are named, but whose allocation map is not read, on a partition of
// the given size.
func kinds(size quantity.Bytes) []kind {
	out := append(crypto(), raids(size)...)
	out = append(out, volumes(size)...)
	return append(out, fileSystems(size)...)
}

// findKinds gives those of the kinds whose marks are there, each name once.
func findKinds(r io.ReaderAt, size quantity.Bytes, kinds []kind) ([]filesystem.Volume, error) {
	w := newWindow(r, size)
	var found []filesystem.Volume
	names := map[string]bool{}
	for _, k := range kinds {
		if names[k.name] {
			continue
		}
		if m, ok := k.find(w); ok {
			names[k.name] = true
			found = append(found, k.volume(m))
		}
		if w.err != nil {
			return nil, w.err
		}
	}
	return found, nil
}

// named is a kind of file system without a reader.
func named(name string, places ...[]place) kind {
	k := kind{name: name, doubt: filesystem.Doubt{Reason: name + ": allocation map not supported yet"}}
	for _, p := range places {
		k.places = append(k.places, p...)
	}
	return k
}

// container is the doubt about a format that holds other volumes.
func container(what string) filesystem.Doubt {
	return filesystem.Doubt{Reason: what + ": what it holds is not looked into"}
}

// holds is the kind of a format that holds other volumes.
func holds(name, what string, places ...[]place) kind {
	k := named(name, places...)
	k.doubt = container(what)
	return k
}

// text reads a string of up to n bytes at off from the mark.
func text(off, n quantity.Bytes) func(m mark) string {
	return func(m mark) string {
		s, _, _ := strings.Cut(string(m.bytes(off, n)), "\x00")
		return strings.ToValidUTF8(strings.TrimRight(s, " "), "\uFFFD")
	}
}

func uuid(b []byte) string {
	s := hex.EncodeToString(b)
	return fmt.Sprintf("%s-%s-%s-%s-%s", s[:8], s[8:12], s[12:16], s[16:20], s[20:])
}
