package xfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"clonecast/internal/disktest"
	"clonecast/internal/filesystem"
	"clonecast/internal/layouttest"
	"clonecast/internal/quantity"
)

func TestLayouts(t *testing.T) {
	layouttest.Check[superblock](t, superblockSize)
	layouttest.Check[agf](t, agfSize)
	layouttest.Check[treeHeader](t, treeHeaderV5)
	layouttest.Check[recordHeader](t, 0x144)
	layouttest.Check[dinode](t, 0x53)
}

const page = 4096

// sum makes the checksum of the n bytes at off fit.
func sum(s *disktest.Sparse, off int64, n, crcOffset int) {
	b := s.Edit(off, n)
	binary.LittleEndian.PutUint32(b[crcOffset:], checksum(b, crcOffset))
}

// set8 is an edit that sets the byte at off.
func set8(off int64, value byte) func(*disktest.Sparse) {
	return func(s *disktest.Sparse) { s.Edit(off, 1)[0] = value }
}

// set32 is an edit that sets the number at off.
func set32(off int64, value uint32) func(*disktest.Sparse) {
	return func(s *disktest.Sparse) { binary.BigEndian.PutUint32(s.Edit(off, 4), value) }
}

// small makes and loads a file system with blocks of 4 KiB and two groups.
func small(t testing.TB, args string) *disktest.Sparse {
	t.Helper()
	path := disktest.Image(t, 64*quantity.MiB)
	disktest.Command(t, "mkfs.xfs -q -f --unsupported -d agcount=2 -L small "+args+" DEV", "DEV", path)
	return disktest.Load(t, path)
}

const smallV4 = "-m crc=0,finobt=0"

