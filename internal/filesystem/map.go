package filesystem

import (
	"encoding/binary"
	"math/bits"

	"clonecast/internal/quantity"
)

// Bounds of a Map: 16 MiB for the extents; the first gap that is given up.
const (
	maxExtents = 1 << 20
	firstGap   = 4 * quantity.KiB
)

// Map collects the allocated bytes of a volume in bounded memory. A volume that is
// more fragmented than a Map can hold is not refused: the smallest gaps count as
// allocated then, so that Extents covers all that was added, and some more.
//
// The zero Map is empty. It is fastest when extents are added in rising order.
type Map struct {
	extents []quantity.Extent
	limit   int            // maxExtents unless a test says otherwise
	gap     quantity.Bytes // gaps up to this length are allocated
}

// Add adds the length bytes from start.
func (m *Map) Add(start, length quantity.Bytes) {
	if length <= 0 {
		return
	}
	if n := len(m.extents); n > 0 {
		last := &m.extents[n-1]
		if last.Start <= start && start-last.End() <= m.gap {
			last.Length = max(last.Length, start+length-last.Start)
			return
		}
	}
	if m.limit == 0 {
		m.limit = maxExtents
	}
	if len(m.extents) >= m.limit {
		m.shrink()
		m.Add(start, length) // it may touch the last one now
		return
	}
	m.extents = append(m.extents, quantity.Extent{Start: start, Length: length})
}

// shrink gives up gaps, the smallest first, until half of the room is free.
func (m *Map) shrink() {
	m.extents = quantity.Normalize(m.extents)
	for len(m.extents) > m.limit/2 {
		m.gap = max(2*m.gap, firstGap)
		m.extents = fillGaps(m.extents, m.gap)
	}
}

// fillGaps joins normalized extents that are at most gap apart, in place.
func fillGaps(extents []quantity.Extent, gap quantity.Bytes) []quantity.Extent {
	out := extents[:1]
	for _, e := range extents[1:] {
		if last := &out[len(out)-1]; e.Start-last.End() <= gap {
			last.Length = e.End() - last.Start
			continue
		}
		out = append(out, e)
	}
	return out
}

// Extents gives what was added, normalized. The Map must not be used afterwards.
func (m *Map) Extents() []quantity.Extent {
	return quantity.Normalize(m.extents)
}

// EachRun calls f for every run of ones in the first n bits of the bitmap, least
// significant bit first. The bitmap's length must be a multiple of 8 bytes.
func EachRun(bitmap []byte, n uint64, f func(start, length uint64)) {
	for at := uint64(0); at < n; {
		start := nextBit(bitmap, at, n, 0)
		if start == n {
			return
		}
		end := nextBit(bitmap, start, n, ^uint64(0))
		f(start, end-start)
		at = end
	}
}

// nextBit finds the first bit at or after at that is one (invert 0) or zero
// (invert all ones); n when there is none.
func nextBit(bitmap []byte, at, n, invert uint64) uint64 {
	for at < n {
		word := (binary.LittleEndian.Uint64(bitmap[at/64*8:]) ^ invert) >> (at % 64)
		if word != 0 {
			return min(at+uint64(bits.TrailingZeros64(word)), n)
		}
		at = (at/64 + 1) * 64
	}
	return n
}
