package btrfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"clonecast/internal/disktest"
	"clonecast/internal/filesystem"
	"clonecast/internal/layouttest"
	"clonecast/internal/quantity"
)

func TestLayouts(t *testing.T) {
	layouttest.Check[superblock](t, superblockSize)
	layouttest.Check[header](t, headerSize)
	layouttest.Check[chunkItem](t, chunkItemSize)
	layouttest.Check[stripe](t, stripeSize)
}

func TestBefore(t *testing.T) {
	for _, tc := range []struct{ k, want key }{
		{key{1, 2, 3}, key{1, 2, 2}},
		{key{1, 2, 0}, key{1, 1, math.MaxUint64}},
		{key{1, 0, 0}, key{0, 255, math.MaxUint64}},
	} {
		if got := before(tc.k); got != tc.want || compareKeys(got, tc.k) >= 0 {
			t.Errorf("before(%v) = %v, want %v", tc.k, got, tc.want)
		}
	}
}

// disk is an image of which single blocks have been replaced.
type disk struct {
	base   []byte
	blocks map[int64][]byte // by place
	read   map[int64]int    // how many bytes were read at a place
}

func (d *disk) ReadAt(p []byte, off int64) (int, error) {
	d.read[off] = len(p)
	if b, ok := d.blocks[off]; ok {
		return copy(p, b), nil
	}
	return bytes.NewReader(d.base).ReadAt(p, off)
}

// edit replaces the block of n bytes at off by an edited copy with a new checksum.
func (d *disk) edit(off int64, n int, f func(b []byte)) {
	b := bytes.Clone(d.base[off:][:n])
	f(b)
	copy(b, checksum(csumCRC32C, b[checksumSize:]))
	d.blocks[off] = b
}

func (d *disk) Read() (filesystem.Volume, error) {
	clear(d.read)
	return Read(d, quantity.Bytes(len(d.base)))
}

func newDisk(t testing.TB, args string) *disk {
	t.Helper()
	path := makeImage(t, 128*quantity.MiB, args)
	dir := mount(t, path, "max_inline=0")
	disktest.Fill(t, dir, 400, 8*quantity.KiB)
	disktest.Unmount(t, dir)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	d := &disk{base: b, blocks: map[int64][]byte{}, read: map[int64]int{}}
	if v, err := d.Read(); err != nil || v.Doubt != nil || len(v.Allocated) < 10 {
		t.Fatalf("Read = %+v, %v", v, err)
	}
	return d
}

