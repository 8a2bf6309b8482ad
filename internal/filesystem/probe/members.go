package probe

import (
	"io"

	"clonecast/internal/quantity"
)

// Members names the RAID arrays and volume managers that claim the whole disk r of a given size,
// although it has a partition table: such a disk is one half of a mirror, say, and what its partitions
// hold may be out of date. Marks inside of partitions are those partitions'.
func Members(r io.ReaderAt, size quantity.Bytes, partitions []quantity.Extent) ([]string, error) {
	w := newWindow(r, size)
	var names []string
	for _, k := range append(raids(size), volumes(size)...) {
		if k.name == "gpt" {
			continue // the table itself
		}
		m, ok := k.find(w)
		if w.err != nil {
			return nil, w.err
		}
		if ok && !quantity.Overlaps(partitions, quantity.Extent{Start: m.at, Length: 1}) {
			names = append(names, k.name)
		}
	}
	return names, nil
}
