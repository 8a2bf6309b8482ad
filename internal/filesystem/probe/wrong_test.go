package probe

import (
	"bytes"
	"strings"
	"testing"

	"clonecast/internal/disktest"
	"clonecast/internal/quantity"
)

// TestWrongValues damages the marks of a format where more than a magic identifies it: then it is
// recognised neither here nor by blkid.
func TestWrongValues(t *testing.T) {
	const last = sampleSize - 512
	zero := func(off quantity.Bytes, n int) []piece { return []piece{{off, make([]byte, n)}} }
	set := func(off quantity.Bytes, s string) []piece { return []piece{{off, []byte(s)}} }
	for name, edit := range map[string]struct {
		format string
		pieces []piece
	}{
		"md 1.2 elsewhere":      {"md 1.2", set(4096+0x90, "\x09")},
		"md 1.2 of version 2":   {"md 1.2", set(4096+4, "\x02")},
		"via checksum":          {"via", set(last+9, "2")},
		"via version":           {"via", set(last+2, "\x03")},
		"silicon checksum":      {"silicon", set(last+0x10, "x")},
		"silicon disk":          {"silicon", set(last+0x116, "\x08")},
		"LVM1 version":          {"LVM1", set(2, "\x03")},
		"verity version":        {"verity", set(8, "\x02")},
		"minix zones":           {"minix 1", zero(1024+6, 2)},
		"minix 2 state":         {"minix 2", set(1024+0x12, "\x04")},
		"minix 3 inodes":        {"minix 3", zero(1024, 4)},
		"minix 3 zone size":     {"minix 3", set(1024+0xc, "\x01")},
		"nilfs2":                {"nilfs2", append(set(1024+30, "\xff"), set(sampleSize-4096+30, "\xff")...)},
		"hfs block size":        {"hfs", set(1024+0x14, "\x00\x00\x00\x01")},
		"hfsplus block size":    {"hfsplus", set(1024+0x28, "\x00\x00\x01\xff")},
		"gfs of another format": {"gfs", set(65536+24, "\x00\x00\x00\x01")},
		"gfs2 of another":       {"gfs2", set(65536+24, "\x00\x00\x00\x01")},
		"xfs log version":       {"xfs log", set(512+8, "\x00\x00\x00\x04")},
		"xfs log length":        {"xfs log", zero(512+12, 4)},
		"xfs log format":        {"xfs log", set(512+300, "\x00\x00\x00\x04")},
		"xfs log behind an XFS": {"xfs log late", set(1024, "XFSB")},
		"zfs":                   {"zfs uberblocks", zero(sampleSize-256<<10+128<<10, 8)},
		"zfs list":              {"zfs list", set(sampleSize-256<<10+16<<10+24, "\x01\x02")},
		"BitLocker To Go":       {"BitLocker To Go", zero(1<<20, 8)},
		"GPT checksum":          {"gpt", set(512+16, "x")},
		"GPT elsewhere":         {"gpt", set(512+24, "\x02")},
		"FileVault checksum":    {"FileVault", set(200, "x")},
		"FileVault cipher":      {"FileVault", set(172, "\x01")},
	} {
		t.Run(name, func(t *testing.T) {
			image := disktest.Image(t, sampleSize)
			f := disktest.Open(t, image)
			put(t, f, marksOf(t, edit.format))
			if v := disktest.Volume(t, image, Read); v.Type == "" {
				t.Fatalf("%s is not found before it is damaged", edit.format)
			}
			put(t, f, edit.pieces)
			if v := disktest.Volume(t, image, Read); v.Type != "" {
				t.Errorf("Read = %s, doubt %+v; want nothing", v.Type, v.Doubt)
			}
			if typ, _ := judge(t, image); typ != "" {
				t.Errorf("blkid says %q", typ)
			}
		})
	}
}

// TestFATBootSector has boot sectors in front of an ext4 and of a FAT. What blkid takes for a FAT costs
// the ext4 its map; what it does not is no FAT whose map is used.
func TestFATBootSector(t *testing.T) {
	all := formats()
	tests := map[string]struct {
		edit  func(b []byte)
		blkid bool // takes it for FAT
		ours  bool // so do we, where an ext4 is to be trusted
	}{
		"sound":              {func([]byte) {}, true, true},
		"too long":           {func(b []byte) { copy(b[0x20:], "\x40\x42\x0f\x00") }, true, true},
		"no name":            {func(b []byte) { clear(b[0x36:0x3e]) }, true, true},
		"no name, no jump":   {func(b []byte) { clear(b[0x36:0x3e]); b[0] = 0 }, true, true},
		"no name, signature": {func(b []byte) { clear(b[0x36:0x3e]); b[0x1fe] = 0 }, false, false},
		"HPFS":               {func(b []byte) { copy(b[0x36:], "HPFS    ") }, false, true},
		"no sectors":         {func(b []byte) { clear(b[0xb:0xd]) }, false, false},
		"three per cluster":  {func(b []byte) { b[0xd] = 3 }, false, false},
		"no FAT":             {func(b []byte) { b[0x10] = 0 }, false, false},
		"medium":             {func(b []byte) { b[0x15] = 0xf1 }, false, false},
		"too many clusters":  {func(b []byte) { copy(b[0x20:], "\x00\x00\x20\x00") }, false, true},
	}
	for _, below := range []string{"ext4", "fat16"} {
		image, _ := all[below].build(t)
		boot := marksOf(t, "fat16")
		f := disktest.Open(t, image)
		for name, tc := range tests {
			b := bytes.Clone(boot[0].bytes)
			tc.edit(b)
			old := put(t, f, []piece{{0, b}})
			typ, ambivalent := judge(t, image)
			v := disktest.Volume(t, image, Read)
			put(t, f, old)
			if below == "fat16" {
				if (typ == "vfat") != tc.blkid || v.Doubt == nil && !tc.blkid {
					t.Errorf("%s: blkid says %q; Read = %s, doubt %+v", name, typ, v.Type, v.Doubt)
				}
				continue
			}
			if ambivalent != tc.blkid || (v.Doubt != nil) != tc.ours {
				t.Errorf("%s in front of ext4: blkid ambivalent: %v, doubt %+v", name, ambivalent, v.Doubt)
			}
			if tc.ours && !strings.Contains(v.Doubt.Reason, "ext4 and ") {
				t.Errorf("%s: %q does not name both", name, v.Doubt.Reason)
			}
		}
	}
}

// TestFATInfo: blkid knows no FAT32 whose sector of counters has a wrong signature.
func TestFATInfo(t *testing.T) {
	image, _ := formats()["fat32"].build(t)
	f := disktest.Open(t, image)
	for _, tc := range []struct {
		off   quantity.Bytes
		bytes string
		fat   bool
	}{
		{512, "RRaA", true}, {512, "\x00\x00\x00\x00", true}, {512, "RRdA", true},
		{512, "x", false}, {512 + 484, "x", false},
	} {
		old := put(t, f, []piece{{tc.off, []byte(tc.bytes)}})
		typ, _ := judge(t, image)
		if v := disktest.Volume(t, image, Read); (typ == "vfat") != tc.fat || (v.Doubt == nil) != tc.fat {
			t.Errorf("%q at %d: blkid says %q; Read = %s, doubt %+v", tc.bytes, int64(tc.off), typ, v.Type, v.Doubt)
		}
		put(t, f, old)
	}
}
