package mbr_test

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"clonecast/internal/disktest"
	"clonecast/internal/partition"
	"clonecast/internal/partition/mbr"
	"clonecast/internal/quantity"

	"github.com/google/go-cmp/cmp"
)

const logicals = "label: dos\nlabel-id: 0x1234abcd\n1 : start=63, size=20000, type=7, bootable\n" +
	"2 : start=100000, size=400000, type=f\n" +
	"5 : start=102048, size=50000, type=83\n6 : start=200000, size=1000, type=83\n7 : start=300000, size=100000, type=83\n"

// TestGrow makes partitions longer; sfdisk judges the result.
func TestGrow(t *testing.T) {
	const size = 512 * quantity.MiB // 1048576 sectors
	for _, tc := range []struct {
		name    string
		script  string
		sector  quantity.SectorSize
		lengths map[int]quantity.Sectors
	}{
		{"a primary", logicals, 512, map[int]quantity.Sectors{1: 90000}},
		{"the last logical and its container", logicals, 512, map[int]quantity.Sectors{7: 700000}},
		{"a logical inside its container", logicals, 512, map[int]quantity.Sectors{5: 90000}},
		{"several", logicals, 512, map[int]quantity.Sectors{1: 90000, 5: 90000, 6: 90000, 7: 500000}},
		{"chain out of order", "label: dos\n1 : start=63, size=1000\n" +
			"3 : start=4096, size=40000, type=5\n5 : start=6144,size=2000\n" +
			"6 : start=20480,size=2000\n7 : start=10240,size=2000\n", 512,
			map[int]quantity.Sectors{6: 900000, 7: 8000}},
		{"4096-byte sectors", "label: dos\n1 : start=256, size=5000\n2 : start=10000, size=50000, type=f\n" +
			"5 : start=10256, size=2000\n", 4096,
			map[int]quantity.Sectors{1: 9000, 5: 100000}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := disktest.Image(t, size)
			if tc.sector != 512 {
				path = disktest.Loop(t, path, tc.sector)
			}
			disktest.Run(t, tc.script, "sfdisk", "-q", "--no-reread", "--no-tell-kernel", path)
			want := ourRows(t, path, size, tc.sector)
			lengths := map[int]quantity.Bytes{}
			for number, sectors := range tc.lengths {
				lengths[number] = quantity.Bytes(sectors) * quantity.Bytes(tc.sector)
				for i, row := range want {
					var n, start, old int64
					var rest string
					if _, err := fmt.Sscanf(row, "%d %d %d", &n, &start, &old); err == nil && int(n) == number {
						rest = strings.SplitN(row, " ", 4)[3]
						want[i] = fmt.Sprintf("%d %d %d %s", n, start, sectors, rest)
					}
				}
			}
			grown, err := mbr.Grow(save(t, path, size, tc.sector), size, tc.sector, lengths)
			if err != nil {
				t.Fatal(err)
			}
			f := disktest.Open(t, path)
			for _, c := range grown {
				if _, err := f.WriteAt(c.Data, int64(c.Start)); err != nil {
					t.Fatal(err)
				}
			}
			if err := f.Sync(); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, sfdiskRows(t, path)); diff != "" {
				t.Errorf("partitions (-want +sfdisk):\n%s", diff)
			}
			if diff := cmp.Diff(want, ourRows(t, path, size, tc.sector)); diff != "" {
				t.Errorf("partitions (-want +ours):\n%s", diff)
			}
			if out, err := disktest.Try("", "sfdisk", "--verify", path); err != nil ||
				strings.Contains(out, "overlap") {
				t.Errorf("sfdisk --verify: %v\n%s", err, out)
			}
		})
	}
}

func TestGrowRefuses(t *testing.T) {
	const size = 512 * quantity.MiB
	path := disktest.Image(t, size)
	disktest.Run(t, logicals, "sfdisk", "-q", path)
	saved := save(t, path, size, 512)
	for name, lengths := range map[string]map[int]quantity.Bytes{
		"no such partition":   {9: quantity.MiB},
		"the container":       {2: 300 * quantity.MiB},
		"over the container":  {1: 100 * quantity.MiB},
		"over the next EBR":   {5: 200000 * 512},
		"beyond the disk":     {7: 512 * quantity.MiB},
		"nothing":             {1: 0},
		"beyond 2^32 sectors": {7: 3 * quantity.TiB},
	} {
		if _, err := mbr.Grow(saved, size, 512, lengths); err == nil {
			t.Errorf("%s: Grow gave no error", name)
		}
	}
	if _, err := mbr.Grow(saved, 4*quantity.TiB, 512, map[int]quantity.Bytes{7: 3 * quantity.TiB}); err == nil ||
		!strings.Contains(err.Error(), "what an MBR can say") {
		t.Errorf("Grow beyond 2 TiB = %v", err)
	}
}

// save reads the table areas of a disk.
func save(t *testing.T, path string, size quantity.Bytes, sector quantity.SectorSize) []partition.Content {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table, err := mbr.Read(f, size, sector)
	if err != nil {
		t.Fatal(err)
	}
	var saved []partition.Content
	for _, a := range table.Areas {
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
