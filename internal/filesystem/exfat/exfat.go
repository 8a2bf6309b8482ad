// Package exfat reads the identity and the allocated bytes of exFAT volumes.
//
// A volume begins with a boot region of 12 sectors and a copy of it; then come the
// file allocation table (FAT, one entry of 4 bytes per cluster), and the heap of
// clusters, numbered from 2. The root directory names a file that is the allocation
// bitmap, one bit per cluster. The FAT says where the clusters of the root directory
// and of the bitmap are; of other files it may say nothing.
//
//	boot region -> geometry, flags, checksum
//	dirty, damaged or of an unknown kind -> identity and Doubt, no map
//	root directory -> label, allocation bitmap
//	in use: what is in front of the heap, clusters with a bit, the rest of the volume
//
// exFAT has no journal: a volume in use is marked dirty in the boot sector, which is
// the only sign that its bitmap may be behind.
//
// Not guaranteed: directories other than the root are not read, nor is the FAT compared
// with the bitmap. Bad clusters have a bit and count as used.
//
// The format: Microsoft's "exFAT file system specification".
package exfat

import (
	"fmt"
	"io"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

const format = "exfat"

// Read examines the exFAT volume on the partition r of the given size.
func Read(r io.ReaderAt, size quantity.Bytes) (filesystem.Volume, error) {
	boot, err := readBoot(r, size)
	if err != nil {
		return filesystem.Volume{}, err
	}
	v := &volume{r: r}
	out := filesystem.Volume{
		Type:  format,
		UUID:  fmt.Sprintf("%04X-%04X", boot.SerialNumber>>16, boot.SerialNumber&0xffff),
		Doubt: boot.kindDoubt(),
	}
	if out.Doubt != nil {
		return out, nil
	}
	var problem string
	if v.geometry, problem = newGeometry(boot, size); problem != "" {
		return filesystem.Volume{}, corrupt("boot sector", 0, "%s", problem)
	}
	out.BlockSize = v.clusterSize
	if out.Doubt, err = v.stateDoubt(boot); err != nil {
		return filesystem.Volume{}, err
	}
	dir, err := v.readRoot()
	out.Label = dir.label
	if out.Doubt != nil {
		return out, nil // the label may be lost with the directory
	}
	if err != nil {
		return filesystem.Volume{}, err
	}
	if out.Allocated, err = v.allocated(dir); err != nil {
		return filesystem.Volume{}, err
	}
	out.Size = v.end
	return out, nil
}

// volume is an exFAT volume whose boot sector has been checked.
type volume struct {
	r io.ReaderAt
	geometry
}

func corrupt(structure string, at quantity.Bytes, problem string, args ...any) error {
	return &filesystem.CorruptError{
		Format: format, Structure: structure, Offset: at, Problem: fmt.Sprintf(problem, args...),
	}
}
