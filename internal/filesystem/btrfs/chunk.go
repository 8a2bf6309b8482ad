package btrfs

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

// chunkItem is struct btrfs_chunk without its stripes.
type chunkItem struct {
	Length     uint64 `offset:"0x0"`
	Owner      uint64 `offset:"0x8"`
	StripeLen  uint64 `offset:"0x10"`
	Type       uint64 `offset:"0x18"`
	_          uint32 `offset:"0x20"`
	_          uint32 `offset:"0x24"`
	_          uint32 `offset:"0x28"`
	NumStripes uint16 `offset:"0x2c"`
	_          uint16 `offset:"0x2e"`
}

// stripe is struct btrfs_stripe: where a copy of a chunk lies.
type stripe struct {
	DevID   uint64   `offset:"0x0"`
	Offset  uint64   `offset:"0x8"`
	DevUUID [16]byte `offset:"0x10"`
}

const (
	chunkItemSize = 48
	stripeSize    = 32
)

// Bits of a chunk's type.
const (
	chunkData     = 1 << 0
	chunkSystem   = 1 << 1
	chunkMetadata = 1 << 2
	chunkDUP      = 1 << 5

	chunkContent = chunkData | chunkSystem | chunkMetadata
)

const (
	maxCopies = 2
	// maxChunks is more than an exabyte of chunks of the usual size.
	maxChunks = 1 << 20
	// firstChunkTree is the object id of all chunk items, devices that of devices.
	firstChunkTree = 256
	devices        = 1
)

// chunk maps logical addresses to the device.
type chunk struct {
	start, length uint64
	kind          uint64 // bits of its content
	places        [maxCopies]quantity.Bytes
	count         int // of places
}

// copies gives the places of the logical address, which lies in the chunk.
func (c *chunk) copies(logical uint64) []quantity.Bytes {
	var out [maxCopies]quantity.Bytes
	for i, place := range c.places[:c.count] {
		out[i] = place + quantity.Bytes(logical-c.start)
	}
	return out[:c.count]
}

// chunk finds the chunk that holds length bytes from the logical address.
func (rd *reader) chunk(logical, length uint64) (*chunk, bool) {
	startOrder := func(c chunk, at uint64) int { return cmp.Compare(c.start, at) }
	i, found := slices.BinarySearchFunc(rd.chunks, logical, startOrder)
	if !found {
		i--
	}
	if i < 0 {
		return nil, false
	}
	c := &rd.chunks[i]
	into := logical - c.start
	return c, into < c.length && length <= c.length-into
}

// loadChunks reads all chunks: those of the superblock lead to the chunk tree.
func (rd *reader) loadChunks() error {
	system, err := rd.systemChunks()
	if err != nil {
		return err
	}
	if rd.chunks, err = rd.sorted(system); err != nil {
		return err
	}
	root := rootPointer(treeChunk, rd.sb.ChunkRoot, rd.sb.ChunkRootGeneration, rd.sb.ChunkRootLevel)
	var all []chunk
	err = rd.walk(root, key{}, lastKey, func(it item) error {
		switch it.kind {
		case itemDevice:
			return rd.checkDevice(it)
		case itemChunk:
			if len(all) == maxChunks {
				return it.corrupt("too many chunks")
			}
			c, n, err := rd.parseChunk(it)
			if err == nil && n != len(it.data) {
				err = it.corrupt(fmt.Sprintf("%d bytes, want %d", len(it.data), n))
			}
			all = append(all, c)
			return err
		}
		return it.corrupt("does not belong into the chunk tree")
	})
	if err != nil {
		return err
	}
	if rd.chunks, err = rd.sorted(all); err != nil {
		return err
	}
	for _, c := range system {
		if got, ok := rd.chunk(c.start, c.length); !ok || *got != c {
			return corrupt("superblock", superblockOffset, fmt.Sprintf("system chunk at %d is not in the chunk tree", c.start))
		}
	}
	return nil
}

// systemChunks decodes the superblock's array of keys and chunks.
func (rd *reader) systemChunks() ([]chunk, error) {
	var out []chunk
	for b := rd.sb.SysChunkArray[:rd.sb.SysChunkArraySize]; len(b) > 0; {
		if len(b) < keySize {
			return nil, corrupt("superblock", superblockOffset, "system chunks end in a key")
		}
		c, n, err := rd.parseChunk(item{key: parseKey(b), data: b[keySize:], leaf: superblockOffset})
		if err != nil {
			return nil, err
		}
		out = append(out, c)
		b = b[keySize+n:]
	}
	return out, nil
}

