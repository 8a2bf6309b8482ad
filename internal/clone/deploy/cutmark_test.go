package deploy

import (
	"slices"
	"testing"

	"clonecast/internal/quantity"

	"github.com/google/go-cmp/cmp"
)

const markedDisk = 1 << 40

// TestCutMark writes marks and reads them back; more extents than there is room for are joined, so that no byte
// of theirs is forgotten.
func TestCutMark(t *testing.T) {
	var many []quantity.Extent
	for i := range quantity.Bytes(3 * maxCut) {
		many = append(many, quantity.Extent{Start: i * i * quantity.MiB, Length: 4096})
	}
	for _, kept := range [][]quantity.Extent{{{Start: 63 * 512, Length: 1}}, many[:maxCut], many[:maxCut+1], many} {
		b := cutMark(512, kept, keptSet{1})
		got := parseCutMark(b, markedDisk)
		if len(b) != 512 || b[510] == 0x55 || len(got) != min(len(kept), maxCut) {
			t.Fatalf("%d extents: mark of %d bytes with %d", len(kept), len(b), len(got))
		}
		for _, e := range kept {
			if !quantity.Covers(got, e) {
				t.Errorf("%d extents: %v is forgotten", len(kept), e)
			}
		}
		if len(kept) <= maxCut && cmp.Diff(kept, got) != "" {
			t.Errorf("%d extents came back as others: %s", len(kept), cmp.Diff(kept, got))
		}
		for at := cutStart; at < cutExtents+16; at++ {
			bad := slices.Clone(b)
			bad[at] ^= 4
			if parseCutMark(bad, markedDisk) != nil {
				t.Errorf("a mark with another byte %d is believed", at)
			}
		}
		if got := parseCutMark(b, 4096); got != nil {
			t.Errorf("a mark of a larger disk is believed: %v", got)
		}
	}
}

func FuzzParseCutMark(f *testing.F) {
	f.Add(cutMark(512, []quantity.Extent{{Start: 4096, Length: 1 << 30}}, keptSet{}))
	f.Add(make([]byte, 512))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, e := range parseCutMark(b, markedDisk) {
			if e.Start < 0 || e.Length <= 0 || e.End() > markedDisk {
				t.Errorf("extent %v leaves the disk", e)
			}
		}
	})
}
