package exfat

import (
	"fmt"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

// allocated lists the bytes in use.
func (v *volume) allocated(dir root) ([]quantity.Extent, error) {
	var used filesystem.Map
	used.Add(0, v.heap)
	clusters, err := v.addBitmap(&used, dir.bitmap)
	if err != nil {
		return nil, err
	}
	last := v.offset(v.clusters + 2)
	used.Add(last, v.end-last)
	extents := used.Extents()
	for _, cluster := range append(clusters, dir.clusters...) {
		if !quantity.Covers(extents, quantity.Extent{Start: v.offset(cluster), Length: v.clusterSize}) {
			return nil, corrupt("allocation bitmap", v.offset(dir.bitmap.FirstCluster),
				"calls cluster %d free, which holds it or the root directory", cluster)
		}
	}
	return extents, nil
}

// addBitmap adds the clusters that have a bit; it returns those the bitmap is in.
func (v *volume) addBitmap(used *filesystem.Map, entry *bitmapEntry) ([]uint32, error) {
	const name = "allocation bitmap"
	need := (uint64(v.clusters) + 7) / 8
	most := (quantity.Bytes(need) + v.clusterSize - 1) / v.clusterSize
	if entry.DataLength < need {
		return nil, corrupt(name, v.offset(v.rootCluster), "has %d bytes for %d clusters", entry.DataLength, v.clusters)
	}
	var in []uint32
	b := make([]byte, v.clusterSize)
	next := uint64(0) // cluster of the next bit, counted from the first
	err := v.chain(name, entry.FirstCluster, most, func(cluster uint32) (bool, error) {
		if err := filesystem.ReadFull(v.r, b, v.offset(cluster)); err != nil {
			return false, fmt.Errorf("%s of exfat: %w", name, err)
		}
		in = append(in, cluster)
		first := next
		filesystem.EachRun(b, min(uint64(len(b))*8, uint64(v.clusters)-first), func(start, length uint64) {
			used.Add(v.offset(uint32(first+start)+2), quantity.Bytes(length)*v.clusterSize)
		})
		next += uint64(len(b)) * 8
		return next < uint64(v.clusters), nil
	})
	switch {
	case err != nil:
		return nil, err
	case next < uint64(v.clusters):
		return nil, corrupt(name, v.offset(entry.FirstCluster), "ends after %d of %d clusters", next, v.clusters)
	}
	return in, nil
}
