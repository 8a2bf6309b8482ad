package ntfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"clonecast/internal/quantity"
)

// indexRoot is ntfs-3g's INDEX_ROOT up to its INDEX_HEADER.
type indexRoot struct {
	Type            uint32  `offset:"0x00"`
	Collation       uint32  `offset:"0x04"`
	IndexBlockSize  uint32  `offset:"0x08"`
	ClustersPerNode int8    `offset:"0x0c"`
	_               [3]byte `offset:"0x0d"`
}

// indexBlock is ntfs-3g's INDEX_BLOCK up to its INDEX_HEADER.
type indexBlock struct {
	Magic       [4]byte `offset:"0x00"` // "INDX"
	FixupOffset uint16  `offset:"0x04"`
	FixupCount  uint16  `offset:"0x06"`
	LSN         uint64  `offset:"0x08"`
	VCN         uint64  `offset:"0x10"`
}

// indexHeader begins the entries; its offsets count from its own first byte.
type indexHeader struct {
	EntriesOffset uint32 `offset:"0x00"`
	Length        uint32 `offset:"0x04"`
}

// indexEntry is ntfs-3g's INDEX_ENTRY; a FILE_NAME follows as the key.
type indexEntry struct {
	File      reference `offset:"0x00"`
	Length    uint16    `offset:"0x08"`
	KeyLength uint16    `offset:"0x0a"`
	Flags     uint16    `offset:"0x0c"`
	_         uint16    `offset:"0x0e"`
}

const (
	indexRootSize   = 0x10
	indexBlockSize  = 0x18
	indexEntrySize  = 0x10
	entryHasSubnode = 0x1
	entryIsLast     = 0x2

	fileNameLength = 0x40 // in the key: units of the name, then its namespace
	fileNameStart  = 0x42

	maxIndexBlock = 64 * quantity.KiB
)

// directory walks the entries of one directory. It visits every node that can be
// reached instead of searching by name: that needs no collation rule and finds
// the file in an index out of order, too.
type directory struct {
	v         *volume
	record    record
	nodes     stream
	blockSize quantity.Bytes
	unit      quantity.Bytes // bytes that one VCN of a subnode stands for
	pending   []uint64
	seen      map[uint64]bool
}

// lookup gives the file of that name in directory r; ok is false without one.
func (v *volume) lookup(r record, name string) (file reference, ok bool, err error) {
	root, err := v.open(r, typeIndexRoot, "$I30")
	if err != nil {
		return 0, false, required(r, "$INDEX_ROOT", err)
	}
	var h indexRoot
	if _, err := binary.Decode(root.resident, binary.LittleEndian, &h); err != nil {
		return 0, false, r.corrupt("$INDEX_ROOT is cut short")
	}
	d := &directory{v: v, record: r, seen: map[uint64]bool{}, blockSize: quantity.Bytes(h.IndexBlockSize)}
	if d.blockSize < stride || d.blockSize > maxIndexBlock || d.blockSize%stride != 0 {
		return 0, false, r.corrupt("index blocks of %d bytes", h.IndexBlockSize)
	}
	d.unit = min(v.clusterSize, d.blockSize)
	if v.clusterSize > d.blockSize {
		d.unit = stride
	}
	d.nodes, err = v.open(r, typeIndex, "$I30")
	if err != nil && !errors.Is(err, errNoAttribute) {
		return 0, false, err
	}
	file, ok, err = d.scan(root.resident[indexRootSize:], name)
	for err == nil && !ok && len(d.pending) > 0 {
		vcn := d.pending[len(d.pending)-1]
		d.pending = d.pending[:len(d.pending)-1]
		var entries []byte
		if entries, err = d.node(vcn); err == nil {
			file, ok, err = d.scan(entries, name)
		}
	}
	return file, ok, err
}

// node reads the index block at vcn and gives what begins with its index header.
func (d *directory) node(vcn uint64) ([]byte, error) {
	if vcn > uint64(d.nodes.size/d.unit) {
		return nil, d.record.corrupt("index block %d lies outside the index", vcn)
	}
	b := make([]byte, d.blockSize)
	if err := d.v.readStream(&d.nodes, b, quantity.Bytes(vcn)*d.unit); err != nil {
		return nil, fmt.Errorf("index block %d of %s: %w", vcn, d.record.name(), err)
	}
	var h indexBlock
	if _, err := binary.Decode(b, binary.LittleEndian, &h); err != nil || string(h.Magic[:]) != "INDX" || h.VCN != vcn {
		return nil, d.record.corrupt("no index block at VCN %d", vcn)
	}
	if problem := undoFixups(b, int(h.FixupOffset), int(h.FixupCount)); problem != "" {
		return nil, d.record.corrupt("index block %d: %s", vcn, problem)
	}
	return b[indexBlockSize:], nil
}

// scan looks for name among the entries of one node and notes its subnodes.
func (d *directory) scan(b []byte, name string) (reference, bool, error) {
	var h indexHeader
	if _, err := binary.Decode(b, binary.LittleEndian, &h); err != nil ||
		uint64(h.Length) > uint64(len(b)) || h.EntriesOffset > h.Length {
		return 0, false, d.record.corrupt("index header is cut short")
	}
	b = b[h.EntriesOffset:h.Length]
	for {
		var e indexEntry
		if _, err := binary.Decode(b, binary.LittleEndian, &e); err != nil ||
			e.Length < indexEntrySize || int(e.Length) > len(b) {
			return 0, false, d.record.corrupt("index entry is cut short")
		}
		entry := b[:e.Length]
		if e.Flags&entryHasSubnode != 0 {
			if err := d.push(entry); err != nil {
				return 0, false, err
			}
		}
		if e.Flags&entryIsLast != 0 {
			return 0, false, nil
		}
		key, ok := cut(entry, indexEntrySize, uint32(e.KeyLength))
		if !ok || len(key) < fileNameStart {
			return 0, false, d.record.corrupt("index key is cut short")
		}
		units, ok := cut(key, fileNameStart, 2*uint32(key[fileNameLength]))
		if !ok {
			return 0, false, d.record.corrupt("name in index is cut short")
		}
		if strings.EqualFold(decodeName(units), name) {
			return e.File, true, nil
		}
		b = b[e.Length:]
	}
}

// push notes the subnode whose VCN ends entry.
func (d *directory) push(entry []byte) error {
	if len(entry) < indexEntrySize+8 {
		return d.record.corrupt("index entry is cut short")
	}
	vcn := binary.LittleEndian.Uint64(entry[len(entry)-8:])
	if d.seen[vcn] {
		return d.record.corrupt("index block %d is reached twice", vcn)
	}
	d.seen[vcn] = true
	d.pending = append(d.pending, vcn)
	return nil
}
