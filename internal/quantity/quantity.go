// Package quantity holds the units of the project as types, so that a count of
// sectors is never taken for a count of bytes.
//
// Offsets and lengths are signed 64-bit numbers and never negative. Conversions
// that could overflow say so.
package quantity

import (
	"fmt"
	"math"
)

// Bytes is a length or an offset in bytes.
type Bytes int64

// Common sizes.
const (
	KiB Bytes = 1 << 10
	MiB Bytes = 1 << 20
	GiB Bytes = 1 << 30
	TiB Bytes = 1 << 40
)

// String gives b in binary units with one decimal ("7.5 GiB"), or as plain
// bytes below 1 KiB.
func (b Bytes) String() string {
	units := []string{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	if b > -1024 && b < 1024 {
		return fmt.Sprintf("%d B", int64(b))
	}
	v := float64(b)
	unit := ""
	for _, u := range units {
		v /= 1024
		unit = u
		if math.Abs(v) < 1023.95 {
			break
		}
	}
	return fmt.Sprintf("%.1f %s", v, unit)
}

// LBA is the index of a logical sector on a disk.
type LBA uint64

// Sectors is a number of logical sectors.
type Sectors uint64

// SectorSize is the size of a logical sector in bytes: 512 or 4096 on real disks.
type SectorSize uint32

// Valid tells whether s is a power of two from 512 to 4096.
func (s SectorSize) Valid() bool {
	return s >= 512 && s <= 4096 && s&(s-1) == 0
}

// Bytes converts n sectors to bytes; ok is false when the result does not fit.
func (s SectorSize) Bytes(n Sectors) (b Bytes, ok bool) {
	if s == 0 || uint64(n) > uint64(math.MaxInt64)/uint64(s) {
		return 0, false
	}
	return Bytes(uint64(n) * uint64(s)), true
}

// Offset converts a sector index to a byte offset; ok is false when it does not fit.
func (s SectorSize) Offset(l LBA) (b Bytes, ok bool) { return s.Bytes(Sectors(l)) }

// Sectors gives how many whole sectors fit in b.
func (s SectorSize) Sectors(b Bytes) Sectors {
	if s == 0 || b < 0 {
		return 0
	}
	return Sectors(uint64(b) / uint64(s))
}
