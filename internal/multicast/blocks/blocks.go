// Package blocks cuts the payload of a multicast session into blocks and keeps sets of them.
package blocks

import (
	"encoding/binary"
	"errors"
	"math"
	"math/bits"

	"clonecast/internal/multicast/fec"
	"clonecast/internal/multicast/packet"
)

// Size is the bytes of a block; the last one may be shorter.
const Size = fec.K * packet.SymbolSize

// GroupSize is how many neighbouring blocks are sent in turn, a symbol of each, so that a
// burst of losses spreads over them. Groups begin at multiples of it.
const GroupSize = 8

// MaxPayload is the largest payload of a session: block numbers have 32 bits.
const MaxPayload = int64(Size) * (math.MaxUint32 - 1)

// Geometry says how a payload is cut.
type Geometry struct{ Payload int64 }

// Count is the number of blocks.
func (g Geometry) Count() int { return int((g.Payload + Size - 1) / Size) }

// Length is the number of payload bytes of block b.
func (g Geometry) Length(b int) int { return int(min(Size, g.Payload-int64(b)*Size)) }

// Symbols is the number of source symbols of block b.
func (g Geometry) Symbols(b int) int {
	return (g.Length(b) + packet.SymbolSize - 1) / packet.SymbolSize
}

// Room is the bytes that the source symbols of block b take, zeros behind the payload included.
func (g Geometry) Room(b int) int { return g.Symbols(b) * packet.SymbolSize }

// Offset is where block b begins in the payload.
func (g Geometry) Offset(b int) int64 { return int64(b) * Size }

// Set is a set of block numbers below a limit.
type Set struct {
	words []uint64
	limit int
	count int
}

// NewSet makes an empty set of numbers below limit.
func NewSet(limit int) *Set { return &Set{words: make([]uint64, (limit+63)/64), limit: limit} }

// FullSet makes the set of all numbers below limit.
func FullSet(limit int) *Set {
	s := NewSet(limit)
	s.AddRange(0, limit)
	return s
}

// Clone makes a copy.
func (s *Set) Clone() *Set {
	return &Set{append([]uint64(nil), s.words...), s.limit, s.count}
}

// Len is how many numbers are in the set.
func (s *Set) Len() int { return s.count }

// Has tells whether b is in the set; what lies past the limit is not.
func (s *Set) Has(b int) bool {
	return b >= 0 && b < s.limit && s.words[b/64]>>(b%64)&1 != 0
}

// Add puts b into the set.
func (s *Set) Add(b int) { s.AddRange(b, b+1) }

// AddRange puts start..end-1 into the set.
func (s *Set) AddRange(start, end int) {
	for at := max(start, 0); at < min(end, s.limit); {
		next := min((at/64+1)*64, end, s.limit)
		mask := (^uint64(0) >> (64 - (next - at))) << (at % 64)
		s.count += bits.OnesCount64(mask &^ s.words[at/64])
		s.words[at/64] |= mask
		at = next
	}
}

// Remove takes b out of the set.
func (s *Set) Remove(b int) {
	if s.Has(b) {
		s.words[b/64] &^= 1 << (b % 64)
		s.count--
	}
}

// Union adds all of o, a set with the same limit.
func (s *Set) Union(o *Set) {
	for i, w := range o.words {
		s.count += bits.OnesCount64(w &^ s.words[i])
		s.words[i] |= w
	}
}

// Next is the first number in the set from b on, or the limit.
func (s *Set) Next(b int) int { return s.scan(b, 0) }

// NextGap is the first number from b on that is not in the set, at most the limit.
func (s *Set) NextGap(b int) int { return s.scan(b, ^uint64(0)) }

func (s *Set) scan(b int, flip uint64) int {
	for b < s.limit {
		if w := (s.words[b/64] ^ flip) >> (b % 64); w != 0 {
			return min(b+bits.TrailingZeros64(w), s.limit)
		}
		b = (b/64 + 1) * 64
	}
	return s.limit
}

// AppendBinary appends the set's runs: pairs of varints, numbers skipped and numbers taken.
func (s *Set) AppendBinary(out []byte) []byte {
	end := 0
	for b := s.Next(0); b < s.limit; b = s.Next(end) {
		gap := s.NextGap(b)
		out = binary.AppendUvarint(out, uint64(b-end))
		out = binary.AppendUvarint(out, uint64(gap-b))
		end = gap
	}
	return out
}

var errRuns = errors.New("malformed set of blocks")

// ParseSet reads what AppendBinary wrote.
func ParseSet(b []byte, limit int) (*Set, error) {
	s := NewSet(limit)
	for end := 0; len(b) > 0; {
		skip, n := binary.Uvarint(b)
		if n <= 0 || skip > uint64(limit) {
			return nil, errRuns
		}
		take, m := binary.Uvarint(b[n:])
		if m <= 0 || take == 0 || take > uint64(limit) || end+int(skip)+int(take) > limit {
			return nil, errRuns
		}
		start := end + int(skip)
		end = start + int(take)
		s.AddRange(start, end)
		b = b[n+m:]
	}
	return s, nil
}
