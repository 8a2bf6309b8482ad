package mbr_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"clonecast/internal/disktest"
	"clonecast/internal/layouttest"
	"clonecast/internal/partition"
	"clonecast/internal/partition/mbr"
	"clonecast/internal/quantity"
)

func TestLayout(t *testing.T) {
	layouttest.Check[mbr.Record](t, 512)
	layouttest.Check[mbr.Entry](t, 16)
}

// testDisk is a small disk in memory whose records are written field by field.
type testDisk []byte

const diskSectors = 4096

func newDisk() testDisk { return make(testDisk, diskSectors*512) }

// entry writes slot of the record at lba and completes the record.
func (d testDisk) entry(lba, slot int, typ byte, start, sectors uint32) testDisk {
	b := d[lba*512:]
	b[510], b[511] = 0x55, 0xaa
	e := b[446+16*slot:]
	e[4] = typ
	binary.LittleEndian.PutUint32(e[8:], start)
	binary.LittleEndian.PutUint32(e[12:], sectors)
	return d
}

func (d testDisk) read() (partition.Table, error) {
	return mbr.Read(bytes.NewReader(d), quantity.Bytes(len(d)), 512)
}

// show prints a table as one word per item in disk sectors: "5:100+50", "table:0+1".
func show(table partition.Table) (parts, areas string) {
	var p, a []string
	for _, x := range table.Partitions {
		p = append(p, fmt.Sprintf("%d:%d+%d", x.Number, x.Start/512, x.Length/512))
	}
	for _, x := range table.Areas {
		a = append(a, fmt.Sprintf("%s:%d+%d", x.Kind, x.Start/512, x.Length/512))
	}
	return strings.Join(p, " "), strings.Join(a, " ")
}

