package gpt

import (
	"strings"
	"testing"

	"clonecast/internal/disktest"
	"clonecast/internal/partition"
	"clonecast/internal/quantity"

	"github.com/google/go-cmp/cmp"
)

// TestGrow makes partitions of a moved table longer; sgdisk and sfdisk judge the result.
func TestGrow(t *testing.T) {
	for _, sector := range []quantity.SectorSize{512, 4096} {
		path := newDisk(t, sector)
		const newSize = 10 * diskSize
		moved, err := Relocate(save(t, path, diskSize, sector), Disk{diskSize, sector}, newSize)
		if err != nil {
			t.Fatal(err)
		}
		disk := Disk{newSize, sector}
		end, err := UsableEnd(moved, disk)
		if err != nil {
			t.Fatal(err)
		}
		want := mustRead(t, path, diskSize, sector).Partitions
		last := 0
		for i, p := range want {
			if p.Start > want[last].Start {
				last = i
			}
		}
		want[last].Length = end - want[last].Start
		grown, err := Grow(moved, disk, map[int]quantity.Bytes{want[last].Number: want[last].Length})
		if err != nil {
			t.Fatal(err)
		}
		target := disktest.Image(t, newSize)
		f := disktest.Open(t, target)
		for _, c := range grown {
			if _, err := f.WriteAt(c.Data, int64(c.Start)); err != nil {
				t.Fatal(err)
			}
		}
		after := mustRead(t, target, newSize, sector)
		if diff := cmp.Diff(want, after.Partitions); diff != "" || len(after.Notes) != 0 {
			t.Errorf("notes %q, partitions (-want +got):\n%s", after.Notes, diff)
		}
		judged := target
		if sector != 512 {
			judged = disktest.Loop(t, target, sector)
		}
		if out := disktest.Run(t, "", "sgdisk", "-v", judged); !strings.Contains(out, "No problems found.") {
			t.Errorf("sgdisk -v: %s", out)
		}
		disktest.Run(t, "", "sfdisk", "--verify", judged)
		for i, c := range moved {
			if c.Start != grown[i].Start || len(c.Data) != len(grown[i].Data) {
				t.Errorf("area %d is %d bytes at %d, was %d at %d: the order of writing changed", i,
					len(grown[i].Data), grown[i].Start, len(c.Data), c.Start)
			}
		}
	}
}

func TestGrowRefuses(t *testing.T) {
	path := newDisk(t, 512)
	saved := save(t, path, diskSize, 512)
	disk := Disk{diskSize, 512}
	first := mustRead(t, path, diskSize, 512).Partitions[0]
	for name, lengths := range map[string]map[int]quantity.Bytes{
		"no such entry":      {4000: quantity.MiB},
		"beyond the end":     {first.Number: diskSize},
		"over the next":      {first.Number: first.Length + 16*quantity.MiB},
		"nothing":            {first.Number: 0},
		"unused entry":       {100: quantity.MiB},
		"entry zero":         {0: quantity.MiB},
		"a negative length":  {first.Number: -quantity.MiB},
		"an overflow of LBA": {first.Number: 1 << 62},
	} {
		if got, err := Grow(saved, disk, lengths); err == nil {
			t.Errorf("%s: Grow = %d areas, want an error", name, len(got))
		}
	}
	damaged := partition.Contents(saved).Clone()
	for _, c := range damaged {
		if c.Start > quantity.MiB {
			clear(c.Data)
		}
	}
	if _, err := Grow(damaged, disk, nil); err == nil {
		t.Error("Grow took a table whose backup is bad")
	}
}
