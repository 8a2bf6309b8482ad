package chunk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/klauspost/compress/zstd"
)

// A frame holds one or more chunks compressed together. It is the same bytes on the
// wire and in a pack file. All integers are little-endian.
//
//	offset  size  field
//	0       4     magic "CCF1"
//	4       1     codec: 0 stored, 1 zstd
//	5       1     n, number of chunks, 1..MaxFrameChunks
//	6       2     zero
//	8       4     length of the payload
//	12      4     CRC-32C of bytes 0..11 and of the chunk table
//	16      36*n  chunk table: id (32), plain length (4), in payload order
//	16+36n  ...   payload: the chunks' plain bytes one after the other, encoded
//
// The CRC finds where a torn pack ends without decoding; the chunk ids are what
// proves the content.
const (
	FrameMagic       = "CCF1" // every frame begins with it
	frameHeaderSize  = 16
	frameEntrySize   = 36
	codecStored      = 0
	codecZstd        = 1
	MaxFrameChunks   = 16
	MaxFrameHeader   = frameHeaderSize + MaxFrameChunks*frameEntrySize
	MaxFramePlain    = MaxFrameChunks * int(Size)
	MaxFramePayload  = MaxFramePlain // an encoded payload is never longer than the plain one
	MaxFrameSize     = MaxFrameHeader + MaxFramePayload
	maxDecoderWindow = 8 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrFrame is wrapped by every complaint about a frame's form.
var ErrFrame = errors.New("malformed chunk frame")

// Entry is one chunk of a frame.
type Entry struct {
	ID     ID
	Length int // plain bytes, 1..Size
}

// FrameHeader is what stands before a frame's payload.
type FrameHeader struct {
	Codec   byte
	Payload int // encoded bytes
	Entries []Entry
}

// FrameSize is how large a frame is, and how many chunks it holds.
type FrameSize struct{ Bytes, Chunks int }

// Size is the length of the whole frame in bytes.
func (h FrameHeader) Size() int {
	return frameHeaderSize + frameEntrySize*len(h.Entries) + h.Payload
}

// HeaderSize is the length of header and chunk table in bytes.
func (h FrameHeader) HeaderSize() int { return frameHeaderSize + frameEntrySize*len(h.Entries) }

// PlainSize is the sum of the chunks' plain lengths.
func (h FrameHeader) PlainSize() int {
	sum := 0
	for _, e := range h.Entries {
		sum += e.Length
	}
	return sum
}

// FrameHeaderLength reads, from the first 16 bytes of a frame, how long its header
// and chunk table are, so that a stream reader knows how much to read before it can
// parse the header.
func FrameHeaderLength(b []byte) (int, error) {
	return headerLength(b, FrameMagic, frameEntrySize, MaxFrameChunks)
}

// ParseFrameHeader reads header and chunk table from the start of b and checks them.
func ParseFrameHeader(b []byte) (FrameHeader, error) {
	size, err := FrameHeaderLength(b)
	if err != nil {
		return FrameHeader{}, err
	}
	return parseHeader(b, size, frameEntrySize)
}

// headerLength reads from a header how long it and the chunk table are.
func headerLength(b []byte, magic string, entrySize, limit int) (int, error) {
	if len(b) < frameHeaderSize || string(b[:4]) != magic {
		return 0, fmt.Errorf("%w: no magic", ErrFrame)
	}
	n := int(b[5])
	if n < 1 || n > limit {
		return 0, fmt.Errorf("%w: %d chunks", ErrFrame, n)
	}
	return frameHeaderSize + entrySize*n, nil
}

// parseHeader reads a header of the given size, whose entries begin with id and length.
func parseHeader(b []byte, size, entrySize int) (FrameHeader, error) {
	if len(b) < size {
		return FrameHeader{}, fmt.Errorf("%w: %d bytes, header needs %d", ErrFrame, len(b), size)
	}
	crc := crc32.Update(crc32.Checksum(b[:12], castagnoli), castagnoli, b[frameHeaderSize:size])
	if crc != binary.LittleEndian.Uint32(b[12:]) {
		return FrameHeader{}, fmt.Errorf("%w: header checksum differs", ErrFrame)
	}
	h := FrameHeader{Codec: b[4], Payload: int(binary.LittleEndian.Uint32(b[8:]))}
	if h.Codec > codecZstd || b[6] != 0 || b[7] != 0 {
		return FrameHeader{}, fmt.Errorf("%w: codec %d, reserved %x", ErrFrame, h.Codec, b[6:8])
	}
	for at := frameHeaderSize; at < size; at += entrySize {
		e := Entry{ID: ID(b[at : at+32]), Length: int(binary.LittleEndian.Uint32(b[at+32:]))}
		if e.Length < 1 || e.Length > int(Size) {
			return FrameHeader{}, fmt.Errorf("%w: chunk of %d bytes", ErrFrame, e.Length)
		}
		h.Entries = append(h.Entries, e)
	}
	plain := h.PlainSize()
	if h.Payload < 1 || h.Payload > plain || h.Codec == codecStored && h.Payload != plain {
		return FrameHeader{}, fmt.Errorf("%w: payload of %d bytes for %d plain ones", ErrFrame, h.Payload, plain)
	}
	return h, nil
}

// Encoder makes frames. It is not safe for concurrent use: one per worker.
type Encoder struct{ zstd *zstd.Encoder }

// NewEncoder makes an encoder for the given zstd level.
func NewEncoder(level zstd.EncoderLevel) (*Encoder, error) {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false), zstd.WithWindowSize(4<<20), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, fmt.Errorf("make zstd encoder: %w", err)
	}
	return &Encoder{z}, nil
}