// checkDevice checks that the item tells of the partition being read.
func (rd *reader) checkDevice(it item) error {
	if it.objectid != devices || it.offset != rd.sb.DevID {
		return otherDevice(it.offset)
	}
	return nil
}

func otherDevice(id uint64) error {
	return &doubtError{filesystem.Doubt{Reason: fmt.Sprintf("part of the file system lies on device %d", id)}}
}

// parseChunk decodes a chunk and its stripes, which take n bytes.
func (rd *reader) parseChunk(it item) (out chunk, n int, err error) {
	var c chunkItem
	if it.kind != itemChunk || it.objectid != firstChunkTree || len(it.data) < chunkItemSize {
		return out, 0, it.corrupt(fmt.Sprintf("chunk of %d bytes", len(it.data)))
	}
	if _, err := binary.Decode(it.data, binary.LittleEndian, &c); err != nil {
		return out, 0, fmt.Errorf("decode btrfs chunk: %w", err)
	}
	want := uint16(1)
	switch c.Type &^ chunkContent {
	case 0:
	case chunkDUP:
		want = 2
	default:
		return out, 0, &doubtError{filesystem.Doubt{Reason: fmt.Sprintf("chunks of a RAID profile (type %#x)", c.Type)}}
	}
	n = chunkItemSize + int(want)*stripeSize
	sector := uint64(rd.sb.SectorSize)
	switch {
	case c.Type&chunkContent == 0:
		return out, 0, it.corrupt(fmt.Sprintf("type %#x", c.Type))
	case c.NumStripes != want || len(it.data) < n:
		return out, 0, it.corrupt(fmt.Sprintf("%d stripes in %d bytes", c.NumStripes, len(it.data)))
	case c.Length == 0 || c.Length%sector != 0 || it.offset%sector != 0 || c.Length > math.MaxUint64-it.offset:
		return out, 0, it.corrupt(fmt.Sprintf("length %d", c.Length))
	}
	out = chunk{start: it.offset, length: c.Length, kind: c.Type & chunkContent, count: int(want)}
	for i := range out.count {
		if out.places[i], err = rd.parseStripe(it, it.data[chunkItemSize+i*stripeSize:], c.Length); err != nil {
			return chunk{}, 0, err
		}
	}
	return out, n, nil
}

func (rd *reader) parseStripe(it item, b []byte, length uint64) (quantity.Bytes, error) {
	var s stripe
	if _, err := binary.Decode(b, binary.LittleEndian, &s); err != nil {
		return 0, fmt.Errorf("decode btrfs stripe: %w", err)
	}
	switch {
	case s.DevID != rd.sb.DevID || !bytes.Equal(s.DevUUID[:], rd.sb.DevUUID[:]):
		return 0, otherDevice(s.DevID)
	case s.Offset > rd.sb.DevTotalBytes || length > rd.sb.DevTotalBytes-s.Offset:
		return 0, it.corrupt(fmt.Sprintf("%d bytes at %d of a device of %d", length, s.Offset, rd.sb.DevTotalBytes))
	}
	return quantity.Bytes(s.Offset), nil
}

// sorted sorts chunks by their logical addresses and checks that no two have an
// address or a place in common.
func (rd *reader) sorted(chunks []chunk) ([]chunk, error) {
	chunks = slices.Clone(chunks)
	slices.SortFunc(chunks, func(a, b chunk) int { return cmp.Compare(a.start, b.start) })
	var places []quantity.Extent
	for i, c := range chunks {
		if i > 0 && chunks[i-1].start+chunks[i-1].length > c.start {
			return nil, corrupt("chunk tree", 0, fmt.Sprintf("chunks at %d and %d overlap", chunks[i-1].start, c.start))
		}
		for _, place := range c.places[:c.count] {
			places = append(places, quantity.Extent{Start: place, Length: quantity.Bytes(c.length)})
		}
	}
	slices.SortFunc(places, func(a, b quantity.Extent) int { return cmp.Compare(a.Start, b.Start) })
	for i, e := range places[min(1, len(places)):] {
		if places[i].End() > e.Start {
			return nil, corrupt("chunk tree", 0,
				fmt.Sprintf("stripes at %d and %d overlap", int64(places[i].Start), int64(e.Start)))
		}
	}
	return chunks, nil
}