func TestReadRefuses(t *testing.T) {
	d := newDisk(t, "-m dup -n 4096")
	le := binary.LittleEndian
	leaf, inner := d.nodeOf(t, treeExtent, 0), d.nodeOf(t, treeExtent, 1)
	// Every copy of a node is edited.
	node := func(places []int64, f func(b []byte)) func() {
		return func() {
			for _, at := range places {
				d.edit(at, 4096, f)
			}
		}
	}
	super := func(f func(b []byte)) func() { return func() { d.edit(int64(superblockOffset), superblockSize, f) } }
	chunks := d.nodeOf(t, treeChunk, 0)
	for name, tc := range map[string]struct {
		edit func()
		want string
	}{
		"superblock elsewhere": {super(func(b []byte) { b[0x32] = 9 }), "superblock at byte 65536: says that it stands at"},
		"sector size":          {super(func(b []byte) { le.PutUint32(b[0x90:], 5000) }), "sector size 5000"},
		"node size":            {super(func(b []byte) { le.PutUint32(b[0x94:], 2048) }), "node size 2048"},
		"larger than the disk": {super(func(b []byte) { le.PutUint64(b[0xd1:], 1<<40) }), "do not fit"},
		"root level":           {super(func(b []byte) { b[0xc6] = 8 }), "tree levels 8"},
		"long chunk array":     {super(func(b []byte) { le.PutUint32(b[0xa0:], 5000) }), "5000 bytes of system chunks"},
		"cut chunk array":      {super(func(b []byte) { le.PutUint32(b[0xa0:], 20) }), "chunk of 3 bytes"},
		"bytes used":           {super(func(b []byte) { b[0x79]++ }), "bytes in use, the superblock says"},
		"other device":         {super(func(b []byte) { b[0x11b] ^= 1 }), "another file system"},
		"root generation":      {super(func(b []byte) { b[0x48]++ }), "generation"},
		"chunk root outside":   {super(func(b []byte) { le.PutUint64(b[0x58:], 1<<50) }), "lies in no chunk"},

		"other address":    {node(leaf, func(b []byte) { b[0x31]++ }), "says that it is node"},
		"other fsid":       {node(leaf, func(b []byte) { b[0x20]++ }), "another file system"},
		"other generation": {node(leaf, func(b []byte) { b[0x50]++ }), "generation"},
		"other tree":       {node(leaf, func(b []byte) { b[0x58] = 7 }), "belongs to tree 7"},
		"other level":      {node(leaf, func(b []byte) { b[0x64] = 1 }), "level 1, want 0"},
		"no items":         {node(leaf, func(b []byte) { le.PutUint32(b[0x60:], 0) }), "0 items"},
		"too many items":   {node(leaf, func(b []byte) { le.PutUint32(b[0x60:], 200) }), "200 items"},
		"first key":        {node(leaf, func(b []byte) { le.PutUint64(b[headerSize:], 4096) }), "first key"},
		"order of keys": {node(leaf, func(b []byte) {
			copy(b[headerSize+itemSize:][:keySize], b[headerSize:])
		}), "after"},
		"last key": {node(leaf, func(b []byte) {
			last := int(le.Uint32(b[0x60:]) - 1)
			le.PutUint64(b[headerSize+last*itemSize:], math.MaxUint64)
		}), "belongs to another node"},
		"item data outside":   {node(leaf, func(b []byte) { b[headerSize+20] = 1 }), "data of item 0"},
		"extent in no chunk":  {node(leaf, func(b []byte) { le.PutUint64(extentIn(b)[9:], 1<<40) }), "lies in no chunk"},
		"extent of no length": {node(leaf, func(b []byte) { le.PutUint64(extentIn(b)[9:], 0) }), "lies in no chunk"},
		"overlapping extents": {node(leaf, func(b []byte) { le.PutUint64(extentIn(b)[9:], 1<<20) }),
			"overlaps an extent"},
		"extent of half a sector": {node(leaf, func(b []byte) { extentIn(b)[9] = 1 }), "whole sectors"},
		"metadata among data":     {node(leaf, func(b []byte) { extentIn(b)[8] = itemMetadata }), "flags 0x1, length"},
		"node among data": {node(leaf, func(b []byte) {
			le.PutUint64(extentIn(b)[9:], 4096)
			at := le.Uint32(extentIn(b)[keySize:])
			b[headerSize+at+extentItemFlags] = extentTreeBlock
		}), "in a chunk of type 0x1"},
		"unknown item":       {node(leaf, func(b []byte) { extentIn(b)[8] = 200 }), "does not belong into the extent tree"},
		"child out of place": {node(inner, func(b []byte) { b[headerSize+keySize]++ }), "child at"},
		"child of the future": {node(inner, func(b []byte) {
			le.PutUint64(b[headerSize+keySize+8:], 1<<40)
		}), "child at"},
		"loop": {node(inner, func(b []byte) {
			copy(b[headerSize+keySize:][:8], b[0x30:]) // the first child is the node itself
		}), "level"},
		"unknown item in the chunk tree": {node(chunks, func(b []byte) { b[headerSize+8] = 215 }),
			"does not belong into the chunk tree"},
	} {
		t.Run(name, func(t *testing.T) {
			clear(d.blocks)
			tc.edit()
			v, err := d.Read()
			var corrupt *filesystem.CorruptError
			if !errors.As(err, &corrupt) || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("Read = %+v, doubt %+v, %v, want a *CorruptError with %q", v, v.Doubt, err, tc.want)
			}
		})
	}
	t.Run("checksum", func(t *testing.T) {
		clear(d.blocks)
		d.edit(int64(superblockOffset), superblockSize, func([]byte) {})
		d.blocks[int64(superblockOffset)][100] ^= 1
		if _, err := d.Read(); err == nil || !strings.Contains(err.Error(), "superblock at byte 65536: checksum") {
			t.Fatalf("Read = %v", err)
		}
	})
	for name, b := range map[string][]byte{"blank": make([]byte, 128<<10), "tiny": make([]byte, 100)} {
		if _, err := Read(bytes.NewReader(b), quantity.Bytes(len(b))); !errors.Is(err, filesystem.ErrNotFound) {
			t.Errorf("%s: %v, want ErrNotFound", name, err)
		}
	}
	if _, err := Read(bytes.NewReader(d.base[:1<<20]), quantity.Bytes(len(d.base))); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("partition that ends early: %v", err)
	}
}

