package partition

import (
	"cmp"
	"fmt"
	"io"
	"slices"

	"clonecast/internal/quantity"
)

// Content is the bytes of a run of table sectors.
type Content struct {
	Start quantity.Bytes
	Data  []byte
}

// span is anything that takes room on the disk, for Check.
type span struct {
	name string
	quantity.Extent
}

// Check verifies what every Table promises: all partitions and areas lie inside a
// disk of the given size, are not empty, and none of them overlap.
func (t Table) Check(size quantity.Bytes) error {
	spans := make([]span, 0, len(t.Partitions)+len(t.Areas))
	for _, p := range t.Partitions {
		spans = append(spans, span{fmt.Sprintf("partition %d", p.Number),
			quantity.Extent{Start: p.Start, Length: p.Length}})
	}
	for _, a := range t.Areas {
		spans = append(spans, span{string(a.Kind) + " area", quantity.Extent{Start: a.Start, Length: a.Length}})
	}
	slices.SortStableFunc(spans, func(a, b span) int { return cmp.Compare(a.Start, b.Start) })
	for i, s := range spans {
		problem := ""
		switch {
		case s.Start < 0 || s.Length <= 0 || s.Length > size || s.Start > size-s.Length:
			problem = fmt.Sprintf("its %d bytes do not lie inside the disk of %d bytes", int64(s.Length), int64(size))
		case i > 0 && spans[i-1].End() > s.Start:
			problem = "it overlaps " + spans[i-1].name
		}
		if problem != "" {
			return &CorruptError{Format: t.Kind, Structure: s.name, Offset: s.Start, Problem: problem}
		}
	}
	return nil
}

// Clip cuts the place of a partition at the end of a disk of the given size, and says so. Its
// length is 0 when nothing of it lies on the disk.
func Clip(number int, where quantity.Extent, size quantity.Bytes) (clipped quantity.Extent, note string) {
	switch {
	case where.Start >= size:
		return quantity.Extent{}, fmt.Sprintf(
			"partition %d starts at byte %d, behind the end of the disk (%d): it is left out",
			number, int64(where.Start), int64(size))
	case where.Length > size-where.Start:
		return quantity.Extent{Start: where.Start, Length: size - where.Start},
			fmt.Sprintf(
				"partition %d ends at byte %d, behind the end of the disk (%d): it is read as far as that",
				number, int64(where.End()), int64(size))
	}
	return where, ""
}

// ReadFull reads exactly length bytes at off. A disk that ends early is
// io.ErrUnexpectedEOF. Callers check length against their own limits first.
func ReadFull(r io.ReaderAt, off quantity.Bytes, length int) ([]byte, error) {
	b := make([]byte, length)
	n, err := r.ReadAt(b, int64(off))
	switch {
	case n == length:
		return b, nil
	case err == nil || err == io.EOF:
		return nil, io.ErrUnexpectedEOF
	}
	return nil, err
}
