package layout

import (
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"testing"

	"regexp"
	"strconv"

	"clonecast/internal/clone"
	"clonecast/internal/disktest"
	"clonecast/internal/image"
	"clonecast/internal/partition"
	"clonecast/internal/quantity"
)

// bitmapOf gives the place of the first block bitmap in the ext2 of a disk.
func bitmapOf(t *testing.T, path string) quantity.Bytes {
	t.Helper()
	out := disktest.Run(t, "", "sh", "-ec", "dd if="+path+" of="+path+".fs bs=1M skip=1 count=64 status=none; "+
		"dumpe2fs "+path+".fs 2>/dev/null")
	m := regexp.MustCompile(`Block bitmap at (\d+)`).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("dumpe2fs says %s", out)
	}
	block, err := strconv.Atoi(m[1])
	if err != nil {
		t.Fatal(err)
	}
	return quantity.Bytes(block) * 4096
}

// ext2Disk is a disk with a GPT and an ext2 of 64 MiB from the first MiB on, of which the end is free.
func ext2Disk(t *testing.T) (path string, g clone.Geometry) {
	t.Helper()
	const size = 66 * quantity.MiB
	path = disktest.Image(t, size)
	disktest.Run(t, "label: gpt\nstart=2048,size=131072\n", "sfdisk", "-q", path)
	fs := disktest.Image(t, 64*quantity.MiB)
	disktest.Run(t, "", "mke2fs", "-q", "-t", "ext2", "-b", "4096", fs) // its bitmaps have no checksum
	disktest.Run(t, "", "dd", "if="+fs, "of="+path, "bs=1M", "seek=1", "conv=notrunc", "status=none")
	return path, clone.Geometry{Size: size, LogicalSector: 512, PhysicalSector: 512}
}

// TestUnreadable looks at a disk with places that cannot be read. Where the file system has nothing its map is
// used all the same; where it has something, all is copied; a table that is there twice is enough.
func TestUnreadable(t *testing.T) {
	path, g := ext2Disk(t)
	const end = 65 * quantity.MiB // of the partition
	for name, tc := range map[string]struct {
		bad   quantity.Extent
		mode  image.Mode
		notes string
	}{
		"free blocks at the end": {quantity.Extent{Start: end - 256*quantity.KiB, Length: 256 * quantity.KiB},
			image.ModeClone, "the map of the ext2 is used all the same"},
		"superblock": {quantity.Extent{Start: quantity.MiB, Length: 4096}, image.ModeRaw, "no known file system"},
		"block bitmap": {quantity.Extent{Start: quantity.MiB + bitmapOf(t, path), Length: 4096}, image.ModeRaw,
			"cannot be read where it was looked into"},
		"backup table": {quantity.Extent{Start: g.Size - 64*quantity.KiB, Length: 64 * quantity.KiB},
			image.ModeClone, "table: "},
		"primary header": {quantity.Extent{Start: 512, Length: 512}, image.ModeClone, "table: "},
	} {
		t.Run(name, func(t *testing.T) {
			disk := &disktest.Faulty{ReaderAt: disktest.Open(t, path), Bad: []quantity.Extent{tc.bad}}
			l, err := Inspect(disk, g)
			if err != nil {
				t.Fatal(err)
			}
			var notes []string
			for _, n := range l.Notes() {
				notes = append(notes, n.String())
			}
			if p := l.Partitions[0]; p.Mode != tc.mode || !strings.Contains(strings.Join(notes, "\n"), tc.notes) {
				t.Errorf("mode %s, notes %q; want %s and %q", p.Mode, notes, tc.mode, tc.notes)
			}
			if err := l.Refusal(false); err != nil {
				t.Errorf("the capture would be refused: %v", err)
			}
		})
	}
}

