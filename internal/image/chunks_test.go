package image

import (
	"slices"
	"testing"

	"clonecast/internal/chunk"
	"clonecast/internal/quantity"
)

func TestPieces(t *testing.T) {
	const k = chunk.Size
	id := func(i byte) chunk.ID { return chunk.Sum([]byte{i}) }
	c := Content{
		Length: 5*k + 1000,
		Extents: []quantity.Extent{
			{Start: 10, Length: 20}, {Start: 100, Length: k}, {Start: 3*k + 1, Length: 1}, {Start: 4*k + 5, Length: k + 100},
		},
		Chunks: []chunk.ID{id(0), id(1), id(3), id(4), id(5)},
	}
	if err := c.validate(true); err != nil {
		t.Fatal(err)
	}
	var ids []chunk.ID
	var parts []quantity.Extent
	for id, part := range c.Pieces() {
		ids, parts = append(ids, id), append(parts, part)
	}
	want := []quantity.Extent{
		{Start: 0, Length: k}, {Start: k, Length: k}, {Start: 3 * k, Length: k}, {Start: 4 * k, Length: k},
		{Start: 5 * k, Length: 1000},
	}
	if !slices.Equal(ids, c.Chunks) || !slices.Equal(parts, want) {
		t.Errorf("Pieces = %v at %v, want %v at %v", ids, parts, c.Chunks, want)
	}
	m := Manifest{Disks: []Disk{
		{Boot: []Content{c}},
		{Partitions: []Partition{{Content: c}, {Content: Content{Length: 1}}}},
	}}
	ids, length := nil, 0
	for id, n := range m.Chunks() {
		ids, length = append(ids, id), length+n
	}
	if !slices.Equal(ids, slices.Concat(c.Chunks, c.Chunks)) || length != 2*(4*int(k)+1000) {
		t.Errorf("Chunks = %d chunks of %d bytes", len(ids), length)
	}
}
