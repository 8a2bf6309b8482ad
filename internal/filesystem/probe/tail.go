package probe

import (
	"fmt"
	"io"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

// What lies behind a volume inside its partition, its tail, may be padding, the rest of a former life,
// or data that belong to the volume: the hash tree of dm-verity, a footer of Android's verified boot,
// an encryption header. One rule holds for all file systems:
//
//	tail up to 64 MiB                     -> stored unless it is all zero
//	longer, something known in it, <= 1 GiB -> stored
//	longer, something known in it, > 1 GiB  -> Doubt: the partition is copied block by block
//	longer, nothing known in it           -> left out, with a note that says so
//
// Zeroes that are stored take no room. DRBD, Linux RAID and others that own the whole partition have
// made it ambiguous before this rule is asked.
const (
	shortTail = 64 * quantity.MiB
	knownTail = quantity.GiB

	// notedTail is how long a tail must be that its being stored is worth a note.
	notedTail = quantity.MiB

	// nearTail is how far behind the volume a header is looked for at each sector.
	nearTail = quantity.MiB
)

// withTail adds to a volume, the only one found on r, what is to be stored of its tail.
func withTail(v filesystem.Volume, r io.ReaderAt, size quantity.Bytes) (filesystem.Volume, error) {
	tail := quantity.Extent{Start: v.Size, Length: size - v.Size}
	if v.Doubt != nil || tail.Length <= 0 {
		return v, nil
	}
	zero := false
	if tail.Length <= shortTail {
		var err error
		if zero, err = isZero(r, tail); zero || err != nil {
			return v, err
		}
	}
	what, err := inTail(r, tail)
	if err != nil {
		return filesystem.Volume{}, err
	}
	behind := fmt.Sprintf("%s behind the %s", tail.Length, v.Type)
	switch {
	case what != "" && tail.Length > knownTail:
		v.Allocated, v.Discarded, v.Whole, v.Notes = nil, nil, nil, nil
		v.Doubt = &filesystem.Doubt{Reason: behind + " hold " + what}
	case what == "" && tail.Length > shortTail:
		v.Notes = append(v.Notes, behind+" are not stored: nothing known is in them (--policy N=raw stores all)")
	default:
		v.Allocated = quantity.Normalize(append(v.Allocated, tail))
		if what == "" && tail.Length >= notedTail {
			what = "they are not zero"
		}
		if what != "" {
			v.Notes = append(v.Notes, behind+" are stored as well: "+what)
		}
	}
	return v, nil
}

// isZero tells whether all bytes of the extent are zero.
func isZero(r io.ReaderAt, e quantity.Extent) (bool, error) {
	buf := make([]byte, min(e.Length, quantity.MiB))
	for off := e.Start; off < e.End(); off += quantity.Bytes(len(buf)) {
		b := buf[:min(quantity.Bytes(len(buf)), e.End()-off)]
		if err := filesystem.ReadFull(r, b, off); err != nil {
			return false, err
		}
		for _, c := range b {
			if c != 0 {
				return false, nil
			}
		}
	}
	return true, nil
}

// inTail names the first known format in a tail; "" if there is none. A tail is looked at as if it
// were a partition; headers that are put behind a volume by hand (dm-verity, LUKS) may begin at any
// sector near it, and the footer of Android's verified boot ends the partition.
func inTail(r io.ReaderAt, tail quantity.Extent) (string, error) {
	section := io.NewSectionReader(r, int64(tail.Start), int64(tail.Length))
	known := append(kinds(tail.Length), readable(tail.Length)...)
	known = append(known, holds("Android verified boot", "", at(tail.Length-64, "AVBf")), nearHeaders("crypto_LUKS",
		luksMagic, nil), nearHeaders("crypto_LUKS", luksCopyMagic, nil), nearHeaders(verityName, verityMagic, verity))
	found, err := findKinds(section, tail.Length, known)
	if err != nil || len(found) == 0 {
		return "", err
	}
	return found[0].Type, nil
}

// nearHeaders is a kind of header that may begin at any sector near the tail's start.
func nearHeaders(name, magic string, check func(m mark) bool) kind {
	k := kind{name: name}
	for off := quantity.Bytes(0); off < nearTail; off += sector {
		k.places = append(k.places, checked(off, check, magic)...)
	}
	return k
}
