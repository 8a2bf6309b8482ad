package exfat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"clonecast/internal/disktest"
	"clonecast/internal/filesystem"
	"clonecast/internal/layouttest"
	"clonecast/internal/quantity"
)

func TestLayouts(t *testing.T) {
	layouttest.Check[bootSector](t, bootSectorSize)
	layouttest.Check[bitmapEntry](t, entrySize)
}

const mountCommand = "mount.exfat-fuse DEV DIR"

// TestOracle is the test that decides whether the map is right: everything it calls
// free is overwritten, then fsck.exfat must find nothing and every file must read as
// before. It must contain what partclone calls used.
func TestOracle(t *testing.T) {
	tests := map[string]struct {
		size   quantity.Bytes
		sector quantity.SectorSize
		args   string
	}{
		"4 KiB clusters":   {64*quantity.MiB + 5*512, 512, "-c 4K -L Räume"},
		"32 KiB clusters":  {64 * quantity.MiB, 512, "-c 32K"},
		"128 KiB clusters": {100 * quantity.MiB, 512, "-c 128K"},
		"512 B clusters":   {20 * quantity.MiB, 512, "-c 512"}, // several of the bitmap
		"4 KiB sectors":    {64 * quantity.MiB, 4096, "-c 4K"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := disktest.Image(t, tt.size)
			dev := disktest.Loop(t, path, tt.sector)
			disktest.Command(t, "env LC_ALL=C.UTF-8 mkfs.exfat "+tt.args+" DEV", "DEV", dev)
			dir := disktest.Mount(t, dev, mountCommand)
			disktest.Fill(t, dir, 150, 120*quantity.KiB)
			want := disktest.Hashes(t, dir)
			disktest.Unmount(t, dir)

			v := readDevice(t, dev, tt.size)
			if v.Doubt != nil {
				t.Fatalf("Doubt = %+v, want none", v.Doubt)
			}
			got := [3]string{v.Type, v.UUID, v.Label}
			if want := [3]string{"exfat", disktest.Blkid(t, dev, "UUID"), disktest.Blkid(t, dev, "LABEL")}; got != want {
				t.Errorf("identity = %q, blkid says %q", got, want)
			}
			if missing := disktest.Subtract(disktest.Partclone(t, "exfat", dev), v.Allocated); len(missing) > 0 {
				t.Errorf("partclone stores %v more", missing)
			}
			disktest.Scribble(t, path, v.Allocated)
			disktest.Run(t, "", "fsck.exfat", "-n", dev)
			dir = disktest.Mount(t, dev, mountCommand)
			if diff := cmp.Diff(want, disktest.Hashes(t, dir)); diff != "" {
				t.Errorf("files changed (-before +after):\n%s", diff)
			}
			disktest.Unmount(t, dir)
		})
	}
}