func TestReadRefuses(t *testing.T) {
	v5, v4 := small(t, ""), small(t, smallV4)
	put32 := binary.BigEndian.PutUint32
	const agf0, tree0 = 512, 4096 // mkfs.xfs puts the root of the tree into block 1
	tests := map[string]struct {
		base *disktest.Sparse
		edit func(s *disktest.Sparse)
		want string
	}{
		"superblock checksum":  {v5, func(s *disktest.Sparse) { s.Edit(0x6c, 1)[0]++ }, "superblock at byte 0: checksum"},
		"sector size":          {v5, func(s *disktest.Sparse) { s.Edit(0x79, 1)[0]++ }, "sectors of 512"},
		"block size":           {v5, set32(4, 3000), "blocks of 3000"},
		"larger than the disk": {v4, set32(8, 1), "do not fit a partition"},
		"no blocks per group":  {v4, set32(0x54, 0), "0 blocks per group"},
		"tiny groups": {v4, func(s *disktest.Sparse) {
			put32(s.Edit(0x54, 4), 64)
			s.Edit(0x7c, 1)[0] = 6
		}, "64 blocks per group"},
		"wrong group bits": {v4, func(s *disktest.Sparse) { s.Edit(0x7c, 1)[0]++ }, "blocks per group"},
		"too many groups":  {v4, set32(0x58, 1<<31), "2147483648 groups"},
		"short last group": {v4, func(s *disktest.Sparse) {
			put32(s.Edit(12, 4), binary.BigEndian.Uint32(s.Edit(0x54, 4))+1)
		}, "the last of 2 groups"},
		"log outside":    {v4, set32(0x30, 1), "log of"},
		"log too long":   {v4, set32(0x60, 1<<30), "log of 1073741824 blocks"},
		"log of nothing": {v4, set32(0x60, 0), "log of 0 blocks"},

		"AGF magic": {v4, func(s *disktest.Sparse) { s.Edit(agf0, 1)[0]++ },
			"free space header of group 0 at byte 512: wrong magic"},
		"AGF checksum": {v5, func(s *disktest.Sparse) { s.Edit(agf0+0x20, 1)[0]++ },
			"free space header of group 0 at byte 512: checksum"},
		"AGF of another file system": {v5, func(s *disktest.Sparse) {
			s.Edit(agf0+0x40, 1)[0]++
			sum(s, agf0, 512, agfCRC)
		}, "belongs to"},
		"AGF of another group": {v4, set32(agf0+8, 1), "is that of group 1"},
		"AGF length":           {v4, set32(agf0+12, 99), "with 99 blocks"},
		"no levels":            {v4, set32(agf0+0x1c, 0), "tree of 0 levels"},
		"many levels":          {v4, set32(agf0+0x1c, 1<<31), "tree of 2147483648 levels"},
		"free blocks":          {v4, set32(agf0+0x34, 7), "7 blocks are free"},
		"longest":              {v4, set32(agf0+0x38, 7), "7 of them in a row"},
		"tree outside":         {v4, set32(agf0+0x10, 1<<30), "leads to block 1073741824"},
		"tree in the header":   {v4, set32(agf0+0x10, 0), "leads to block 0"},

		"tree magic":    {v4, func(s *disktest.Sparse) { s.Edit(tree0, 1)[0]++ }, "block 1 at byte 4096: wrong magic"},
		"tree checksum": {v5, func(s *disktest.Sparse) { s.Edit(tree0+0x3f, 1)[0]++ }, "block 1 at byte 4096: checksum"},
		"tree of another group": {v5, func(s *disktest.Sparse) {
			put32(s.Edit(tree0+0x30, 4), 1)
			sum(s, tree0, 4096, treeCRC)
		}, "of group 1"},
		"tree elsewhere": {v5, func(s *disktest.Sparse) {
			put32(s.Edit(tree0+0x14, 4), 77)
			sum(s, tree0, 4096, treeCRC)
		}, "is sector 77"},
		"tree level":       {v4, set8(tree0+5, 3), "level 3, want 0"},
		"tree records":     {v4, set8(tree0+6, 0xff), "records, room for 510"},
		"free extent long": {v4, set32(tree0+20, 1<<31), "free extent of 2147483648 blocks"},
		"free headers":     {v4, set32(tree0+16, 0), "holds metadata"},
		"itself free":      {v4, set32(tree0+16, 1), "holds metadata"},
		"free extents fall": {v4, func(s *disktest.Sparse) {
			s.Edit(tree0+7, 1)[0] = 2
			put32(s.Edit(tree0+24, 4), 50)
			put32(s.Edit(tree0+28, 4), 1)
		}, "free extent of 1 blocks at block 50, after block"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := tt.base.Clone()
			tt.edit(s)
			v, err := Read(s, s.Size)
			var corrupt *filesystem.CorruptError
			if !errors.As(err, &corrupt) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Read = %+v, doubt %+v, %v, want a *CorruptError with %q", v, v.Doubt, err, tt.want)
			}
		})
	}
	for _, size := range []quantity.Bytes{0, 511, 512, 100_000} {
		if _, err := Read(bytes.NewReader(make([]byte, size)), size); !errors.Is(err, filesystem.ErrNotFound) {
			t.Errorf("%d zeros: %v, want ErrNotFound", int64(size), err)
		}
	}
	short := io.NewSectionReader(v5, 0, int64(v5.Size/2))
	if _, err := Read(short, v5.Size); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("partition that ends early: %v, want %v", err, io.ErrUnexpectedEOF)
	}
}

