package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"

	"clonecast/internal/filesystem"
)

// Bits of s_state.
const (
	stateValid  = 1
	stateErrors = 2
)

const (
	remedyShutdown = "boot the system and shut it down cleanly, or run e2fsck -p on the partition"
	remedyCheck    = "run e2fsck -f on the partition"
)

// superblockDoubt is what the superblock alone says against using the map; nil:
// nothing.
func superblockDoubt(sb *superblock) *filesystem.Doubt {
	unknownIncompat, unknownRO := sb.unknownFeatures()
	switch {
	case sb.incompat(incompatJournalDev):
		return &filesystem.Doubt{Reason: "external journal of another file system"}
	case unknownIncompat != 0:
		return &filesystem.Doubt{Reason: fmt.Sprintf("unknown incompatible features %#x", unknownIncompat)}
	case unknownRO != 0:
		return &filesystem.Doubt{Reason: fmt.Sprintf("unknown read-only compatible features %#x", unknownRO)}
	case sb.incompat(incompatRecover):
		return &filesystem.Doubt{Reason: "journal needs recovery", Remedy: remedyShutdown, Replay: sb.replayable()}
	case sb.State&stateErrors != 0:
		return &filesystem.Doubt{Reason: "file system has errors", Remedy: remedyCheck}
	case sb.State&stateValid == 0:
		return &filesystem.Doubt{Reason: "not unmounted cleanly", Remedy: remedyShutdown}
	case sb.LastOrphan != 0 || sb.ro(roOrphanPresent):
		return &filesystem.Doubt{Reason: "deleted files are still to be released", Remedy: remedyShutdown}
	case sb.compat(compatHasJournal) && (sb.JournalDev != 0 || sb.JournalInum == 0):
		return &filesystem.Doubt{Reason: "journal on another device"}
	}
	return nil
}

func (sb *superblock) unknownFeatures() (incompat, roCompat uint32) {
	return sb.FeatureIncompat &^ knownIncompat, sb.FeatureROCompat &^ knownROCompat
}

func (sb *superblock) knownFeatures() bool {
	incompat, roCompat := sb.unknownFeatures()
	return incompat == 0 && roCompat == 0
}

// replayable tells whether a journal that needs recovery is all that is wrong. The kernel counts
// the journal as empty without the superblock's flag, so what the journal says is not enough.
func (sb *superblock) replayable() bool {
	return sb.compat(compatHasJournal) && sb.JournalDev == 0 && sb.JournalInum != 0 && !sb.incompat(incompatMMP) &&
		sb.State&(stateErrors|stateValid) == stateValid
}

// deepDoubt looks at the MMP block and the journal itself.
func (rd *reader) deepDoubt() (*filesystem.Doubt, error) {
	if rd.sb.incompat(incompatMMP) {
		if doubt, err := rd.mmpDoubt(); doubt != nil || err != nil {
			return doubt, err
		}
	}
	if !rd.sb.compat(compatHasJournal) {
		return nil, nil
	}
	return rd.journalDoubt()
}

// Values of struct mmp_struct (Documentation/filesystems/ext4/mmp.rst).
const (
	mmpMagic = 0x004d4d50
	mmpClean = 0xff4d4d50
)

func (rd *reader) mmpDoubt() (*filesystem.Doubt, error) {
	block := rd.sb.MMPBlock
	if block <= uint64(rd.sb.FirstDataBlock) || block >= rd.blocks {
		return nil, corrupt(rd.fsType, "superblock", superblockOffset, fmt.Sprintf("MMP block %d of %d", block, rd.blocks))
	}
	b := make([]byte, 8)
	if err := filesystem.ReadFull(rd.r, b, rd.offset(block)); err != nil {
		return nil, fmt.Errorf("read MMP block: %w", err)
	}
	if binary.LittleEndian.Uint32(b) != mmpMagic {
		return nil, corrupt(rd.fsType, "MMP block", rd.offset(block), "wrong magic")
	}
	if binary.LittleEndian.Uint32(b[4:]) != mmpClean {
		return &filesystem.Doubt{
			Reason: "in use by another host, or not unmounted cleanly (MMP)",
			Remedy: remedyShutdown,
		}, nil
	}
	return nil, nil
}

// journalSuperblock is struct journal_superblock_s up to its features, big-endian
// (Documentation/filesystems/ext4/journal.rst).
type journalSuperblock struct {
	Magic     uint32 `offset:"0x0"`
	BlockType uint32 `offset:"0x4"`
	_         uint32 `offset:"0x8"`
	BlockSize uint32 `offset:"0xc"`
	MaxLen    uint32 `offset:"0x10"`
	First     uint32 `offset:"0x14"`
	Sequence  uint32 `offset:"0x18"`
	Start     uint32 `offset:"0x1c"`
	Errno     int32  `offset:"0x20"`
	_         uint32 `offset:"0x24"`
	Incompat  uint32 `offset:"0x28"` // version 2 only
}

const (
	journalMagic        = 0xc03b3998
	journalSuperblockV1 = 3
	journalSuperblockV2 = 4
)

// errNoJournal reports that no journal superblock stands where it was looked for.
var errNoJournal = errors.New("no journal superblock")

// journalDoubt reads the journal's superblock, through the journal inode or, where
// that is bad, through the copy of its block list in the superblock.
func (rd *reader) journalDoubt() (*filesystem.Doubt, error) {
	inode, err := rd.journalInode()
	if err != nil {
		return nil, err
	}
	journal, err := rd.journal(inode.Block[:], inode.extents())
	if err == nil {
		rd.log = &log{inode, journal}
	}
	if errors.Is(err, errNoJournal) && rd.sb.JournalBackupType == 1 {
		backup := rd.sb.JournalBlocks[:60]
		journal, err = rd.journal(backup, binary.LittleEndian.Uint16(backup) == extentMagic)
	}
	switch {
	case errors.Is(err, errNoJournal):
		return &filesystem.Doubt{Reason: "journal cannot be found", Remedy: remedyCheck}, nil
	case err != nil:
		return nil, err
	case journal.Start != 0:
		return &filesystem.Doubt{Reason: "journal needs recovery", Remedy: remedyShutdown}, nil
	case journal.Errno != 0:
		return &filesystem.Doubt{
			Reason: fmt.Sprintf("journal was aborted with error %d", journal.Errno),
			Remedy: remedyCheck,
		}, nil
	}
	return nil, nil
}

// journal reads the journal superblock at the first block that the block list names.
func (rd *reader) journal(list []byte, extents bool) (journalSuperblock, error) {
	var out journalSuperblock
	block := uint64(binary.LittleEndian.Uint32(list))
	if extents {
		var err error
		if block, err = rd.firstExtent(list); err != nil {
			return out, err
		}
	}
	if block <= uint64(rd.sb.FirstDataBlock) || block >= rd.blocks {
		return out, errNoJournal
	}
	b := make([]byte, binary.Size(out))
	if err := filesystem.ReadFull(rd.r, b, rd.offset(block)); err != nil {
		return out, fmt.Errorf("read journal superblock: %w", err)
	}
	if _, err := binary.Decode(b, binary.BigEndian, &out); err != nil {
		return out, fmt.Errorf("decode journal superblock: %w", err)
	}
	if out.Magic != journalMagic || out.BlockType != journalSuperblockV1 && out.BlockType != journalSuperblockV2 {
		return out, errNoJournal
	}
	return out, nil
}