func readDevice(t *testing.T, path string, size quantity.Bytes) filesystem.Volume {
	t.Helper()
	v, err := Read(disktest.Open(t, path), size)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestDirty copies a volume while it is mounted.
func TestDirty(t *testing.T) {
	const size = 32 * quantity.MiB
	path := disktest.Image(t, size)
	dev := disktest.Loop(t, path, 512)
	disktest.Command(t, "mkfs.exfat -L inuse DEV", "DEV", dev)
	dir := disktest.Mount(t, dev, mountCommand)
	disktest.Fill(t, dir, 10, quantity.MiB)
	disktest.Run(t, "", "sync", "-f", dir)
	cut := filepath.Join(t.TempDir(), "cut.img")
	disktest.Run(t, "", "cp", dev, cut)
	v := readDevice(t, cut, size)
	if v.Doubt == nil || !strings.Contains(v.Doubt.Reason, "dirty") || v.Doubt.Remedy != remedyUnmount ||
		v.Allocated != nil || v.Label != "inuse" {
		t.Errorf("in use: %+v, doubt %+v", v, v.Doubt)
	}
	disktest.Unmount(t, dir)
	if v := readDevice(t, dev, size); v.Doubt != nil || len(v.Allocated) == 0 {
		t.Errorf("after unmounting: %+v, doubt %+v", v, v.Doubt)
	}
}

// small makes a volume with clusters of 512 bytes, whose bitmap has three, and its
// geometry.
func small(t testing.TB) (*disktest.Sparse, geometry) {
	t.Helper()
	path := disktest.Image(t, 6*quantity.MiB)
	disktest.Command(t, "mkfs.exfat -c 512 -L small DEV", "DEV", path)
	s := disktest.Load(t, path)
	boot, err := readBoot(s, s.Size)
	if err != nil {
		t.Fatal(err)
	}
	g, problem := newGeometry(boot, s.Size)
	if problem != "" {
		t.Fatal(problem)
	}
	return s, g
}

// seal makes the checksum of the boot region fit.
func seal(s *disktest.Sparse) {
	region := make([]byte, 11*512)
	if _, err := s.ReadAt(region, 0); err != nil {
		panic(err)
	}
	sum := bootChecksum(region)
	for at := int64(11 * 512); at < 12*512; at += 4 {
		put32(s.Edit(at, 4), sum)
	}
}

var put32 = binary.LittleEndian.PutUint32

// set32 is an edit that sets the number at off.
func set32(off int64, value uint32) func(*disktest.Sparse) {
	return func(s *disktest.Sparse) { put32(s.Edit(off, 4), value) }
}

// fatEntry gives the FAT's entry of a cluster.
func fatEntry(s *disktest.Sparse, g geometry, cluster uint32) []byte {
	return s.Edit(int64(g.fat)+4*int64(cluster), 4)
}

// entryAt finds the directory entry of a type.
func entryAt(t testing.TB, s *disktest.Sparse, g geometry, typ byte) int64 {
	t.Helper()
	b := make([]byte, g.clusterSize)
	if _, err := s.ReadAt(b, int64(g.offset(g.rootCluster))); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(b); i += entrySize {
		if b[i] == typ {
			return int64(g.offset(g.rootCluster)) + int64(i)
		}
	}
	t.Fatalf("no entry of type %#x", typ)
	return 0
}

func TestReadRefuses(t *testing.T) {
	base, g := small(t)
	bitmap := entryAt(t, base, g, entryBitmap)
	first := binary.LittleEndian.Uint32(base.Clone().Edit(bitmap+20, 4))
	tests := map[string]struct {
		edit func(s *disktest.Sparse)
		want string
	}{
		"no signature":      {func(s *disktest.Sparse) { s.Edit(510, 1)[0] = 0 }, "no signature"},
		"parameters of FAT": {func(s *disktest.Sparse) { s.Edit(0x10, 1)[0] = 2 }, "parameters of FAT"},
		"sector size":       {func(s *disktest.Sparse) { s.Edit(0x6c, 1)[0] = 200 }, "sectors of 2^200 bytes"},
		"cluster size":      {func(s *disktest.Sparse) { s.Edit(0x6d, 1)[0] = 17 }, "clusters of 2^17 sectors"},
		"too long":          {func(s *disktest.Sparse) { s.Edit(0x4f, 1)[0] = 0x80 }, "larger than its partition"},
		"no FAT":            {func(s *disktest.Sparse) { s.Edit(0x6e, 1)[0] = 0 }, "0 FATs"},
		"second FAT active": {func(s *disktest.Sparse) { s.Edit(0x6a, 1)[0] = 1 }, "flags 0x1"},
		"no clusters":       {set32(0x5c, 0), "0 clusters"},
		"too many clusters": {set32(0x5c, 1<<32-1), "4294967295 clusters"},
		"heap outside":      {set32(0x58, 1<<31), "from sector 2147483648"},
		"FAT in the boot":   {set32(0x50, 12), "at sector 12"},
		"FAT too short":     {set32(0x54, 1), "FAT of 1 sectors"},
		"FAT in the heap":   {set32(0x54, 1<<31), "FAT of 2147483648 sectors"},
		"root outside":      {set32(0x60, 1<<30), "root directory at byte"},
		"root at 0":         {set32(0x60, 0), "leads to cluster 0"},
		"root without bitmap": {
			func(s *disktest.Sparse) { s.Edit(bitmap, 1)[0] &= 0x7f }, "no allocation bitmap",
		},
		"two bitmaps": {func(s *disktest.Sparse) {
			copy(s.Edit(bitmap+entrySize, entrySize), s.Edit(bitmap, entrySize))
		}, "a second allocation bitmap"},
		"bitmap of the other FAT": {func(s *disktest.Sparse) { s.Edit(bitmap+1, 1)[0] = 1 }, "a second allocation bitmap"},
		"bitmap too short":        {set32(bitmap+24, 3), "has 3 bytes"},
		"bitmap outside":          {set32(bitmap+20, 1<<31), "leads to cluster 2147483648"},
		"chain ends":              {func(s *disktest.Sparse) { put32(fatEntry(s, g, first), endOfChain) }, "ends after"},
		"chain of free clusters":  {func(s *disktest.Sparse) { put32(fatEntry(s, g, first), 0) }, "leads to cluster 0"},
		"bitmap free": {func(s *disktest.Sparse) { clear(s.Edit(int64(g.offset(first)), 1)) },
			"calls cluster 2 free"},
		"endless root": {func(s *disktest.Sparse) {
			root := int64(g.offset(g.rootCluster))
			for at := root; at < root+512; at += entrySize {
				s.Edit(at, 1)[0] |= 5 // no end
			}
			copy(s.Edit(int64(g.offset(3000)), 512), s.Edit(root, 512))
			s.Edit(int64(g.offset(3000)), 512)[bitmap-root] = 0x05
			put32(fatEntry(s, g, g.rootCluster), 3000)
			put32(fatEntry(s, g, 3000), 3000)
		}, "leads back to cluster 3000"},
		"bitmap goes round": {func(s *disktest.Sparse) { put32(fatEntry(s, g, first), first) }, "leads back to cluster 2"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := base.Clone()
			tt.edit(s)
			seal(s)
			v, err := Read(s, s.Size)
			var corrupt *filesystem.CorruptError
			if !errors.As(err, &corrupt) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Read = %+v, doubt %+v, %v, want a *CorruptError with %q", v, v.Doubt, err, tt.want)
			}
			disktest.CheckVolume(t, v, err, s.Size)
		})
	}
	for _, size := range []quantity.Bytes{0, 511, 512, 100_000} {
		if _, err := Read(bytes.NewReader(make([]byte, size)), size); !errors.Is(err, filesystem.ErrNotFound) {
			t.Errorf("%d zeros: %v, want ErrNotFound", int64(size), err)
		}
	}
	for _, length := range []int64{600, 8000, int64(g.heap) + 100} {
		if _, err := Read(io.NewSectionReader(base, 0, length), base.Size); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("partition that ends at %d: %v, want %v", length, err, io.ErrUnexpectedEOF)
		}
	}
}

