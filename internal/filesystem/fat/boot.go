package fat

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

// bpb is the part of the boot sector that all widths share (fatgen103; Linux's
// struct fat_boot_sector).
type bpb struct {
	Jump              [3]byte `offset:"0x00"`
	OEMName           [8]byte `offset:"0x03"`
	BytesPerSector    uint16  `offset:"0x0b"`
	SectorsPerCluster uint8   `offset:"0x0d"`
	Reserved          uint16  `offset:"0x0e"` // sectors before the first FAT
	FATs              uint8   `offset:"0x10"`
	RootEntries       uint16  `offset:"0x11"`
	Total16           uint16  `offset:"0x13"`
	Media             uint8   `offset:"0x15"`
	FATSize16         uint16  `offset:"0x16"`
	_                 uint32  `offset:"0x18"` // sectors per track, heads
	Hidden            uint32  `offset:"0x1c"`
	Total32           uint32  `offset:"0x20"`
}

// identity ends the BPB, at another place on FAT32.
type identity struct {
	_         uint8    `offset:"0x00"` // drive number
	State     uint8    `offset:"0x01"` // bit 0: Linux has it mounted
	Signature uint8    `offset:"0x02"` // 0x29: all fields follow; 0x28: the serial only
	Serial    uint32   `offset:"0x03"`
	Label     [11]byte `offset:"0x07"`
}

// fat32 is the part between bpb and identity on FAT32.
type fat32 struct {
	FATSize32   uint32   `offset:"0x00"`
	Flags       uint16   `offset:"0x04"` // bit 7: no mirroring, bits 0-3: active FAT
	Version     uint16   `offset:"0x06"`
	RootCluster uint32   `offset:"0x08"`
	InfoSector  uint16   `offset:"0x0c"`
	BackupBoot  uint16   `offset:"0x0e"`
	_           [12]byte `offset:"0x10"`
}

const (
	bootSectorSize  = 512
	bpbSize         = 0x24
	fat32Size       = 0x1c
	signatureOffset = 0x1fe

	maxClusters12 = 4084
	maxClusters16 = 65524
	maxClusters32 = 0x0FFFFFF5

	rootEntrySize = 32
)

// geometry is what the boot sector says, checked.
type geometry struct {
	width       int // bits per FAT entry
	sectorSize  quantity.Bytes
	clusterSize quantity.Bytes
	clusters    int64
	fat         quantity.Bytes // where the active FAT begins
	rootDir     quantity.Bytes // FAT12/16: where the root directory is
	rootEntries int
	rootCluster int64          // FAT32
	data        quantity.Bytes // where cluster 2 begins
	end         quantity.Bytes // of the volume
	serial      uint32
	mounted     bool
	bootLabel   [11]byte
}

func (g geometry) format() string { return fmt.Sprintf("fat%d", g.width) }

// parseBoot recognises a FAT boot sector. Because nothing in it is a magic
// number, numbers that do not fit mean that it is something else.
func parseBoot(b []byte, size quantity.Bytes) (geometry, error) {
	var p bpb
	if _, err := binary.Decode(b, binary.LittleEndian, &p); err != nil || len(b) < bootSectorSize ||
		binary.LittleEndian.Uint16(b[signatureOffset:]) != 0xAA55 || !plausible(p) {
		return geometry{}, filesystem.ErrNotFound
	}
	var ext fat32
	tail := b[bpbSize:]
	is32 := p.FATSize16 == 0
	fatSectors := int64(p.FATSize16)
	if is32 {
		if _, err := binary.Decode(tail, binary.LittleEndian, &ext); err != nil {
			return geometry{}, filesystem.ErrNotFound
		}
		tail = tail[fat32Size:]
		fatSectors = int64(ext.FATSize32)
	}
	var id identity
	if _, err := binary.Decode(tail, binary.LittleEndian, &id); err != nil {
		return geometry{}, filesystem.ErrNotFound
	}
	g, problem := p.geometry(ext, is32, fatSectors, size)
	if problem != "" {
		if known(b) {
			return geometry{}, &filesystem.CorruptError{Format: "fat", Structure: "boot sector", Problem: problem}
		}
		return geometry{}, filesystem.ErrNotFound
	}
	g.mounted = id.State&1 != 0
	if id.Signature == 0x28 || id.Signature == 0x29 {
		g.serial = id.Serial
	}
	if id.Signature == 0x29 {
		g.bootLabel = id.Label
	}
	return g, nil
}

