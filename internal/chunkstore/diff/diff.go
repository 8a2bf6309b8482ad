// Package diff tells where two versions differ.
//
// Regions (boot areas, partitions) are compared by their place in the disk's layout. A byte
// that both versions store is changed or not, to 4 KiB; one that only the second stores is
// new, one that only the first stores is freed. Chunks that have the same id are not read.
package diff

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"

	"clonecast/internal/chunk"
	"clonecast/internal/chunkstore"
	"clonecast/internal/image"
	"clonecast/internal/quantity"
)

// block is the unit in which content is compared.
const block = 4 * quantity.KiB

// window is how many pairs of chunks are in memory at a time.
const window = 32

// Kind says how a range differs.
type Kind string

const (
	Changed Kind = "changed" // both store it, with other bytes
	New     Kind = "new"     // only the second version stores it
	Freed   Kind = "freed"   // only the first version stores it
)

// Range is a run of bytes of one kind, from the start of its region.
type Range struct {
	Start, Length quantity.Bytes
	Kind          Kind
}

func (r Range) end() quantity.Bytes { return r.Start + r.Length }

// Region is a region with its differences. A table's bytes are part of the manifest; its
// ranges count from the start of the disk.
type Region struct {
	Disk   int    // from 0
	Name   string // "partition 2", "boot area at 512", "table"
	Notes  []string
	Ranges []Range

	Files        []FileChange // when they were asked for
	FilesUnknown string       // why there are none, although bytes differ
}

// Options say what to compare beside bytes.
type Options struct {
	Files    bool                    // of ext2, ext3, ext4, FAT and NTFS
	Progress func(done, total int64) // chunks, may be nil
}

// Total adds up the bytes of a kind.
func (r *Region) Total(k Kind) (sum quantity.Bytes) {
	for _, x := range r.Ranges {
		if x.Kind == k {
			sum += x.Length
		}
	}
	return sum
}

// Versions gives the regions of two versions that differ, in disk order.
func Versions(ctx context.Context, store chunkstore.Reader, a, b *image.Manifest, o Options) ([]Region, error) {
	d, err := chunk.NewDecoder()
	if err != nil {
		return nil, err
	}
	defer d.Close()
	c := comparer{ctx: ctx, store: store, decoder: d, progress: o.Progress}
	var pairs []pair
	for i := range max(len(a.Disks), len(b.Disks)) {
		var from, to image.Disk
		if i < len(a.Disks) {
			from = a.Disks[i]
		}
		if i < len(b.Disks) {
			to = b.Disks[i]
		}
		pairs = append(pairs, pairDisks(i, &from, &to)...)
	}
	for i := range pairs {
		pairs[i].find()
		c.total += int64(len(pairs[i].open))
	}
	var regions []Region
	for i := range pairs {
		if err := c.compare(&pairs[i]); err != nil {
			return nil, fmt.Errorf("compare %s of disk %d: %w", pairs[i].Name, pairs[i].Disk, err)
		}
		if o.Files {
			if err := c.compareFiles(&pairs[i]); err != nil {
				return nil, fmt.Errorf("compare the files of %s of disk %d: %w", pairs[i].Name, pairs[i].Disk, err)
			}
		}
		if r := pairs[i].Region; len(r.Ranges)+len(r.Notes) > 0 {
			regions = append(regions, r)
		}
	}
	return regions, nil
}

// pair is a region of both versions; the one that a version does not have is empty.
type pair struct {
	Region
	a, b     image.Content
	from, to *image.Partition // when both versions have it
	open     []job
}

// job is a chunk's place that both versions store under different ids.
type job struct {
	a, b  chunk.ID
	parts []quantity.Extent // that both store
}

func pairDisks(number int, a, b *image.Disk) []pair {
	pairs := []pair{{Region: compareTables(number, a, b)}}
	boot := map[quantity.Bytes][2]image.Content{}
	for i, list := range [][]image.Content{a.Boot, b.Boot} {
		for _, c := range list {
			both := boot[c.Start]
			both[i] = c
			boot[c.Start] = both
		}
	}
	for start, both := range boot {
		region := Region{Disk: number, Name: fmt.Sprintf("boot area at byte %d", start)}
		pairs = append(pairs, pair{Region: region, a: both[0], b: both[1]})
	}
	slices.SortFunc(pairs[1:], func(x, y pair) int {
		return cmp.Compare(max(x.a.Start, x.b.Start), max(y.a.Start, y.b.Start))
	})
	return append(pairs, pairPartitions(number, a.Partitions, b.Partitions)...)
}