func TestDoubts(t *testing.T) {
	v5, v4 := small(t, ""), small(t, smallV4)
	rd := reader{r: v5}
	sb, err := readSuperblock(v5, v5.Size)
	if err != nil {
		t.Fatal(err)
	}
	rd.geometry, _ = newGeometry(sb, v5.Size)
	log := int64(rd.offset(rd.logGroup, rd.log.start))
	tests := map[string]struct {
		base   *disktest.Sparse
		edit   func(s *disktest.Sparse)
		want   string
		remedy string
	}{
		"in progress":           {v5, set8(0x7e, 1), "did not finish", remedyRepair},
		"realtime":              {v5, set32(0x1c, 9), "realtime", ""},
		"external log":          {v5, func(s *disktest.Sparse) { clear(s.Edit(0x30, 8)) }, "another device", ""},
		"unknown incompatible":  {v5, set8(0xd8, 0x80), "unknown incompatible features 0x80000000", ""},
		"metadata directory":    {v5, set8(0xda, 1), "unknown incompatible features 0x100", ""},
		"unknown ro compatible": {v5, set8(0xd4, 0x40), "unknown read-only compatible features 0x40000000", ""},
		"needs repair": {v5, func(s *disktest.Sparse) { s.Edit(0xdb, 1)[0] |= 0x10 },
			"in need of repair", remedyRepair},
		"version 3":         {v4, set8(0x65, 3), "version 3", ""},
		"version 4, shared": {v4, func(s *disktest.Sparse) { s.Edit(0x64, 1)[0] |= 2 }, "unknown features", ""},
		"version 4, old directories": {
			v4, func(s *disktest.Sparse) { s.Edit(0x64, 1)[0] &^= 0x20 }, "unknown features", "",
		},
		"version 4, unknown": {v4, set8(0xc8, 0x40), "unknown features", ""},

		"log never written":  {v5, func(s *disktest.Sparse) { clear(s.Edit(log, page)) }, "cycle 0", remedyUnmount},
		"log without record": {v5, set32(log, 1), "no record", remedyUnmount},
		"log of another": {v5, func(s *disktest.Sparse) { s.Edit(log+0x130, 1)[0]++ },
			"belongs to", remedyUnmount},
		"record too long":           {v5, set32(log+0xc, 1<<30), "has 1073741824 bytes", remedyUnmount},
		"record of another place":   {v5, set32(log+0x14, 5), "number 5", remedyUnmount},
		"record short of the head":  {v5, set32(log+8*512, 1), "the log ends at 9", remedyUnmount},
		"record of two operations":  {v5, set32(log+0x28, 2), "not written by an unmount", remedyUnmount},
		"record of a transaction":   {v5, set8(log+512+9, 0x10), "not written by an unmount", remedyUnmount},
		"record of another client":  {v5, set8(log+512+8, 0x69), "not written by an unmount", remedyUnmount},
		"record with checksum":      {v5, set8(log+0x20, 1), "checksum", remedyUnmount},
		"cycles out of order":       {v5, set32(log+100*page, 7), "sector 800 is of cycle 7", remedyUnmount},
		"cycle of a mounted system": {v5, set32(log+100*page, 1), "the log ends at 801", remedyUnmount},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := tt.base.Clone()
			tt.edit(s)
			if tt.base == v5 {
				sum(s, 0, 512, superblockCRC)
			}
			v, err := Read(s, s.Size)
			if err != nil {
				t.Fatal(err)
			}
			if v.Doubt == nil || !strings.Contains(v.Doubt.Reason, tt.want) || v.Doubt.Remedy != tt.remedy || v.Doubt.Refuse {
				t.Errorf("Doubt = %+v, want %q, remedy %q", v.Doubt, tt.want, tt.remedy)
			}
			if v.Allocated != nil || v.UUID == "" || v.Label != "small" {
				t.Errorf("Read = %+v", v)
			}
		})
	}
}

// TestMutations reads thousands of damaged file systems. Where a checksum would hide
// the damage from the code behind it, it is made to fit.
func TestMutations(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for _, base := range []*disktest.Sparse{
		small(t, ""), small(t, smallV4), small(t, "-m rmapbt=1 -s size=4096"), fragmented(t),
	} {
		places := metadata(t, base)
		for range 1200 {
			s := base.Clone()
			for range 1 + rng.IntN(4) {
				p := places[rng.IntN(len(places))]
				b := s.Edit(p.at+int64(rng.IntN(p.length)), 1)
				b[0] ^= byte(1 << rng.IntN(8))
				if p.crc > 0 && rng.IntN(4) > 0 {
					sum(s, p.at, p.length, p.crc)
				}
			}
			v, err := Read(s, s.Size)
			disktest.CheckVolume(t, v, err, s.Size)
		}
	}
}