// extentIn finds the key of an extent that is neither a leaf's first item nor its last, and
// has another behind it; nil where there is none.
func extentIn(leaf []byte) []byte {
	for i := 1; i+1 < int(binary.LittleEndian.Uint32(leaf[0x60:])); i++ {
		at := headerSize + i*itemSize
		if leaf[at+8] == itemExtent && leaf[at+itemSize+8] == itemExtent {
			return leaf[at:]
		}
	}
	return nil
}

// nodeOf gives the places of all copies of the first node of a tree and level that
// a reader of the map reads; a leaf of the extent tree must be one for extentIn.
func (d *disk) nodeOf(t *testing.T, tree uint64, level byte) []int64 {
	t.Helper()
	for _, at := range slices.Sorted(maps.Keys(d.read)) {
		b := d.base[at:][:d.read[at]]
		if at == int64(superblockOffset) || binary.LittleEndian.Uint64(b[0x58:]) != tree || b[0x64] != level {
			continue
		}
		if tree == treeExtent && level == 0 && extentIn(b) == nil {
			continue
		}
		var out []int64
		for copy := int64(0); copy < int64(len(d.base)); copy += 4096 {
			if bytes.Equal(d.base[copy:][:4096], b[:4096]) {
				out = append(out, copy)
			}
		}
		if len(out) != 2 {
			t.Fatalf("%d copies of the node at %d", len(out), at)
		}
		return out
	}
	t.Fatalf("no node of tree %d and level %d was read", tree, level)
	return nil
}

// TestSecondCopy damages the first copies of all nodes: the map is the same.
func TestSecondCopy(t *testing.T) {
	d := newDisk(t, "-m dup -n 4096")
	want, err := d.Read()
	if err != nil {
		t.Fatal(err)
	}
	for at, n := range maps.Clone(d.read) {
		if at != int64(superblockOffset) {
			d.edit(at, n, func([]byte) {})
			d.blocks[at][200] ^= 1
		}
	}
	got, err := d.Read()
	if err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("volume (-sound +damaged):\n%s", diff)
	}
}

func TestDoubts(t *testing.T) {
	d := newDisk(t, "")
	le := binary.LittleEndian
	for _, tc := range []struct {
		name   string
		edit   func(sb []byte)
		reason string
	}{
		{"checksum type", func(sb []byte) { sb[0xc4] = 4 }, "unknown checksum type 4"},
		{"several devices", func(sb []byte) { sb[0x88] = 3 }, "one of 3 devices"},
		{"errors", func(sb []byte) { sb[0x38] |= 4 }, "has errors"},
		{"seed", func(sb []byte) { sb[0x3c] |= 1 }, "seed"},
		{"metadump", func(sb []byte) { sb[0x3c] |= 2 }, "unknown flags 0x200000000"},
		{"change of UUID", func(sb []byte) { sb[0x3c] |= 8 }, "being converted"},
		{"zoned", func(sb []byte) { sb[0xbd] |= 0x10 }, "zoned"},
		{"extent tree v2", func(sb []byte) { sb[0xbd] |= 0x20 }, "unknown incompatible features 0x2000"},
		{"unknown incompatible feature", func(sb []byte) { sb[0xc3] = 0x80 },
			"unknown incompatible features 0x8000000000000000"},
		{"unknown read-only feature", func(sb []byte) { sb[0xb8] = 1 }, "unknown read-only compatible features 0x100000000"},
		{"oldest extent tree", func(sb []byte) { sb[0xbc] &^= 1 }, "oldest format"},
		{"log tree", func(sb []byte) { sb[0x61] = 1 }, "log tree needs replay"},
		{"RAID1 system chunk", func(sb []byte) {
			le.PutUint64(sb[0x32b+keySize+0x18:], chunkSystem|1<<4)
		}, "RAID profile"},
		{"system chunk elsewhere", func(sb []byte) { sb[0x32b+keySize+chunkItemSize] = 2 }, "device 2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			clear(d.blocks)
			d.edit(int64(superblockOffset), superblockSize, tc.edit)
			v, err := d.Read()
			if err != nil || v.Doubt == nil || !strings.Contains(v.Doubt.Reason, tc.reason) ||
				v.Allocated != nil || v.UUID == "" {
				t.Fatalf("Read = %+v, doubt %+v, %v, want doubt %q", v, v.Doubt, err, tc.reason)
			}
		})
	}
}

