package chunk

import (
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// A difference holds chunks for a receiver that has other chunks much like them: their
// bases. It is only sent, never stored. All integers are little-endian.
//
//	offset  size  field
//	0       4     magic "CCD1"
//	4       1     codec: 0 stored, 1 zstd
//	5       1     n, number of chunks, 1..MaxDeltaChunks
//	6       2     zero
//	8       4     length of the payload
//	12      4     CRC-32C of bytes 0..11 and of the chunk table
//	16      68*n  chunk table: id (32), plain length (4), id of the base (32; zero: none)
//	16+68n  ...   payload: the chunks' plain bytes one after the other, encoded
//
// The zstd codec has the plain bytes of all bases, one after the other in table order, as
// its dictionary (raw content, number 1). The chunk ids prove the content.
const (
	DeltaMagic     = "CCD1"
	MaxDeltaChunks = 8
	deltaEntrySize = frameEntrySize + len(ID{})
	deltaDict      = 1
	deltaWindow    = 8 << 20
)

// Want names a chunk, and one much like it that who wants it has; zero when there is none.
type Want struct{ ID, Base ID }

// DeltaHeader is what stands before a difference's payload.
type DeltaHeader struct {
	FrameHeader
	Bases []ID // of each entry, zero when it has none
}

// Size is the length of the whole difference in bytes.
func (h DeltaHeader) Size() int { return h.HeaderSize() + h.Payload }

// HeaderSize is the length of header and chunk table in bytes.
func (h DeltaHeader) HeaderSize() int { return frameHeaderSize + deltaEntrySize*len(h.Entries) }

// DeltaHeaderLength reads, from the first 16 bytes of a difference, how long its header and
// chunk table are.
func DeltaHeaderLength(b []byte) (int, error) {
	return headerLength(b, DeltaMagic, deltaEntrySize, MaxDeltaChunks)
}

// ParseDeltaHeader reads header and chunk table from the start of b and checks them.
func ParseDeltaHeader(b []byte) (DeltaHeader, error) {
	size, err := DeltaHeaderLength(b)
	if err != nil {
		return DeltaHeader{}, err
	}
	h, err := parseHeader(b, size, deltaEntrySize)
	if err != nil {
		return DeltaHeader{}, err
	}
	d := DeltaHeader{FrameHeader: h}
	for at := frameHeaderSize + frameEntrySize; at < size; at += deltaEntrySize {
		d.Bases = append(d.Bases, ID(b[at:at+len(ID{})]))
	}
	return d, nil
}

// DeltaEncoder makes differences. It is not safe for concurrent use.
type DeltaEncoder struct{ zstd *zstd.Encoder }

// NewDeltaEncoder makes an encoder.
func NewDeltaEncoder() (*DeltaEncoder, error) {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false), zstd.WithWindowSize(deltaWindow), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, fmt.Errorf("make zstd encoder: %w", err)
	}
	return &DeltaEncoder{z}, nil
}

// Append appends to dst the difference that turns base, the plain bytes of all bases, into
// plain, which holds the chunks of entries one after the other.
func (e *DeltaEncoder) Append(dst []byte, entries []Entry, bases []ID, plain, base []byte) ([]byte, error) {
	option := zstd.WithEncoderDictDelete()
	if len(base) > 0 {
		option = zstd.WithEncoderDictRaw(deltaDict, base)
	}
	if err := e.zstd.ResetWithOptions(nil, option); err != nil {
		return nil, fmt.Errorf("set base of a difference: %w", err)
	}
	start := len(dst)
	dst = appendHeader(dst, DeltaMagic, len(entries))
	for i, entry := range entries {
		dst = append(appendEntry(dst, entry), bases[i][:]...)
	}
	return finishFrame(dst, start, plain, e.zstd), nil
}

// DeltaDecoder opens differences. It is not safe for concurrent use.
type DeltaDecoder struct {
	Decoder
	dict []byte // of the last difference
}

// NewDeltaDecoder makes a decoder whose memory stays within a difference's size.
func NewDeltaDecoder() (*DeltaDecoder, error) {
	d, err := NewDecoder()
	if err != nil {
		return nil, err
	}
	return &DeltaDecoder{Decoder: *d}, nil
}

// Decode decodes a whole difference into buf, whose capacity is reused, and verifies every
// chunk. base gives the plain bytes of a base, nil when they are not at hand. It returns
// the plain bytes of all chunks in table order.
func (d *DeltaDecoder) Decode(delta, buf []byte, base func(ID) []byte) (DeltaHeader, []byte, error) {
	h, err := ParseDeltaHeader(delta)
	if err != nil {
		return DeltaHeader{}, nil, err
	}
	if len(delta) != h.Size() {
		return DeltaHeader{}, nil, fmt.Errorf("%w: %d bytes, header says %d", ErrFrame, len(delta), h.Size())
	}
	d.dict = d.dict[:0]
	for i, id := range h.Bases {
		if id == (ID{}) {
			continue
		}
		b := base(id)
		if len(b) == 0 || len(b) > int(Size) {
			return DeltaHeader{}, nil, &InvalidError{ID: h.Entries[i].ID, Problem: fmt.Sprintf("its base %v is not here", id)}
		}
		d.dict = append(d.dict, b...)
	}
	options := []zstd.DOption{zstd.WithDecoderDictDelete(deltaDict)}
	if len(d.dict) > 0 {
		options = append(options, zstd.WithDecoderDictRaw(deltaDict, d.dict))
	}
	if err := d.zstd.ResetWithOptions(nil, options...); err != nil {
		return DeltaHeader{}, nil, fmt.Errorf("set base of a difference: %w", err)
	}
	plain, err := d.verified(h.FrameHeader, delta[h.HeaderSize():], buf)
	if err != nil {
		return DeltaHeader{}, nil, err
	}
	return h, plain, nil
}
