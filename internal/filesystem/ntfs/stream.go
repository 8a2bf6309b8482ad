package ntfs

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

// run maps length clusters beginning at vcn of a stream to lcn of the volume.
type run struct {
	vcn, lcn, length int64
}

const sparse = -1 // run.lcn of a hole

// stream is the value of an attribute, wherever its parts are.
type stream struct {
	resident    []byte
	runs        []run // by VCN, without gaps; empty when resident
	size        quantity.Bytes
	initialized quantity.Bytes // bytes from here to size read as zero
	used        int64          // clusters in runs, holes not counted
	flags       uint16         // attributeHeader.Flags
}

// mapped is the number of clusters that the runs cover.
func (s *stream) mapped() int64 {
	if len(s.runs) == 0 {
		return 0
	}
	last := s.runs[len(s.runs)-1]
	return last.vcn + last.length
}

// maxSize bounds every stream, so that offsets in it never overflow.
const maxSize = 1 << 62

// addRuns decodes the runs of a and appends them to s.
func (v *volume) addRuns(s *stream, a attribute) error {
	next, limit := s.mapped(), int64(maxSize/v.clusterSize)
	if a.FirstVCN != uint64(next) {
		return fmt.Errorf("part begins at VCN %d, want %d", a.FirstVCN, next)
	}
	b := a.runs
	lcn := int64(0)
	for len(b) > 0 && b[0] != 0 {
		nLength, nDelta := int(b[0]&0xf), int(b[0]>>4)
		if nLength == 0 || nLength > 8 || nDelta > 8 || 1+nLength+nDelta > len(b) {
			return fmt.Errorf("run at VCN %d: header %#02x", next, b[0])
		}
		length := signed(b[1:][:nLength])
		if length <= 0 || length > limit-next {
			return fmt.Errorf("run at VCN %d: length %d", next, length)
		}
		r := run{vcn: next, lcn: sparse, length: length}
		if nDelta > 0 {
			lcn += signed(b[1+nLength:][:nDelta]) // wraps at worst; checked next
			if lcn < 0 || lcn >= v.clusters || length > v.clusters-lcn {
				return fmt.Errorf("run at VCN %d: clusters %d+%d of %d", next, lcn, length, v.clusters)
			}
			r.lcn = lcn
			if s.used += length; s.used > v.clusters {
				return errors.New("runs cover more clusters than the volume has")
			}
		}
		s.add(r)
		next += length
		b = b[1+nLength+nDelta:]
	}
	if len(b) == 0 {
		return errors.New("runs do not end")
	}
	if uint64(next) != a.LastVCN+1 {
		return fmt.Errorf("runs end at VCN %d, want %d", next, a.LastVCN+1)
	}
	return nil
}

// add appends r, joined to the last run where it continues it: a hostile list of
// short holes takes no memory.
func (s *stream) add(r run) {
	if n := len(s.runs); n > 0 {
		last := &s.runs[n-1]
		if r.lcn == sparse && last.lcn == sparse || r.lcn != sparse && last.lcn != sparse && r.lcn == last.lcn+last.length {
			last.length += r.length
			return
		}
	}
	s.runs = append(s.runs, r)
}

// signed decodes a little-endian two's complement number of up to 8 bytes.
func signed(b []byte) int64 {
	var buf [8]byte
	copy(buf[:], b)
	shift := 64 - 8*len(b)
	return int64(binary.LittleEndian.Uint64(buf[:])<<shift) >> shift
}

// begin starts s with the part of the attribute that holds VCN 0.
func (v *volume) begin(s *stream, a attribute) error {
	if a.NonResident == 0 {
		*s = stream{resident: a.value, size: quantity.Bytes(len(a.value)), flags: a.Flags}
		s.initialized = s.size
		return nil
	}
	if a.DataSize > a.AllocatedSize || a.InitializedSize > a.DataSize || a.AllocatedSize > maxSize {
		return fmt.Errorf("sizes %d, %d, %d", a.InitializedSize, a.DataSize, a.AllocatedSize)
	}
	*s = stream{size: quantity.Bytes(a.DataSize), initialized: quantity.Bytes(a.InitializedSize), flags: a.Flags}
	return v.addRuns(s, a)
}

// finish checks that the runs of s cover its size.
func (v *volume) finish(s *stream) error {
	if s.resident == nil && quantity.Bytes(s.mapped()) < (s.size+v.clusterSize-1)/v.clusterSize {
		return fmt.Errorf("%d clusters hold less than %d bytes", s.mapped(), int64(s.size))
	}
	return nil
}

// readStream fills p from s at off, which must lie inside s.
func (v *volume) readStream(s *stream, p []byte, off quantity.Bytes) error {
	if off < 0 || quantity.Bytes(len(p)) > s.size-off {
		return corrupt("attribute", off, "holds %d bytes, no %d at %d", int64(s.size), len(p), int64(off))
	}
	if s.resident != nil {
		copy(p, s.resident[off:])
		return nil
	}
	for len(p) > 0 {
		n, err := v.readPiece(s, p, off)
		if err != nil {
			return err
		}
		p, off = p[n:], off+quantity.Bytes(n)
	}
	return nil
}

// readPiece reads from one run, or zeros from what was never written.
func (v *volume) readPiece(s *stream, p []byte, off quantity.Bytes) (int, error) {
	if off >= s.initialized {
		clear(p)
		return len(p), nil
	}
	p = p[:min(quantity.Bytes(len(p)), s.initialized-off)]
	vcn := int64(off / v.clusterSize)
	i, found := slices.BinarySearchFunc(s.runs, vcn, func(r run, vcn int64) int { return cmp.Compare(r.vcn, vcn) })
	if !found {
		i--
	}
	if i < 0 || vcn >= s.runs[i].vcn+s.runs[i].length {
		return 0, corrupt("attribute", off, "VCN %d is not mapped", vcn)
	}
	r := s.runs[i]
	inRun := off - quantity.Bytes(r.vcn)*v.clusterSize
	p = p[:min(quantity.Bytes(len(p)), quantity.Bytes(r.length)*v.clusterSize-inRun)]
	if r.lcn == sparse {
		clear(p)
		return len(p), nil
	}
	return len(p), filesystem.ReadFull(v.r, p, v.clusterOffset(r.lcn)+inRun)
}
