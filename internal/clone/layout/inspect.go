package layout

import (
	"fmt"
	"io"

	"clonecast/internal/clone"
	"clonecast/internal/filesystem/probe"
	"clonecast/internal/partition/table"
)

// Inspect finds out what is on a disk and how each partition would be captured. It
// only reads.
func Inspect(r io.ReaderAt, g clone.Geometry) (*Layout, error) {
	t, err := table.Read(r, g.Size, g.LogicalSector)
	if err != nil {
		return nil, fmt.Errorf("partition table: %w", err)
	}
	l := &Layout{Geometry: g, Table: t}
	for _, p := range t.Partitions {
		v, err := probe.Read(io.NewSectionReader(r, int64(p.Start), int64(p.Length)), p.Length)
		if err != nil {
			return nil, fmt.Errorf("partition %d: %w", p.Number, err)
		}
		l.Partitions = append(l.Partitions, NewPartition(p, v))
	}
	return l, nil
}
