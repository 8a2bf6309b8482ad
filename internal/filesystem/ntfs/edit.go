package ntfs

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

// appendRuns encodes runs as addRuns decodes them.
func appendRuns(b []byte, runs []run) []byte {
	lcn := int64(0)
	for _, r := range runs {
		length := signedBytes(r.length)
		if r.lcn == sparse {
			b = append(append(b, byte(len(length))), length...)
			continue
		}
		delta := signedBytes(r.lcn - lcn)
		b = append(b, byte(len(delta)<<4|len(length)))
		b = append(append(b, length...), delta...)
		lcn = r.lcn
	}
	return append(b, 0)
}

// signedBytes is v in as few bytes as hold it, little-endian two's complement.
func signedBytes(v int64) []byte {
	magnitude := uint64(v)
	if v < 0 {
		magnitude = ^magnitude
	}
	n := bits.Len64(magnitude)/8 + 1 // one bit more for the sign
	return binary.LittleEndian.AppendUint64(nil, uint64(v))[:n]
}

// setRuns replaces the runs and sizes of a non-resident attribute of r and shifts what
// follows it. All of the attribute is in r.
func (v *volume) setRuns(r *record, a attribute, runs []run, h nonResidentHeader) error {
	start, runsAt := a.offset, a.offset+int(a.RunsOffset)
	body := appendRuns(slices.Clone(r.data[start:runsAt]), runs)
	for len(body)%8 != 0 {
		body = append(body, 0)
	}
	used := len(r.data) - int(a.Length) + len(body)
	if used > len(r.whole) {
		return &filesystem.UnchangedError{
			Reason: fmt.Sprintf("%s has no room for more runs: the volume is too fragmented", r.name()),
		}
	}
	binary.LittleEndian.PutUint32(body[4:], uint32(len(body)))
	if _, err := binary.Encode(body[attributeHeaderSize:], binary.LittleEndian, h); err != nil {
		return fmt.Errorf("encode runs of %s: %w", r.name(), err)
	}
	rest := slices.Clone(r.data[start+int(a.Length):])
	clear(r.whole[start:])
	copy(r.whole[start:], body)
	copy(r.whole[start+len(body):], rest)
	binary.LittleEndian.PutUint32(r.whole[usedOffset:], uint32(used))
	r.Used = uint32(used)
	r.data = r.whole[:used]
	return nil
}

// usedOffset is where recordHeader.Used stands.
const usedOffset = 0x18

// recordWrites gives the writes of a changed record: in $MFT, and in $MFTMirr if that has a
// copy of it.
func (v *volume) recordWrites(r record, mirror *stream) []filesystem.Write {
	b := slices.Clone(r.whole)
	redoFixups(b, int(r.FixupOffset), int(r.FixupCount))
	off := quantity.Bytes(r.number) * v.recordSize
	out := v.streamWrites(&v.mft, b, off)
	if off+v.recordSize <= mirror.size {
		out = append(out, v.streamWrites(mirror, b, off)...)
	}
	return out
}

// streamWrites gives the writes that put b at off of s, which has no holes there.
func (v *volume) streamWrites(s *stream, b []byte, off quantity.Bytes) []filesystem.Write {
	var out []filesystem.Write
	for _, r := range s.runs {
		start, end := quantity.Bytes(r.vcn)*v.clusterSize, quantity.Bytes(r.vcn+r.length)*v.clusterSize
		from, to := max(start, off), min(end, off+quantity.Bytes(len(b)))
		if from < to {
			out = append(out, filesystem.Write{Offset: v.clusterOffset(r.lcn) + from - start, Data: b[from-off : to-off]})
		}
	}
	return out
}