// fragmented makes a file system whose tree of free extents has three levels.
func fragmented(t *testing.T) *disktest.Sparse {
	t.Helper()
	path := disktest.Image(t, 64*quantity.MiB)
	disktest.Command(t, "mkfs.xfs -q -f --unsupported -d agcount=2 -b size=1024 -m rmapbt=0,reflink=0 DEV", "DEV", path)
	dir := disktest.Mount(t, path, mountCommand)
	punchHoles(t, filepath.Join(dir, "punched"), 11_000)
	disktest.Unmount(t, dir)
	if got := deepest(t, path); got != 3 {
		t.Fatalf("the deepest tree has %d levels, want 3", got)
	}
	return disktest.Load(t, path)
}

// structure is one on the disk, and where its checksum is.
type structure struct {
	at          int64
	length, crc int
}

// metadata gives the structures that Read looks at.
func metadata(t *testing.T, s *disktest.Sparse) []structure {
	t.Helper()
	sb, err := readSuperblock(s, s.Size)
	if err != nil {
		t.Fatal(err)
	}
	g, problem := newGeometry(sb, s.Size)
	if problem != "" {
		t.Fatal(problem)
	}
	rd := reader{r: s, geometry: g}
	log := int64(rd.offset(rd.logGroup, rd.log.start))
	out := []structure{{0, int(g.sectorSize), superblockCRC}, {log, page, 0}, {log, 64, 0}}
	for group := range uint64(sb.AGCount) {
		f, err := rd.readAGF(group)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, structure{int64(rd.agfOffset(group)), int(g.sectorSize), agfCRC})
		w := treeWalk{rd: &rd, group: group, levels: make([][]byte, f.Levels)}
		for _, block := range treeBlocks(t, &w, uint64(f.ByBlock), int(f.Levels)-1) {
			out = append(out, structure{int64(rd.offset(group, block)), int(g.blockSize), treeCRC})
		}
	}
	if !sb.v5() {
		for i := range out {
			out[i].crc = 0
		}
	}
	return out
}

// treeBlocks gives the first blocks of each level of a tree.
func treeBlocks(t *testing.T, w *treeWalk, block uint64, level int) []uint64 {
	t.Helper()
	out := []uint64{block}
	records, body, err := w.read(block, level)
	if err != nil {
		t.Fatal(err)
	}
	if level > 0 {
		pointers := body[len(body)/(recordSize+pointerSize)*recordSize:]
		for i := range min(records, 4) {
			out = append(out, treeBlocks(t, w, uint64(binary.BigEndian.Uint32(pointers[i*pointerSize:])), level-1)...)
		}
	}
	return out
}

func FuzzRead(f *testing.F) {
	base := small(f, "-b size=1024")
	v4 := small(f, "-b size=1024 "+smallV4)
	for _, s := range []*disktest.Sparse{base, v4} {
		head := make([]byte, 8*page)
		if _, err := s.ReadAt(head, 0); err != nil {
			f.Fatal(err)
		}
		f.Add(head, s == v4)
	}
	// The fuzzer gets the start of group 0; the rest is as it was.
	f.Fuzz(func(t *testing.T, head []byte, old bool) {
		s := base.Clone()
		if old {
			s = v4.Clone()
		}
		for at := 0; at < min(len(head), 8*page); at += page {
			copy(s.Edit(int64(at), page), head[at:])
		}
		if !old {
			sum(s, 0, 512, superblockCRC)
			sum(s, 512, 512, agfCRC)
			for block := range int64(30) {
				sum(s, (block+2)*1024, 1024, treeCRC)
			}
		}
		v, err := Read(s, s.Size)
		disktest.CheckVolume(t, v, err, s.Size)
	})
}
