package ext4

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"clonecast/internal/disktest"
	"clonecast/internal/filesystem"
	"clonecast/internal/layouttest"
	"clonecast/internal/quantity"
)

func TestLayouts(t *testing.T) {
	layouttest.Check[superblock](t, superblockSize)
	layouttest.Check[descriptor](t, 32)
	layouttest.Check[descriptorHi](t, 32)
	layouttest.Check[inode](t, 0x70)
	layouttest.Check[journalSuperblock](t, 0x2c)
}

func TestHasSuper(t *testing.T) {
	g := geometry{sb: &superblock{FeatureROCompat: roSparseSuper}}
	var got []uint64
	for n := range uint64(400) {
		if g.hasSuper(n) {
			got = append(got, n)
		}
	}
	want := []uint64{0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125, 243, 343}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("groups with a superblock (-want +got):\n%s", diff)
	}
}

// small makes a file system of 4 MiB and returns its bytes.
func small(t testing.TB, args ...string) []byte {
	t.Helper()
	path := disktest.Image(t, 4*quantity.MiB)
	disktest.Run(t, "", "mkfs.ext4", append(append([]string{"-q", "-b1024"}, args...), path)...)
	b := make([]byte, 4*quantity.MiB)
	if _, err := disktest.Open(t, path).ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestReadRefuses(t *testing.T) {
	checked, plain := small(t), small(t, "-O", "^metadata_csum,^64bit,^has_journal")
	// With blocks of 1 KiB the descriptors are in block 2; they name the bitmaps.
	bitmap := int(checked[2048]) | int(checked[2049])<<8
	for _, tc := range []struct {
		name string
		disk []byte
		edit func(b []byte)
		want string
	}{
		{"superblock checksum", checked, func(b []byte) { b[1024+0x78] ^= 1 }, "superblock at byte 1024: checksum"},
		{"descriptor checksum", checked, func(b []byte) { b[2048+4] ^= 1 }, "group descriptor 0 at byte 2048: checksum"},
		{"bitmap checksum", checked, func(b []byte) { b[bitmap*1024+100] ^= 1 }, "block bitmap of group 0"},
		{"larger than the partition", plain, func(b []byte) { b[1024+5] = 0xff }, "do not fit"},
		{"block size", plain, func(b []byte) { b[1024+0x18] = 7 }, "block size"},
		{"no blocks per group", plain, func(b []byte) { clear(b[1024+0x20:][:4]) }, "blocks per group"},
		{"too many blocks per group", plain, func(b []byte) { b[1024+0x22] = 1 }, "blocks per group"},
		{"no inodes per group", plain, func(b []byte) { clear(b[1024+0x28:][:4]) }, "inodes per group"},
		{"inode size", plain, func(b []byte) { b[1024+0x58] = 3 }, "inodes of"},
		{"first data block", plain, func(b []byte) { b[1024+0x14] = 0 }, "first data block"},
		{"bitmap outside", plain, func(b []byte) { b[2048+2] = 0xff }, "block bitmap at block"},
		{"inode table outside", plain, func(b []byte) { b[2048+8+1] = 0x0f }, "inode table at block"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := bytes.Clone(tc.disk)
			tc.edit(b)
			v, err := Read(bytes.NewReader(b), quantity.Bytes(len(b)))
			var corrupt *filesystem.CorruptError
			if !errors.As(err, &corrupt) || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("Read = %+v, %v, want a *CorruptError with %q", v, err, tc.want)
			}
		})
	}
	for name, b := range map[string][]byte{"blank": make([]byte, 4096), "tiny": make([]byte, 100)} {
		if _, err := Read(bytes.NewReader(b), quantity.Bytes(len(b))); !errors.Is(err, filesystem.ErrNotFound) {
			t.Errorf("%s: %v, want ErrNotFound", name, err)
		}
	}
	if _, err := Read(bytes.NewReader(checked[:3000]), quantity.Bytes(len(checked))); err == nil {
		t.Error("partition that ends early: no error")
	}
}

func TestDoubts(t *testing.T) {
	plain := small(t, "-O", "^metadata_csum,^64bit")
	for _, tc := range []struct {
		name   string
		edit   func(sb []byte)
		reason string
	}{
		{"needs recovery", func(sb []byte) { sb[0x60] |= 4 }, "journal needs recovery"},
		{"errors", func(sb []byte) { sb[0x3a] |= 2 }, "has errors"},
		{"not valid", func(sb []byte) { sb[0x3a] &^= 1 }, "not unmounted cleanly"},
		{"orphans", func(sb []byte) { sb[0xe8] = 12 }, "deleted files"},
		{"orphan file in use", func(sb []byte) { sb[0x66] |= 1 }, "deleted files"},
		{"external journal", func(sb []byte) { sb[0xe4] = 1 }, "another device"},
		{"unknown incompatible feature", func(sb []byte) { sb[0x63] |= 0x80 }, "unknown incompatible features 0x80000000"},
		{"unknown read-only feature", func(sb []byte) { sb[0x67] |= 0x40 },
			"unknown read-only compatible features 0x40000000"},
		{"journal inode without a journal", func(sb []byte) { sb[0xe0] = 2; sb[0xfd] = 0 }, "journal cannot be found"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := bytes.Clone(plain)
			tc.edit(b[1024:2048])
			v, err := Read(bytes.NewReader(b), quantity.Bytes(len(b)))
			if err != nil || v.Doubt == nil || !strings.Contains(v.Doubt.Reason, tc.reason) ||
				v.Allocated != nil || v.UUID == "" {
				t.Fatalf("Read = %+v, doubt %+v, %v, want doubt %q", v, v.Doubt, err, tc.reason)
			}
		})
	}
	t.Run("journal found through its backup", func(t *testing.T) {
		b := bytes.Clone(plain)
		b[1024+0xe0] = 2 // the root directory is no journal
		v, err := Read(bytes.NewReader(b), quantity.Bytes(len(b)))
		if err != nil || v.Doubt != nil || len(v.Allocated) == 0 {
			t.Fatalf("Read = %+v, doubt %+v, %v", v, v.Doubt, err)
		}
	})
	t.Run("journal start without the flag", func(t *testing.T) {
		b := bytes.Clone(plain)
		i := bytes.Index(b, []byte{0xc0, 0x3b, 0x39, 0x98, 0, 0, 0, 4})
		b[i+0x1f] = 1
		v, err := Read(bytes.NewReader(b), quantity.Bytes(len(b)))
		if err != nil || v.Doubt == nil || v.Doubt.Reason != "journal needs recovery" {
			t.Fatalf("Read = %+v, doubt %+v, %v", v, v.Doubt, err)
		}
	})
}

