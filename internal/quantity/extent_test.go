package quantity

import "testing"

// TestCoversAndOverlaps compares both with a look at each byte.
func TestCoversAndOverlaps(t *testing.T) {
	extents := []Extent{{Start: 2, Length: 3}, {Start: 7, Length: 1}, {Start: 9, Length: 4}}
	in := map[Bytes]int{}
	for i, e := range extents {
		for at := e.Start; at < e.End(); at++ {
			in[at] = i + 1
		}
	}
	for start := range Bytes(15) {
		for length := range Bytes(8) {
			e := Extent{Start: start, Length: length}
			covers, overlaps := in[start] != 0, false
			for at := e.Start; at < e.End(); at++ {
				covers = covers && in[at] == in[start]
				overlaps = overlaps || in[at] != 0
			}
			if got := Covers(extents, e); length > 0 && got != covers {
				t.Errorf("Covers(%v, %v) = %v", extents, e, got)
			}
			if got := Overlaps(extents, e); got != overlaps {
				t.Errorf("Overlaps(%v, %v) = %v", extents, e, got)
			}
		}
	}
}
