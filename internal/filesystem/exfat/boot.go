package exfat

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

const bootSectorSize = 512

// bootSector is the Main Boot Sector (specification, 3.1), whose rest has no meaning
// when sectors are longer than 512 bytes.
type bootSector struct {
	_                      [3]byte   `offset:"0x00"` // jump
	FileSystemName         [8]byte   `offset:"0x03"`
	MustBeZero             [53]byte  `offset:"0x0b"` // where FAT has its parameters
	_                      uint64    `offset:"0x40"` // where the partition is on the disk
	VolumeLength           uint64    `offset:"0x48"` // sectors
	FatOffset              uint32    `offset:"0x50"` // sectors
	FatLength              uint32    `offset:"0x54"` // sectors
	ClusterHeapOffset      uint32    `offset:"0x58"` // sectors
	ClusterCount           uint32    `offset:"0x5c"`
	FirstClusterOfRoot     uint32    `offset:"0x60"`
	SerialNumber           uint32    `offset:"0x64"`
	Revision               uint16    `offset:"0x68"` // major in the high byte
	VolumeFlags            uint16    `offset:"0x6a"`
	BytesPerSectorShift    uint8     `offset:"0x6c"`
	SectorsPerClusterShift uint8     `offset:"0x6d"`
	NumberOfFats           uint8     `offset:"0x6e"`
	_                      [9]byte   `offset:"0x6f"`
	_                      [390]byte `offset:"0x78"` // boot code
	Signature              uint16    `offset:"0x1fe"`
}

// Bits of VolumeFlags.
const (
	flagActiveFat    = 1
	flagVolumeDirty  = 2
	flagMediaFailure = 4
)

const (
	fileSystemName = "EXFAT   "
	bootSignature  = 0xaa55

	bootRegion   = 12 // sectors, the last one full of checksums
	minFatOffset = 2 * bootRegion
	maxClusters  = 1<<32 - 11
	maxCluster   = 25 // shift: 32 MiB
)

const (
	remedyUnmount = "eject it properly on the system that used it last, or check it with chkdsk /f (Windows) " +
		"or fsck.exfat (Linux)"
	remedyCheck = "check it with chkdsk /f (Windows) or fsck.exfat (Linux)"
	remedyMedia = "the medium is failing; save the files, then check it with chkdsk /r (Windows)"
)

// readBoot reads the boot sector.
func readBoot(r io.ReaderAt, size quantity.Bytes) (*bootSector, error) {
	if size < bootSectorSize {
		return nil, filesystem.ErrNotFound
	}
	raw := make([]byte, bootSectorSize)
	if err := filesystem.ReadFull(r, raw, 0); err != nil {
		return nil, fmt.Errorf("boot sector of exfat: %w", err)
	}
	boot := new(bootSector)
	if _, err := binary.Decode(raw, binary.LittleEndian, boot); err != nil {
		return nil, fmt.Errorf("decode boot sector of exfat: %w", err)
	}
	switch {
	case string(boot.FileSystemName[:]) != fileSystemName:
		return nil, filesystem.ErrNotFound
	case boot.Signature != bootSignature || boot.MustBeZero != [53]byte{}:
		return nil, corrupt("boot sector", 0, "no signature, or parameters of FAT")
	}
	return boot, nil
}

// kindDoubt is set for volumes that are not laid out as this package knows.
func (b *bootSector) kindDoubt() *filesystem.Doubt {
	switch {
	case b.Revision>>8 != 1:
		return &filesystem.Doubt{
			Reason: fmt.Sprintf("revision %d.%02d of exFAT is not known", b.Revision>>8, b.Revision&0xff),
		}
	case b.NumberOfFats == 2:
		return &filesystem.Doubt{Reason: "two FATs (TexFAT): which one counts depends on a transaction"}
	}
	return nil
}

// geometry is what the boot sector says, checked.
type geometry struct {
	sectorSize  quantity.Bytes
	clusterSize quantity.Bytes
	fat         quantity.Bytes
	heap        quantity.Bytes // where cluster 2 begins
	end         quantity.Bytes // of the volume
	clusters    uint32
	rootCluster uint32
}

