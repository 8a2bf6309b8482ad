package deploy

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"

	"clonecast/internal/clone"
	"clonecast/internal/image"
	"clonecast/internal/partition"
	"clonecast/internal/quantity"
)

// Where a deploy keeps a partition and the old table cannot stand meanwhile, sector 0 says which bytes
// of the disk are kept until the new table is there. A deploy that comes after a cut, of any image,
// reads it: without a table nothing else on the disk tells.
//
//	byte 0    boot code that boots nothing
//	     16   magic
//	     32   number of extents
//	     36   the first 8 bytes of the SHA-256 of all partitions that the deploy keeps
//	     44   extents: start and length in bytes, 64 bits each
//	     ...  CRC-32 (IEEE) of bytes 16 on
//
// All numbers are little-endian. There is no 55 AA at the end: nothing takes it for a table.
const (
	cutMagic   = "clonecast-kept-1"
	cutStart   = 16
	cutSet     = 36
	cutExtents = 44
	maxCut     = (bootCodeLength - cutExtents - 4) / 16
)

// cutMark makes sector 0 of a disk whose deploy keeps some of its bytes. set names all that it keeps.
func cutMark(sector quantity.SectorSize, kept []quantity.Extent, set keptSet) []byte {
	b := make([]byte, sector)
	copy(b, noBoot[:cutStart])
	copy(b[cutStart:], cutMagic)
	kept = fewer(kept, maxCut)
	binary.LittleEndian.PutUint32(b[cutStart+len(cutMagic):], uint32(len(kept)))
	copy(b[cutSet:], set[:])
	at := cutExtents
	for _, e := range kept {
		binary.LittleEndian.PutUint64(b[at:], uint64(e.Start))
		binary.LittleEndian.PutUint64(b[at+8:], uint64(e.Length))
		at += 16
	}
	binary.LittleEndian.PutUint32(b[at:], crc32.ChecksumIEEE(b[cutStart:at]))
	return b
}

// fewer joins the extents that lie closest until there are at most n: what lies between is kept as well.
func fewer(extents []quantity.Extent, n int) []quantity.Extent {
	extents = quantity.Normalize(slices.Clone(extents))
	for len(extents) > n {
		closest := 1
		for i := range extents[1:] {
			if extents[i+1].Start-extents[i].End() < extents[closest].Start-extents[closest-1].End() {
				closest = i + 1
			}
		}
		extents[closest-1].Length = extents[closest].End() - extents[closest-1].Start
		extents = slices.Delete(extents, closest, closest+1)
	}
	return extents
}

// parseCutMark gives the extents that sector 0 says are kept, nil when it is no such mark.
func parseCutMark(b []byte, size quantity.Bytes) []quantity.Extent {
	if len(b) < bootCodeLength || string(b[cutStart:][:len(cutMagic)]) != cutMagic {
		return nil
	}
	n := binary.LittleEndian.Uint32(b[cutStart+len(cutMagic):])
	if n > maxCut {
		return nil
	}
	end := cutExtents + 16*int(n)
	if binary.LittleEndian.Uint32(b[end:]) != crc32.ChecksumIEEE(b[cutStart:end]) {
		return nil
	}
	var out []quantity.Extent
	for at := cutExtents; at < end; at += 16 {
		e := quantity.Extent{Start: quantity.Bytes(binary.LittleEndian.Uint64(b[at:])),
			Length: quantity.Bytes(binary.LittleEndian.Uint64(b[at+8:]))}
		if e.Start < 0 || e.Length <= 0 || e.Start > size-e.Length {
			return nil
		}
		out = append(out, e)
	}
	return out
}

// keptSet names the partitions that a deploy keeps.
type keptSet [8]byte

// keptOf gives the partitions that a deploy of d keeps, normalized, and the name of all of them.
func keptOf(d *image.Disk) ([]quantity.Extent, keptSet) {
	var kept []quantity.Extent
	for _, p := range d.Partitions {
		if p.Mode == image.ModeSkip {
			kept = append(kept, quantity.Extent{Start: p.Content.Start, Length: p.Content.Length})
		}
	}
	kept = quantity.Normalize(kept)
	sum := sha256.Sum256(fmt.Append(nil, kept))
	return kept, keptSet(sum[:8])
}

// keptBefore reads what a deploy that was cut had to keep. An image that would overwrite some of it is
// refused.
func keptBefore(d *image.Disk, t Target, g clone.Geometry) ([]quantity.Extent, error) {
	b := make([]byte, g.LogicalSector)
	if err := clone.ReadFull(t, b, 0); err != nil {
		return nil, fmt.Errorf("read the target's table: %w", err)
	}
	before := parseCutMark(b, g.Size)
	kept, set := keptOf(d)
	if before != nil && string(b[cutSet:cutExtents]) == string(set[:]) {
		return before, nil // the same deploy: the mark may say more than it keeps, where there was little room
	}
	for _, e := range before {
		if !quantity.Covers(kept, e) {
			return nil, &clone.RefusedError{
				Reason: fmt.Sprintf("a deploy that was cut was to keep bytes %d to %d of the target, "+
					"and this one does not keep them", int64(e.Start), int64(e.End())),
				Remedy: "deploy an image that leaves them (--policy N=skip), put the old table back (restore-table), " +
					"or zero the disk's first sector to give up what it holds",
			}
		}
	}
	return before, nil
}

// toKeep are the bytes that a cut must not lose: partitions of the old table that the version keeps,
// and what a deploy before was to keep.
func (t *target) toKeep() []quantity.Extent {
	out := slices.Clone(t.before)
	if t.old.Kind == partition.None {
		return out
	}
	for _, p := range t.Image.Partitions {
		if p.Mode == image.ModeSkip && slices.ContainsFunc(t.old.Partitions, func(o partition.Partition) bool {
			return o.Start == p.Content.Start && o.Length == p.Content.Length
		}) {
			out = append(out, quantity.Extent{Start: p.Content.Start, Length: p.Content.Length})
		}
	}
	return quantity.Normalize(out)
}
