package clone_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"clonecast/internal/clone"
	"clonecast/internal/clone/deploy"
	"clonecast/internal/clone/layout"
	"clonecast/internal/disktest"
	"clonecast/internal/image"
	"clonecast/internal/partition/saved"
	"clonecast/internal/partition/table"
	"clonecast/internal/quantity"
)

const tableDiskSize = 8 << 20

// tableDisk makes a disk of random bytes with the table that sfdisk makes of script.
func tableDisk(t *testing.T, seed byte, script string) *memDisk {
	t.Helper()
	path := disktest.Image(t, tableDiskSize)
	if err := os.WriteFile(path, randomBytes(seed, tableDiskSize), 0o600); err != nil {
		t.Fatal(err)
	}
	disktest.Run(t, script, "sfdisk", "-q", "--wipe", "always", "--no-reread", "--no-tell-kernel", path)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(script, "label: dos") {
		copy(b, randomBytes(seed+100, 440)) // boot code
	}
	return &memDisk{b: b}
}

var tableGeometry = clone.Geometry{Size: tableDiskSize, LogicalSector: 512, PhysicalSector: 512, Serial: "S1"}

func inspected(t *testing.T, disk *memDisk, policy map[int]image.Mode) *layout.Layout {
	t.Helper()
	l, err := layout.Inspect(disk, tableGeometry)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Apply(disk, policy); err != nil {
		t.Fatal(err)
	}
	return l
}

// twoLogicals is an extended partition with two logical ones, for sfdisk.
const twoLogicals = "start=8192,size=8192,type=5\nstart=8255,size=1000\nstart=9999,size=500\n"

// What the cut tests of kept partitions deploy, and what the target holds before.
var keptCases = map[string]struct {
	policy   map[int]image.Mode
	old, new string
	kept     [2]int // sectors of the kept partition
	boots    int    // sector whose first bytes must be zero while the deploy is under way
}{
	"same MBR": {map[int]image.Mode{2: image.ModeSkip},
		"label: dos\nstart=63,size=2000\nstart=4096,size=2048\n" + twoLogicals,
		"label: dos\nstart=63,size=2000\nstart=4096,size=2048\n" + twoLogicals, [2]int{4096, 2048}, -1},
	"other MBR": {map[int]image.Mode{2: image.ModeSkip, 5: image.ModeRaw},
		"label: dos\nstart=63,size=500\nstart=4096,size=2048\n" +
			"start=8192,size=8192,type=5\nstart=8255,size=300\nstart=8600,size=300\nstart=14000,size=500\n",
		"label: dos\nstart=100,size=3000\nstart=4096,size=2048\n" + twoLogicals, [2]int{4096, 2048}, -1},
	"logical kept": {map[int]image.Mode{6: image.ModeSkip},
		"label: dos\nstart=8192,size=8192,type=5\nstart=8255,size=300\nstart=9999,size=500\n",
		"label: dos\nstart=100,size=3000\n" + twoLogicals, [2]int{9999, 500}, -1},
	"GPT with ESP": {map[int]image.Mode{2: image.ModeSkip},
		"label: gpt\nstart=2048,size=1000,type=U\nstart=4096,size=2048\nstart=8192,size=2000\n",
		"label: gpt\nstart=2048,size=1000,type=U\nstart=4096,size=2048\nstart=8192,size=2000\n", [2]int{4096, 2048}, 2048},
	"other GPT": {map[int]image.Mode{2: image.ModeSkip},
		"label: gpt\nstart=2048,size=100\nstart=4096,size=2048\nstart=7000,size=9000\n",
		"label: gpt\nstart=2048,size=1000,type=U\nstart=4096,size=2048\nstart=8192,size=2000\n", [2]int{4096, 2048}, 2048},
	"logical becomes primary": {map[int]image.Mode{2: image.ModeSkip}, // the old EBR stands in a gap of the new table
		"label: dos\nstart=2048,size=6144\nstart=8192,size=8192,type=5\nstart=9999,size=500\n",
		"label: dos\nstart=2048,size=6144\nstart=9999,size=500\n", [2]int{9999, 500}, -1},
	"MBR becomes GPT": {map[int]image.Mode{2: image.ModeSkip},
		"label: dos\nstart=4096,size=2048\n",
		"label: gpt\nstart=2048,size=1000,type=U\nstart=4096,size=2048\nstart=8192,size=2000\n", [2]int{4096, 2048}, 2048},
}

