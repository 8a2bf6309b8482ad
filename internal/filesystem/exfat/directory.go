package exfat

import (
	"encoding/binary"
	"fmt"
	"unicode/utf16"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

// Types of directory entries (specification, 6.2 and 7); the high bit says "in use".
const (
	entrySize   = 32
	entryEnd    = 0x00
	entryBitmap = 0x81
	entryLabel  = 0x83

	maxLabel     = 11
	maxDirectory = 256 * quantity.MiB

	endOfChain = 0xffffffff
)

// bitmapEntry is the Allocation Bitmap Directory Entry (specification, 7.1).
type bitmapEntry struct {
	EntryType    uint8    `offset:"0x0"`
	BitmapFlags  uint8    `offset:"0x1"` // bit 0: of the second FAT
	_            [18]byte `offset:"0x2"`
	FirstCluster uint32   `offset:"0x14"`
	DataLength   uint64   `offset:"0x18"` // bytes
}

// root is what the root directory says of the volume.
type root struct {
	label    string
	bitmap   *bitmapEntry
	clusters []uint32 // of the directory
}

// readRoot reads the root directory. After a *CorruptError it returns what it found so
// far.
func (v *volume) readRoot() (root, error) {
	var out root
	b := make([]byte, v.clusterSize)
	most := max(1, maxDirectory/v.clusterSize)
	err := v.chain("root directory", v.rootCluster, most, func(cluster uint32) (bool, error) {
		if err := filesystem.ReadFull(v.r, b, v.offset(cluster)); err != nil {
			return false, fmt.Errorf("root directory of exfat: %w", err)
		}
		out.clusters = append(out.clusters, cluster)
		return v.entries(b, v.offset(cluster), &out)
	})
	switch {
	case err != nil:
		return out, err
	case out.bitmap == nil:
		return out, corrupt("root directory", v.offset(v.rootCluster), "no allocation bitmap")
	}
	return out, nil
}

// entries looks at the entries in b, which are at an offset of the volume; more tells
// whether others may follow.
func (v *volume) entries(b []byte, at quantity.Bytes, out *root) (more bool, err error) {
	for i := 0; i+entrySize <= len(b); i += entrySize {
		switch e := b[i : i+entrySize]; e[0] {
		case entryEnd:
			return false, nil
		case entryLabel:
			units := make([]uint16, min(e[1], maxLabel))
			if _, err := binary.Decode(e[2:], binary.LittleEndian, units); err != nil {
				return false, err
			}
			out.label = string(utf16.Decode(units))
		case entryBitmap:
			entry := new(bitmapEntry)
			if _, err := binary.Decode(e, binary.LittleEndian, entry); err != nil {
				return false, err
			}
			if out.bitmap != nil || entry.BitmapFlags&1 != 0 {
				return false, corrupt("root directory", at+quantity.Bytes(i), "a second allocation bitmap")
			}
			out.bitmap = entry
		}
	}
	return true, nil
}

// chain calls f for each cluster of a chain until f wants no more or the chain ends.
// Chains of more than most clusters and chains that lead back to themselves are damaged.
func (v *volume) chain(
	name string, cluster uint32, most quantity.Bytes, f func(cluster uint32) (more bool, err error),
) error {
	at := v.fat
	seen := uint32(0) // a cluster passed before: the last whose number in the chain is a power of two
	for i := range most {
		switch {
		case !v.exists(cluster):
			return corrupt(name, at, "leads to cluster %d of %d", cluster, v.clusters)
		case cluster == seen:
			return corrupt(name, at, "leads back to cluster %d", cluster)
		case i&(i-1) == 0:
			seen = cluster
		}
		if more, err := f(cluster); !more || err != nil {
			return err
		}
		at = v.fat + 4*quantity.Bytes(cluster)
		var entry [4]byte
		if err := filesystem.ReadFull(v.r, entry[:], at); err != nil {
			return fmt.Errorf("FAT of exfat: %w", err)
		}
		if cluster = binary.LittleEndian.Uint32(entry[:]); cluster == endOfChain {
			return nil
		}
	}
	return corrupt(name, at, "has more than %d clusters", int64(most))
}