// newGeometry checks the boot sector's numbers against each other and the partition;
// problem says what does not fit.
func newGeometry(b *bootSector, size quantity.Bytes) (g geometry, problem string) {
	if b.BytesPerSectorShift < 9 || b.BytesPerSectorShift > 12 ||
		b.SectorsPerClusterShift > maxCluster-b.BytesPerSectorShift {
		return g, fmt.Sprintf("sectors of 2^%d bytes, clusters of 2^%d sectors",
			b.BytesPerSectorShift, b.SectorsPerClusterShift)
	}
	fatLength := (uint64(b.ClusterCount)*4 + 8 + 1<<b.BytesPerSectorShift - 1) >> b.BytesPerSectorShift
	heapEnd := uint64(b.ClusterHeapOffset) + uint64(b.ClusterCount)<<b.SectorsPerClusterShift
	switch {
	case b.VolumeLength > uint64(size)>>b.BytesPerSectorShift:
		return g, fmt.Sprintf("volume of %d sectors is larger than its partition of %d bytes", b.VolumeLength, int64(size))
	case b.NumberOfFats != 1 || b.VolumeFlags&flagActiveFat != 0:
		return g, fmt.Sprintf("%d FATs, flags %#x", b.NumberOfFats, b.VolumeFlags)
	case b.ClusterCount == 0 || b.ClusterCount > maxClusters || heapEnd > b.VolumeLength:
		return g, fmt.Sprintf("%d clusters from sector %d of %d", b.ClusterCount, b.ClusterHeapOffset, b.VolumeLength)
	case b.FatOffset < minFatOffset || uint64(b.FatLength) < fatLength ||
		uint64(b.FatOffset)+uint64(b.FatLength) > uint64(b.ClusterHeapOffset):
		return g, fmt.Sprintf("FAT of %d sectors at sector %d", b.FatLength, b.FatOffset)
	}
	sector := quantity.Bytes(1) << b.BytesPerSectorShift
	g = geometry{
		sectorSize:  sector,
		clusterSize: sector << b.SectorsPerClusterShift,
		fat:         quantity.Bytes(b.FatOffset) * sector,
		heap:        quantity.Bytes(b.ClusterHeapOffset) * sector,
		end:         quantity.Bytes(b.VolumeLength) * sector,
		clusters:    b.ClusterCount,
		rootCluster: b.FirstClusterOfRoot,
	}
	return g, ""
}

// offset is the place of a cluster that exists, or of the end of the heap.
func (g *geometry) offset(cluster uint32) quantity.Bytes {
	return g.heap + quantity.Bytes(cluster-2)*g.clusterSize
}

// exists tells whether the heap has the cluster.
func (g *geometry) exists(cluster uint32) bool {
	return cluster >= 2 && cluster-2 < g.clusters
}

// stateDoubt tells why the allocation bitmap must not be relied on, or nil.
func (v *volume) stateDoubt(b *bootSector) (*filesystem.Doubt, error) {
	switch {
	case b.VolumeFlags&flagMediaFailure != 0:
		return &filesystem.Doubt{Reason: "marked after disk errors", Remedy: remedyMedia}, nil
	case b.VolumeFlags&flagVolumeDirty != 0:
		return &filesystem.Doubt{Reason: "marked dirty: not unmounted", Remedy: remedyUnmount}, nil
	}
	region := make([]byte, bootRegion*v.sectorSize)
	if err := filesystem.ReadFull(v.r, region, 0); err != nil {
		return nil, fmt.Errorf("boot region of exfat: %w", err)
	}
	sums := region[(bootRegion-1)*v.sectorSize:]
	want := bootChecksum(region[:(bootRegion-1)*v.sectorSize])
	for ; len(sums) > 0; sums = sums[4:] {
		if binary.LittleEndian.Uint32(sums) != want {
			return &filesystem.Doubt{Reason: "the checksum of the boot region does not match", Remedy: remedyCheck}, nil
		}
	}
	return nil, nil
}

// bootChecksum is that of the first 11 sectors (specification, 3.4), without the bytes
// that change in use: VolumeFlags and PercentInUse.
func bootChecksum(b []byte) uint32 {
	var sum uint32
	for i, c := range b {
		if i != 106 && i != 107 && i != 112 {
			sum = bits.RotateLeft32(sum, -1) + uint32(c)
		}
	}
	return sum
}
