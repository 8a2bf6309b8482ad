package layout

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"clonecast/internal/clone"
	"clonecast/internal/clone/rescue"
	"clonecast/internal/filesystem"
	"clonecast/internal/filesystem/probe"
	"clonecast/internal/image"
	"clonecast/internal/partition"
	"clonecast/internal/partition/table"
	"clonecast/internal/quantity"
)

// Options say how a disk is looked at.
type Options struct {
	// Policy has the modes that an operator wants, by partition number. Raw for number 0 takes the disk
	// as one run of bytes, whatever its table says. All others are for Layout.Apply.
	Policy map[int]image.Mode
	// BootGap is how much of the disk's start is a boot area, whatever stands there.
	BootGap quantity.Bytes
}

// Inspect finds out what is on a disk and how each partition would be captured. It
// only reads.
func Inspect(r io.ReaderAt, g clone.Geometry) (*Layout, error) { return Options{}.Inspect(r, g) }

// Inspect is Inspect with options. Tables that cannot be used are errors with a Hint; unreadable bytes
// anywhere else are not.
func (o Options) Inspect(r io.ReaderAt, g clone.Geometry) (*Layout, error) {
	l := &Layout{Geometry: g, Table: wholeDisk(g.Size), options: o}
	whole := o.Policy[0] == image.ModeRaw
	if whole && len(o.Policy) > 1 {
		return nil, &clone.RefusedError{
			Reason: "the whole disk is to be taken as it is, and something else is wanted of its partitions",
			Remedy: "a disk that is stored as one run of bytes has no partitions: leave the other policies out",
		}
	}
	if !whole {
		if err := o.readTable(r, l); err != nil {
			return nil, err
		}
	}
	for _, p := range l.Table.Partitions {
		inside := io.NewSectionReader(r, int64(p.Start), int64(p.Length))
		if whole {
			l.Partitions = append(l.Partitions, rawPartition(p, Ordered))
			continue
		}
		v, unread, err := look(inside, p.Length)
		if err != nil {
			return nil, fmt.Errorf("partition %d: %w", p.Number, err)
		}
		found := NewPartition(p, v)
		found.Unread = unread
		l.Partitions = append(l.Partitions, found)
	}
	return l, nil
}

func wholeDisk(size quantity.Bytes) partition.Table {
	return partition.Table{Kind: partition.None, Partitions: []partition.Partition{{Length: size}}}
}

func rawPartition(p partition.Partition, reason string) Partition {
	return Partition{Partition: p, Mode: image.ModeRaw, Reason: reason,
		Extents: []quantity.Extent{{Start: 0, Length: p.Length}}}
}

// readTable reads the partition table, and finds out whether it is the disk's: whether it counts in
// the disk's sectors, and whether an array or a volume manager claims all of the disk.
func (o Options) readTable(r io.ReaderAt, l *Layout) error {
	t, err := table.Options{BootGap: o.BootGap}.Read(r, l.Size, l.LogicalSector)
	known := func(e quantity.Extent) bool {
		v, _, err := look(io.NewSectionReader(r, int64(e.Start), int64(e.Length)), e.Length)
		return err == nil && v.Type != ""
	}
	if counted := table.SectorSize(r, l.Size, l.LogicalSector, known); counted != l.LogicalSector {
		return fmt.Errorf("partition table: %w", &partition.SectorSizeError{Disk: l.LogicalSector, Counted: counted})
	}
	if err != nil {
		return fmt.Errorf("partition table: %w", err)
	}
	l.Table = t
	if t.Kind == partition.None {
		return nil // what claims the disk is found on its one partition
	}
	var places []quantity.Extent
	for _, p := range t.Partitions {
		places = append(places, quantity.Extent{Start: p.Start, Length: p.Length})
	}
	l.Members, err = probe.Members(&rescue.Reader{Disk: r}, l.Size, quantity.Normalize(places))
	return err
}

// look finds out what a partition holds, and what of it could not be read. There no mark of another format counts
// as found; a map is used only if all structures of its file system can be read.
func look(r io.ReaderAt, size quantity.Bytes) (v filesystem.Volume, unread string, err error) {
	if v, err := probe.Read(r, size); err == nil {
		return v, "", nil
	}
	rescued := &rescue.Reader{Disk: r}
	if v, err = probe.Read(rescued, size); err != nil {
		return filesystem.Volume{}, "", err
	}
	var bad *rescue.UnreadableError
	if !errors.As(rescued.Unreadable(), &bad) {
		return v, "", nil // it could be read after all
	}
	unread = fmt.Sprintf("%v cannot be read where it was looked into, the first at byte %d of it",
		quantity.Total(bad.Extents), int64(bad.Extents[0].Start))
	switch {
	case v.Doubt != nil:
		v.Notes = append(v.Notes, unread)
	case !probe.Readable(r, size, v.Type):
		v.Doubt = &filesystem.Doubt{Reason: unread, Remedy: checkDisk}
		v.Allocated, v.Discarded, v.Whole = nil, nil, nil
	default:
		v.Notes = append(v.Notes, unread+": the map of the "+v.Type+" is used all the same")
		v.Allocated = withTail(v, bad.Extents, size)
	}
	return v, unread, nil
}

// withTail adds to what a volume uses the unreadable bytes behind it: whether they are zero nobody knows.
func withTail(v filesystem.Volume, bad []quantity.Extent, size quantity.Bytes) []quantity.Extent {
	out := slices.Clone(v.Allocated)
	for _, e := range bad {
		if start := max(e.Start, v.Size); start < e.End() {
			out = append(out, quantity.Extent{Start: start, Length: min(e.End(), size) - start})
		}
	}
	return quantity.Normalize(out)
}

// checkDisk is what to do about structures that cannot be read.
const checkDisk = "replace the disk; to capture it all the same: --fill-bad-sectors"

// memberText says that something claims the whole disk.
func memberText(names []string) string {
	return fmt.Sprintf("the whole disk is marked as a member of %s: its partitions are one part of that, "+
		"and may be out of date", strings.Join(names, " and "))
}
