package gpt

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"clonecast/internal/disktest"
	"clonecast/internal/layouttest"
	"clonecast/internal/partition"
	"clonecast/internal/quantity"
)

func TestLayout(t *testing.T) {
	layouttest.Check[header](t, headerSize)
	layouttest.Check[entry](t, entrySize)
}

const diskSize = 64 * quantity.MiB

const script = `label: gpt
label-id: 0FC63DAF-8483-4772-8E79-3D69D8477DE4
start=1MiB, size=8MiB, type=U, name="EFI system", uuid=11111111-2222-3333-4444-555555555555
size=16MiB, type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7, name="Größe ☃"
5 : size=4MiB, type=L
`

// newDisk makes a partitioned image or loop device.
func newDisk(t testing.TB, sector quantity.SectorSize) string {
	t.Helper()
	path := disktest.Image(t, diskSize)
	if sector != 512 {
		path = disktest.Loop(t, path, sector)
	}
	disktest.Run(t, script, "sfdisk", "-q", "--no-reread", "--no-tell-kernel", path)
	return path
}

func read(t testing.TB, path string, size quantity.Bytes, sector quantity.SectorSize) (partition.Table, error) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return Read(f, size, sector)
}

func mustRead(t testing.TB, path string, size quantity.Bytes, sector quantity.SectorSize) partition.Table {
	t.Helper()
	table, err := read(t, path, size, sector)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func showAreas(table partition.Table, sector quantity.SectorSize) string {
	var out []string
	for _, a := range table.Areas {
		out = append(out, fmt.Sprintf("%s:%d+%d", a.Kind, sector.Sectors(a.Start), sector.Sectors(a.Length)))
	}
	return strings.Join(out, " ")
}

func TestAgainstSfdisk(t *testing.T) {
	for sector, areas := range map[quantity.SectorSize]string{
		512:  "table:0+34 boot:34+2014 table:131039+33",
		4096: "table:0+6 boot:6+250 table:16379+5",
	} {
		t.Run(fmt.Sprint(sector), func(t *testing.T) {
			path := newDisk(t, sector)
			var answer struct {
				PartitionTable struct {
					ID         string
					Partitions []struct {
						Node             string
						Start, Size      int64
						Type, UUID, Name string
					}
				}
			}
			if err := json.Unmarshal([]byte(disktest.Run(t, "", "sfdisk", "--json", path)), &answer); err != nil {
				t.Fatal(err)
			}
			table := mustRead(t, path, diskSize, sector)
			var want, got []string
			for _, p := range answer.PartitionTable.Partitions {
				want = append(want, fmt.Sprintf("%s %d %d %s %s %s", p.Node[len(p.Node)-1:], p.Start, p.Size,
					strings.ToLower(p.Type), strings.ToLower(p.UUID), p.Name))
			}
			for _, p := range table.Partitions {
				got = append(got, fmt.Sprintf("%d %d %d %s %s %s", p.Number, sector.Sectors(p.Start),
					sector.Sectors(p.Length), p.Type, p.GUID, p.Name))
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("partitions (-sfdisk +ours):\n%s", diff)
			}
			if len(got) != 3 || table.DiskID != strings.ToLower(answer.PartitionTable.ID) {
				t.Errorf("%d partitions, disk %s, want 3 and %s", len(got), table.DiskID, answer.PartitionTable.ID)
			}
			if got := showAreas(table, sector); got != areas {
				t.Errorf("areas = %s, want %s", got, areas)
			}
			if len(table.Notes) != 0 {
				t.Errorf("notes on a sound table: %q", table.Notes)
			}
		})
	}
}

// flip changes one byte of the image.
func flip(t testing.TB, path string, at int64) {
	t.Helper()
	f := disktest.Open(t, path)
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x40
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

func TestDamage(t *testing.T) {
	const last = int64(diskSize) - 512
	for _, tc := range []struct {
		name string
		at   []int64
		note string
		err  string
	}{
		{"primary signature", []int64{512}, "the backup table is used", ""},
		{"primary header", []int64{512 + 57}, "the backup table is used", ""},
		{"primary entries", []int64{1024 + 60}, "the backup table is used", ""},
		{"last primary entry", []int64{34*512 - 1}, "the backup table is used", ""},
		{"backup header", []int64{last + 30}, "the backup table is bad", ""},
		{"backup entries", []int64{last - 512*32 + 9}, "the backup table is bad", ""},
		{"both", []int64{512 + 57, last + 30}, "", "both copies are bad"},
		{"protective start", []int64{446 + 8}, "", "does not start at sector 1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := newDisk(t, 512)
			sound := mustRead(t, path, diskSize, 512)
			for _, at := range tc.at {
				flip(t, path, at)
			}
			table, err := read(t, path, diskSize, 512)
			if tc.err != "" {
				var corrupt *partition.CorruptError
				if !errors.As(err, &corrupt) || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("Read = %v, want a *CorruptError with %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(table.Notes) != 1 || !strings.Contains(table.Notes[0], tc.note) {
				t.Errorf("notes = %q, want %q", table.Notes, tc.note)
			}
			if diff := cmp.Diff(sound.Partitions, table.Partitions); diff != "" {
				t.Errorf("partitions changed (-sound +damaged):\n%s", diff)
			}
			relocated(t, path, 512, diskSize, diskSize)
		})
	}
}

func TestHybridAndOthers(t *testing.T) {
	path := newDisk(t, 512)
	disktest.Run(t, "", "sgdisk", "--hybrid=1", path)
	if got := len(mustRead(t, path, diskSize, 512).Partitions); got != 3 {
		t.Errorf("hybrid: %d partitions, want 3", got)
	}
	relocated(t, path, 512, diskSize, 2*diskSize)

	path = newDisk(t, 512)
	disktest.Run(t, "", "sgdisk", "--move-main-table=100", path)
	table := mustRead(t, path, diskSize, 512)
	if got, want := showAreas(table, 512), "table:0+2 boot:2+98 table:100+32 boot:132+1916 table:131039+33"; got != want {
		t.Errorf("moved entries: areas = %s, want %s", got, want)
	}
	relocated(t, path, 512, diskSize, 2*diskSize)

	path = newDisk(t, 512)
	disktest.Run(t, "", "sgdisk", "--typecode=1:4200", path)
	if _, err := read(t, path, diskSize, 512); !errors.Is(err, partition.ErrUnsupported) {
		t.Errorf("dynamic disk: %v, want ErrUnsupported", err)
	}

	path = disktest.Image(t, diskSize)
	if _, err := read(t, path, diskSize, 512); !errors.Is(err, partition.ErrNotFound) {
		t.Errorf("blank disk: %v, want ErrNotFound", err)
	}
}

// Tables with another number of entries, as sgdisk makes them, and with larger ones, as the
// specification allows them.
func TestUnusualEntries(t *testing.T) {
	for _, count := range []string{"8", "56", "300", "1024"} {
		path := newDisk(t, 512)
		sound := mustRead(t, path, diskSize, 512).Partitions
		out := disktest.Run(t, "", "sgdisk", "--resize-table="+count, path)
		table := mustRead(t, path, diskSize, 512)
		if diff := cmp.Diff(sound, table.Partitions); diff != "" || len(table.Notes) != 0 {
			t.Errorf("%s entries: notes %q; -128 entries +%s\n%s\n%s", count, table.Notes, count, diff, out)
		}
		if whole, err := Whole(save(t, path, diskSize, 512), Disk{diskSize, 512}); err != nil || !whole {
			t.Errorf("%s entries: whole %v, %v", count, whole, err)
		}
		relocated(t, path, 512, diskSize, 2*diskSize)
	}
	for _, size := range []uint32{128, 256, 512} {
		disk := tinyDisk(size)
		path := disktest.Image(t, quantity.Bytes(len(disk)))
		if err := os.WriteFile(path, disk, 0o600); err != nil {
			t.Fatal(err)
		}
		table := mustRead(t, path, quantity.Bytes(len(disk)), 512)
		if len(table.Partitions) != 1 || table.Partitions[0].Start != 20*512 || table.Partitions[0].Length != 21*512 {
			t.Errorf("entries of %d bytes: %+v", size, table.Partitions)
		}
		if linux := len(table.Notes) == 0; linux != (size == 128) {
			t.Errorf("entries of %d bytes: notes %q", size, table.Notes)
		}
	}
	for _, size := range []uint32{0, 64, 129, 192, 8192} {
		disk := tinyDisk(128)
		binary.LittleEndian.PutUint32(disk[512+84:], size)
		repair(disk)
		if _, err := Read(bytes.NewReader(disk[:78*512]), 78*512, 512); err == nil ||
			!strings.Contains(err.Error(), fmt.Sprintf("entries have %d bytes", size)) {
			t.Errorf("entries of %d bytes: Read = %v", size, err)
		}
	}
}

// TestUnreadable reads tables of which one copy cannot be read. What belongs in its place is
// made of the other one, so that the table that is saved is whole.
func TestUnreadable(t *testing.T) {
	for _, sector := range []quantity.SectorSize{512, 4096} {
		path := newDisk(t, sector)
		sound := mustRead(t, path, diskSize, sector)
		n := quantity.Bytes(sector)
		array := 128 * 128 / n
		for name, tc := range map[string]struct {
			bad  []quantity.Extent
			note string
		}{
			"backup header":  {[]quantity.Extent{{Start: diskSize - n, Length: n}}, "the backup GPT header"},
			"backup entries": {[]quantity.Extent{{Start: diskSize - 2*n, Length: n}}, "the backup GPT entries"},
			"end of the disk": {[]quantity.Extent{{Start: diskSize - 64*quantity.KiB,
				Length: 64 * quantity.KiB}}, "the backup GPT header"},
			"primary header": {[]quantity.Extent{{Start: n, Length: n}}, "the primary GPT header"},
			"primary entries": {[]quantity.Extent{{Start: (1 + array) * n, Length: n}},
				"the primary GPT entries"},
			"all but the first one": {[]quantity.Extent{{Start: n, Length: (1 + array) * n}}, "the primary GPT header"},
		} {
			t.Run(fmt.Sprint(sector, " ", name), func(t *testing.T) {
				f := &disktest.Faulty{ReaderAt: disktest.Open(t, path), Bad: tc.bad}
				table, err := Read(f, diskSize, sector)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(sound.Partitions, table.Partitions); diff != "" {
					t.Errorf("partitions (-sound +unreadable):\n%s", diff)
				}
				if len(table.Notes) != 1 || !strings.Contains(table.Notes[0], tc.note) ||
					!strings.Contains(table.Notes[0], "cannot be read") {
					t.Errorf("notes %q, want %q", table.Notes, tc.note)
				}
				var saved []partition.Content
				for _, a := range table.Areas {
					if a.Kind == partition.AreaTable {
						saved = append(saved, partition.Content{Start: a.Start, Data: a.Data})
					}
				}
				moved, err := Relocate(saved, Disk{diskSize, sector}, diskSize)
				if err != nil {
					t.Fatal(err)
				}
				want := image(t, path)
				for _, c := range append(saved, moved...) {
					if !bytes.Equal(c.Data, want[c.Start:int(c.Start)+len(c.Data)]) {
						t.Errorf("the %d bytes at %d are not the sound table's", len(c.Data), c.Start)
					}
				}
			})
		}
		f := &disktest.Faulty{ReaderAt: disktest.Open(t, path),
			Bad: []quantity.Extent{{Start: n, Length: n}, {Start: diskSize - n, Length: n}}}
		var unreadable *partition.UnreadableError
		if _, err := Read(f, diskSize, sector); !errors.As(err, &unreadable) {
			t.Errorf("both copies: %v, want an *UnreadableError", err)
		}
		f.Bad = []quantity.Extent{{Length: n}}
		if _, err := Read(f, diskSize, sector); !errors.As(err, &unreadable) {
			t.Errorf("protective MBR: %v, want an *UnreadableError", err)
		}
	}
}

// TestCutShort reads the table of a disk whose end is missing. It is written as it is to a disk
// of that size, and becomes whole again on one that is large enough.
func TestCutShort(t *testing.T) {
	path := newDisk(t, 512)
	sound := mustRead(t, path, diskSize, 512)
	for _, tc := range []struct {
		size  quantity.Bytes
		parts []quantity.Bytes // lengths
		notes int
	}{
		{40 * quantity.MiB, []quantity.Bytes{8 * quantity.MiB, 16 * quantity.MiB, 4 * quantity.MiB}, 1},
		{27 * quantity.MiB, []quantity.Bytes{8 * quantity.MiB, 16 * quantity.MiB, 2 * quantity.MiB}, 2},
		{12 * quantity.MiB, []quantity.Bytes{8 * quantity.MiB, 3 * quantity.MiB}, 3},
	} {
		cut := disktest.Image(t, tc.size)
		whole := image(t, path)
		if err := os.WriteFile(cut, whole[:tc.size], 0o600); err != nil {
			t.Fatal(err)
		}
		table := mustRead(t, cut, tc.size, 512)
		var lengths []quantity.Bytes
		for _, p := range table.Partitions {
			lengths = append(lengths, p.Length)
		}
		if diff := cmp.Diff(tc.parts, lengths); diff != "" || len(table.Notes) != tc.notes {
			t.Errorf("cut at %v: notes %q; lengths (-want +got):\n%s", tc.size, table.Notes, diff)
		}
		if err := table.Check(tc.size); err != nil {
			t.Error(err)
		}
		saved := save(t, cut, tc.size, 512)
		if asItIs, err := Whole(saved, Disk{tc.size, 512}); err != nil || !asItIs {
			t.Errorf("cut at %v: whole %v, %v", tc.size, asItIs, err)
		}
		if end, err := UsableEnd(saved, Disk{tc.size, 512}); err != nil || end != tc.size {
			t.Errorf("cut at %v: usable end %v, %v", tc.size, end, err)
		}
		if tc.notes > 1 {
			moved, err := Relocate(saved, Disk{tc.size, 512}, tc.size+quantity.MiB)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range moved {
				if !bytes.Equal(c.Data, whole[c.Start:int(c.Start)+len(c.Data)]) {
					t.Errorf("cut at %v, written to another too small disk: bytes at %d changed", tc.size, c.Start)
				}
			}
		}
		moved, err := Relocate(saved, Disk{tc.size, 512}, diskSize)
		if err != nil {
			t.Fatal(err)
		}
		target := disktest.Image(t, diskSize)
		f := disktest.Open(t, target)
		for _, c := range moved {
			if _, err := f.WriteAt(c.Data, int64(c.Start)); err != nil {
				t.Fatal(err)
			}
		}
		after := mustRead(t, target, diskSize, 512)
		if diff := cmp.Diff(sound.Partitions, after.Partitions); diff != "" || len(after.Notes) != 0 {
			t.Errorf("cut at %v and put on the whole disk: notes %q (-sound +after):\n%s", tc.size, after.Notes, diff)
		}
		if out := disktest.Run(t, "", "sgdisk", "-v", target); !strings.Contains(out, "No problems found.") {
			t.Errorf("sgdisk -v: %s", out)
		}
	}
	small := image(t, path)[:quantity.MiB]
	var corrupt *partition.CorruptError
	if _, err := Read(bytes.NewReader(small), quantity.MiB, 512); !errors.As(err, &corrupt) ||
		!strings.Contains(corrupt.Hint(), "--whole-disk") {
		t.Errorf("cut in front of all partitions: %v, want a *CorruptError", err)
	}
	// A good backup at the disk's end is of this disk; a primary of a larger one is not.
	stale := image(t, path)
	d := openDisk(t, path)
	h := d.primary.header
	h.LastUsable, h.Alternate = 2*d.last-33, 2*d.last
	copy(stale[512:], d.primary.encode(h))
	table, err := Read(bytes.NewReader(stale), diskSize, 512)
	if err != nil || len(table.Notes) != 1 || !strings.Contains(table.Notes[0], "backup table is used") {
		t.Errorf("primary of a larger disk over a good backup: notes %q, %v", table.Notes, err)
	}
}

// A table that is not whole must not be written back as it was: a good copy of another
// table may stand in the place of the bad one.
func TestWhole(t *testing.T) {
	for name, damage := range map[string]func(path string){
		"sound":       func(string) {},
		"bad primary": func(path string) { flip(t, path, 512+57) },
		"bad backup":  func(path string) { flip(t, path, int64(diskSize)-512+30) },
		"differing": func(path string) {
			disktest.Run(t, "", "sh", "-ec", "cd "+filepath.Dir(path)+
				"; dd if=disk.img of=tail bs=512 skip=131039 status=none; sgdisk --change-name=1:other disk.img"+
				"; dd if=tail of=disk.img bs=512 seek=131039 conv=notrunc status=none")
		},
		"backup not last": func(path string) { disktest.Run(t, "", "truncate", "-s", "+1M", path) },
		"hybrid":          func(path string) { disktest.Run(t, "", "sgdisk", "--hybrid=1", path) },
	} {
		path := newDisk(t, 512)
		damage(path)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		size := quantity.Bytes(info.Size())
		whole, err := Whole(save(t, path, size, 512), Disk{size, 512})
		if want := name == "sound" || name == "hybrid"; err != nil || whole != want {
			t.Errorf("%s: Whole = %v, %v, want %v", name, whole, err, want)
		}
	}
	if _, err := Whole(nil, Disk{diskSize, 512}); !errors.Is(err, partition.ErrNotFound) {
		t.Errorf("Whole of nothing: %v", err)
	}
}

func TestRefusesBadEntries(t *testing.T) {
	path := newDisk(t, 512)
	d := openDisk(t, path)
	for _, tc := range []struct {
		name        string
		first, last uint64
		want        string
	}{
		{"overlap", 2048, 2048, "overlaps"},
		{"over the table", 33, 40, "overlaps table"},
		{"past the end", 70000, d.last + 1, "on a disk of"},
		{"backwards", 70000, 69999, "on a disk of"},
		{"largest", 1, 1<<64 - 1, "on a disk of"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			disk := image(t, path)
			h := *d.primary
			h.entries = bytes.Clone(h.entries)
			e := h.entries[3*entrySize:]
			copy(e, h.entries[:32])
			for i := range 8 {
				e[32+i], e[40+i] = byte(tc.first>>(8*i)), byte(tc.last>>(8*i))
			}
			copy(disk[1024:], h.entries)
			copy(disk[512:], h.encode(h.header))
			_, err := Read(bytes.NewReader(disk), diskSize, 512)
			var corrupt *partition.CorruptError
			if !errors.As(err, &corrupt) || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("Read = %v, want a *CorruptError with %q", err, tc.want)
			}
		})
	}
}