func FuzzRead(f *testing.F) {
	for _, args := range [][]string{
		{}, {"-O", "^metadata_csum,^64bit"}, {"-O", "meta_bg,^resize_inode,^metadata_csum"},
		{"-O", "bigalloc,^metadata_csum"},
	} {
		// The fuzzer gets the metadata at the start of the disk; the rest is zero.
		f.Add(small(f, args...)[1024:64*1024], uint32(4096))
	}
	f.Fuzz(func(t *testing.T, disk []byte, kib uint32) {
		size := quantity.Bytes(kib%(64*1024)) * quantity.KiB
		padded := make([]byte, size)
		if size > 1024 {
			copy(padded[1024:], disk)
		}
		if size >= 2048 && padded[1024+0x65]&4 != 0 { // metadata_csum: make the checksum fit
			sum := crc32c(^uint32(0), padded[1024:1024+0x3fc])
			padded[2044], padded[2045], padded[2046], padded[2047] = byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24)
		}
		v, err := Read(bytes.NewReader(padded), size)
		if err != nil {
			if diff := cmp.Diff(filesystem.Volume{}, v); diff != "" {
				t.Fatalf("a volume comes with the error: %s", diff)
			}
			return
		}
		end := quantity.Bytes(0)
		for i, e := range v.Allocated {
			if e.Length <= 0 || i > 0 && e.Start <= end || e.End() > size {
				t.Fatalf("extent %d: %+v after %d in %d", i, e, end, size)
			}
			end = e.End()
		}
		for _, d := range v.Discarded {
			for _, e := range d.Extents {
				if !quantity.Covers(v.Allocated, e) {
					t.Fatalf("%s discards %+v, which is not allocated", d.What, e)
				}
			}
		}
	})
}

// FuzzJournal changes the journal's inode, its superblock and the blocks of its map.
func FuzzJournal(f *testing.F) {
	const size = 4 * quantity.MiB
	var disks [][]byte
	for i, args := range [][]string{{"-O", "extents"}, {"-O", "^extents,^64bit"}} {
		disks = append(disks, small(f, append(args, "-J", "size=1")...))
		rd := openDisk(f, disks[i])
		var node []byte
		if !rd.log.inode.extents() {
			node = disks[i][rd.offset(uint64(binary.LittleEndian.Uint32(rd.log.inode.Block[48:]))):][:rd.blockSize]
		}
		f.Add(uint8(i), rd.log.inode.Block[:], node, rd.log.super.First, rd.log.super.MaxLen, rd.log.inode.Flags)
	}
	f.Fuzz(func(t *testing.T, disk uint8, list, node []byte, first, maxLen, flags uint32) {
		b := bytes.Clone(disks[disk%2])
		rd := openDisk(t, b)
		copy(rd.log.inode.Block[:], list)
		rd.log.super.First, rd.log.super.MaxLen, rd.log.inode.Flags = first, maxLen, flags
		// Lists may name this block, itself too.
		block := uint64(binary.LittleEndian.Uint32(rd.log.inode.Block[48:]))
		if block < rd.blocks {
			copy(b[rd.offset(block):][:rd.blockSize], node)
		}
		got, err := rd.logExtents(rd.log)
		if err != nil && !errors.Is(err, errOddJournal) {
			t.Fatalf("logExtents = %v", err)
		}
		if total := quantity.Total(got); err == nil && total != rd.offset(uint64(maxLen-first)) {
			t.Errorf("%d bytes for blocks %d to %d", total, first, maxLen)
		}
		for _, e := range got {
			if e.Start < 0 || e.End() > size {
				t.Errorf("extent %v lies outside", e)
			}
		}
	})
}

// openDisk gives a reader that has found its journal.
func openDisk(t testing.TB, disk []byte) *reader {
	t.Helper()
	sb, problem, err := parseSuperblock(disk[superblockOffset:][:superblockSize])
	if err != nil || problem != "" {
		t.Fatal(problem, err)
	}
	rd := &reader{r: bytes.NewReader(disk), fsType: sb.fsType()}
	if rd.geometry, problem = newGeometry(&sb, quantity.Bytes(len(disk))); problem != "" {
		t.Fatal(problem)
	}
	if doubt, err := rd.journalDoubt(); doubt != nil || err != nil || rd.log == nil {
		t.Fatalf("journal: %+v, %v", doubt, err)
	}
	return rd
}
