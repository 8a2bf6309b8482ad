package mbr_test

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"clonecast/internal/disktest"
	"clonecast/internal/partition/mbr"
	"clonecast/internal/quantity"
)

// twelveLogicals is a dual-boot layout; first is the first partition's sector.
func twelveLogicals(first int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "label: dos\nlabel-id: 0x1234abcd\n"+
		"1 : start=%d, size=20000, type=7, bootable\n2 : start=40960, type=f\n", first)
	for n := 5; n < 17; n++ {
		fmt.Fprintf(&b, "%d : size=%d, type=83\n", n, 5000+n)
	}
	return b.String()
}

// sfdiskRows asks sfdisk for the partitions that hold data.
func sfdiskRows(t *testing.T, path string) []string {
	t.Helper()
	var answer struct {
		PartitionTable struct {
			ID         string
			Partitions []struct {
				Node        string
				Start, Size int64
				Type        string
				Bootable    bool
			}
		}
	}
	if err := json.Unmarshal([]byte(disktest.Run(t, "", "sfdisk", "--json", path)), &answer); err != nil {
		t.Fatal(err)
	}
	rows := []string{answer.PartitionTable.ID}
	for _, p := range answer.PartitionTable.Partitions {
		if p.Type == "5" || p.Type == "f" || p.Type == "85" {
			continue
		}
		digits := len(p.Node)
		for p.Node[digits-1] >= '0' && p.Node[digits-1] <= '9' {
			digits--
		}
		rows = append(rows, fmt.Sprintf("%s %d %d %s %v", p.Node[digits:], p.Start, p.Size, p.Type, p.Bootable))
	}
	return rows
}

func ourRows(t *testing.T, path string, size quantity.Bytes, sector quantity.SectorSize) []string {
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
	rows := []string{"0x" + table.DiskID}
	for _, p := range table.Partitions {
		rows = append(rows, fmt.Sprintf("%d %d %d %s %v", p.Number, sector.Sectors(p.Start), sector.Sectors(p.Length),
			strings.TrimLeft(strings.TrimPrefix(p.Type, "0x"), "0"), p.Active))
	}
	return rows
}

func TestAgainstSfdisk(t *testing.T) {
	const size = 512 * quantity.MiB
	for _, tc := range []struct {
		name   string
		script string
		after  string // sfdisk command that shuffles the chain
		sector quantity.SectorSize
	}{
		{"first at 2048", twelveLogicals(2048), "", 512},
		{"first at 63", twelveLogicals(63), "", 512},
		{"4096-byte sectors", twelveLogicals(256), "", 4096},
		{"holes filled again", "label: dos\n1 : start=63, size=1000\n3 : start=4096, type=5\n5 : start=6144,size=2000\n" +
			"6 : start=20480,size=2000\n7 : start=10240,size=2000\n8 : start=16384, size=100\n", "", 512},
		{"logical deleted", twelveLogicals(2048), "7", 512},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := disktest.Image(t, size)
			if tc.sector != 512 {
				path = disktest.Loop(t, path, tc.sector)
			}
			disktest.Run(t, tc.script, "sfdisk", "-q", "--no-reread", "--no-tell-kernel", path)
			if tc.after != "" {
				disktest.Run(t, "", "sfdisk", "-q", "--no-reread", "--no-tell-kernel", "--delete", path, tc.after)
			}
			if diff := cmp.Diff(sfdiskRows(t, path), ourRows(t, path, size, tc.sector)); diff != "" {
				t.Errorf("partitions (-sfdisk +ours):\n%s", diff)
			}
		})
	}
}
