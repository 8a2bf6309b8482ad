package blocks

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

func TestGeometry(t *testing.T) {
	for _, tc := range []struct {
		payload                int64
		count, length, symbols int // of the last block
	}{
		{1, 1, 1, 1},
		{1432, 1, 1432, 1},
		{1433, 1, 1433, 2},
		{Size, 1, Size, 128},
		{Size + 1, 2, 1, 1},
		{10*Size - 1, 10, Size - 1, 128},
	} {
		g := Geometry{tc.payload}
		last := g.Count() - 1
		if g.Count() != tc.count || g.Length(last) != tc.length || g.Symbols(last) != tc.symbols || g.Room(last) < tc.length {
			t.Errorf("%d bytes: %d blocks, the last one of %d bytes in %d symbols, want %+v",
				tc.payload, g.Count(), g.Length(last), g.Symbols(last), tc)
		}
	}
	if (Geometry{}).Count() != 0 {
		t.Error("an empty payload has blocks")
	}
}

// TestSet compares the set with a slice of flags.
func TestSet(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 3))
		limit := 1 + r.IntN(300)
		s, want := NewSet(limit), make([]bool, limit)
		for range 200 {
			a, b := r.IntN(limit), r.IntN(limit+1)
			switch r.IntN(4) {
			case 0:
				s.AddRange(a, b)
				for i := a; i < b; i++ {
					want[i] = true
				}
			case 1:
				s.Add(a)
				want[a] = true
			default:
				s.Remove(a)
				want[a] = false
			}
			check(t, seed, s, want)
		}
		again, err := ParseSet(s.AppendBinary(nil), limit)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		check(t, seed, again, want)
		other, both := NewSet(limit), append([]bool(nil), want...)
		for i := range limit {
			if r.IntN(3) == 0 {
				other.Add(i)
				both[i] = true
			}
		}
		union := s.Clone()
		union.Union(other)
		check(t, seed, union, both)
		check(t, seed, s, want)
	}
	if full := FullSet(70); full.Len() != 70 || full.Has(70) || full.Has(-1) || full.NextGap(0) != 70 {
		t.Error("a full set is not full")
	}
}

func check(t *testing.T, seed uint64, s *Set, want []bool) {
	t.Helper()
	n, next, gap := 0, len(want), len(want)
	for i := len(want) - 1; i >= 0; i-- {
		if want[i] {
			n, next = n+1, i
		} else {
			gap = i
		}
		if s.Has(i) != want[i] || s.Next(i) != next || s.NextGap(i) != gap {
			t.Fatalf("seed %d: at %d of %d: Has %v, Next %d, NextGap %d, want %v, %d, %d",
				seed, i, len(want), s.Has(i), s.Next(i), s.NextGap(i), want[i], next, gap)
		}
	}
	if s.Len() != n {
		t.Fatalf("seed %d: Len %d, want %d", seed, s.Len(), n)
	}
}

func FuzzParseSet(f *testing.F) {
	f.Add([]byte{0, 5, 1, 2}, uint16(70))
	f.Fuzz(func(t *testing.T, b []byte, limit uint16) {
		s, err := ParseSet(b, int(limit))
		if err != nil {
			return
		}
		again, err := ParseSet(s.AppendBinary(nil), int(limit))
		if err != nil || !bytes.Equal(again.AppendBinary(nil), s.AppendBinary(nil)) {
			t.Errorf("%x comes back as another set: %v", b, err)
		}
	})
}