// pairPartitions pairs by number. One that begins elsewhere is another partition.
func pairPartitions(number int, a, b []image.Partition) (pairs []pair) {
	find := func(list []image.Partition, p image.Partition) (image.Partition, bool) {
		i := slices.IndexFunc(list, func(q image.Partition) bool {
			return q.Number == p.Number && q.Content.Start == p.Content.Start
		})
		if i < 0 {
			return image.Partition{}, false
		}
		return list[i], true
	}
	named := func(p image.Partition) Region {
		return Region{Disk: number, Name: fmt.Sprintf("partition %d", p.Number)}
	}
	for _, p := range a {
		q, found := find(b, p)
		x := pair{Region: named(p), a: p.Content, b: q.Content}
		if found {
			x.from, x.to, x.Notes = &p, &q, comparePartitions(&p, &q)
		} else {
			x.Notes = []string{"only the first version has it"}
		}
		pairs = append(pairs, x)
	}
	for _, p := range b {
		if _, found := find(a, p); !found {
			x := pair{Region: named(p), b: p.Content}
			x.Notes = []string{"only the second version has it"}
			pairs = append(pairs, x)
		}
	}
	return pairs
}

// comparePartitions tells what of the description differs.
func comparePartitions(a, b *image.Partition) (notes []string) {
	for _, f := range []struct {
		what     string
		from, to any
	}{
		{"length", a.Content.Length, b.Content.Length},
		{"type", a.Type, b.Type},
		{"GUID", a.GUID, b.GUID},
		{"name", a.Name, b.Name},
		{"mode", a.Mode, b.Mode},
		{"file system", a.Filesystem.Type, b.Filesystem.Type},
		{"UUID", a.Filesystem.UUID, b.Filesystem.UUID},
		{"label", a.Filesystem.Label, b.Filesystem.Label},
	} {
		if f.from != f.to {
			notes = append(notes, fmt.Sprintf("%s was %q, is %q", f.what, fmt.Sprint(f.from), fmt.Sprint(f.to)))
		}
	}
	return notes
}

// compareTables compares the table sectors, which are in the manifests.
func compareTables(number int, a, b *image.Disk) Region {
	r := Region{Disk: number, Name: "table"}
	if a.Size != b.Size {
		r.Notes = append(r.Notes, fmt.Sprintf("the disk had %v, has %v", a.Size, b.Size))
	}
	for _, x := range a.Table {
		i := slices.IndexFunc(b.Table, func(y image.TableArea) bool { return x.Start == y.Start })
		switch {
		case i < 0:
			r.add(Range{x.Start, quantity.Bytes(len(x.Data)), Freed})
		case !bytes.Equal(x.Data, b.Table[i].Data):
			r.add(Range{x.Start, quantity.Bytes(max(len(x.Data), len(b.Table[i].Data))), Changed})
		}
	}
	for _, y := range b.Table {
		if !slices.ContainsFunc(a.Table, func(x image.TableArea) bool { return x.Start == y.Start }) {
			r.add(Range{y.Start, quantity.Bytes(len(y.Data)), New})
		}
	}
	r.sort()
	return r
}

func (r *Region) add(x Range) { r.Ranges = append(r.Ranges, x) }

// sort brings ranges in order and joins those of a kind that touch.
func (r *Region) sort() {
	slices.SortFunc(r.Ranges, func(x, y Range) int { return cmp.Compare(x.Start, y.Start) })
	joined := r.Ranges[:0]
	for _, x := range r.Ranges {
		if n := len(joined); n > 0 && joined[n-1].Kind == x.Kind && joined[n-1].end() == x.Start {
			joined[n-1].Length += x.Length
		} else {
			joined = append(joined, x)
		}
	}
	r.Ranges = joined
}