// TestRealDoubts has file systems that the formats' own tools made.
func TestRealDoubts(t *testing.T) {
	check := func(t *testing.T, path, reason string) {
		t.Helper()
		v := readFile(t, path)
		if v.Doubt == nil || !strings.Contains(v.Doubt.Reason, reason) || v.Allocated != nil || v.UUID == "" {
			t.Errorf("volume %+v, doubt %+v, want %q", v, v.Doubt, reason)
		}
	}
	t.Run("RAID1", func(t *testing.T) {
		a, b := disktest.Image(t, 128*quantity.MiB), disktest.Image(t, 128*quantity.MiB)
		disktest.Run(t, "", "mkfs.btrfs", "-q", "-m", "raid1", "-d", "raid0", a, b)
		check(t, a, "one of 2 devices")
		check(t, b, "one of 2 devices")
	})
	t.Run("RAID0 on one device", func(t *testing.T) {
		check(t, makeImage(t, 128*quantity.MiB, "-m single -d raid0"), "RAID profile")
	})
	t.Run("seed", func(t *testing.T) {
		path := makeImage(t, 128*quantity.MiB, "")
		disktest.Run(t, "", "btrfstune", "-S", "1", path)
		check(t, path, "seed")
	})
	t.Run("power cut after fsync", func(t *testing.T) {
		path := makeImage(t, 128*quantity.MiB, "")
		dir := mount(t, path, "commit=300")
		disktest.Fill(t, dir, 60, 40*quantity.KiB)
		disktest.Run(t, "", "sync", "-f", dir)
		disktest.Run(t, "", "sh", "-c", "for i in 1 2 3; do head -c 100000 /dev/urandom >$0/new$i; sync $0/new$i; done", dir)
		frozen := disktest.Image(t, 128*quantity.MiB)
		disktest.Run(t, "", "cp", "--sparse=always", path, frozen)
		disktest.Unmount(t, dir)
		check(t, frozen, "log tree needs replay")
		if v := readFile(t, frozen); !strings.Contains(v.Doubt.Remedy, "shut it down cleanly") {
			t.Errorf("remedy %q", v.Doubt.Remedy)
		}
		// The remedy helps.
		disktest.Unmount(t, mount(t, frozen, ""))
		if v := readFile(t, frozen); v.Doubt != nil || len(v.Allocated) == 0 {
			t.Errorf("after a mount: %+v, doubt %+v", v, v.Doubt)
		}
	})
}

