// Package ntfs reads what a capture needs from an NTFS volume: its identity, the
// clusters in use, and whether Windows left it in a state that may be copied by
// allocation.
//
// Terms: a cluster (LCN) is the unit of allocation; a VCN is a cluster of one
// attribute's data, mapped to LCNs by runs; a record is one entry of the master
// file table ($MFT), identified by its number.
//
// Algorithm:
//
//	boot sector                     → geometry, where $MFT begins
//	record 0 ($MFT)                 → runs of all records, attribute list followed
//	record 3 ($Volume)              → label, dirty flag
//	record 2 ($LogFile)             → clean, unclean, or kept in Windows' cache
//	record 5 (root directory)       → hiberfil.sys, whose first bytes tell hibernation
//	record 6 ($Bitmap)              → one bit per cluster
//	record 8 ($BadClus)             → bad clusters, never worth reading
//	page files, $LogFile            → allocated, but not content (discard.go)
//
// The sector behind the volume counts as allocated, and so does the partition's last one: the
// backup boot sector is at one of these two places. What is left in front of it, less than a
// cluster, no file can use.
//
// Not guaranteed: files are not examined; a $Bitmap that is wrong but consistent
// with $MFT and itself is believed.
//
// The format: https://github.com/libyal/libfsntfs (documentation), and ntfs-3g's
// layout.h and logfile.h.
package ntfs

import (
	"fmt"
	"io"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

const format = "ntfs"

// Numbers of the records with fixed meaning.
const (
	recordMFT      = 0
	recordMirror   = 1
	recordLogFile  = 2
	recordVolume   = 3
	recordRoot     = 5
	recordBitmap   = 6
	recordBadClust = 8
)

// volume is an NTFS volume whose boot sector has been checked.
type volume struct {
	r    io.ReaderAt
	size quantity.Bytes
	geometry
	mft stream
}

// Read examines the NTFS volume on the partition r of the given size.
func Read(r io.ReaderAt, size quantity.Bytes) (filesystem.Volume, error) {
	v := &volume{r: r, size: size}
	var err error
	if v.geometry, err = readBoot(r, size); err != nil {
		return filesystem.Volume{}, err
	}
	out := filesystem.Volume{
		Type:      format,
		UUID:      fmt.Sprintf("%016X", v.serial),
		BlockSize: v.clusterSize,
	}
	if err := v.loadMFT(); err != nil {
		return filesystem.Volume{}, fmt.Errorf("read $MFT: %w", err)
	}
	info, err := v.readVolumeInfo()
	if err != nil {
		return filesystem.Volume{}, fmt.Errorf("read $Volume: %w", err)
	}
	out.Label = info.label
	if out.Doubt, err = v.examine(info); err != nil {
		return filesystem.Volume{}, err
	}
	if out.Doubt != nil {
		return out, nil
	}
	if out.Allocated, out.Discarded, err = v.allocation(); err != nil {
		return filesystem.Volume{}, err
	}
	out.Size = v.end()
	return out, nil
}

func corrupt(structure string, off quantity.Bytes, problem string, args ...any) error {
	return &filesystem.CorruptError{
		Format: format, Structure: structure, Offset: off, Problem: fmt.Sprintf(problem, args...),
	}
}
