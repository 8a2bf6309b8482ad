// Package partition describes partition tables: what partitions a disk has, and
// which bytes outside of them belong to the table or to the boot code.
//
// The child packages mbr and gpt read the formats; table.Read tries them in the
// right order. All bytes of a table are kept as they are (boot code, disk signature, CHS
// values, unused EBR bytes), because what is put back must be the same bytes.
package partition

import (
	"clonecast/internal/quantity"
)

// Kind is the format of a partition table.
type Kind string

const (
	None Kind = "none" // the disk has no table: its whole length is one partition, number 0
	MBR  Kind = "mbr"
	GPT  Kind = "gpt"
)

// Table is a disk's partition table.
type Table struct {
	Kind       Kind
	DiskID     string // MBR: signature as 8 hex digits; GPT: disk GUID
	Partitions []Partition

	// Areas are the bytes outside partitions that make the disk what it is, in disk
	// order and disjoint: table sectors and boot areas. They never overlap a partition.
	Areas []Area

	// Notes say what was found wrong without making the table unusable ("the primary
	// GPT header is damaged, the backup is used"). People should see them.
	Notes []string
}

// Partition is one partition that holds data; extended containers are not listed.
type Partition struct {
	Number int // as Linux counts: 1..4 primary, 5.. logical; GPT: entry index + 1
	Start  quantity.Bytes
	Length quantity.Bytes
	Type   string // MBR: "0x83"; GPT: type GUID, lower case
	GUID   string // GPT: unique partition GUID
	Name   string // GPT: partition name
	Active bool   // MBR: status byte 0x80
}

// AreaKind says what an area is for; it decides when a deploy writes it.
type AreaKind string

const (
	// AreaTable is a table sector: LBA 0, an EBR, GPT headers and entries. Written last.
	AreaTable AreaKind = "table"
	// AreaBoot is a boot area: what boot code may use of the gap before the first partition
	// and of that between an EBR and its logical partition (see LimitBoot).
	AreaBoot AreaKind = "boot"
)

// Area is a run of bytes outside all partitions.
type Area struct {
	Kind   AreaKind
	Start  quantity.Bytes
	Length quantity.Bytes

	// Data are the bytes of a table area, all Length of them: those that were read, or, of a
	// copy of a GPT that cannot be read, those that the other copy says. It is nil for a boot
	// area, which is read when it is stored.
	Data []byte
}