// AppendFrame appends to dst the frame of plain, which holds the chunks of entries
// one after the other.
func (e *Encoder) AppendFrame(dst []byte, entries []Entry, plain []byte) []byte {
	start := len(dst)
	dst = appendHeader(dst, FrameMagic, len(entries))
	for _, entry := range entries {
		dst = appendEntry(dst, entry)
	}
	return finishFrame(dst, start, plain, e.zstd)
}

// appendHeader begins a frame or difference; finishFrame fills in what is zero.
func appendHeader(dst []byte, magic string, n int) []byte {
	dst = append(dst, magic...)
	return append(dst, codecZstd, byte(n), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
}

func appendEntry(dst []byte, e Entry) []byte {
	dst = append(dst, e.ID[:]...)
	return binary.LittleEndian.AppendUint32(dst, uint32(e.Length))
}

// finishFrame appends the payload to header and chunk table, which begin at start.
func finishFrame(dst []byte, start int, plain []byte, z *zstd.Encoder) []byte {
	body := len(dst)
	dst = z.EncodeAll(plain, dst)
	if len(dst)-body >= len(plain) {
		dst = append(dst[:body], plain...)
		dst[start+4] = codecStored
	}
	sealHeader(dst[start:], body-start)
	return dst
}

// sealHeader fills in length and checksum of a frame or difference whose header and chunk table have the given size.
func sealHeader(frame []byte, size int) {
	binary.LittleEndian.PutUint32(frame[8:], uint32(len(frame)-size))
	crc := crc32.Update(crc32.Checksum(frame[:12], castagnoli), castagnoli, frame[frameHeaderSize:size])
	binary.LittleEndian.PutUint32(frame[12:], crc)
}

// AppendStored appends to dst the frame of plain, which holds the chunks of entries one after the other, uncompressed.
func AppendStored(dst []byte, entries []Entry, plain []byte) []byte {
	start := len(dst)
	dst = appendHeader(dst, FrameMagic, len(entries))
	dst[start+4] = codecStored
	for _, entry := range entries {
		dst = appendEntry(dst, entry)
	}
	size := len(dst) - start
	dst = append(dst, plain...)
	sealHeader(dst[start:], size)
	return dst
}

// StoredSize is the length of an uncompressed frame of so many chunks and plain bytes.
func StoredSize(chunks, plain int) int { return frameHeaderSize + frameEntrySize*chunks + plain }

// Decoder opens frames. It is not safe for concurrent use: one per worker.
type Decoder struct{ zstd *zstd.Decoder }

// NewDecoder makes a decoder whose memory stays within a frame's size.
func NewDecoder() (*Decoder, error) {
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(uint64(MaxFramePlain)),
		zstd.WithDecoderMaxWindow(maxDecoderWindow), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, fmt.Errorf("make zstd decoder: %w", err)
	}
	return &Decoder{z}, nil
}

// Close frees the decoder.
func (d *Decoder) Close() { d.zstd.Close() }

// Decode decodes a whole frame into buf, whose capacity is reused, and verifies every
// chunk against its id. It returns the plain bytes of all chunks in table order.
// A frame that does not decode to its chunks is an *InvalidError.
func (d *Decoder) Decode(frame, buf []byte) (FrameHeader, []byte, error) {
	h, err := ParseFrameHeader(frame)
	if err != nil {
		return FrameHeader{}, nil, err
	}
	if len(frame) != h.Size() {
		return FrameHeader{}, nil, fmt.Errorf("%w: %d bytes, header says %d", ErrFrame, len(frame), h.Size())
	}
	plain, err := d.verified(h, frame[h.HeaderSize():], buf)
	if err != nil {
		return FrameHeader{}, nil, err
	}
	return h, plain, nil
}

// verified decodes a payload and verifies its chunks.
func (d *Decoder) verified(h FrameHeader, payload, buf []byte) ([]byte, error) {
	plain, err := d.payload(h, payload, buf)
	if err != nil {
		return nil, err
	}
	at := 0
	for _, e := range h.Entries {
		if Sum(plain[at:at+e.Length]) != e.ID {
			return nil, &InvalidError{ID: e.ID, Problem: "content does not match the name"}
		}
		at += e.Length
	}
	return plain, nil
}

func (d *Decoder) payload(h FrameHeader, payload, buf []byte) ([]byte, error) {
	size := h.PlainSize()
	if h.Codec == codecStored {
		return append(buf[:0], payload...), nil
	}
	if cap(buf) < size {
		buf = make([]byte, 0, size)
	}
	plain, err := d.zstd.DecodeAll(payload, buf[:0:size])
	if err != nil {
		return nil, &InvalidError{ID: h.Entries[0].ID, Problem: "payload does not decode: " + err.Error()}
	}
	if len(plain) != size {
		problem := fmt.Sprintf("payload decodes to %d bytes, want %d", len(plain), size)
		return nil, &InvalidError{ID: h.Entries[0].ID, Problem: problem}
	}
	return plain, nil
}
