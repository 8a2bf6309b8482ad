package f2fs

import (
	"encoding/binary"
	"fmt"

	"clonecast/internal/filesystem"
)

// checkpoint is struct f2fs_checkpoint, the first block of a pack, up to its bitmaps
// (kernel: include/linux/f2fs_fs.h).
type checkpointBlock struct {
	CheckpointVer         uint64    `offset:"0x0"`
	UserBlockCount        uint64    `offset:"0x8"`
	ValidBlockCount       uint64    `offset:"0x10"`
	_                     [3]uint32 `offset:"0x18"`
	CurNodeSegno          [8]uint32 `offset:"0x24"`
	CurNodeBlkoff         [8]uint16 `offset:"0x44"`
	CurDataSegno          [8]uint32 `offset:"0x54"`
	CurDataBlkoff         [8]uint16 `offset:"0x74"`
	CkptFlags             uint32    `offset:"0x84"`
	CpPackTotalBlockCount uint32    `offset:"0x88"`
	CpPackStartSum        uint32    `offset:"0x8c"`
	ValidNodeCount        uint32    `offset:"0x90"`
	_                     [2]uint32 `offset:"0x94"`
	SITVerBitmapBytesize  uint32    `offset:"0x9c"`
	NATVerBitmapBytesize  uint32    `offset:"0xa0"`
	ChecksumOffset        uint32    `offset:"0xa4"`
	_                     uint64    `offset:"0xa8"`
	_                     [16]byte  `offset:"0xb0"`
}

// bitmapsAt is where the bitmaps of a checkpoint begin.
const bitmapsAt = 192

// Bits of CkptFlags.
const (
	flagUmount         = 0x1
	flagOrphans        = 0x2
	flagCompactSum     = 0x4
	flagError          = 0x8
	flagFsck           = 0x10
	flagLargeNATBitmap = 0x400

	// umount, compact_sum, fastboot, crc_recovery, nat_bits, trimmed, nocrc_recovery,
	// large_nat_bitmap: none says that something is left to be done.
	cleanFlags = 0x1 | 0x4 | 0x20 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400
)

// Logs have numbers: three of data, then three of nodes.
const (
	logColdData = 2
	dataLogs    = 3
	nodeLogs    = 3
	logs        = dataLogs + nodeLogs
	warmNodes   = 1 // among the logs of nodes
)

// checkpoint is the pack that counts.
type checkpoint struct {
	checkpointBlock
	start     uint32 // its first block
	sitBitmap []byte // which copy of each SIT block counts, highest bit first
}

// loadCheckpoint finds the pack that counts: of those whose first and last blocks
// agree the newer one.
func (rd *reader) loadCheckpoint() error {
	found := false
	var firstProblem string
	for i := range uint32(2) {
		cp, problem, err := rd.readPack(rd.sb.CpBlkaddr + i*blocksPerSegment)
		switch {
		case err != nil:
			return err
		case problem != "":
			firstProblem = problem
		case !found || int64(cp.CheckpointVer-rd.cp.CheckpointVer) > 0:
			rd.cp, found = cp, true
		}
	}
	if !found {
		return corrupt("checkpoints", offset(rd.sb.CpBlkaddr), firstProblem)
	}
	return rd.checkCheckpoint()
}

// readPack reads a checkpoint pack; problem says why it does not count.
func (rd *reader) readPack(start uint32) (cp checkpoint, problem string, err error) {
	head, err := rd.block("checkpoint", start, 1+rd.sb.CpPayload)
	if err != nil {
		return cp, "", err
	}
	if cp.checkpointBlock, problem, err = parseCheckpoint(head[:blockSize]); problem != "" || err != nil {
		return cp, problem, err
	}
	total := cp.CpPackTotalBlockCount
	if total < 2+rd.sb.CpPayload || total > blocksPerSegment {
		return cp, fmt.Sprintf("pack of %d blocks", total), nil
	}
	tail, err := rd.block("checkpoint", start+total-1, 1)
	if err != nil {
		return cp, "", err
	}
	last, problem, err := parseCheckpoint(tail)
	if problem != "" || err != nil {
		return cp, problem, err
	}
	if last.CheckpointVer != cp.CheckpointVer {
		return cp, fmt.Sprintf("versions %d and %d at the ends of a pack", cp.CheckpointVer, last.CheckpointVer), nil
	}
	cp.start = start
	cp.sitBitmap = cp.findSITBitmap(head, rd.sb.CpPayload)
	return cp, "", nil
}

