// Package fat reads the identity and the allocated bytes of FAT12, FAT16 and
// FAT32 volumes.
//
// Terms: the BIOS parameter block (BPB) in sector 0 gives the geometry; clusters
// are numbered from 2; the file allocation table (FAT) has one entry per cluster:
// 0 is free, 0xFF7 (0xFFF7, 0x0FFFFFF7) bad, everything else in use.
//
// Algorithm: FAT has no magic number, so a volume is recognised by a jump
// instruction, the boot signature and a BPB whose numbers fit together and fit
// the partition. The width follows from the number of clusters alone, except that
// a BPB with a 32-bit FAT size has FAT32's layout however small it is. Allocated
// are: everything before cluster 2, clusters in use, and what follows the last
// cluster. Bad clusters are not: they hold nothing and may not be readable.
//
// FAT has no journal. A volume that was not unmounted may have files whose
// entries are not in the FAT yet; it is returned with a Doubt. FAT12 has no
// place for that mark but the one Linux uses in the boot sector.
//
// Not guaranteed: directories other than the root are not read, and the FATs are
// not compared with one another; the active one counts.
//
// The format: Microsoft's "FAT: General Overview of On-Disk Format" (fatgen103)
// and Linux's fs/fat.
package fat

import (
	"fmt"
	"io"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

// Read examines the FAT volume on the partition r of the given size.
func Read(r io.ReaderAt, size quantity.Bytes) (filesystem.Volume, error) {
	if size < bootSectorSize {
		return filesystem.Volume{}, filesystem.ErrNotFound
	}
	boot := make([]byte, bootSectorSize)
	if err := filesystem.ReadFull(r, boot, 0); err != nil {
		return filesystem.Volume{}, err
	}
	g, err := parseBoot(boot, size)
	if err != nil {
		return filesystem.Volume{}, err
	}
	v := &volume{r: r, geometry: g}
	out := filesystem.Volume{
		Type:      g.format(),
		UUID:      fmt.Sprintf("%04X-%04X", g.serial>>16, g.serial&0xFFFF),
		BlockSize: g.clusterSize,
	}
	if out.Label, err = v.label(); err != nil {
		return filesystem.Volume{}, fmt.Errorf("read the root directory: %w", err)
	}
	if out.Doubt, err = v.examine(); err != nil {
		return filesystem.Volume{}, fmt.Errorf("read the FAT: %w", err)
	}
	if out.Doubt != nil {
		return out, nil
	}
	if out.Allocated, err = v.allocation(); err != nil {
		return filesystem.Volume{}, fmt.Errorf("read the FAT: %w", err)
	}
	out.Size = v.end
	return out, nil
}

// volume is a FAT volume whose boot sector has been checked.
type volume struct {
	r io.ReaderAt
	geometry
}