// Power is cut at every write of a deploy that keeps a partition. At every moment its
// bytes are there, the boot code is not, and the table is the old one, the new one or none;
// the old one was saved before; a second run makes the disk whole.
func TestKeptPartitionCutAtEveryWrite(t *testing.T) {
	for name, tc := range keptCases {
		t.Run(name, func(t *testing.T) {
			source, target := tableDisk(t, 1, tc.new), tableDisk(t, 2, tc.old)
			if tc.boots >= 0 && tc.old == tc.new { // an ESP that is up to date, but for another partition
				copy(target.b[tc.boots*512:], source.b[tc.boots*512:(tc.boots+1000)*512])
			}
			store := &memStore{}
			captureTo(t, store, source, inspected(t, source, tc.policy))
			d := &store.manifest.Disks[0]
			before := bytes.Clone(target.b)
			from, to := tc.kept[0]*512, (tc.kept[0]+tc.kept[1])*512
			var tables []string
			for _, b := range [][]byte{before, source.b} {
				tables = append(tables, tableText(t, b))
			}

			deploy := func(b []byte, cutAt int) (*memDisk, error) {
				disk := &memDisk{b: b, cutAt: cutAt}
				_, err := deployOne(d, disk, tableGeometry, store, deployOrder{Verify: true,
					SaveTable: func(_ context.Context, _ int, c saved.Copy) error {
						if disk.writes > 0 || c.Empty() || c.Serial != "S1" {
							t.Errorf("table saved after %d writes: %+v", disk.writes, c)
						}
						return nil
					}})
				return disk, err
			}
			whole, err := deploy(bytes.Clone(before), 0)
			if err != nil {
				t.Fatal(err)
			}
			checkDeployed(t, d, source.b, before, whole.b)
			for cut := 1; cut < whole.writes; cut++ {
				disk, err := deploy(bytes.Clone(before), cut)
				if !errors.Is(err, errCut) {
					t.Fatalf("cut after write %d: Deploy = %v, the cut went unreported", cut, err)
				}
				if !bytes.Equal(disk.b[from:to], before[from:to]) {
					t.Fatalf("cut after write %d: the kept partition was changed", cut)
				}
				code := disk.b[:bootCodeLength]
				boots := !bytes.HasPrefix(disk.b, noBoot[:16]) || disk.b[510] == 0x55 && !bytes.Equal(code, noBoot)
				if !clone.AllZero(code) && boots {
					t.Fatalf("cut after write %d: LBA 0 has boot code", cut)
				}
				checkStillKept(t, d, disk.b, from, to, store)
				if now := tableText(t, disk.b); now != "none" && !slices.Contains(tables, now) {
					t.Fatalf("cut after write %d: the table is\n%s, want one of\n%s", cut, now, strings.Join(tables, "\n"))
				}
				if again, err := deploy(disk.b, 0); err != nil {
					t.Fatalf("rerun after write %d: %v", cut, err)
				} else {
					checkDeployed(t, d, source.b, before, again.b)
				}
			}
			if tc.boots >= 0 {
				disk, _ := deploy(bytes.Clone(before), whole.writes/2)
				if !clone.AllZero(disk.b[tc.boots*512 : (tc.boots+1)*512]) {
					t.Error("in the middle of the deploy the firmware finds an EFI system partition")
				}
			}
		})
	}
}

// checkStillKept deploys another image to a disk whose deploy was cut: one that does not keep the bytes is
// refused, unless the old or the new table still says where the kept partition is.
func checkStillKept(t *testing.T, d *image.Disk, cut []byte, from, to int, store *memStore) {
	t.Helper()
	if tableText(t, cut) != "none" {
		return
	}
	other := *d
	other.TableKind, other.Table, other.Boot = "none", nil, nil
	other.Partitions = []image.Partition{{Mode: image.ModeRaw, Content: image.Content{Length: tableDiskSize,
		Extents: []quantity.Extent{{Length: 4096}}, Chunks: store.manifest.Disks[0].Partitions[0].Content.Chunks[:1]}}}
	target := &memDisk{b: bytes.Clone(cut)}
	var refused *clone.RefusedError
	_, err := deployOne(&other, target, tableGeometry, store, deployOrder{})
	if !errors.As(err, &refused) || refused.Remedy == "" || target.writes != 0 {
		t.Fatalf("another image after the cut: %v after %d writes, want a refusal: bytes %d to %d are kept",
			err, target.writes, from, to)
	}
}

// tableText is a table as a text to compare.
func tableText(t *testing.T, b []byte) string {
	t.Helper()
	read, err := table.Read(bytes.NewReader(b), tableDiskSize, 512)
	if err != nil {
		return err.Error()
	}
	if len(read.Partitions) == 1 && read.Partitions[0].Number == 0 {
		return "none"
	}
	var out strings.Builder
	for _, p := range read.Partitions {
		out.WriteString(strings.Join([]string{quantity.Bytes(p.Start).String(), p.Type, p.GUID, p.Name}, " "))
	}
	return out.String()
}

