package ext4

import (
	"fmt"

	"clonecast/internal/quantity"
)

// geometry is what follows from a superblock whose numbers have been checked.
type geometry struct {
	sb         *superblock
	blockSize  quantity.Bytes
	blocks     uint64 // of the file system
	perGroup   uint64 // blocks per group
	ratio      uint64 // blocks per cluster: 1 without bigalloc
	groups     uint64
	descSize   uint64
	descBlocks uint64 // blocks of descriptors in all
	inodeSize  uint64
	tableSize  uint64 // blocks of one inode table
}

// maxLogBlockSize is for blocks of 64 KiB.
const maxLogBlockSize = 6

// newGeometry checks the numbers of sb against one another and the partition's
// size; problem says what is wrong.
func newGeometry(sb *superblock, size quantity.Bytes) (g geometry, problem string) {
	if sb.LogBlockSize > maxLogBlockSize {
		return g, fmt.Sprintf("block size 1024<<%d", sb.LogBlockSize)
	}
	g = geometry{
		sb: sb, blockSize: 1024 << sb.LogBlockSize, perGroup: uint64(sb.BlocksPerGroup), ratio: 1,
		descSize: 32, inodeSize: 128,
	}
	g.blocks = uint64(sb.BlocksCountLo)
	if sb.incompat(incompat64Bit) {
		g.blocks |= uint64(sb.BlocksCountHi) << 32
		g.descSize = uint64(sb.DescSize)
	}
	if sb.RevLevel > 0 {
		g.inodeSize = uint64(sb.InodeSize)
	}
	bs := uint64(g.blockSize)
	bits := 8 * bs // in a bitmap
	first := uint64(0)
	if bs == 1024 && !sb.ro(roBigalloc) {
		first = 1
	}
	if sb.ro(roBigalloc) {
		if sb.LogClusterSize < sb.LogBlockSize || sb.LogClusterSize-sb.LogBlockSize > 20 {
			return g, fmt.Sprintf("cluster size 1024<<%d", sb.LogClusterSize)
		}
		g.ratio = 1 << (sb.LogClusterSize - sb.LogBlockSize)
		if uint64(sb.ClustersPerGroup)*g.ratio != g.perGroup {
			return g, fmt.Sprintf("%d clusters and %d blocks per group", sb.ClustersPerGroup, sb.BlocksPerGroup)
		}
	}
	switch {
	case g.blocks > uint64(size)/bs:
		return g, fmt.Sprintf("its %d blocks of %d bytes do not fit the partition", g.blocks, bs)
	case uint64(sb.FirstDataBlock) != first || g.blocks <= first:
		return g, fmt.Sprintf("first data block %d of %d", sb.FirstDataBlock, g.blocks)
	case g.perGroup == 0 || g.perGroup%(8*g.ratio) != 0 || g.perGroup/g.ratio > bits:
		return g, fmt.Sprintf("%d blocks per group", g.perGroup)
	case g.descSize < 32 || g.descSize > bs || g.descSize&(g.descSize-1) != 0 ||
		sb.incompat(incompat64Bit) && g.descSize < 64:
		return g, fmt.Sprintf("descriptors of %d bytes", g.descSize)
	case g.inodeSize < 128 || g.inodeSize > bs || g.inodeSize&(g.inodeSize-1) != 0:
		return g, fmt.Sprintf("inodes of %d bytes", g.inodeSize)
	case sb.InodesPerGroup == 0 || uint64(sb.InodesPerGroup) > bits:
		return g, fmt.Sprintf("%d inodes per group", sb.InodesPerGroup)
	}
	g.groups = divUp(g.blocks-first, g.perGroup)
	g.descBlocks = divUp(g.groups, bs/g.descSize)
	g.tableSize = divUp(uint64(sb.InodesPerGroup)*g.inodeSize, bs)
	if sb.incompat(incompatMetaBG) && uint64(sb.FirstMetaBG) > g.descBlocks {
		return g, fmt.Sprintf("first meta block group %d of %d", sb.FirstMetaBG, g.descBlocks)
	}
	return g, ""
}

func divUp(a, b uint64) uint64 { return (a + b - 1) / b }

// firstBlock is the first block of a group.
func (g *geometry) firstBlock(group uint64) uint64 {
	return uint64(g.sb.FirstDataBlock) + group*g.perGroup
}

// groupBlocks is the number of blocks of a group: the last one may be short.
func (g *geometry) groupBlocks(group uint64) uint64 {
	return min(g.perGroup, g.blocks-g.firstBlock(group))
}

// hasSuper tells whether a group begins with a copy of the superblock.
func (g *geometry) hasSuper(group uint64) bool {
	switch {
	case group == 0:
		return true
	case g.sb.compat(compatSparseSuper2):
		return group == uint64(g.sb.BackupBGs[0]) || group == uint64(g.sb.BackupBGs[1])
	case group == 1 || !g.sb.ro(roSparseSuper):
		return true
	}
	return powerOf(group, 3) || powerOf(group, 5) || powerOf(group, 7)
}

func powerOf(n, base uint64) bool {
	for n > 1 && n%base == 0 {
		n /= base
	}
	return n == 1
}

// descriptorsPerBlock is also the number of groups in a meta block group.
func (g *geometry) descriptorsPerBlock() uint64 { return uint64(g.blockSize) / g.descSize }

// metaBG tells whether descriptor block n stands in its own meta block group.
func (g *geometry) metaBG(n uint64) bool {
	return g.sb.incompat(incompatMetaBG) && n >= uint64(g.sb.FirstMetaBG)
}

// descriptorBlock is the place of descriptor block n.
func (g *geometry) descriptorBlock(n uint64) uint64 {
	shift := uint64(0) // 1 KiB blocks: the superblock is in block 1
	if g.blockSize == 1024 {
		shift = 1
	}
	if !g.metaBG(n) {
		return shift + 1 + n
	}
	group := n * g.descriptorsPerBlock()
	block := g.firstBlock(group)
	if g.hasSuper(group) {
		block++
	}
	if n == 0 && g.sb.FirstDataBlock == 0 {
		block += shift
	}
	return block
}

// baseMeta is how many blocks at the start of a group hold superblock, descriptors and
// room reserved for descriptors (ext4_num_base_meta_blocks in fs/ext4/balloc.c).
func (g *geometry) baseMeta(group uint64) uint64 {
	super := uint64(0)
	if g.hasSuper(group) {
		super = 1
	}
	per := g.descriptorsPerBlock()
	if g.metaBG(group / per) {
		if at := group % per; at == 0 || at == 1 || at == per-1 {
			return super + 1
		}
		return super
	}
	if super == 0 {
		return 0
	}
	descriptors := g.descBlocks
	if g.sb.incompat(incompatMetaBG) {
		descriptors = uint64(g.sb.FirstMetaBG)
	}
	return 1 + descriptors + uint64(g.sb.ReservedGDTBlocks)
}
