// Package f2fs reads the allocation of F2FS file systems.
//
// A file system is a row of areas: superblocks, two checkpoint packs, segment
// information (SIT), node addresses (NAT), segment summaries (SSA) and the main area
// of segments of 512 blocks. Blocks of SIT and NAT exist twice; the checkpoint says
// which of the two counts.
//
//	superblock -> areas, features, checksum
//	newer checkpoint pack whose two ends agree -> state, version of each SIT block
//	not clean? -> identity and Doubt, no map
//	for each segment: its entry in the checkpoint's journal, or else in the SIT:
//	    one bit for each block in use
//	all areas in front of the main area are in use
//
// Clean means unmounted, by the checkpoint's flag, and nothing written since: a mount
// leaves the flag standing until its first checkpoint, while fsync needs none. It
// appends nodes to a log, and these name the checkpoint that they follow. A mount
// looks for the first of them in the log's next free block. So that block is
// looked at, and counts as in use with those of all logs: on the disk of a clone it
// may hold what was fsynced after the same checkpoint.
//
// SIT blocks have no checksum. Each entry's bits must add up to its counter, and
// all counters to the checkpoint's. The NAT is not read.
package f2fs

import (
	"fmt"
	"io"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

const (
	format = "f2fs"

	blockSize        = 4096
	blocksPerSegment = 512
)

// Read reads the file system on the partition r.
func Read(r io.ReaderAt, size quantity.Bytes) (filesystem.Volume, error) {
	if size < superblockOffset+superblockSize {
		return filesystem.Volume{}, filesystem.ErrNotFound
	}
	raw := make([]byte, superblockSize)
	if err := filesystem.ReadFull(r, raw, superblockOffset); err != nil {
		return filesystem.Volume{}, err
	}
	sb, err := parseSuperblock(raw)
	if err != nil {
		return filesystem.Volume{}, err
	}
	v := filesystem.Volume{Type: format, UUID: sb.uuid(), Label: sb.label()}
	if v.Doubt = sb.doubt(); v.Doubt != nil {
		return v, nil
	}
	if problem := sb.problem(raw, size); problem != "" {
		return filesystem.Volume{}, corrupt("superblock", superblockOffset, problem)
	}
	v.BlockSize = blockSize
	rd := reader{r: r, sb: &sb}
	if err := rd.loadCheckpoint(); err != nil {
		return filesystem.Volume{}, err
	}
	if v.Doubt, err = rd.doubt(); v.Doubt != nil || err != nil {
		return orNothing(v, err)
	}
	v.Size = quantity.Bytes(sb.BlockCount) * blockSize
	v.Allocated, err = rd.allocated()
	return orNothing(v, err)
}

// orNothing keeps a volume from being returned with an error.
func orNothing(v filesystem.Volume, err error) (filesystem.Volume, error) {
	if err != nil {
		return filesystem.Volume{}, err
	}
	return v, nil
}

// reader reads a file system whose superblock is sound.
type reader struct {
	r  io.ReaderAt
	sb *superblock
	cp checkpoint
}

// block reads count blocks from block at; what says what they are.
func (rd *reader) block(what string, at, count uint32) ([]byte, error) {
	b := make([]byte, quantity.Bytes(count)*blockSize)
	if err := filesystem.ReadFull(rd.r, b, offset(at)); err != nil {
		return nil, fmt.Errorf("read f2fs %s: %w", what, err)
	}
	return b, nil
}

// offset is the place of a block.
func offset(block uint32) quantity.Bytes { return quantity.Bytes(block) * blockSize }

func corrupt(structure string, at quantity.Bytes, problem string) error {
	return &filesystem.CorruptError{Format: format, Structure: structure, Offset: at, Problem: problem}
}