func TestSavedTableIsPutBack(t *testing.T) {
	for name, tc := range keptCases {
		t.Run(name, func(t *testing.T) {
			source, target := tableDisk(t, 1, tc.new), tableDisk(t, 2, tc.old)
			store := &memStore{}
			captureTo(t, store, source, inspected(t, source, nil))
			before := tableText(t, target.b)
			code := bytes.Clone(target.b[:bootCodeLength])
			var old saved.Copy
			save := func(_ context.Context, _ int, c saved.Copy) error { old = c; return nil }
			opts := deployOrder{SaveTable: save}
			if _, err := deployOne(&store.manifest.Disks[0], target, tableGeometry, store, opts); err != nil {
				t.Fatal(err)
			}
			if old.Empty() {
				t.Fatal("the table changed and was not saved")
			}
			if err := deploy.Restore(target, tableGeometry, old); err != nil {
				t.Fatal(err)
			}
			if now := tableText(t, target.b); now != before || !bytes.Equal(target.b[:bootCodeLength], code) {
				t.Errorf("the table is\n%s, was\n%s", now, before)
			}
			other := tableGeometry
			other.Serial = "S2"
			var refused *clone.RefusedError
			if err := deploy.Restore(target, other, old); !errors.As(err, &refused) {
				t.Errorf("Restore to another disk = %v, want a refusal", err)
			}
		})
	}
}

// A deploy whose table cannot be saved does not begin; one that changes neither the table nor
// keeps a partition saves nothing.
func TestSaveTableFails(t *testing.T) {
	tc := keptCases["other MBR"]
	source, target := tableDisk(t, 1, tc.new), tableDisk(t, 2, tc.old)
	store := &memStore{}
	captureTo(t, store, source, inspected(t, source, nil))
	d := &store.manifest.Disks[0]
	full := errors.New("disk full")
	fail := deployOrder{SaveTable: func(context.Context, int, saved.Copy) error { return full }}
	if _, err := deployOne(d, target, tableGeometry, store, fail); !errors.Is(err, full) || target.writes != 0 {
		t.Errorf("Deploy = %v after %d writes", err, target.writes)
	}
	same := &memDisk{b: bytes.Clone(source.b)}
	same.b[200*512] ^= 1
	if _, err := deployOne(d, same, tableGeometry, store, fail); err != nil {
		t.Errorf("the table does not change: Deploy = %v", err)
	}
}

func TestKeepRefuses(t *testing.T) {
	new := "label: dos\nstart=63,size=2000\nstart=4096,size=2048\n"
	source := tableDisk(t, 1, new)
	store := &memStore{}
	captureTo(t, store, source, inspected(t, source, nil))
	keep := map[int]image.Mode{2: image.ModeSkip}
	d, err := deploy.Keep(store.manifest.Disks[0], keep)
	if err != nil {
		t.Fatal(err)
	}
	if store.manifest.Disks[0].Partitions[1].Mode == image.ModeSkip {
		t.Error("Keep changed the manifest")
	}
	for old, want := range map[string]string{
		"label: dos\nstart=63,size=2000\nstart=4096,size=4096\n":  "on the target partition 2 takes its place",
		"label: dos\nstart=63,size=5000\n":                        "on the target partition 1 takes its place",
		"label: dos\nstart=63,size=2000\n":                        "",
		"label: gpt\nstart=2048,size=100\nstart=4096,size=2048\n": "",
	} {
		target := tableDisk(t, 2, old)
		_, err := deployOne(&d, target, tableGeometry, store, deployOrder{})
		var refused *clone.RefusedError
		explained := errors.As(err, &refused) && strings.Contains(err.Error(), want) && refused.Remedy != ""
		switch {
		case want == "" && err != nil:
			t.Errorf("over %q: Deploy = %v", old, err)
		case want != "" && (!explained || target.writes != 0):
			t.Errorf("over %q: Deploy = %v after %d writes, want a refusal: %s", old, err, target.writes, want)
		}
	}
	loop := tableDisk(t, 2, "label: dos\nstart=2048,size=8192,type=5\nstart=2248,size=100\n")
	copy(loop.b[2048*512+510:], []byte{0, 0})
	var refused *clone.RefusedError
	if _, err := deployOne(&d, loop, tableGeometry, store, deployOrder{}); !errors.As(err, &refused) || loop.writes != 0 {
		t.Errorf("over a corrupt table: Deploy = %v, want a refusal", err)
	}
	for _, bad := range []map[int]image.Mode{{3: image.ModeSkip}, {2: image.ModeRaw}} {
		if _, err := deploy.Keep(store.manifest.Disks[0], bad); !errors.As(err, &refused) {
			t.Errorf("Keep(%v) = %v, want a refusal", bad, err)
		}
	}
}