// parseCheckpoint decodes one of the blocks at the ends of a pack.
func parseCheckpoint(b []byte) (cp checkpointBlock, problem string, err error) {
	if _, err := binary.Decode(b, binary.LittleEndian, &cp); err != nil {
		return cp, "", fmt.Errorf("decode f2fs checkpoint: %w", err)
	}
	at := cp.ChecksumOffset
	if at < bitmapsAt || at > blockSize-4 {
		return cp, fmt.Sprintf("checksum at byte %d", at), nil
	}
	sum := checksum(b[:at])
	if at < blockSize-4 {
		sum = checksum(b[:at], b[at+4:])
	}
	if binary.LittleEndian.Uint32(b[at:]) != sum {
		return cp, "checksum does not match", nil
	}
	return cp, "", nil
}

// findSITBitmap gives the bitmap in the pack's first blocks; nil where it lies outside.
func (cp *checkpointBlock) findSITBitmap(head []byte, payload uint32) []byte {
	at := uint64(bitmapsAt)
	switch {
	case cp.CkptFlags&flagLargeNATBitmap != 0:
		at += 4 + uint64(cp.NATVerBitmapBytesize) // behind the checksum and the NAT's
	case payload > 0:
		at = blockSize
	}
	end := at + uint64(cp.SITVerBitmapBytesize)
	if end > uint64(len(head)) {
		return nil
	}
	return head[at:end]
}

// checkCheckpoint checks what the map depends on.
func (rd *reader) checkCheckpoint() error {
	problem := ""
	if rd.cp.sitBitmap == nil || rd.cp.SITVerBitmapBytesize != rd.sb.sitCopy()/8 {
		problem = fmt.Sprintf("SIT bitmap of %d bytes", rd.cp.SITVerBitmapBytesize)
	}
	for _, l := range rd.cp.nextFree() {
		if l.segment >= rd.sb.SegmentCountMain || l.block >= blocksPerSegment {
			problem = fmt.Sprintf("log at block %d of segment %d", l.block, l.segment)
		}
	}
	if problem != "" {
		return corrupt("checkpoint", offset(rd.cp.start), problem)
	}
	return nil
}

// place is a block of a segment of the main area.
type place struct {
	segment uint32
	block   uint16
}

// nextFree gives the next free block of each log, data first.
func (cp *checkpointBlock) nextFree() [logs]place {
	var out [logs]place
	for i := range dataLogs {
		out[i] = place{cp.CurDataSegno[i], cp.CurDataBlkoff[i]}
	}
	for i := range nodeLogs {
		out[dataLogs+i] = place{cp.CurNodeSegno[i], cp.CurNodeBlkoff[i]}
	}
	return out
}

const (
	remedyShutdown = "boot the system and shut it down cleanly, or mount the file system once and unmount it"
	remedyCheck    = "run fsck.f2fs on the partition"
)

// doubt is what the checkpoint and the log of nodes say against using the map; nil:
// nothing.
func (rd *reader) doubt() (*filesystem.Doubt, error) {
	flags := rd.cp.CkptFlags
	switch {
	case flags&flagUmount == 0:
		return &filesystem.Doubt{Reason: "not unmounted cleanly", Remedy: remedyShutdown}, nil
	case flags&(flagError|flagFsck) != 0:
		return &filesystem.Doubt{Reason: "file system has errors", Remedy: remedyCheck}, nil
	case flags&flagOrphans != 0:
		return &filesystem.Doubt{Reason: "deleted files are still to be released", Remedy: remedyShutdown}, nil
	case flags&^cleanFlags != 0:
		return &filesystem.Doubt{
			Reason: fmt.Sprintf("state %#x of the checkpoint", flags&^cleanFlags),
			Remedy: remedyCheck,
		}, nil
	}
	return rd.fsyncDoubt()
}

// nodeVersionAt is where a node keeps the version of the checkpoint before it
// (struct node_footer).
const nodeVersionAt = blockSize - 12

// fsyncDoubt looks for a node that was fsynced after the checkpoint. Its version's
// upper half may be the checkpoint's checksum; the lower half is proof enough.
func (rd *reader) fsyncDoubt() (*filesystem.Doubt, error) {
	next := rd.cp.nextFree()[dataLogs+warmNodes]
	b, err := rd.block("log of nodes", rd.mainBlock(next), 1)
	if err != nil {
		return nil, err
	}
	if binary.LittleEndian.Uint32(b[nodeVersionAt:]) == uint32(rd.cp.CheckpointVer) {
		return &filesystem.Doubt{Reason: "fsynced files need recovery", Remedy: remedyShutdown}, nil
	}
	return nil, nil
}

// mainBlock is the number of a block of the main area.
func (rd *reader) mainBlock(p place) uint32 {
	return rd.sb.MainBlkaddr + p.segment*blocksPerSegment + uint32(p.block)
}