// TestMutations changes bytes of what the reader reads, mostly with a checksum that
// fits: the answer must be a typed error, a doubt or a map, never more than the
// disk holds, and the work bounded.
func TestMutations(t *testing.T) {
	d := newDisk(t, "-m single -n 4096")
	if _, err := d.Read(); err != nil {
		t.Fatal(err)
	}
	places := slices.Sorted(maps.Keys(d.read))
	sizes := maps.Clone(d.read)
	random := rand.New(rand.NewPCG(1, 2))
	answers := map[string]int{}
	for range 4000 {
		clear(d.blocks)
		for range 1 + random.IntN(3) {
			at := places[random.IntN(len(places))]
			d.edit(at, sizes[at], func(b []byte) { mutate(random, b) })
			if random.IntN(8) == 0 {
				d.blocks[at][random.IntN(checksumSize)] ^= 1
			}
		}
		v, err := d.Read()
		if n := len(d.read); n > len(d.base)/4096+1 {
			t.Fatalf("%d blocks were read", n)
		}
		answers[judge(t, quantity.Bytes(len(d.base)), v, err)]++
	}
	if len(answers) < 3 {
		t.Errorf("answers %v: the mutations do not reach everything", answers)
	}
	t.Log(answers)
}

// mutate changes some bytes of a block; half of the time in its head, where most
// meaning is.
func mutate(random *rand.Rand, b []byte) {
	for range 1 + random.IntN(4) {
		end := len(b)
		if random.IntN(2) == 0 {
			end = 300
		}
		at := random.IntN(end)
		switch random.IntN(4) {
		case 0:
			b[at] ^= 1 << random.IntN(8)
		case 1:
			b[at] = byte(random.Uint32())
		case 2:
			for i := at; i < min(at+8, len(b)); i++ {
				b[i] = 0xff
			}
		case 3:
			copy(b[at:], b[random.IntN(end-8):][:8])
		}
	}
}

// judge checks an answer and names its kind.
func judge(t *testing.T, size quantity.Bytes, v filesystem.Volume, err error) string {
	t.Helper()
	var corrupt *filesystem.CorruptError
	switch {
	case errors.Is(err, filesystem.ErrNotFound):
		return "not found"
	case errors.As(err, &corrupt):
		if diff := gocmp.Diff(filesystem.Volume{}, v); diff != "" {
			t.Fatalf("a volume comes with the error: %s", diff)
		}
		return "corrupt"
	case err != nil:
		t.Fatalf("Read = %v, which is no *CorruptError", err)
	case v.Doubt != nil:
		if v.Doubt.Reason == "" || v.Allocated != nil {
			t.Fatalf("volume %+v, doubt %+v", v, v.Doubt)
		}
		return "doubt"
	}
	end := quantity.Bytes(-1)
	for _, e := range v.Allocated {
		if e.Length <= 0 || e.Start <= end || e.End() > size {
			t.Fatalf("extent %+v after %d", e, int64(end))
		}
		end = e.End()
	}
	return "map"
}

// sparse is a disk of 4 KiB blocks; what it does not hold is zero.
type sparse map[int64][]byte

func (s sparse) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	for n := 0; n < len(p); n += 4096 {
		copy(p[n:], s[off+int64(n)])
	}
	return len(p), nil
}

// FuzzRead gets blocks of 4 KiB: the superblock, then nodes, which stand where they
// say. Checksums are made to fit.
func FuzzRead(f *testing.F) {
	for _, args := range []string{"--mixed -n 4096", "--mixed -n 4096 -O ^skinny-metadata"} {
		d := newDisk(f, args)
		seed := bytes.Clone(d.base[superblockOffset:][:superblockSize])
		for _, at := range slices.Sorted(maps.Keys(d.read)) {
			if at != int64(superblockOffset) && len(seed) < 64<<10 {
				seed = append(seed, d.base[at:][:4096]...)
			}
		}
		f.Add(seed)
	}
	const size = 128 * quantity.MiB
	f.Fuzz(func(t *testing.T, blocks []byte) {
		s := sparse{}
		for b := range slices.Chunk(blocks, 4096) {
			if len(b) < 4096 {
				break
			}
			b = bytes.Clone(b)
			copy(b, checksum(csumCRC32C, b[checksumSize:]))
			if at := binary.LittleEndian.Uint64(b[0x30:]); at < uint64(size) && at%4096 == 0 {
				s[int64(at)] = b
			}
		}
		v, err := Read(s, size)
		judge(t, size, v, err)
	})
}
