package xfs

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

// The log is a ring of sectors. The first word of each tells in which cycle it was
// written, but for the first sector of a record, which has a magic number there and
// the cycle after it. Sectors before the head are of one cycle, those after it of the
// cycle before. A sector of cycle 0 was not written since the log was made: mkfs.xfs,
// xfs_repair and xfs_admin leave such sectors, even inside their first record.
const (
	logSector   = 512
	logChunk    = quantity.MiB
	recordMagic = 0xfeedbabe

	recordVersion2 = 2
	recordCRC      = 0x20
	recordCRCSize  = 0x148 // struct xlog_rec_header; 4 bytes less as i386 counts
	recordCRC386   = 0x144
	extendedSize   = 0x104     // struct xlog_rec_ext_header without padding
	headerCovers   = 32 * 1024 // bytes whose first words one header sector keeps
	maxRecord      = 256 * 1024

	clientLog     = 0xaa // xlog_op_header: the log itself ...
	flagUnmount   = 0x20 // ... says that all is in place
	operationSize = 12
)

// recordHeader is struct xlog_rec_header (libxfs/xfs_log_format.h), big-endian.
type recordHeader struct {
	Magic      uint32    `offset:"0x0"`
	Cycle      uint32    `offset:"0x4"`
	Version    uint32    `offset:"0x8"`
	Length     uint32    `offset:"0xc"` // bytes after the headers
	LSNCycle   uint32    `offset:"0x10"`
	LSNSector  uint32    `offset:"0x14"`
	_          uint64    `offset:"0x18"`
	_          uint32    `offset:"0x20"` // checksum, little-endian; 0: none
	_          uint32    `offset:"0x24"`
	Operations uint32    `offset:"0x28"`
	_          [64]int32 `offset:"0x2c"` // first words of the sectors
	_          uint32    `offset:"0x12c"`
	UUID       [16]byte  `offset:"0x130"`
	Size       uint32    `offset:"0x140"` // of the buffer that the record was built in
}

func dirty(reason string, args ...any) *filesystem.Doubt {
	return &filesystem.Doubt{Reason: "the log is not clean: " + fmt.Sprintf(reason, args...), Remedy: remedyUnmount}
}

// unwritten is dirty for a log as a power cut leaves it: the kernel knows what to do with it.
func unwritten(reason string, args ...any) *filesystem.Doubt {
	doubt := dirty(reason, args...)
	doubt.Replay = true
	return doubt
}

// logDoubt tells why the log may need to be replayed, or nil when its last record was
// written by an unmount.
func (rd *reader) logDoubt() (*filesystem.Doubt, error) {
	l := logReader{rd: rd, start: rd.offset(rd.logGroup, rd.log.start), sectors: int64(rd.bytes(rd.log.count) / logSector)}
	doubt, err := l.scan()
	if doubt != nil || err != nil {
		return doubt, err
	}
	return l.unmounted()
}

type logReader struct {
	rd      *reader
	start   quantity.Bytes
	sectors int64

	newEnd   int64 // end of the last sector of the cycle of sector 0
	oldStart int64 // first sector of the cycle before, or sectors
	newest   int64 // last header of the cycle of sector 0, or -1
	oldest   int64 // last header of the cycle before, or -1
}

// scan looks at every sector. The kernel is content with a search for the head; that
// nothing else is out of order is what makes the search right.
func (l *logReader) scan() (*filesystem.Doubt, error) {
	l.oldStart, l.newest, l.oldest = l.sectors, -1, -1
	var first uint32
	b := make([]byte, logChunk)
	for at := int64(0); at < l.sectors; at += int64(logChunk / logSector) {
		b = b[:min(logChunk, quantity.Bytes(l.sectors-at)*logSector)]
		if err := l.read(b, at); err != nil {
			return nil, err
		}
		for i := range int64(len(b) / logSector) {
			cycle, header := sectorCycle(b[i*logSector:])
			if at+i == 0 {
				first = cycle
			}
			if !l.next(at+i, first, cycle, header) {
				return dirty("sector %d is of cycle %d, the first one of %d", at+i, cycle, first), nil
			}
		}
	}
	return nil, nil
}

