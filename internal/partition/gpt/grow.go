package gpt

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"clonecast/internal/partition"
	"clonecast/internal/quantity"
)

// UsableEnd is the byte after the last one that partitions may use, by the table whose
// sectors are given.
func UsableEnd(table []partition.Content, disk Disk) (quantity.Bytes, error) {
	d, err := open(partition.Contents(table), disk.Size, disk.Sector)
	if err != nil {
		return 0, fmt.Errorf("read saved GPT: %w", err)
	}
	return d.offset(min(d.best().header.LastUsable, d.last) + 1), nil
}

// Grow gives table sectors in which the partitions have new lengths, by their numbers.
// Starts, GUIDs and everything else stay. The table's sectors keep their order; both
// copies must be good, as Relocate makes them.
func Grow(table []partition.Content, disk Disk, lengths map[int]quantity.Bytes) ([]partition.Content, error) {
	d, err := open(partition.Contents(table), disk.Size, disk.Sector)
	if err != nil {
		return nil, fmt.Errorf("read saved GPT: %w", err)
	}
	if d.primary == nil || d.backup == nil {
		return nil, corrupt("table", 0, "one of its copies is bad")
	}
	grown := &half{header: d.primary.header, entries: bytes.Clone(d.primary.entries)}
	for number, length := range lengths {
		if number < 1 || number > grown.count() {
			return nil, fmt.Errorf("grow partition %d: the table has no such entry", number)
		}
		raw := grown.entry(number - 1)
		if guid(raw[:16]) == (guid{}) {
			return nil, fmt.Errorf("grow partition %d: its entry is not in use", number)
		}
		first := binary.LittleEndian.Uint64(raw[entryFirst:])
		last := first + uint64(d.sector.Sectors(length)) - 1
		if length <= 0 || last < first || last > d.primary.header.LastUsable {
			return nil, fmt.Errorf("grow partition %d: %d bytes from sector %d do not end inside the usable room",
				number, int64(length), first)
		}
		binary.LittleEndian.PutUint64(raw[entryLast:], last)
	}
	out := partition.Contents(table).Clone()
	for _, h := range []*half{d.primary, d.backup} {
		h.entries = grown.entries
		if err := out.Put(d.offset(h.header.EntriesLBA), grown.entries); err != nil {
			return nil, err
		}
		if err := out.Put(d.offset(h.header.MyLBA), h.encode(h.header)); err != nil {
			return nil, err
		}
	}
	if _, err := Read(out, disk.Size, disk.Sector); err != nil {
		return nil, fmt.Errorf("grow partitions: %w", err)
	}
	return out, nil
}

// Where entry.First and entry.Last stand.
const (
	entryFirst = 32
	entryLast  = 40
)