func TestDoubts(t *testing.T) {
	base, g := small(t)
	tests := map[string]struct {
		edit   func(s *disktest.Sparse)
		want   string
		remedy string
	}{
		"dirty":          {func(s *disktest.Sparse) { s.Edit(0x6a, 1)[0] = 2 }, "not unmounted", remedyUnmount},
		"media failure":  {func(s *disktest.Sparse) { s.Edit(0x6a, 1)[0] = 6 }, "disk errors", remedyMedia},
		"TexFAT":         {func(s *disktest.Sparse) { s.Edit(0x6e, 1)[0] = 2; seal(s) }, "TexFAT", ""},
		"other revision": {func(s *disktest.Sparse) { s.Edit(0x69, 1)[0] = 2; seal(s) }, "revision 2.00", ""},
		"checksum":       {func(s *disktest.Sparse) { s.Edit(0x70+30, 1)[0]++ }, "checksum of the boot region", remedyCheck},
		"one checksum":   {func(s *disktest.Sparse) { s.Edit(12*512-1, 1)[0]++ }, "checksum of the boot region", remedyCheck},
		"dirty and damaged": {func(s *disktest.Sparse) {
			s.Edit(0x6a, 1)[0] = 2
			put32(fatEntry(s, g, g.rootCluster), 0)
		}, "not unmounted", remedyUnmount},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := base.Clone()
			tt.edit(s)
			v, err := Read(s, s.Size)
			if err != nil {
				t.Fatal(err)
			}
			if v.Doubt == nil || !strings.Contains(v.Doubt.Reason, tt.want) || v.Doubt.Remedy != tt.remedy || v.Doubt.Refuse {
				t.Errorf("Doubt = %+v, want %q, remedy %q", v.Doubt, tt.want, tt.remedy)
			}
			if v.Allocated != nil || len(v.UUID) != 9 {
				t.Errorf("Read = %+v", v)
			}
		})
	}
	s := base.Clone()
	s.Edit(0x70, 1)[0] = 55 // PercentInUse is not in the checksum
	if v, err := Read(s, s.Size); err != nil || v.Doubt != nil || v.Label != "small" {
		t.Errorf("other percent in use: %+v, doubt %+v, %v", v, v.Doubt, err)
	}
}

// TestScatteredBitmap moves the clusters of the bitmap apart: only the FAT tells where
// they are.
func TestScatteredBitmap(t *testing.T) {
	base, g := small(t)
	before, err := Read(base, base.Size)
	if err != nil {
		t.Fatal(err)
	}
	s := base.Clone()
	entry := entryAt(t, s, g, entryBitmap)
	first := binary.LittleEndian.Uint32(s.Edit(entry+20, 4))
	bit := func(cluster uint32) []byte {
		at := (cluster - 2) / 8
		return s.Edit(int64(g.offset(first+at/512))+int64(at%512), 1)
	}
	// The second of three moves to a free cluster.
	const to = 3000
	from := first + 1
	bit(to)[0] |= 1 << ((to - 2) % 8)
	bit(from)[0] &^= 1 << ((from - 2) % 8)
	copy(s.Edit(int64(g.offset(to)), 512), s.Edit(int64(g.offset(from)), 512))
	copy(s.Edit(int64(g.offset(from)), 512), bytes.Repeat([]byte{0xff}, 512))
	put32(fatEntry(s, g, first), to)
	put32(fatEntry(s, g, to), from+1)

	v, err := Read(s, s.Size)
	if err != nil || v.Doubt != nil {
		t.Fatalf("Read = %v, doubt %+v", err, v.Doubt)
	}
	cluster := func(n uint32) quantity.Extent { return quantity.Extent{Start: g.offset(n), Length: 512} }
	want := disktest.Subtract(before.Allocated, []quantity.Extent{cluster(from)})
	want = quantity.Normalize(append(want, cluster(to)))
	if diff := cmp.Diff(want, v.Allocated); diff != "" {
		t.Errorf("allocated (-want +got):\n%s", diff)
	}
}

