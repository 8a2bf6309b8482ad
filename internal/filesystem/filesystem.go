// Package filesystem says what is known about the content of a partition: which
// file system it holds, its identity, and which of its bytes are in use.
//
// Each child package reads one format with
//
//	Read(r io.ReaderAt, size quantity.Bytes) (filesystem.Volume, error)
//
// where r is the partition and size its length. Read never trusts a number from
// the disk before it is checked against size; its memory is bounded by the
// allocation map. Its errors are of three kinds:
//
//   - ErrNotFound: the magic is absent; another format may be tried.
//   - *CorruptError: the magic is there but a structure contradicts itself.
//   - any other error: the device could not be read.
//
// A volume that is recognised but whose map must not be used (dirty journal,
// unknown feature, hibernated) is not an error: it is returned with its identity
// and a Doubt. Doubt means allocated: such a partition is copied block by block.
package filesystem

import (
	"errors"
	"fmt"

	"clonecast/internal/quantity"
)

// Volume is one file system (or swap area) as found on a partition.
type Volume struct {
	Type      string         // "ext4", "ntfs", "fat32", "swap", ...: blkid's name, fat with its width
	UUID      string         // as blkid prints it; empty when the format has none
	Label     string         // volume label, decoded to UTF-8
	BlockSize quantity.Bytes // unit of allocation (block or cluster); page size for swap

	// Size is where the volume ends by its own superblock, counted from the partition's start and
	// never behind its end. What lies between is the tail (see probe). It is given with Allocated,
	// and for swap.
	Size quantity.Bytes

	// Allocated holds the bytes in use, from the partition's start, normalized and
	// inside the partition. It is nil when Doubt is set.
	Allocated []quantity.Extent

	// Discarded lists allocated bytes whose content need not be kept: page files, clean
	// logs. Empty when Doubt is set.
	Discarded []Discard

	// Whole lists parts of a volume manager's partition that count as used from end to end,
	// because the map of what they hold must not be used.
	Whole []Part

	// Notes say what a capture of this volume leaves out, or keeps beside it; each one clause. "N" in
	// --policy N= stands for the partition's number.
	Notes []string

	// Doubt is set when the allocation map must not be used.
	Doubt *Doubt
}

// Part is a volume inside of a partition.
type Part struct {
	Name  string          // "logical volume root"
	Type  string          // as in Volume
	Place quantity.Extent // from the partition's start; empty where it lies in several pieces
	Doubt *Doubt
}

// Discard is a part of a volume that is allocated, but whose content means nothing to the
// next user of the volume. A capture does not read it and keeps Fill in its place; a
// deploy writes that, so that nothing of a disk's old life shows through.
type Discard struct {
	What    string            // "pagefile.sys", "journal"
	Fill    byte              // what each byte becomes
	Extents []quantity.Extent // normalized, inside Allocated, apart from all other Discards'
}

// Doubt says why a volume's allocation map is not used.
type Doubt struct {
	Reason string // cause, one clause: "journal needs recovery"
	Remedy string // what the operator can do: "boot the system once and shut it down cleanly"
	Refuse bool   // capture must be refused unless forced (hibernated systems)
	Replay bool   // all that is wrong is a journal, and a mount replays it

	// Hibernated is set, with Refuse, when a system sleeps here that goes on with the file systems
	// of the disk as it left them: none of them may be changed meanwhile.
	Hibernated bool
}

// Growth is what makes a volume fill a partition that has become larger.
type Growth struct {
	From, To quantity.Bytes // sizes of the volume; equal when there is nothing to do

	// Steps are the writes, from the partition's start. The writes of one step may reach
	// the disk in any order; a flush must follow each step.
	Steps [][]Write
}

// Write is a run of bytes to be written.
type Write struct {
	Offset quantity.Bytes
	Data   []byte // shared between writes; not to be changed
}

// UnchangedError says why a volume stays as it was: it cannot be made larger, or its journal
// cannot be replayed.
type UnchangedError struct {
	Reason string
}

func (e *UnchangedError) Error() string { return e.Reason }

// Blank is what a volume's bytes become when it is made anew: an empty file system with
// the same geometry, UUID and label.
type Blank struct {
	Extents []quantity.Extent // all that must be written; normalized
	Zero    []quantity.Extent // bytes of Extents that become zero
	Writes  []Write           // bytes of Extents that are given here; they win over Zero
}

// ErrNotFound reports that the format's magic is absent.
var ErrNotFound = errors.New("no such file system")

// CorruptError reports a structure that contradicts itself or its surroundings.
type CorruptError struct {
	Format    string // "ext4", "ntfs", ...
	Structure string // "superblock", "group descriptor 7"
	Offset    quantity.Bytes
	Problem   string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("%s: %s at byte %d: %s", e.Format, e.Structure, int64(e.Offset), e.Problem)
}