func openDisk(t testing.TB, path string) *disk {
	t.Helper()
	d, err := open(bytes.NewReader(image(t, path)), diskSize, 512)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func image(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// save reads the table areas of a disk.
func save(t testing.TB, path string, size quantity.Bytes, sector quantity.SectorSize) []partition.Content {
	t.Helper()
	f := disktest.Open(t, path)
	var saved []partition.Content
	for _, a := range mustRead(t, path, size, sector).Areas {
		if a.Kind != partition.AreaTable {
			continue
		}
		data, err := io.ReadAll(io.NewSectionReader(f, int64(a.Start), int64(a.Length)))
		if err != nil {
			t.Fatal(err)
		}
		saved = append(saved, partition.Content{Start: a.Start, Data: data})
	}
	return saved
}

// relocated moves the table of path to a new disk of newSize and lets sgdisk and
// sfdisk judge it. It returns the new disk.
func relocated(t testing.TB, path string, sector quantity.SectorSize, size, newSize quantity.Bytes) string {
	t.Helper()
	before := mustRead(t, path, size, sector)
	moved, err := Relocate(save(t, path, size, sector), Disk{size, sector}, newSize)
	if err != nil {
		t.Fatal(err)
	}
	target := disktest.Image(t, newSize)
	f := disktest.Open(t, target)
	for _, c := range moved {
		if _, err := f.WriteAt(c.Data, int64(c.Start)); err != nil {
			t.Fatal(err)
		}
	}
	after := mustRead(t, target, newSize, sector)
	if diff := cmp.Diff(before.Partitions, after.Partitions); diff != "" || before.DiskID != after.DiskID ||
		len(after.Notes) != 0 {
		t.Errorf("moved table has notes %q, differs (-before +after):\n%s", after.Notes, diff)
	}
	judged := target
	if sector != 512 {
		judged = disktest.Loop(t, target, sector)
	}
	if out := disktest.Run(t, "", "sgdisk", "-v", judged); !strings.Contains(out, "No problems found.") {
		t.Errorf("sgdisk -v: %s", out)
	}
	disktest.Run(t, "", "sfdisk", "--verify", judged)
	return target
}

func TestRelocate(t *testing.T) {
	for _, sector := range []quantity.SectorSize{512, 4096} {
		path := newDisk(t, sector)
		for _, size := range []quantity.Bytes{diskSize, diskSize + quantity.Bytes(sector), 10 * diskSize,
			3 * quantity.TiB, diskSize - 4*quantity.MiB} {
			t.Run(fmt.Sprintf("%d/%d", sector, int64(size)), func(t *testing.T) {
				relocated(t, path, sector, diskSize, size)
			})
		}
	}
}

// TestRelocateSameSize must give back the very bytes that were saved.
func TestRelocateSameSize(t *testing.T) {
	path := newDisk(t, 512)
	saved := save(t, path, diskSize, 512)
	moved, err := Relocate(saved, Disk{diskSize, 512}, diskSize)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range moved {
		want := make([]byte, len(c.Data))
		if _, err := partition.Contents(saved).ReadAt(want, int64(c.Start)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, c.Data); diff != "" {
			t.Errorf("bytes at %d (-saved +moved):\n%s", c.Start, diff)
		}
	}
}

// TestRelocateCut writes the moved table over an old one and stops after each part: one
// copy must always be readable.
func TestRelocateCut(t *testing.T) {
	path := newDisk(t, 512)
	moved, err := Relocate(save(t, path, diskSize, 512), Disk{diskSize, 512}, 2*diskSize)
	if err != nil {
		t.Fatal(err)
	}
	want := mustRead(t, path, diskSize, 512).Partitions
	disk := append(image(t, path), make([]byte, diskSize)...)
	for _, c := range moved {
		copy(disk[c.Start:], c.Data)
		table, err := Read(bytes.NewReader(disk), 2*diskSize, 512)
		if err != nil {
			t.Fatalf("after the part at %d: %v", c.Start, err)
		}
		if diff := cmp.Diff(want, table.Partitions); diff != "" {
			t.Fatalf("after the part at %d (-want +got):\n%s", c.Start, diff)
		}
	}
}

func TestRelocateRefuses(t *testing.T) {
	path := newDisk(t, 512)
	saved := save(t, path, diskSize, 512)
	for size, want := range map[quantity.Bytes]string{
		20 * quantity.MiB: "partition 2 ends",
		10 * quantity.KiB: "no room",
		0:                 "no room",
	} {
		if _, err := Relocate(saved, Disk{diskSize, 512}, size); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Relocate to %s: %v, want %q", size, err, want)
		}
	}
	if _, err := Relocate(nil, Disk{diskSize, 512}, diskSize); !errors.Is(err, partition.ErrNotFound) {
		t.Errorf("Relocate of nothing: %v, want ErrNotFound", err)
	}
}

func FuzzRead(f *testing.F) {
	// A disk of 80 sectors with a table of 4 entries, sound, and with the primary bad.
	disk := tinyDisk(entrySize)
	f.Add(disk)
	f.Add(tinyDisk(256))
	bad := bytes.Clone(disk)
	bad[512] = 0
	f.Add(bad)
	f.Fuzz(func(t *testing.T, disk []byte) {
		size := quantity.Bytes(len(disk))
		repair(disk)
		table, err := Read(bytes.NewReader(disk), size, 512)
		if err != nil {
			return
		}
		if err := table.Check(size); err != nil {
			t.Fatal(err)
		}
		var saved []partition.Content
		for _, a := range table.Areas {
			saved = append(saved, partition.Content{Start: a.Start, Data: disk[a.Start : a.Start+a.Length]})
		}
		moved, err := Relocate(saved, Disk{size, 512}, 2*size+64*quantity.KiB)
		if err != nil {
			return
		}
		again, err := Read(partition.Contents(moved), 2*size+64*quantity.KiB, 512)
		if err != nil {
			t.Fatalf("moved table: %v", err)
		}
		if whole, err := Whole(moved, Disk{2*size + 64*quantity.KiB, 512}); err != nil || !whole {
			t.Fatalf("the moved table is not whole: %v", err)
		}
		if diff := cmp.Diff(table.Partitions, again.Partitions); diff != "" {
			t.Fatalf("partitions changed by Relocate:\n%s", diff)
		}
	})
}

// repair makes the checksums of the primary fit, so that fuzzing gets behind them.
func repair(disk []byte) {
	if len(disk) < 3*512 {
		return
	}
	var h header
	if _, err := binary.Decode(disk[512:1024], binary.LittleEndian, &h); err != nil {
		return
	}
	start, length := uint64(1024), uint64(h.Entries)*uint64(h.EntrySize)
	if h.EntriesLBA < uint64(len(disk)/512) {
		start = h.EntriesLBA * 512
	}
	if h.HeaderSize < headerSize || h.HeaderSize > 512 || length > uint64(len(disk))-start {
		return
	}
	half := half{raw: disk[512:1024], entries: disk[start : start+length]}
	copy(disk[512:], half.encode(h))
}

// tinyDisk has 80 sectors, 512 bytes of entries and one partition.
func tinyDisk(size uint32) []byte {
	disk := make([]byte, 80*512)
	copy(disk[446:], []byte{0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0, 79, 0, 0, 0})
	disk[510], disk[511] = 0x55, 0xaa
	e := entry{Type: guid{1}, Unique: guid{2}, First: 20, Last: 40}
	array := make([]byte, 4*entrySize)
	if _, err := binary.Encode(array, binary.LittleEndian, e); err != nil {
		return nil
	}
	h := header{Signature: signature, Revision: 0x10000, HeaderSize: headerSize, MyLBA: 1, Alternate: 79,
		FirstUsable: 3, LastUsable: 77, EntriesLBA: 2, Entries: 512 / size, EntrySize: size}
	half := half{raw: make([]byte, 512), entries: array}
	copy(disk[512:], half.encode(h))
	copy(disk[1024:], array)
	h.MyLBA, h.Alternate, h.EntriesLBA = 79, 1, 78
	copy(disk[78*512:], array)
	copy(disk[79*512:], half.encode(h))
	return disk
}