// TestUnreadableMap: bytes of a map that are made up say that everything is free. exFAT's has no checksum that could
// tell; its reader must not see them.
func TestUnreadableMap(t *testing.T) {
	const size = 64 * quantity.MiB
	path := disktest.Image(t, size)
	disktest.Run(t, "", "mkfs.exfat", "-c", "512", path)
	disk := disktest.Open(t, path)
	var heap [4]byte // boot sector, ClusterHeapOffset: where the bitmap begins
	if _, err := disk.ReadAt(heap[:], 0x58); err != nil {
		t.Fatal(err)
	}
	bitmap := quantity.Bytes(binary.LittleEndian.Uint32(heap[:])) * 512
	g := clone.Geometry{Size: size, LogicalSector: 512}
	for name, tc := range map[string]struct {
		bad  quantity.Bytes
		mode image.Mode
	}{
		"in the bitmap":     {(bitmap + 8*quantity.KiB) / 4096 * 4096, image.ModeRaw},
		"in a free cluster": {size - 4096, image.ModeClone},
	} {
		faulty := &disktest.Faulty{ReaderAt: disk, Bad: []quantity.Extent{{Start: tc.bad, Length: 4096}}}
		l, err := Inspect(faulty, g)
		if err != nil {
			t.Fatal(err)
		}
		if p := l.Partitions[0]; p.Volume.Type != "exfat" || p.Mode != tc.mode {
			t.Errorf("%s: %s in mode %s, want %s", name, p.Volume.Type, p.Mode, tc.mode)
		}
	}
}

// TestUnusableTables: a table that cannot be used says how the disk can be captured, and that way works.
func TestUnusableTables(t *testing.T) {
	for name, tc := range map[string]struct {
		make string // on $D
		bad  []quantity.Extent
		want string
	}{
		"overlap": {
			make: `printf 'label: dos\nstart=2048,size=4096\n' | sfdisk -q $D
			printf '\0\0\0\0\203\0\0\0\0\010\0\0\0\020\0\0' | dd of=$D bs=1 seek=462 conv=notrunc status=none`,
			want: "overlaps",
		},
		"counted in 4 KiB": {
			make: `mke2fs -q -t ext4 -b 4096 $D.fs 4M; dd if=$D.fs of=$D bs=1M seek=1 conv=notrunc status=none
			printf '\0\0\0\0\203\0\0\0\0\001\0\0\0\004\0\0' | dd of=$D bs=1 seek=446 conv=notrunc status=none
			printf '\125\252' | dd of=$D bs=1 seek=510 conv=notrunc status=none`,
			want: "sectors of 4096 bytes",
		},
		"sector 0": {make: `printf 'label: dos\nstart=2048,size=4096\n' | sfdisk -q $D`,
			bad: []quantity.Extent{{Length: 512}}, want: "cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			path := disktest.Image(t, 8*quantity.MiB)
			disktest.Run(t, "", "sh", "-ec", "D="+path+"\n"+tc.make)
			g := clone.Geometry{Size: 8 * quantity.MiB, LogicalSector: 512}
			disk := &disktest.Faulty{ReaderAt: disktest.Open(t, path), Bad: tc.bad}
			_, err := Inspect(disk, g)
			var hinted interface{ Hint() string }
			if err == nil || !strings.Contains(err.Error(), tc.want) || !errors.As(err, &hinted) ||
				!strings.Contains(hinted.Hint(), "--whole-disk") {
				t.Fatalf("Inspect = %v, want %q and a way round", err, tc.want)
			}
			l, err := Options{Policy: map[int]image.Mode{0: image.ModeRaw}}.Inspect(disk, g)
			if err != nil || len(l.Partitions) != 1 || l.Partitions[0].Allocated() != g.Size || l.Table.Kind != partition.None {
				t.Errorf("the whole disk: %+v, %v", l, err)
			}
		})
	}
	path, g := ext2Disk(t)
	var refused *clone.RefusedError
	both := map[int]image.Mode{0: image.ModeRaw, 1: image.ModeSkip}
	_, err := Options{Policy: both}.Inspect(disktest.Open(t, path), g)
	if !errors.As(err, &refused) || refused.Remedy == "" {
		t.Errorf("the whole disk, and a partition apart: %v, want a refusal", err)
	}
}

