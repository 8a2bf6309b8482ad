package xfs

import (
	"fmt"
	"math/bits"

	"clonecast/internal/quantity"
)

// Limits of the format (libxfs/xfs_fs.h).
const (
	minGroup = 16 * quantity.MiB
	maxGroup = 1 * quantity.TiB
	maxLog   = 2 * quantity.GiB
)

// geometry is what the superblock says, checked.
type geometry struct {
	sb         *superblock
	blockSize  quantity.Bytes
	sectorSize quantity.Bytes
	log        run    // inside one group
	logGroup   uint64 // the group it is in
}

// run is a row of blocks of one group.
type run struct{ start, count uint64 }

func (r run) end() uint64 { return r.start + r.count }

func (r run) overlaps(o run) bool { return r.start < o.end() && o.start < r.end() }

// newGeometry checks the superblock's numbers against each other and the partition;
// problem says what does not fit.
func newGeometry(sb *superblock, size quantity.Bytes) (g geometry, problem string) {
	g = geometry{sb: sb, blockSize: quantity.Bytes(sb.BlockSize), sectorSize: quantity.Bytes(sb.SectorSize)}
	group := quantity.Bytes(sb.AGBlocks) * g.blockSize
	needed := (sb.DataBlocks + uint64(sb.AGBlocks) - 1) / max(1, uint64(sb.AGBlocks))
	switch {
	case sb.DataBlocks > uint64(size/g.blockSize):
		return g, fmt.Sprintf("%d blocks of %d bytes do not fit a partition of %d", sb.DataBlocks, sb.BlockSize, int64(size))
	case group < minGroup || group > maxGroup || int(sb.AGBlockLog) != bits.Len32(sb.AGBlocks-1):
		return g, fmt.Sprintf("%d blocks per group", sb.AGBlocks)
	case sb.AGCount == 0 || uint64(sb.AGCount) != needed:
		return g, fmt.Sprintf("%d groups of %d blocks for %d blocks", sb.AGCount, sb.AGBlocks, sb.DataBlocks)
	case g.groupBlocks(uint64(sb.AGCount)-1) <= g.headerBlocks():
		return g, fmt.Sprintf("the last of %d groups has %d blocks", sb.AGCount, g.groupBlocks(uint64(sb.AGCount)-1))
	}
	g.log = run{sb.LogStart & (1<<sb.AGBlockLog - 1), uint64(sb.LogBlocks)}
	g.logGroup = sb.LogStart >> sb.AGBlockLog
	if g.logGroup >= uint64(sb.AGCount) || g.log.start < g.headerBlocks() || g.log.count == 0 ||
		g.log.end() > g.groupBlocks(g.logGroup) || g.bytes(g.log.count) > maxLog {
		return g, fmt.Sprintf("log of %d blocks at block %d of group %d", g.log.count, g.log.start, g.logGroup)
	}
	return g, ""
}

// groupBlocks is the length of a group.
func (g *geometry) groupBlocks(number uint64) uint64 {
	return min(uint64(g.sb.AGBlocks), g.sb.DataBlocks-number*uint64(g.sb.AGBlocks))
}

// headerBlocks is how many blocks the four sectors at the start of a group take.
func (g *geometry) headerBlocks() uint64 {
	return uint64((4*g.sectorSize + g.blockSize - 1) / g.blockSize)
}

// offset is the place of a block of a group.
func (g *geometry) offset(group, block uint64) quantity.Bytes {
	return g.bytes(group*uint64(g.sb.AGBlocks) + block)
}

func (g *geometry) bytes(blocks uint64) quantity.Bytes { return quantity.Bytes(blocks) * g.blockSize }
