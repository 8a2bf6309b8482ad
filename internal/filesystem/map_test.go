package filesystem

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"clonecast/internal/quantity"
	"github.com/google/go-cmp/cmp"
)

func extent(start, end quantity.Bytes) quantity.Extent {
	return quantity.Extent{Start: start, Length: end - start}
}

func TestMap(t *testing.T) {
	const k = quantity.KiB
	tests := map[string]struct {
		limit int
		add   []quantity.Extent
		want  []quantity.Extent
	}{
		"nothing":        {0, nil, nil},
		"empty extent":   {0, []quantity.Extent{{Start: 7}}, nil},
		"touching":       {0, []quantity.Extent{extent(0, 2), extent(2, 4), extent(3, 9)}, []quantity.Extent{extent(0, 9)}},
		"inside another": {0, []quantity.Extent{extent(0, 9), extent(2, 4)}, []quantity.Extent{extent(0, 9)}},
		"falling order":  {0, []quantity.Extent{extent(8, 9), extent(4, 6), extent(5, 8)}, []quantity.Extent{extent(4, 9)}},
		"below the limit": {
			4, []quantity.Extent{extent(0, 1), extent(2, 3), extent(4, 5), extent(6, 7)},
			[]quantity.Extent{extent(0, 1), extent(2, 3), extent(4, 5), extent(6, 7)},
		},
		"above the limit, the small gaps go": {
			4, []quantity.Extent{
				extent(0, 4*k), extent(8*k, 12*k), extent(100*k, 101*k), extent(300*k, 304*k), extent(307*k, 308*k),
			},
			[]quantity.Extent{extent(0, 101*k), extent(300*k, 308*k)},
		},
		"joined before more is given up": {
			4, []quantity.Extent{
				extent(30*k, 40*k), extent(10*k, 20*k), extent(20*k, 30*k), extent(90*k, 91*k), extent(50*k, 51*k),
			},
			[]quantity.Extent{extent(10*k, 40*k), extent(50*k, 51*k), extent(90*k, 91*k)},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			m := Map{limit: tt.limit}
			for _, e := range tt.add {
				m.Add(e.Start, e.Length)
			}
			if diff := cmp.Diff(tt.want, m.Extents()); diff != "" {
				t.Errorf("extents (-want +got):\n%s", diff)
			}
		})
	}
}

// TestMapIsBounded adds extents at random places: however many, all are covered.
func TestMapIsBounded(t *testing.T) {
	const limit, disk = 64, 1 << 30
	rng := rand.New(rand.NewPCG(1, 2))
	m := Map{limit: limit}
	var all []quantity.Extent
	for range 20_000 {
		e := quantity.Extent{Start: quantity.Bytes(rng.IntN(disk)), Length: quantity.Bytes(1 + rng.IntN(3000))}
		all = append(all, e)
		if m.Add(e.Start, e.Length); len(m.extents) > limit {
			t.Fatalf("%d extents are kept, want at most %d", len(m.extents), limit)
		}
	}
	got := m.Extents()
	both := quantity.Normalize(append(slices.Clone(got), all...))
	if diff := cmp.Diff(got, both); diff != "" {
		t.Errorf("the map does not cover what was added:\n%s", diff)
	}
}

// TestMapAlternating is the hostile volume: every second block of 8 TiB in use.
func TestMapAlternating(t *testing.T) {
	var m Map
	const block = 4 * quantity.KiB
	for i := range quantity.Bytes(1 << 24) {
		m.Add(2*i*block, block)
	}
	if got := cap(m.extents); got > 2*maxExtents {
		t.Errorf("room for %d extents is kept, want about %d", got, maxExtents)
	}
	want := []quantity.Extent{extent(0, 1<<24*2*block-block)}
	if diff := cmp.Diff(want, m.Extents()); diff != "" {
		t.Errorf("extents (-want +got):\n%s", diff)
	}
}

func TestEachRun(t *testing.T) {
	random := make([]byte, 64)
	rand.NewChaCha8([32]byte{1}).Read(random)
	for _, bitmap := range [][]byte{
		bytes.Repeat([]byte{0xff}, 32), bytes.Repeat([]byte{0}, 32), bytes.Repeat([]byte{0xaa}, 16), random,
		{0, 0, 0, 0, 0, 0, 0, 0x80, 1, 0, 0, 0, 0, 0, 0, 0x80}, {1, 2, 3, 0xff, 0xff, 0xf0, 0, 0x7f},
	} {
		for n := range uint64(len(bitmap)*8 + 1) {
			var got, want []quantity.Extent
			EachRun(bitmap, n, func(start, length uint64) {
				got = append(got, quantity.Extent{Start: quantity.Bytes(start), Length: quantity.Bytes(length)})
			})
			for i := range n {
				if bitmap[i/8]>>(i%8)&1 == 1 {
					want = append(want, quantity.Extent{Start: quantity.Bytes(i), Length: 1})
				}
			}
			if diff := cmp.Diff(quantity.Normalize(want), got); diff != "" {
				t.Errorf("runs in %d bits of %x (-want +got):\n%s", n, bitmap, diff)
			}
		}
	}
}