func TestRead(t *testing.T) {
	for _, tc := range []struct {
		name         string
		disk         testDisk
		parts, areas string
	}{
		{
			"primaries", newDisk().entry(0, 0, 0x07, 63, 100).entry(0, 3, 0x83, 200, 100),
			"1:63+100 4:200+100", "table:0+1 boot:1+62",
		}, {
			"first at sector 1", newDisk().entry(0, 0, 0x83, 1, 100),
			"1:1+100", "table:0+1",
		}, {
			"type 0 with a size counts, as for Linux", newDisk().entry(0, 1, 0, 64, 8),
			"2:64+8", "table:0+1 boot:1+63",
		}, {
			"container only", newDisk().entry(0, 0, 0x0f, 100, 1000),
			"", "table:0+1 boot:1+99 table:100+1",
		}, {
			"chain in disk order",
			newDisk().entry(0, 0, 0x83, 64, 30).entry(0, 1, 0x05, 100, 1000).
				entry(100, 0, 0x83, 10, 90).entry(100, 1, 0x05, 100, 200).
				entry(200, 0, 0x82, 63, 37),
			"1:64+30 5:110+90 6:263+37",
			"table:0+1 boot:1+63 table:100+1 boot:101+9 table:200+1 boot:201+62",
		}, {
			"chain against disk order",
			newDisk().entry(0, 1, 0x05, 100, 1000).
				entry(100, 0, 0x83, 10, 90).entry(100, 1, 0x05, 500, 100).
				entry(600, 0, 0x83, 1, 99).entry(600, 1, 0x05, 200, 100).
				entry(300, 0, 0x83, 20, 80),
			"5:110+90 6:601+99 7:320+80",
			"table:0+1 boot:1+99 table:100+1 boot:101+9 table:300+1 boot:301+19 table:600+1",
		}, {
			"link before data (DR-DOS)",
			newDisk().entry(0, 0, 0x05, 100, 1000).
				entry(100, 0, 0x05, 100, 200).entry(100, 1, 0x06, 10, 50).
				entry(200, 0, 0x06, 10, 50),
			"5:110+50 6:210+50",
			"table:0+1 boot:1+99 table:100+1 boot:101+9 table:200+1 boot:201+9",
		}, {
			"empty first EBR",
			newDisk().entry(0, 0, 0x0f, 100, 1000).
				entry(100, 1, 0x05, 100, 200).
				entry(200, 0, 0x83, 10, 50),
			"5:210+50",
			"table:0+1 boot:1+99 table:100+1 table:200+1 boot:201+9",
		}, {
			"logical far behind its EBR: the gap stops at the next EBR",
			newDisk().entry(0, 0, 0x0f, 100, 1000).
				entry(100, 0, 0x83, 400, 50).entry(100, 1, 0x05, 100, 200).
				entry(200, 0, 0x83, 10, 50),
			"5:500+50 6:210+50",
			"table:0+1 boot:1+99 table:100+1 boot:101+99 table:200+1 boot:201+9",
		}, {
			"four data entries in one EBR (OS/2), garbage in the last",
			newDisk().entry(0, 0, 0x05, 100, 1000).
				entry(100, 0, 0x83, 10, 10).entry(100, 1, 0x83, 20, 10).
				entry(100, 2, 0x83, 30, 10).entry(100, 3, 0x83, 3000, 10),
			"5:110+10 6:120+10 7:130+10",
			"table:0+1 boot:1+99 table:100+1 boot:101+9",
		}, {
			"two containers",
			newDisk().entry(0, 0, 0x05, 100, 100).entry(0, 1, 0x05, 200, 100).
				entry(100, 0, 0x83, 10, 10).entry(200, 0, 0x83, 10, 10),
			"5:110+10 6:210+10",
			"table:0+1 boot:1+99 table:100+1 boot:101+9 table:200+1 boot:201+9",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			table, err := tc.disk.read()
			if err != nil {
				t.Fatal(err)
			}
			parts, areas := show(table)
			if diff := cmp.Diff([]string{tc.parts, tc.areas}, []string{parts, areas}); diff != "" {
				t.Errorf("table (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReadRefuses(t *testing.T) {
	long := newDisk().entry(0, 0, 0x05, 1, diskSectors-1) // an EBR every second sector
	for lba := 1; lba+3 < diskSectors; lba += 2 {
		long.entry(lba, 0, 0x83, 1, 1).entry(lba, 1, 0x05, uint32(lba+1), 2)
	}
	for _, tc := range []struct {
		name string
		disk testDisk
		want string
	}{
		{"largest numbers", newDisk().entry(0, 0, 0x83, 1<<32-1, 1<<32-1), "inside the disk"},
		{"over LBA 0", newDisk().entry(0, 0, 0x83, 0, 10).entry(0, 1, 0x83, 64, 10), "overlaps"},
		{"overlap", newDisk().entry(0, 0, 0x83, 64, 100).entry(0, 1, 0x83, 163, 10), "overlaps partition 1"},
		{"logicals all past the end", newDisk().entry(0, 0, 0x05, 5000, 97), "inside the disk"},
		{"container over LBA 0", newDisk().entry(0, 0, 0x05, 0, 97), "begins with the MBR"},
		{"container over a primary", newDisk().entry(0, 0, 0x05, 100, 100).entry(0, 1, 0x83, 150, 10),
			"overlaps partition 2"},
		{"two containers overlap", newDisk().entry(0, 0, 0x05, 100, 100).entry(0, 1, 0x05, 150, 100),
			"another extended"},
		{"EBR loop to itself", newDisk().entry(0, 0, 0x05, 100, 1000).entry(100, 0, 0x83, 1, 9).
			entry(100, 1, 0x05, 0, 10), "comes back"},
		{"EBR loop of two", newDisk().entry(0, 0, 0x05, 100, 1000).entry(100, 0, 0x83, 1, 9).
			entry(100, 1, 0x05, 50, 10).
			entry(150, 0, 0x83, 1, 9).entry(150, 1, 0x05, 0, 10), "comes back"},
		{"EBR loop without data", newDisk().entry(0, 0, 0x05, 100, 1000).entry(100, 1, 0x05, 50, 10).
			entry(150, 1, 0x05, 50, 10), "comes back"},
		{"endless chain", long, "more than 255"},
		{"link out of the container", newDisk().entry(0, 0, 0x05, 100, 100).entry(100, 1, 0x05, 100, 10), "leads out"},
		{"link out of the disk", newDisk().entry(0, 0, 0x05, 100, 100).entry(100, 1, 0x05, 1<<32-1, 10), "leads out"},
		{"link to no EBR", newDisk().entry(0, 0, 0x05, 100, 100).entry(100, 1, 0x05, 50, 10), "55 AA"},
		{"logical out of the container", newDisk().entry(0, 0, 0x05, 100, 100).entry(100, 0, 0x83, 10, 100),
			"inside the extended"},
		{"logical over its EBR", newDisk().entry(0, 0, 0x05, 100, 100).entry(100, 0, 0x83, 0, 10),
			"inside the extended"},
		{"logical over the next EBR", newDisk().entry(0, 0, 0x05, 100, 100).entry(100, 0, 0x83, 1, 60).
			entry(100, 1, 0x05, 50, 20).
			entry(150, 0, 0x83, 12, 4), "overlaps"},
		{"first EBR is garbage", func() testDisk {
			d := newDisk().entry(0, 0, 0x05, 100, 100)
			d[100*512] = 1
			return d
		}(), "55 AA"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			table, err := tc.disk.read()
			var corrupt *partition.CorruptError
			if !errors.As(err, &corrupt) || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("Read = %+v, %v, want a *CorruptError with %q", table, err, tc.want)
			}
			if diff := cmp.Diff(partition.Table{}, table); diff != "" {
				t.Errorf("Read gives a table with its error: %s", diff)
			}
		})
	}
	if _, err := newDisk().entry(0, 0, 0x42, 64, 100).read(); !errors.Is(err, partition.ErrUnsupported) {
		t.Errorf("dynamic disk: %v, want ErrUnsupported", err)
	}
}

// TestCutShort reads tables of larger disks: what lies on the disk counts, the rest is noted.
func TestCutShort(t *testing.T) {
	for _, tc := range []struct {
		name  string
		disk  testDisk
		parts string
		notes []string
	}{
		{"past the end", newDisk().entry(0, 0, 0x83, 4000, 97), "1:4000+96", []string{"partition 1 ends"}},
		{"begins past the end", newDisk().entry(0, 0, 0x83, 64, 64).entry(0, 1, 0x83, 4096, 64), "1:64+64",
			[]string{"partition 2 starts"}},
		{"largest numbers", newDisk().entry(0, 0, 0x83, 64, 1<<32-1).entry(0, 1, 0x83, 1<<32-1, 1<<32-1), "1:64+4032",
			[]string{"partition 1 ends", "partition 2 starts"}},
		{"container", newDisk().entry(0, 0, 0x05, 100, 5000).
			entry(100, 0, 0x83, 10, 10).entry(100, 1, 0x05, 1000, 3500).
			entry(1100, 0, 0x83, 10, 3100).entry(1100, 1, 0x05, 4200, 100),
			"5:110+10 6:1110+2986", []string{"partition 6 ends", "further logical partitions"}},
		{"logical left out keeps its number", newDisk().entry(0, 0, 0x05, 100, 5000).
			entry(100, 0, 0x83, 4500, 10).entry(100, 1, 0x05, 1000, 100).
			entry(1100, 0, 0x83, 10, 31),
			"6:1110+31", []string{"partition 5 starts"}},
		{"container begins past the end", newDisk().entry(0, 0, 0x83, 64, 64).entry(0, 1, 0x05, 4096, 64), "1:64+64",
			[]string{"partition 2 starts"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			table, err := tc.disk.read()
			if err != nil {
				t.Fatal(err)
			}
			if err := table.Check(diskSectors * 512); err != nil {
				t.Error(err)
			}
			if parts, _ := show(table); parts != tc.parts {
				t.Errorf("partitions %s, want %s", parts, tc.parts)
			}
			if len(table.Notes) != len(tc.notes) {
				t.Fatalf("notes %q, want %q", table.Notes, tc.notes)
			}
			for i, want := range tc.notes {
				if !strings.HasPrefix(table.Notes[i], want) {
					t.Errorf("note %q, want %q", table.Notes[i], want)
				}
			}
			for _, a := range table.Areas {
				if a.Kind == partition.AreaTable && !bytes.Equal(a.Data, tc.disk[a.Start:a.Start+a.Length]) {
					t.Errorf("the table sector at byte %d has other bytes", a.Start)
				}
			}
		})
	}
}

// TestUnreadable: what a sector says that cannot be read is not guessed.
func TestUnreadable(t *testing.T) {
	disk := newDisk().entry(0, 0, 0x83, 64, 10).entry(0, 1, 0x05, 100, 1000).entry(100, 0, 0x83, 10, 10)
	for at, want := range map[quantity.Bytes]string{
		0:         "the MBR at byte 0 cannot be read",
		100 * 512: "the EBR at byte 51200 cannot be read",
		64 * 512:  "",
	} {
		r := &disktest.Faulty{ReaderAt: bytes.NewReader(disk), Bad: []quantity.Extent{{Start: at, Length: 512}}}
		table, err := mbr.Read(r, diskSectors*512, 512)
		if want == "" {
			if err != nil || len(table.Partitions) != 2 {
				t.Errorf("bad sector in a partition: %+v, %v", table, err)
			}
			continue
		}
		var unreadable *partition.UnreadableError
		if !errors.As(err, &unreadable) || !strings.Contains(err.Error(), want) ||
			!strings.Contains(unreadable.Hint(), "--whole-disk") {
			t.Errorf("bad sector at byte %d: %v, want %q", at, err, want)
		}
	}
}

func TestReadNotFound(t *testing.T) {
	status := newDisk().entry(0, 0, 0x83, 64, 100)
	status[446+16] = 'R'
	for _, tc := range []struct {
		name string
		disk testDisk
	}{
		{"blank", newDisk()},
		{"status byte", status},
		{"no partitions", newDisk().entry(0, 0, 0x83, 64, 0)},
		{"partition of itself", newDisk().entry(0, 0, 0x0c, 0, 4096)},
		{"protective", newDisk().entry(0, 0, 0xee, 1, 4095)},
		{"hybrid", newDisk().entry(0, 0, 0x83, 2048, 10).entry(0, 1, 0xee, 1, 2047)},
		{"shorter than a sector", newDisk()[:511]},
	} {
		if _, err := tc.disk.read(); !errors.Is(err, partition.ErrNotFound) {
			t.Errorf("%s: %v, want ErrNotFound", tc.name, err)
		}
	}
	if _, err := mbr.Read(bytes.NewReader(newDisk()[:100]), 4096, 512); err == nil ||
		errors.Is(err, partition.ErrNotFound) {
		t.Errorf("short disk: %v, want a read error", err)
	}
}

// TestBareFilesystems reads images without a table made by the usual tools.
func TestBareFilesystems(t *testing.T) {
	for _, mkfs := range [][]string{
		{"mkfs.vfat", "-F12"}, {"mkfs.vfat", "-F16"}, {"mkfs.vfat", "-F32"}, {"mkfs.vfat", "-F32", "-S4096"},
		{"mkfs.vfat", "-F32", "--mbr=y"},
		{"mkfs.ntfs", "-qF"}, {"mkfs.ext4", "-q"},
	} {
		image := disktest.Image(t, 300*quantity.MiB)
		if mkfs[1] == "-F12" || mkfs[1] == "-F16" {
			image = disktest.Image(t, 16*quantity.MiB)
		}
		disktest.Run(t, "", mkfs[0], append(mkfs[1:], image)...)
		f := disktest.Open(t, image)
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		if table, err := mbr.Read(f, quantity.Bytes(info.Size()), 512); !errors.Is(err, partition.ErrNotFound) {
			t.Errorf("%v: Read = %+v, %v, want ErrNotFound", mkfs, table, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(newDisk().entry(0, 1, 0x05, 1, 7).entry(1, 0, 0x83, 1, 1).entry(1, 1, 0x05, 3, 2).
		entry(4, 0, 0x83, 1, 1)[:4096]))
	f.Add([]byte(newDisk().entry(0, 0, 0x05, 1, 7).entry(1, 0, 0x83, 1, 1).entry(1, 1, 0x05, 0, 2)[:4096]))
	f.Fuzz(func(t *testing.T, disk []byte) {
		size := quantity.Bytes(len(disk))
		for _, sector := range []quantity.SectorSize{512, 4096} {
			table, err := mbr.Read(bytes.NewReader(disk), size, sector)
			if err != nil {
				continue
			}
			if err := table.Check(size); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestEveryLength reads tables of disks of which the end is missing, at every length: what lies behind the end is left
// out, or the table is refused.
func TestEveryLength(t *testing.T) {
	const size = 16 * quantity.MiB
	path := disktest.Image(t, size)
	const table = "label: dos\nstart=63,size=100\nstart=1000,size=30000,type=5\n" +
		"start=5000,size=3000\nstart=9000,size=3000\n"
	disktest.Run(t, table, "sfdisk", "-q", "--force", path)
	f := disktest.Open(t, path)
	read := 0
	for n := quantity.Bytes(1024); n <= size; n += 37 * 512 {
		got, err := mbr.Read(io.NewSectionReader(f, 0, int64(n)), n, 512)
		if err != nil {
			continue
		}
		read++
		if err := got.Check(n); err != nil {
			t.Errorf("%d bytes: %v", int64(n), err)
		}
	}
	if read == 0 {
		t.Error("no length can be read")
	}
}
