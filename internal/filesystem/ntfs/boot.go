package ntfs

import (
	"encoding/binary"
	"io"
	"math/bits"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

// bootSector is ntfs-3g's NTFS_BOOT_SECTOR.
type bootSector struct {
	_                 [3]byte   `offset:"0x00"`
	OEMID             [8]byte   `offset:"0x03"`
	BytesPerSector    uint16    `offset:"0x0b"`
	SectorsPerCluster uint8     `offset:"0x0d"` // above 128: 2^(256-n)
	_                 [26]byte  `offset:"0x0e"`
	TotalSectors      uint64    `offset:"0x28"`
	MFTCluster        uint64    `offset:"0x30"`
	MirrorCluster     uint64    `offset:"0x38"`
	ClustersPerRecord int8      `offset:"0x40"` // negative: 2^-n bytes
	_                 [3]byte   `offset:"0x41"`
	ClustersPerIndex  int8      `offset:"0x44"`
	_                 [3]byte   `offset:"0x45"`
	Serial            uint64    `offset:"0x48"`
	_                 [430]byte `offset:"0x50"`  // checksum and boot code
	Signature         uint16    `offset:"0x1fe"` // 0xAA55
}

const bootSectorSize = 512

// Limits of the format: clusters of up to 2 MiB since Windows 10 1903.
const (
	maxClusterSize = 2 * quantity.MiB
	maxRecordSize  = 64 * quantity.KiB
	stride         = 512 // fixups protect 512 bytes each, whatever the sector size
)

// geometry is what the boot sector says, checked.
type geometry struct {
	sectorSize   quantity.Bytes
	clusterSize  quantity.Bytes
	recordSize   quantity.Bytes
	totalSectors quantity.Sectors
	clusters     int64
	mftCluster   int64
	serial       uint64
}

// clusterOffset is the byte at which cluster lcn begins.
func (g geometry) clusterOffset(lcn int64) quantity.Bytes {
	return quantity.Bytes(lcn) * g.clusterSize
}

func readBoot(r io.ReaderAt, size quantity.Bytes) (geometry, error) {
	if size < bootSectorSize {
		return geometry{}, filesystem.ErrNotFound
	}
	b := make([]byte, bootSectorSize)
	if err := filesystem.ReadFull(r, b, 0); err != nil {
		return geometry{}, err
	}
	return parseBoot(b, size)
}

func parseBoot(b []byte, size quantity.Bytes) (geometry, error) {
	var s bootSector
	if _, err := binary.Decode(b, binary.LittleEndian, &s); err != nil || string(s.OEMID[:]) != "NTFS    " {
		return geometry{}, filesystem.ErrNotFound
	}
	bad := func(problem string, args ...any) (geometry, error) {
		return geometry{}, corrupt("boot sector", 0, problem, args...)
	}
	if s.Signature != 0xAA55 {
		return bad("signature %#04x, want 0xaa55", s.Signature)
	}
	sector := quantity.SectorSize(s.BytesPerSector)
	if !sector.Valid() {
		return bad("%d bytes per sector", s.BytesPerSector)
	}
	g := geometry{
		sectorSize:   quantity.Bytes(sector),
		totalSectors: quantity.Sectors(s.TotalSectors),
		serial:       s.Serial,
	}
	g.clusterSize = clusterSize(s.SectorsPerCluster, g.sectorSize)
	if g.clusterSize == 0 || g.clusterSize > maxClusterSize {
		return bad("sectors per cluster %#02x", s.SectorsPerCluster)
	}
	total, ok := sector.Bytes(g.totalSectors)
	if !ok || total > size {
		return bad("volume of %d sectors is larger than its partition of %d bytes", s.TotalSectors, int64(size))
	}
	g.clusters = int64(total / g.clusterSize)
	if g.clusters == 0 {
		return bad("volume of %d sectors holds no cluster", s.TotalSectors)
	}
	g.recordSize = recordSize(s.ClustersPerRecord, g.clusterSize)
	if g.recordSize == 0 {
		return bad("clusters per record %d", s.ClustersPerRecord)
	}
	if s.MFTCluster >= uint64(g.clusters) {
		return bad("$MFT at cluster %d of %d", s.MFTCluster, g.clusters)
	}
	g.mftCluster = int64(s.MFTCluster)
	return g, nil
}

// clusterSize decodes sectors per cluster; 0 means that n is not a valid code.
func clusterSize(n uint8, sector quantity.Bytes) quantity.Bytes {
	switch {
	case n > 0 && n <= 128 && bits.OnesCount8(n) == 1:
		return quantity.Bytes(n) * sector
	case n >= 0xf0:
		return sector << (256 - int(n))
	}
	return 0
}

// recordSize decodes clusters per record; 0 means that n gives no usable size.
func recordSize(n int8, cluster quantity.Bytes) quantity.Bytes {
	var size quantity.Bytes
	switch {
	case n > 0:
		size = quantity.Bytes(n) * cluster
	case n < 0 && n > -32:
		size = 1 << -int(n)
	}
	if size < stride || size > maxRecordSize || size%stride != 0 {
		return 0
	}
	return size
}