// next takes a sector; it reports whether its cycle fits those before it.
func (l *logReader) next(at int64, first, cycle uint32, header bool) bool {
	switch {
	case first == 0:
		return false
	case cycle == 0:
		return true
	case cycle == first && l.oldStart == l.sectors:
		l.newEnd = at + 1
		if header {
			l.newest = at
		}
		return true
	case cycle == first-1:
		l.oldStart = min(l.oldStart, at)
		if header {
			l.oldest = at
		}
		return true
	}
	return false
}

func sectorCycle(b []byte) (cycle uint32, header bool) {
	if word := binary.BigEndian.Uint32(b); word != recordMagic {
		return word, false
	}
	return binary.BigEndian.Uint32(b[4:]), true
}

// unmounted looks at the last record.
func (l *logReader) unmounted() (*filesystem.Doubt, error) {
	at, round := l.newest, int64(0)
	if at < 0 {
		at, round = l.oldest, l.sectors // it goes round the end of the log
	}
	if at < 0 {
		return dirty("it has no record"), nil
	}
	b := make([]byte, logSector)
	if err := l.read(b, at); err != nil {
		return nil, err
	}
	var h recordHeader
	if _, err := binary.Decode(b, binary.BigEndian, &h); err != nil {
		return nil, err
	}
	switch {
	case h.Length == 0 || h.Length > maxRecord || h.Size > maxRecord:
		return dirty("the last record has %d bytes in a buffer of %d", h.Length, h.Size), nil
	case int64(h.LSNSector) != at || h.LSNCycle != h.Cycle:
		return dirty("the last record is number %d of cycle %d, at sector %d", h.LSNSector, h.LSNCycle, at), nil
	case h.UUID != l.rd.sb.UUID:
		return dirty("the last record belongs to the file system %s", uuid(h.UUID)), nil
	}
	headers := l.headers(&h)
	length := headers + (int64(h.Length)+logSector-1)/logSector
	if end := at + length - round; end < l.newEnd || end > l.oldStart || length > l.sectors {
		return unwritten("the last record, at sector %d, ends at sector %d; the log ends at %d", at, end, l.newEnd), nil
	}
	record := make([]byte, length*logSector)
	if err := l.read(record, at); err != nil {
		return nil, err
	}
	return recordDoubt(record, &h, headers), nil
}

// recordDoubt tells why the last record is not that of an unmount, or nil.
func recordDoubt(record []byte, h *recordHeader, headers int64) *filesystem.Doubt {
	operation := record[headers*logSector:][:operationSize]
	if h.Operations != 1 || operation[8] != clientLog || operation[9]&flagUnmount == 0 {
		return unwritten("its last record was not written by an unmount")
	}
	if want := binary.LittleEndian.Uint32(record[recordCRC:]); want != 0 &&
		recordChecksum(record, h, headers, recordCRCSize) != want &&
		recordChecksum(record, h, headers, recordCRC386) != want {
		return unwritten("the checksum of the last record does not match")
	}
	return nil
}

// headers is the number of header sectors of a record.
func (l *logReader) headers(h *recordHeader) int64 {
	if l.rd.sb.logV2() && h.Version&recordVersion2 != 0 && h.Size > headerCovers {
		return (int64(h.Size) + headerCovers - 1) / headerCovers
	}
	return 1
}

// recordChecksum is the kernel's xlog_cksum: of the header, of those extended headers
// that the data needs, and of the data.
func recordChecksum(record []byte, h *recordHeader, headers int64, headerSize int) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	sum := checksum(record[:headerSize], recordCRC)
	for i := int64(1); i < min(headers, (int64(h.Length)+headerCovers-1)/headerCovers); i++ {
		sum = crc32.Update(sum, table, record[i*logSector:][:extendedSize])
	}
	return crc32.Update(sum, table, record[headers*logSector:][:h.Length])
}

// read fills b from a sector on, round the end of the log if need be.
func (l *logReader) read(b []byte, at int64) error {
	for len(b) > 0 {
		n := min(int64(len(b)), (l.sectors-at)*logSector)
		if err := filesystem.ReadFull(l.rd.r, b[:n], l.start+quantity.Bytes(at)*logSector); err != nil {
			return err
		}
		b, at = b[n:], 0
	}
	return nil
}
