package ntfs

import (
	"errors"
	"fmt"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

// bitmapChunk is how much of $Bitmap is read at once.
const bitmapChunk = quantity.MiB

// allocation gives the bytes in use, and those of them that are not content.
func (v *volume) allocation() (used []quantity.Extent, discarded []filesystem.Discard, err error) {
	r, s, err := v.openBitmap()
	if err != nil {
		return nil, nil, fmt.Errorf("read $Bitmap: %w", err)
	}
	if used, err = v.scanBitmap(&s, v.bitmapSize()); err != nil {
		return nil, nil, fmt.Errorf("read $Bitmap: %w", err)
	}
	if err := v.crossCheck(used, r, s); err != nil {
		return nil, nil, err
	}
	bad, err := v.badClusters()
	if err != nil {
		return nil, nil, fmt.Errorf("read $BadClus: %w", err)
	}
	used = subtract(used, bad)
	if discarded, err = v.discards(used, v.systemExtents(&s)); err != nil {
		return nil, nil, err
	}
	return quantity.Normalize(append(used, v.ends()...)), discarded, nil
}

// bitmapSize is how many bytes of $Bitmap the volume's clusters take.
func (v *volume) bitmapSize() quantity.Bytes { return quantity.Bytes((v.clusters + 7) / 8) }

// openBitmap gives $Bitmap's record and its data, which has no holes and a bit for every
// cluster.
func (v *volume) openBitmap() (record, stream, error) {
	r, err := v.readRecord(recordBitmap)
	if err != nil {
		return record{}, stream{}, err
	}
	s, err := v.open(r, typeData, "")
	if err != nil {
		return record{}, stream{}, required(r, "$DATA", err)
	}
	if err := v.noHoles(&s, r); err != nil {
		return record{}, stream{}, err
	}
	if s.initialized < v.bitmapSize() {
		return record{}, stream{}, r.corrupt("$Bitmap has %d bytes for %d clusters", int64(s.initialized), v.clusters)
	}
	return r, s, nil
}

// scanBitmap gives the runs of ones in the first need bytes of s.
func (v *volume) scanBitmap(s *stream, need quantity.Bytes) ([]quantity.Extent, error) {
	var used filesystem.Map
	buf := make([]byte, min((need+7)&^7, bitmapChunk))
	for off := quantity.Bytes(0); off < need; off += bitmapChunk {
		n := min(need-off, bitmapChunk)
		if err := v.readStream(s, buf[:n], off); err != nil {
			return nil, err
		}
		first := int64(off) * 8
		filesystem.EachRun(buf[:(n+7)&^7], uint64(min(int64(n)*8, v.clusters-first)), func(start, length uint64) {
			used.Add(v.clusterOffset(first+int64(start)), v.clusterOffset(int64(length)))
		})
	}
	return used.Extents(), nil
}

// crossCheck finds a $Bitmap that calls free what is known to be in use.
func (v *volume) crossCheck(used []quantity.Extent, r record, bitmap stream) error {
	for _, e := range v.systemExtents(&bitmap) {
		if !quantity.Covers(used, e) {
			return r.corrupt("$Bitmap calls bytes %d+%d of a system file free", int64(e.Start), int64(e.Length))
		}
	}
	return nil
}

// systemExtents gives where the boot sector, $MFT and $Bitmap are.
func (v *volume) systemExtents(bitmap *stream) []quantity.Extent {
	known := append(v.extents(&v.mft), v.extents(bitmap)...)
	return append(known, quantity.Extent{Start: 0, Length: v.clusterSize})
}

// extents gives where s is on the volume.
func (v *volume) extents(s *stream) []quantity.Extent {
	var out []quantity.Extent
	for _, r := range s.runs {
		if r.lcn != sparse {
			out = append(out, quantity.Extent{Start: v.clusterOffset(r.lcn), Length: quantity.Bytes(r.length) * v.clusterSize})
		}
	}
	return out
}

// badClusters gives the clusters that the stream $Bad of $BadClus holds. They
// are marked used, hold nothing, and reading them may fail.
func (v *volume) badClusters() ([]quantity.Extent, error) {
	r, err := v.readRecord(recordBadClust)
	if err != nil {
		return nil, err
	}
	s, err := v.open(r, typeData, "$Bad")
	if errors.Is(err, errNoAttribute) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return quantity.Normalize(v.extents(&s)), nil
}

// subtract removes the bytes of minus from extents; both are normalized.
func subtract(extents, minus []quantity.Extent) []quantity.Extent {
	if len(minus) == 0 {
		return extents
	}
	var out []quantity.Extent
	for _, e := range extents {
		for len(minus) > 0 && minus[0].End() <= e.Start {
			minus = minus[1:]
		}
		for _, m := range minus {
			if m.Start >= e.End() {
				break
			}
			if m.Start > e.Start {
				out = append(out, quantity.Extent{Start: e.Start, Length: m.Start - e.Start})
			}
			e = quantity.Extent{Start: min(m.End(), e.End()), Length: max(0, e.End()-m.End())}
		}
		if e.Length > 0 {
			out = append(out, e)
		}
	}
	return out
}

// ends is what is in use behind the last whole cluster: the backup boot sector, behind the volume's
// other sectors, or in the last sector of the partition, where ntfsresize puts it.
func (v *volume) ends() []quantity.Extent {
	backup, last := quantity.Bytes(v.totalSectors)*v.sectorSize, max(v.size-v.sectorSize, 0)
	return []quantity.Extent{{Start: backup, Length: v.end() - backup}, {Start: last, Length: v.size - last}}
}

// end is where the volume ends: behind the sector that follows those it counts.
func (v *volume) end() quantity.Bytes {
	return min(quantity.Bytes(v.totalSectors+1)*v.sectorSize, v.size)
}
