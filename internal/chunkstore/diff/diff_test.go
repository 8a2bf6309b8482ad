package diff_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"clonecast/internal/chunk"
	"clonecast/internal/chunkstore"
	"clonecast/internal/chunkstore/diff"
	"clonecast/internal/chunkstore/mem"
	"clonecast/internal/image"
	"clonecast/internal/quantity"

	"github.com/klauspost/compress/zstd"
)

// content stores the allocated bytes of a region and describes it.
func content(
	t *testing.T, n chunkstore.Session, start quantity.Bytes, data []byte, extents []quantity.Extent,
) image.Content {
	t.Helper()
	enc, err := chunk.NewEncoder(zstd.SpeedFastest)
	if err != nil {
		t.Fatal(err)
	}
	plain := make([]byte, len(data)) // without what is free
	for _, e := range extents {
		copy(plain[e.Start:e.End()], data[e.Start:])
	}
	c := image.Content{Start: start, Length: quantity.Bytes(len(data)), Extents: extents}
	for at := quantity.Bytes(0); at < c.Length; at += chunk.Size {
		e := quantity.Extent{Start: at, Length: min(chunk.Size, c.Length-at)}
		if !quantity.Overlaps(extents, e) {
			continue
		}
		b := plain[e.Start:e.End()]
		id := chunk.Sum(b)
		c.Chunks = append(c.Chunks, id)
		if _, err := n.PutFrame(t.Context(), enc.AppendFrame(nil, []chunk.Entry{{ID: id, Length: len(b)}}, b)); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func randomExtents(rnd *rand.Rand, length int) (extents []quantity.Extent) {
	for range rnd.IntN(12) {
		start := rnd.IntN(length/512) * 512
		size := min(length-start, 512*(1+rnd.IntN(600)))
		extents = append(extents, quantity.Extent{Start: quantity.Bytes(start), Length: quantity.Bytes(size)})
	}
	return quantity.Normalize(extents)
}

// expected says for every 512 bytes what Versions must say, straight from the data.
func expected(a, b []byte, ea, eb []quantity.Extent) map[int]diff.Kind {
	want := map[int]diff.Kind{}
	for at := 0; at < max(len(a), len(b)); at += 512 {
		e := quantity.Extent{Start: quantity.Bytes(at), Length: 512}
		switch inA, inB := quantity.Covers(ea, e), quantity.Covers(eb, e); {
		case inA && inB:
			// The unit is 4 KiB of what both store.
			from := at / 4096 * 4096
			for x := from; x < from+4096; x += 512 {
				e := quantity.Extent{Start: quantity.Bytes(x), Length: 512}
				stored := x < min(len(a), len(b)) && quantity.Covers(ea, e) && quantity.Covers(eb, e)
				if stored && !bytes.Equal(a[x:x+512], b[x:x+512]) && connected(ea, eb, at, x) {
					want[at] = diff.Changed
				}
			}
		case inA:
			want[at] = diff.Freed
		case inB:
			want[at] = diff.New
		}
	}
	return want
}

// connected tells whether both versions store everything between two places.
func connected(ea, eb []quantity.Extent, x, y int) bool {
	e := quantity.Extent{Start: quantity.Bytes(min(x, y)), Length: quantity.Bytes(max(x, y)-min(x, y)) + 512}
	return quantity.Covers(ea, e) && quantity.Covers(eb, e)
}

func manifest(c image.Content) *image.Manifest {
	return &image.Manifest{Image: "lab", Disks: []image.Disk{{
		Size: 16 * quantity.MiB, LogicalSector: 512, PhysicalSector: 512, TableKind: "mbr",
		Table:      []image.TableArea{{Start: 0, Data: bytes.Repeat([]byte{1}, 512)}},
		Partitions: []image.Partition{{Number: 1, Mode: image.ModeClone, Content: c}},
	}}}
}

func newSession(t *testing.T) (chunkstore.Store, chunkstore.Session) {
	t.Helper()
	s, err := mem.New()
	if err != nil {
		t.Fatal(err)
	}
	n, err := s.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s, n
}

func TestRandomContents(t *testing.T) {
	kinds := map[diff.Kind]int{}
	for seed := range uint64(60) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		store, n := newSession(t)
		a := make([]byte, 512*(1+rnd.IntN(2400)))
		for i := range a {
			a[i] = byte(rnd.Uint32())
		}
		b := append(bytes.Clone(a), make([]byte, 512*rnd.IntN(500))...)
		b = b[:len(b)-512*rnd.IntN(len(b)/512)]
		for range rnd.IntN(20) {
			b[rnd.IntN(len(b))] ^= 1
		}
		ea, eb := randomExtents(rnd, len(a)), randomExtents(rnd, len(b))
		if rnd.IntN(3) > 0 { // mostly the same is allocated
			eb = nil
			for _, e := range ea {
				if e.End() <= quantity.Bytes(len(b)) {
					eb = append(eb, e)
				}
			}
		}
		from, to := manifest(content(t, n, quantity.MiB, a, ea)), manifest(content(t, n, quantity.MiB, b, eb))
		regions, err := diff.Versions(t.Context(), store, from, to, diff.Options{})
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		got, end := map[int]diff.Kind{}, quantity.Bytes(0)
		for _, r := range regions {
			if r.Name != "partition 1" {
				t.Fatalf("seed %d: region %s differs", seed, r.Name)
			}
			for _, x := range r.Ranges {
				if x.Start < end || x.Length <= 0 {
					t.Fatalf("seed %d: range %v does not follow byte %d", seed, x, end)
				}
				end = x.Start + x.Length
				for at := x.Start; at < end; at += 512 {
					got[int(at)] = x.Kind
				}
			}
		}
		want := expected(a, b, ea, eb)
		for at := 0; at < max(len(a), len(b)); at += 512 {
			if got[at] != want[at] {
				t.Fatalf("seed %d: byte %d is %q, want %q", seed, at, got[at], want[at])
			}
			kinds[got[at]]++
		}
	}
	for _, k := range []diff.Kind{diff.Changed, diff.New, diff.Freed, ""} {
		if kinds[k] < 100 {
			t.Errorf("only %d sectors are %q: the test has lost its bite", kinds[k], k)
		}
	}
}

// Layouts that differ: each region is named, with what became of it.
func TestLayouts(t *testing.T) {
	store, n := newSession(t)
	data := bytes.Repeat([]byte("data"), 4096)
	all := []quantity.Extent{{Length: quantity.Bytes(len(data))}}
	at := func(start quantity.Bytes) image.Content { return content(t, n, start, data, all) }
	a := manifest(at(quantity.MiB))
	a.Disks[0].Boot = []image.Content{at(512)}
	b := manifest(at(quantity.MiB))
	b.Disks[0].Size *= 2
	b.Disks[0].Table = []image.TableArea{
		{Start: 0, Data: bytes.Repeat([]byte{2}, 512)},
		{Start: 8 << 20, Data: make([]byte, 1024)},
	}
	b.Disks[0].Partitions[0].Filesystem.Label = "renamed"
	second := image.Partition{Number: 2, Mode: image.ModeRaw, Content: at(4 * quantity.MiB)}
	b.Disks[0].Partitions = append(b.Disks[0].Partitions, second)
	b.Disks = append(b.Disks, image.Disk{
		Size: quantity.MiB, LogicalSector: 512, TableKind: "none",
		Partitions: []image.Partition{{Content: at(0)}},
	})
	regions, err := diff.Versions(t.Context(), store, a, b, diff.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range regions {
		got = append(got, fmt.Sprintf("%d %s: %d changed, %d new, %d freed; %v",
			r.Disk, r.Name, r.Total(diff.Changed), r.Total(diff.New), r.Total(diff.Freed), r.Notes))
	}
	want := []string{
		"0 table: 512 changed, 1024 new, 0 freed; [the disk had 16.0 MiB, has 32.0 MiB]",
		"0 boot area at byte 512: 0 changed, 0 new, 16384 freed; []",
		`0 partition 1: 0 changed, 0 new, 0 freed; [label was "", is "renamed"]`,
		"0 partition 2: 0 changed, 16384 new, 0 freed; [only the second version has it]",
		"1 table: 0 changed, 0 new, 0 freed; [the disk had 0 B, has 1.0 MiB]",
		"1 partition 0: 0 changed, 16384 new, 0 freed; [only the second version has it]",
	}
	if !slices.Equal(got, want) {
		t.Errorf("Versions = %q, want %q", got, want)
	}
	if same, err := diff.Versions(t.Context(), store, b, b, diff.Options{}); err != nil || len(same) > 0 {
		t.Errorf("a version differs from itself: %+v, %v", same, err)
	}
}

// A chunk that is damaged or missing is an error, not a difference.
func TestMissingChunk(t *testing.T) {
	store, n := newSession(t)
	data := make([]byte, 8192)
	all := []quantity.Extent{{Length: 8192}}
	a, b := content(t, n, 0, data, all), content(t, n, 0, data, all)
	b.Chunks = []chunk.ID{chunk.Sum([]byte("absent"))}
	if r, err := diff.Versions(t.Context(), store, manifest(a), manifest(b), diff.Options{}); err == nil {
		t.Errorf("Versions = %+v, want an error", r)
	}
}