// alternating is a volume of which every second cluster is in use, which nobody can have
// made by using it.
type alternating struct {
	*os.File
	bitmap quantity.Extent
}

func (a alternating) ReadAt(b []byte, off int64) (int, error) {
	n, err := a.File.ReadAt(b, off)
	for i := max(off, int64(a.bitmap.Start)); i < min(off+int64(n), int64(a.bitmap.End())); i++ {
		b[i-off] |= 0x55
	}
	return n, err
}

// TestMemory reads a hostile map of 33 million extents.
func TestMemory(t *testing.T) {
	const size = 256 * quantity.GiB
	path := disktest.Image(t, size)
	disktest.Command(t, "mkfs.exfat -c 4096 DEV", "DEV", path)
	f := disktest.Open(t, path)
	boot, err := readBoot(f, size)
	if err != nil {
		t.Fatal(err)
	}
	g, problem := newGeometry(boot, size)
	if problem != "" {
		t.Fatal(problem)
	}
	a := alternating{f, quantity.Extent{Start: g.offset(2), Length: quantity.Bytes(g.clusters) / 8}}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	v, err := Read(a, size)
	runtime.ReadMemStats(&after)
	if err != nil || v.Doubt != nil {
		t.Fatalf("Read = %v, doubt %+v", err, v.Doubt)
	}
	if got := quantity.Bytes(after.TotalAlloc - before.TotalAlloc); got > 128*quantity.MiB {
		t.Errorf("Read took %v of memory", got)
	}
	if got := quantity.Total(v.Allocated); got < size-quantity.MiB {
		t.Errorf("%v of %v are in use, but the gaps were too many to keep", got, size)
	}
}

// TestMutations reads thousands of damaged volumes.
func TestMutations(t *testing.T) {
	base, g := small(t)
	rng := rand.New(rand.NewPCG(7, 8))
	regions := [][2]int64{
		{0x40, 0x31}, {0x40, 0x31}, {0, 512}, {int64(g.fat), 512},
		{int64(g.offset(2)), 2048}, {int64(g.offset(g.rootCluster)), 256},
	}
	for range 10_000 {
		s := base.Clone()
		for range 1 + rng.IntN(4) {
			r := regions[rng.IntN(len(regions))]
			s.Edit(r[0]+rng.Int64N(r[1]), 1)[0] ^= byte(1 << rng.IntN(8))
		}
		if rng.IntN(8) > 0 {
			seal(s)
		}
		v, err := Read(s, s.Size)
		disktest.CheckVolume(t, v, err, s.Size)
	}
}

func FuzzRead(f *testing.F) {
	base, g := small(f)
	boot, fat, heap := make([]byte, 512), make([]byte, 64), make([]byte, 8*512)
	for at, b := range map[quantity.Bytes][]byte{0: boot, g.fat: fat, g.heap: heap} {
		if _, err := base.ReadAt(b, int64(at)); err != nil {
			f.Fatal(err)
		}
	}
	f.Add(boot, fat, heap)
	// The fuzzer gets the boot sector and the start of the FAT and of the heap.
	f.Fuzz(func(t *testing.T, boot, fat, heap []byte) {
		s := base.Clone()
		copy(s.Edit(0, 512), boot)
		copy(s.Edit(int64(g.fat), 64), fat)
		for i := 0; i < min(len(heap), 16*512); i += 512 {
			copy(s.Edit(int64(g.heap)+int64(i), 512), heap[i:])
		}
		seal(s)
		v, err := Read(s, s.Size)
		disktest.CheckVolume(t, v, err, s.Size)
	})
}

// BenchmarkRead1TiB reads the map of a large empty volume.
func BenchmarkRead1TiB(b *testing.B) {
	path := disktest.Image(b, quantity.TiB)
	disktest.Command(b, fmt.Sprintf("mkfs.exfat -c %d DEV", 128<<10), "DEV", path)
	f := disktest.Open(b, path)
	for b.Loop() {
		if _, err := Read(f, quantity.TiB); err != nil {
			b.Fatal(err)
		}
	}
}
