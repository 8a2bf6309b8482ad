package clone_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"clonecast/internal/clone"
	"clonecast/internal/clone/layout"
	"clonecast/internal/disktest"
	"clonecast/internal/image"
	"clonecast/internal/quantity"
)

// policyDisk is a disk with a FAT16 that holds a file, an ext4, swap and a partition of
// random bytes; the FAT was not unmounted.
func policyDisk(t *testing.T) *memDisk {
	t.Helper()
	disk := tableDisk(t, 1, "label: dos\nstart=64,size=4096,type=1\nstart=4160,size=6000\n"+
		"start=10160,size=2000,type=82\nstart=12160,size=2000\n")
	for start, command := range map[int]string{
		64: "truncate -s 2M $P; mkfs.fat -F 12 -n DATA -i 12345678 $P; " +
			"echo secret content | mcopy -i $P - ::/secret.txt; " +
			"printf '\\001' | dd of=$P bs=1 seek=37 conv=notrunc status=none",
		4160:  "truncate -s 3072000 $P; mkfs.ext4 -q $P",
		10160: "truncate -s 1024000 $P; mkswap -L SWAP $P",
	} {
		path := filepath.Join(t.TempDir(), "partition")
		disktest.Run(t, "", "sh", "-ec", "P="+path+"; "+command)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		copy(disk.b[start*512:], b)
	}
	return disk
}

func TestPolicies(t *testing.T) {
	source := policyDisk(t)
	policy := map[int]image.Mode{1: image.ModeFormat, 2: image.ModeRaw, 3: image.ModeFormat, 4: image.ModeSkip}
	l := inspected(t, source, policy)
	store := &memStore{}
	captureTo(t, store, source, l)
	d := &store.manifest.Disks[0]
	want := []image.Mode{image.ModeFormat, image.ModeRaw, image.ModeClone, image.ModeSkip}
	for i, p := range d.Partitions {
		if p.Mode != want[i] {
			t.Errorf("partition %d has mode %s, want %s", p.Number, p.Mode, want[i])
		}
	}
	if raw := d.Partitions[1].Content; raw.Allocated() != raw.Length {
		t.Errorf("raw stores %v of %v", raw.Allocated(), raw.Length)
	}
	if blank := d.Partitions[0].Content.Allocated(); blank > 100*quantity.KiB {
		t.Errorf("an empty FAT takes %v", blank)
	}

	before := randomBytes(9, tableDiskSize)
	target := &memDisk{b: bytes.Clone(before)}
	for range 2 { // the second time onto a FAT that was used meanwhile
		if _, err := deployOne(d, target, tableGeometry, store, deployOrder{Verify: true}); err != nil {
			t.Fatal(err)
		}
		if kept := target.b[12160*512 : 14160*512]; !bytes.Equal(kept, before[12160*512:14160*512]) {
			t.Error("the skipped partition was changed")
		}
		path := filepath.Join(t.TempDir(), "fat")
		if err := os.WriteFile(path, target.b[64*512:4160*512], 0o600); err != nil {
			t.Fatal(err)
		}
		disktest.Run(t, "", "fsck.fat", "-n", path)
		out := disktest.Run(t, "", "blkid", "-p", "-o", "export", path)
		if !strings.Contains(out, "UUID=1234-5678") || !strings.Contains(out, "LABEL=DATA") {
			t.Errorf("blkid says\n%s", out)
		}
		if out := disktest.Run(t, "", "mdir", "-b", "-i", path, "::/"); out != "" {
			t.Errorf("the new FAT holds %s", out)
		}
		disktest.Run(t, "new", "mcopy", "-i", path, "-", "::/new.txt")
		used, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		copy(target.b[64*512:], used)
	}
}

func TestPoliciesThatCannotBe(t *testing.T) {
	disk := policyDisk(t)
	for name, tc := range map[string]struct {
		policy map[int]image.Mode
		want   string
	}{
		"no such partition": {map[int]image.Mode{7: image.ModeSkip}, "there is no partition 7 to skip"},
		"clone of doubt":    {map[int]image.Mode{4: image.ModeClone}, "partition 4 cannot be captured in mode clone: "},
		"clone of dirty":    {map[int]image.Mode{1: image.ModeClone}, "not unmounted"},
		"format of ext4":    {map[int]image.Mode{2: image.ModeFormat}, "holds ext4, which clonecast cannot make anew"},
		"format of unknown": {map[int]image.Mode{4: image.ModeFormat}, "holds no known file system"},
	} {
		l, err := layout.Inspect(disk, tableGeometry)
		if err != nil {
			t.Fatal(err)
		}
		var refused *clone.RefusedError
		if err := l.Apply(disk, tc.policy); !errors.As(err, &refused) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: Apply = %v, want a refusal: %s", name, err, tc.want)
		}
	}
	// A hibernated system is not left out by copying it block by block, but by skipping it.
	for mode, wantRefusal := range map[image.Mode]bool{image.ModeRaw: true, image.ModeSkip: false} {
		_, l := testDisk(1)
		l.Partitions[0].Refuse = true
		if err := l.Apply(disk, map[int]image.Mode{1: mode}); err != nil {
			t.Fatal(err)
		}
		if err := l.Refusal(false); (err != nil) != wantRefusal {
			t.Errorf("hibernated with policy %s: %v", mode, err)
		}
	}
}