// plausible tells whether each number alone is one that FAT allows.
func plausible(p bpb) bool {
	return (p.Jump[0] == 0xEB || p.Jump[0] == 0xE9) &&
		quantity.SectorSize(p.BytesPerSector).Valid() &&
		bits.OnesCount8(p.SectorsPerCluster) == 1 &&
		p.Reserved > 0 && (p.FATs == 1 || p.FATs == 2) &&
		(p.Media == 0xF0 || p.Media >= 0xF8)
}

// known tells whether the boot sector names FAT: a hint, not a proof.
func known(b []byte) bool {
	return string(b[0x36:0x39]) == "FAT" || string(b[0x52:0x57]) == "FAT32"
}

// geometry computes where everything is; problem says what does not fit.
func (p bpb) geometry(ext fat32, is32 bool, fatSectors int64, size quantity.Bytes) (g geometry, problem string) {
	sector := int64(p.BytesPerSector)
	total := int64(p.Total16)
	if total == 0 {
		total = int64(p.Total32)
	}
	rootSectors := (int64(p.RootEntries)*rootEntrySize + sector - 1) / sector
	dataSector := int64(p.Reserved) + int64(p.FATs)*fatSectors + rootSectors
	perCluster := int64(p.SectorsPerCluster)
	clusters := (total - dataSector) / perCluster
	switch {
	case fatSectors == 0:
		return g, "no size of the FAT"
	case is32 && p.RootEntries != 0, !is32 && p.RootEntries == 0:
		return g, fmt.Sprintf("%d entries in the root directory", p.RootEntries)
	case total*sector > int64(size):
		return g, fmt.Sprintf("volume of %d sectors is larger than its partition of %d bytes", total, int64(size))
	case clusters < 1:
		return g, fmt.Sprintf("%d sectors have no room for a cluster", total)
	}
	g = geometry{
		width:       widthOf(clusters, is32),
		sectorSize:  quantity.Bytes(sector),
		clusterSize: quantity.Bytes(perCluster * sector),
		clusters:    clusters,
		fat:         quantity.Bytes(int64(p.Reserved) * sector),
		rootDir:     quantity.Bytes((dataSector - rootSectors) * sector),
		rootEntries: int(p.RootEntries),
		rootCluster: int64(ext.RootCluster),
		data:        quantity.Bytes(dataSector * sector),
		end:         quantity.Bytes(total * sector),
	}
	switch {
	case g.width == 0:
		return g, fmt.Sprintf("%d clusters are too many", clusters)
	case (clusters+2)*int64(g.width) > fatSectors*sector*8:
		return g, fmt.Sprintf("FAT of %d sectors is too small for %d clusters", fatSectors, clusters)
	}
	if is32 && ext.Flags&0x80 != 0 {
		active := int64(ext.Flags & 0xF)
		if active >= int64(p.FATs) {
			return g, fmt.Sprintf("active FAT %d of %d", active, p.FATs)
		}
		g.fat += quantity.Bytes(active * fatSectors * sector)
	}
	return g, ""
}

// widthOf gives the bits per FAT entry, or 0 for too many clusters.
func widthOf(clusters int64, is32 bool) int {
	switch {
	case is32 && clusters <= maxClusters32:
		return 32
	case is32 || clusters > maxClusters16:
		return 0
	case clusters > maxClusters12:
		return 16
	}
	return 12
}
