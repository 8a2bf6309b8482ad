// Package table reads whatever partition table a disk has.
//
// GPT comes before MBR, as in the kernel: an MBR with a protective entry is never
// read as an MBR, even if both copies of the GPT are bad. A disk without a table, or
// with an MBR that lists nothing, is one partition with number 0: a bare file system
// works, with or without boot code in its first sector.
package table

import (
	"errors"
	"fmt"
	"io"

	"clonecast/internal/partition"
	"clonecast/internal/partition/gpt"
	"clonecast/internal/partition/mbr"
	"clonecast/internal/quantity"
)

// Read reads the partition table of the disk r. Tables that contradict themselves
// are *partition.CorruptError; schemes that are not understood are
// partition.ErrUnsupported. What cannot be read and is not kept twice is
// *partition.UnreadableError: the first sector, an EBR, both copies of a GPT.
//
// Boot areas are limited to what boot code can use, by Table.LimitBoot.
func Read(r io.ReaderAt, size quantity.Bytes, sector quantity.SectorSize) (partition.Table, error) {
	return Options{}.Read(r, size, sector)
}

// Options say what counts as the table's.
type Options struct {
	BootGap quantity.Bytes // this much of the disk's start is boot area, if no partition's
}

// Read is Read with options.
func (o Options) Read(r io.ReaderAt, size quantity.Bytes, sector quantity.SectorSize) (partition.Table, error) {
	if !sector.Valid() {
		return partition.Table{}, fmt.Errorf("sector size %d is no power of two from 512 to 4096", sector)
	}
	if size <= 0 {
		return partition.Table{}, fmt.Errorf("the disk has %d bytes", int64(size))
	}
	type reader func(io.ReaderAt, quantity.Bytes, quantity.SectorSize) (partition.Table, error)
	for _, read := range []reader{gpt.Read, mbr.Read} {
		t, err := read(r, size, sector)
		if errors.Is(err, partition.ErrNotFound) {
			continue
		}
		if err != nil {
			return partition.Table{}, err
		}
		t.LimitBoot(r, o.BootGap)
		return t, nil
	}
	if err := orphanGPT(r, size, sector); err != nil {
		return partition.Table{}, err
	}
	return partition.Table{
		Kind:       partition.None,
		Partitions: []partition.Partition{{Number: 0, Start: 0, Length: size}},
	}, nil
}

// orphanGPT refuses a disk whose LBA 0 is blank while LBA 1 holds a GPT header: no
// kernel uses that table, yet it is no disk without one.
func orphanGPT(r io.ReaderAt, size quantity.Bytes, sector quantity.SectorSize) error {
	if size < 2*quantity.Bytes(sector) {
		return nil
	}
	b, err := partition.ReadFull(r, 0, 2*int(sector))
	if err != nil {
		return nil // the first one was read before; of the second nothing is known
	}
	for _, c := range b[:sector] {
		if c != 0 {
			return nil
		}
	}
	if string(b[sector:][:8]) != "EFI PART" {
		return nil
	}
	return &partition.CorruptError{Format: partition.GPT, Structure: "protective MBR",
		Problem: "sector 0 is blank, but sector 1 holds a GPT header"}
}
