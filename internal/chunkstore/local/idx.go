package local

import (
	"encoding/binary"
	"errors"

	"clonecast/internal/chunk"
)

// An index file lists the frames of one pack in their order, so that a store opens
// without reading its packs. All integers are little-endian.
//
//	offset  size  field
//	0       8     magic "CCIDX2\n\0"
//	8       8     length of the pack in bytes
//	16      4     number of frames
//	20      ...   the frames, each: length in bytes (4), number of chunks (1), and for each chunk
//	              its id (32) and plain length (4)
//	end-32  32    BLAKE3-256 of everything before
//
// The first frame stands behind the pack's magic, each other one behind the one before;
// the last one ends where the pack does.
const (
	idxMagic      = "CCIDX2\n\x00"
	idxHeaderSize = 20
	idxSumSize    = 32
	idxFrameSize  = 5
	idxChunkSize  = 36
	maxIdxSize    = 256 << 20
)

var errIdx = errors.New("index file is damaged")

// packFrame is one frame of a pack.
type packFrame struct {
	offset, size uint32
	chunks       []chunk.Entry
}

// marshalIdx encodes the index of a pack of the given length.
func marshalIdx(length int64, frames []packFrame) []byte {
	b := append([]byte(nil), idxMagic...)
	b = binary.LittleEndian.AppendUint64(b, uint64(length))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(frames)))
	for _, f := range frames {
		b = binary.LittleEndian.AppendUint32(b, f.size)
		b = append(b, byte(len(f.chunks)))
		for _, c := range f.chunks {
			b = append(b, c.ID[:]...)
			b = binary.LittleEndian.AppendUint32(b, uint32(c.Length))
		}
	}
	sum := chunk.Sum(b)
	return append(b, sum[:]...)
}

// parseIdx decodes an index file. It accepts exactly what marshalIdx writes.
func parseIdx(b []byte) (length int64, frames []packFrame, err error) {
	body := len(b) - idxSumSize
	if body < idxHeaderSize || string(b[:8]) != idxMagic || chunk.Sum(b[:body]) != chunk.ID(b[body:]) {
		return 0, nil, errIdx
	}
	claimed := binary.LittleEndian.Uint64(b[8:])
	count := binary.LittleEndian.Uint32(b[16:])
	b = b[idxHeaderSize:body]
	if claimed > uint64(maxPackSize)+uint64(chunk.MaxFrameSize) || uint64(count) > uint64(len(b)/idxFrameSize) {
		return 0, nil, errIdx
	}
	offset := uint64(len(packMagic))
	frames = make([]packFrame, 0, count)
	for range count {
		if len(b) < idxFrameSize {
			return 0, nil, errIdx
		}
		f := packFrame{offset: uint32(offset), size: binary.LittleEndian.Uint32(b)}
		n := int(b[4])
		b = b[idxFrameSize:]
		if n < 1 || n > chunk.MaxFrameChunks || len(b) < n*idxChunkSize || f.size > uint32(chunk.MaxFrameSize) {
			return 0, nil, errIdx
		}
		f.chunks = make([]chunk.Entry, n)
		for i := range f.chunks {
			c := chunk.Entry{ID: chunk.ID(b[:32]), Length: int(binary.LittleEndian.Uint32(b[32:]))}
			if c.Length < 1 || c.Length > int(chunk.Size) {
				return 0, nil, errIdx
			}
			f.chunks[i], b = c, b[idxChunkSize:]
		}
		if offset += uint64(f.size); offset > claimed {
			return 0, nil, errIdx
		}
		frames = append(frames, f)
	}
	if len(b) != 0 || offset != claimed {
		return 0, nil, errIdx
	}
	return int64(claimed), frames, nil
}