// TestMembers: a disk that an array claims as a whole is refused unless forced; what blkid calls a member, too. A mark
// inside of a partition is that partition's.
func TestMembers(t *testing.T) {
	for name, tc := range map[string]struct {
		size quantity.Bytes // of the disk
		want []string
	}{
		"behind the partition": {66 * quantity.MiB, []string{"isw_raid_member"}},
		"inside":               {65*quantity.MiB + 17*quantity.KiB, nil},
	} {
		t.Run(name, func(t *testing.T) {
			path, g := ext2Disk(t)
			g.Size = tc.size
			if err := os.Truncate(path, int64(g.Size)); err != nil {
				t.Fatal(err)
			}
			at := g.Size - 1024
			if tc.want == nil {
				disktest.Run(t, "label: dos\nstart=2048\n", "sfdisk", "-q", "--wipe=never", path)
			} else {
				disktest.Run(t, "label: dos\nstart=2048,size=131072\n", "sfdisk", "-q", "--wipe=never", path)
			}
			f := disktest.Open(t, path)
			if _, err := f.WriteAt([]byte("Intel Raid ISM Cfg Sig. 1.3.00"), int64(at)); err != nil {
				t.Fatal(err)
			}
			l, err := Inspect(f, g)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Join(l.Members, " ") != strings.Join(tc.want, " ") {
				t.Errorf("members %q, want %q", l.Members, tc.want)
			}
			if tc.want == nil {
				return
			}
			if got := disktest.Blkid(t, path, "TYPE"); got != tc.want[0] {
				t.Errorf("blkid calls the disk %q", got)
			}
			var refused *clone.RefusedError
			if err := l.Refusal(false); !errors.As(err, &refused) || l.Refusal(true) != nil {
				t.Errorf("Refusal = %v, forced %v", err, l.Refusal(true))
			}
		})
	}
}

// TestHibernatedAnywhere: no journal is replayed beside a system that sleeps, whatever is to be captured of it.
func TestHibernatedAnywhere(t *testing.T) {
	path := disktest.Image(t, 40*quantity.MiB)
	disktest.Run(t, "", "sh", "-ec", `D=`+path+`
		printf 'label: dos\nstart=2048,size=40000\nstart=43008,size=20480,type=82\n' | sfdisk -q $D
		mke2fs -q -t ext4 $D.fs 19M; debugfs -w -R 'feature needs_recovery' $D.fs 2>/dev/null
		dd if=$D.fs of=$D bs=512 seek=2048 conv=notrunc status=none
		truncate -s 10M $D.swap; mkswap -q $D.swap >/dev/null
		printf 'S1SUSPEND\0' | dd of=$D.swap bs=1 seek=4086 conv=notrunc status=none
		dd if=$D.swap of=$D bs=512 seek=43008 conv=notrunc status=none`)
	g := clone.Geometry{Size: 40 * quantity.MiB, LogicalSector: 512}
	disk := disktest.Open(t, path)
	l, err := Inspect(disk, g)
	if err != nil {
		t.Fatal(err)
	}
	if d := l.Partitions[0].Volume.Doubt; d == nil || !d.Replay {
		t.Fatalf("the test is void: doubt %+v", d)
	}
	for name, opts := range map[string]ReplayOptions{
		"plain":   {},
		"forced":  {Force: true},
		"skipped": {Policy: map[int]image.Mode{2: image.ModeSkip}},
	} {
		var refused *clone.RefusedError
		if err := l.MayReplay(disk, opts); !errors.As(err, &refused) || !strings.Contains(err.Error(), "hibernated") {
			t.Errorf("%s: MayReplay = %v, want a refusal", name, err)
		}
	}
}