// find splits a region into what only one version stores, and the chunks' places to compare.
func (p *pair) find() {
	ids := [2]map[quantity.Bytes]chunk.ID{chunksAt(&p.a), chunksAt(&p.b)}
	var both []quantity.Extent
	for _, s := range segments(p.a.Extents, p.b.Extents) {
		if s.kind == Changed {
			both = append(both, s.Extent)
		} else {
			p.add(Range{s.Start, s.Length, s.kind})
		}
	}
	for c := range image.Places(both, max(p.a.Length, p.b.Length)) {
		if a, b := ids[0][c.Start], ids[1][c.Start]; a != b {
			p.open = append(p.open, job{a, b, slices.Clone(c.Allocated)})
		}
	}
}

// chunksAt gives a content's chunks by where they begin.
func chunksAt(c *image.Content) map[quantity.Bytes]chunk.ID {
	ids := make(map[quantity.Bytes]chunk.ID, len(c.Chunks))
	for id, part := range c.Pieces() {
		ids[part.Start] = id
	}
	return ids
}

// segment is a run of bytes that one version or both store. Changed stands for both.
type segment struct {
	quantity.Extent
	kind Kind
}

// segments walks over the ends of two lists of extents.
func segments(a, b []quantity.Extent) (out []segment) {
	var edges []quantity.Bytes
	for _, e := range slices.Concat(a, b) {
		edges = append(edges, e.Start, e.End())
	}
	slices.Sort(edges)
	edges = slices.Compact(edges)
	i, j := 0, 0
	for k := 1; k < len(edges); k++ {
		x := quantity.Extent{Start: edges[k-1], Length: edges[k] - edges[k-1]}
		for i < len(a) && a[i].End() <= x.Start {
			i++
		}
		for j < len(b) && b[j].End() <= x.Start {
			j++
		}
		inA, inB := i < len(a) && a[i].Start <= x.Start, j < len(b) && b[j].Start <= x.Start
		switch {
		case inA && inB:
			out = append(out, segment{x, Changed})
		case inA:
			out = append(out, segment{x, Freed})
		case inB:
			out = append(out, segment{x, New})
		}
	}
	return out
}

// comparer reads chunks.
type comparer struct {
	ctx         context.Context
	store       chunkstore.Reader
	decoder     *chunk.Decoder
	progress    func(done, total int64)
	done, total int64
	frame       []byte
}

func (c *comparer) compare(p *pair) error {
	for jobs := range slices.Chunk(p.open, window) {
		plain, err := c.load(jobs)
		if err != nil {
			return err
		}
		for _, j := range jobs {
			for _, part := range j.parts {
				p.blocks(part, plain[j.a], plain[j.b])
			}
		}
		c.done += int64(len(jobs))
		if c.progress != nil {
			c.progress(c.done, c.total)
		}
	}
	p.sort()
	return nil
}

// blocks compares a part of a chunk's place block by block.
func (p *pair) blocks(part quantity.Extent, a, b []byte) {
	start := part.Start / chunk.Size * chunk.Size // of the chunk
	for at := part.Start; at < part.End(); {
		end := min(part.End(), (at/block+1)*block)
		if !bytes.Equal(a[at-start:end-start], b[at-start:end-start]) {
			p.add(Range{at, end - at, Changed})
		}
		at = end
	}
}

// load gets the plain bytes of the chunks of some jobs.
func (c *comparer) load(jobs []job) (map[chunk.ID][]byte, error) {
	plain := map[chunk.ID][]byte{}
	for _, side := range []func(job) chunk.ID{func(j job) chunk.ID { return j.a }, func(j job) chunk.ID { return j.b }} {
		var ids []chunk.ID
		for _, j := range jobs {
			plain[side(j)] = nil
			ids = append(ids, side(j))
		}
		err := c.store.Frames(c.ctx, ids, func(frame []byte) error {
			h, b, err := c.decoder.Decode(frame, c.frame)
			if err != nil {
				return err
			}
			c.frame = b
			for _, e := range h.Entries {
				if old, wanted := plain[e.ID]; wanted && old == nil {
					plain[e.ID] = bytes.Clone(b[:e.Length])
				}
				b = b[e.Length:]
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return plain, nil
}
