package clone_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"clonecast/internal/clone"
	"clonecast/internal/clone/deploy"
	"clonecast/internal/clone/layout"
	"clonecast/internal/disktest"
	"clonecast/internal/filesystem"
	"clonecast/internal/image"
	"clonecast/internal/quantity"
)

// misreadDisk gives one wrong bit, once.
type misreadDisk struct {
	*memDisk
	armed bool
	at    int64
}

func (d *misreadDisk) ReadAt(b []byte, off int64) (int, error) {
	n, err := d.memDisk.ReadAt(b, off)
	if d.armed && off <= d.at && d.at < off+int64(n) {
		b[d.at-off] ^= 1
		d.armed = false
	}
	return n, err
}

// TestMisreadFirstChunk: a first chunk that the target holds already is read once more before it is taken away. What
// comes then must be what was compared, or it would be put back wrong.
func TestMisreadFirstChunk(t *testing.T) {
	source := tableDisk(t, 1, "label: gpt\nstart=2048,size=6000\n")
	store := &memStore{}
	captureTo(t, store, source, inspected(t, source, nil))
	b := bytes.Clone(source.b)
	b[2048*512+1<<20] ^= 1 // a later chunk differs
	d := &misreadDisk{memDisk: &memDisk{b: b}, at: 2048*512 + 100<<10}
	disks := []deploy.Disk{{Image: &store.manifest.Disks[0], Target: d, Geometry: tableGeometry}}
	s := sourceOf(store)
	p, err := deploy.NewPlan(context.Background(), disks, s, deploy.Options{Verify: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	d.armed = true
	_, err = deploy.Execute(context.Background(), p, disks, deploy.Means{Source: s})
	var medium *clone.MediumError
	if !errors.As(err, &medium) || d.armed {
		t.Errorf("Execute = %v, want a MediumError", err)
	}
}

// sleepless replays nothing.
type sleepless struct{}

func (sleepless) Replay(context.Context, string, quantity.Extent) error { return nil }

// TestReplayKeepsOptions: the look after a replay is the same as before it.
func TestReplayKeepsOptions(t *testing.T) {
	const size = 64 << 20
	path := disktest.Image(t, size)
	if err := os.WriteFile(path, randomBytes(3, size), 0o600); err != nil {
		t.Fatal(err)
	}
	disktest.Run(t, "label: dos\nstart=81920,size=2048\n", "sfdisk", "-q", "--wipe", "always", "--no-reread",
		"--no-tell-kernel", path)
	disk := disktest.Open(t, path)
	g := tableGeometry
	g.Size = size
	l, err := layout.Options{BootGap: 32 << 20}.Inspect(disk, g)
	if err != nil {
		t.Fatal(err)
	}
	l.Partitions[0].Volume = filesystem.Volume{Type: "ext4", Doubt: &filesystem.Doubt{Reason: "journal", Replay: true}}
	after, _, err := layout.Replay(context.Background(), disk, l, sleepless{}, layout.ReplayOptions{})
	if err != nil || fmt.Sprint(after.Table.Areas) != fmt.Sprint(l.Table.Areas) {
		t.Errorf("areas before %v, after %v, %v", len(l.Table.Areas), after, err)
	}
}

// TestManyKept cuts a deploy that keeps more partitions than its mark has room for. The same deploy goes on, another
// one is refused.
func TestManyKept(t *testing.T) {
	script := "label: gpt\n"
	policy := map[int]image.Mode{}
	at := 2048
	for i := range 60 {
		script += fmt.Sprintf("start=%d,size=100\n", at)
		at += 100 + 24*(i%3)
		if i%2 == 0 {
			policy[i+1] = image.ModeSkip
		}
	}
	source, target := tableDisk(t, 1, script), tableDisk(t, 2, script)
	path := disktest.Image(t, tableDiskSize)
	if err := os.WriteFile(path, target.b, 0o600); err != nil {
		t.Fatal(err)
	}
	disktest.Run(t, "", "sgdisk", "--move-main-table=50", path) // where the boot area is written: the table must go
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	store := &memStore{}
	captureTo(t, store, source, inspected(t, source, policy))
	d := &store.manifest.Disks[0]
	disk := &memDisk{b: b, cutAt: 12}
	if _, err := deployOne(d, disk, tableGeometry, store, deployOrder{}); !errors.Is(err, errCut) {
		t.Fatalf("Deploy = %v, want a cut", err)
	}
	disk.cutAt = 0
	other := *d
	other.Partitions = append([]image.Partition(nil), d.Partitions...)
	other.Partitions[0].Mode = image.ModeRaw
	var refused *clone.RefusedError
	if _, err := deployOne(&other, disk, tableGeometry, store, deployOrder{}); !errors.As(err, &refused) {
		t.Errorf("a deploy that keeps less: %v, want a refusal", err)
	}
	if _, err := deployOne(d, disk, tableGeometry, store, deployOrder{}); err != nil {
		t.Errorf("the same deploy: %v", err)
	}
}

// fullGrower says that all file systems fill their partitions.
type fullGrower struct{}

func (fullGrower) Grow(_ context.Context, _ int, _ string, where quantity.Extent) (quantity.Bytes, error) {
	return where.Length, nil
}

// TestGrowthAndTails: a file system does not grow over what the version keeps behind it; what a target held there
// before does not matter.
func TestGrowthAndTails(t *testing.T) {
	const size = 20 << 20
	for _, tail := range []string{"", "footer"} {
		path := disktest.Image(t, size)
		disktest.Run(t, "label: gpt\nstart=2048,size=32768\n", "sfdisk", "-q", "--no-reread", "--no-tell-kernel", path)
		fs := disktest.Image(t, 12<<20)
		disktest.Run(t, "", "mke2fs", "-q", "-t", "ext4", fs)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(fs)
		if err != nil {
			t.Fatal(err)
		}
		copy(b[1<<20:], content)
		copy(b[14<<20:], tail)
		g := tableGeometry
		g.Size = size
		disk := &memDisk{b: b}
		l, err := layout.Inspect(disk, g)
		if err != nil {
			t.Fatal(err)
		}
		store := &memStore{}
		captureTo(t, store, disk, l)
		g.Size = 2 * size
		rule, err := image.ParseGrow("1")
		if err != nil {
			t.Fatal(err)
		}
		for what, before := range map[string][]byte{"blank": make([]byte, 2*size), "used": randomBytes(9, 2*size)} {
			r, err := deployOne(&store.manifest.Disks[0], &memDisk{b: before}, g, store,
				deployOrder{Grow: rule, Grower: fullGrower{}})
			if err != nil {
				t.Fatal(err)
			}
			if grew := r.Grown[0].Volume > 0; grew != (tail == "") {
				t.Errorf("tail %q, target %s: %v", tail, what, r.Grown[0])
			}
		}
	}
}

// TestUnreadableSwapFile: the header of a swap file that cannot be read may be that of a hibernated system.
func TestUnreadableSwapFile(t *testing.T) {
	dir := t.TempDir()
	disktest.Run(t, "", "sh", "-ec", "head -c 8M /dev/urandom >"+dir+"/swap; mkswap -q "+dir+"/swap")
	f := disktest.Open(t, dir+"/swap")
	if _, err := f.WriteAt([]byte("S1SUSPEND\x00"), 4086); err != nil {
		t.Fatal(err)
	}
	path := disktest.Image(t, 64<<20)
	disktest.Run(t, "", "sh", "-ec",
		"mke2fs -q -t ext4 -d "+dir+" "+path+"; debugfs -w -R 'feature +needs_recovery' "+path+" 2>/dev/null")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	header := quantity.Bytes(bytes.Index(b, []byte("S1SUSPEND\x00")))
	g := clone.Geometry{Size: 64 << 20, LogicalSector: 512, PhysicalSector: 512}
	for _, bad := range [][]quantity.Extent{nil, {{Start: header / 4096 * 4096, Length: 4096}}} {
		d := &badDisk{memDisk: &memDisk{b: b}, bad: bad}
		l, err := layout.Inspect(d, g)
		if err != nil {
			t.Fatal(err)
		}
		if asleep := l.Partitions[0].Volume.Doubt.Hibernated; bad == nil && !asleep {
			t.Fatalf("the test is void: doubt %+v", l.Partitions[0].Volume.Doubt)
		}
		_, replayed, err := layout.Replay(context.Background(), d, l, sleepless{}, layout.ReplayOptions{Force: true})
		if len(replayed) > 0 {
			t.Errorf("unreadable %v: a journal is replayed, %v", bad, err)
		}
	}
}

// TestUnreadableTarget: sectors of a target that a deploy does not need do not stop it.
func TestUnreadableTarget(t *testing.T) {
	disk, l := testDisk(1)
	store := &memStore{}
	captureTo(t, store, disk, l)
	for _, at := range []quantity.Bytes{23 << 20, testDiskSize - 512, 16<<20 + 4096} {
		bad := []quantity.Extent{{Start: at, Length: 512}}
		target := &badDisk{memDisk: &memDisk{b: randomBytes(9, testDiskSize)}, bad: bad}
		if _, err := deployOne(&store.manifest.Disks[0], target, l.Geometry, store, deployOrder{Verify: true}); err != nil {
			t.Errorf("a bad sector at byte %d that nothing needs: %v", at, err)
		}
	}
}
