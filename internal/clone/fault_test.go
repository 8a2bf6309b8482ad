package clone_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	"clonecast/internal/chunk"
	"clonecast/internal/clone"
	"clonecast/internal/clone/deploy"
	"clonecast/internal/clone/layout"
	"clonecast/internal/filesystem"
	"clonecast/internal/image"
	"clonecast/internal/partition"
	"clonecast/internal/quantity"
)

var errFault = errors.New("injected fault")

// faults fails operations by number.
type faults struct {
	mu      sync.Mutex
	at      int  // 0: never
	lasts   bool // all from there on
	changes bool // count writes and syncs alone
	count   int
	hits    map[string]int // failed operations by kind
}

func (f *faults) fail(kind string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.changes && kind != "write" && kind != "sync" {
		return nil
	}
	f.count++
	if f.at == 0 || f.count < f.at || f.count > f.at && !f.lasts {
		return nil
	}
	if f.hits == nil {
		f.hits = map[string]int{}
	}
	f.hits[kind]++
	return fmt.Errorf("%s %d: %w", kind, f.count, errFault)
}

// faultyDisk is a disk with a write cache: what is not synced may be lost at a crash, sector
// by sector.
type faultyDisk struct {
	*faults
	mu      sync.Mutex
	b       []byte // as it reads
	durable []byte // as of the last sync
	since   []quantity.Extent
}

func newFaultyDisk(b []byte, f *faults) *faultyDisk {
	return &faultyDisk{faults: f, b: bytes.Clone(b), durable: bytes.Clone(b)}
}

func (d *faultyDisk) ReadAt(b []byte, off int64) (int, error) {
	if err := d.fail("read"); err != nil {
		return 0, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return bytes.NewReader(d.b).ReadAt(b, off)
}

func (d *faultyDisk) WriteAt(b []byte, off int64) (int, error) {
	if err := d.fail("write"); err != nil {
		return 0, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if off < 0 || off+int64(len(b)) > int64(len(d.b)) {
		return 0, io.ErrShortWrite
	}
	d.since = append(d.since, quantity.Extent{Start: quantity.Bytes(off), Length: quantity.Bytes(len(b))})
	return copy(d.b[off:], b), nil
}

func (d *faultyDisk) Sync() error {
	if err := d.fail("sync"); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	copy(d.durable, d.b)
	d.since = nil
	return nil
}

func (d *faultyDisk) DropCache() error { return d.fail("drop") }

func (d *faultyDisk) Trim(_, _ quantity.Bytes) error { return errors.ErrUnsupported }

// crash gives what is on the medium when the power fails: each sector written since the last
// sync is there with the given probability.
func (d *faultyDisk) crash(kept float64, random *rand.Rand) []byte {
	out := bytes.Clone(d.durable)
	for _, e := range d.since {
		for at := e.Start / 512 * 512; at < e.End(); at += 512 {
			if random.Float64() < kept {
				copy(out[at:at+512], d.b[at:at+512])
			}
		}
	}
	return out
}

// faultySource fails as a server or a store does: between frames, too.
type faultySource struct {
	*memStore
	*faults
}

func (s faultySource) Frames(ctx context.Context, ids []chunk.ID, yield func([]byte) error) error {
	if err := s.fail("frames"); err != nil {
		return err
	}
	return s.memStore.Frames(ctx, ids, func(frame []byte) error {
		if err := s.fail("frame"); err != nil {
			return err
		}
		return yield(frame)
	})
}

func (s faultySource) Missing(ctx context.Context, ids []chunk.ID) ([]bool, error) {
	if err := s.fail("missing"); err != nil {
		return nil, err
	}
	return s.memStore.Missing(ctx, ids)
}

func (s faultySource) PutFrame(ctx context.Context, frame []byte) (int64, error) {
	if err := s.fail("put"); err != nil {
		return 0, err
	}
	return s.memStore.PutFrame(ctx, frame)
}

func (s faultySource) Publish(ctx context.Context, m *image.Manifest) ([]byte, image.Version, error) {
	if err := s.fail("publish"); err != nil {
		return nil, image.Version{}, err
	}
	return s.memStore.Publish(ctx, m)
}

const smallDiskSize = 2 << 20

// smallDisk is testDisk on so small a scale that every operation can fail in turn. It has swap
// in place of a skipped partition.
func smallDisk(seed byte) (*memDisk, *layout.Layout) {
	disk := &memDisk{b: randomBytes(seed, smallDiskSize)}
	g := clone.Geometry{Size: smallDiskSize, LogicalSector: 512, PhysicalSector: 512}
	l := &layout.Layout{Geometry: g, Table: partition.Table{Kind: partition.MBR, Areas: []partition.Area{
		{Kind: partition.AreaTable, Start: 0, Length: 512}, {Kind: partition.AreaBoot, Start: 512, Length: 62 * 512}}}}
	// Most places where stale signatures are looked for are allocated: each look is a read.
	extents := []quantity.Extent{
		{Start: 0, Length: 280 << 10}, {Start: 300 << 10, Length: 512}, {Start: 500 << 10, Length: 200 << 10},
	}
	l.Partitions = []layout.Partition{
		layout.NewPartition(partition.Partition{Number: 1, Start: 63 * 512, Length: 700 << 10},
			filesystem.Volume{Type: "ext4", Allocated: extents}),
		layout.NewPartition(partition.Partition{Number: 2, Start: 1 << 20, Length: 300<<10 + 512},
			filesystem.Volume{Doubt: &filesystem.Doubt{Reason: "no known file system"}}),
		{ // as versions have it that were made before headers were stored
			Partition: partition.Partition{Number: 3, Start: 3 << 19, Length: 40 << 10}, Mode: image.ModeSwap,
			Volume: filesystem.Volume{Type: "swap", UUID: "0b5e0005-1111-4a4a-8888-c10eca570005", BlockSize: 4096},
		},
	}
	return disk, l
}

// deployOver deploys to a disk with the given content.
func deployOver(d *image.Disk, l *layout.Layout, target deploy.Target, source framer) (deploy.Result, error) {
	return deployOne(d, target, l.Geometry, source, deployOrder{Verify: true})
}

// wholeAgain runs a deploy once more, without faults, and checks that the disk is what it is
// after a deploy that nothing disturbed.
func wholeAgain(
	t *testing.T, what string, d *image.Disk, l *layout.Layout, source, before, sound, now []byte, store *memStore,
) {
	t.Helper()
	target := newFaultyDisk(now, &faults{})
	if _, err := deployOver(d, l, target, store); err != nil {
		t.Fatalf("%s: rerun: %v", what, err)
	}
	checkDeployed(t, d, source, before, target.durable)
	if swap := d.Partitions[2].Content.Start; !bytes.Equal(target.durable[swap:swap+4096], sound[swap:swap+4096]) {
		t.Fatalf("%s: rerun: another swap header", what)
	}
	if r, err := deployOne(d, target, l.Geometry, store, deployOrder{DryRun: true}); err != nil || r.Differ != 0 {
		t.Fatalf("%s: after the rerun %v differ, %v", what, r.Differ, err)
	}
}

// TestDeployFaults lets every operation of a deploy fail, once and for good: reads, writes and
// syncs of the target, calls to the source and the frames that it gives. Each fault is
// reported, but for a read that succeeds when it is tried again; the next deploy makes the disk
// whole.
func TestDeployFaults(t *testing.T) {
	disk, l := smallDisk(1)
	store := &memStore{}
	captureTo(t, store, disk, l)
	d := &store.manifest.Disks[0]
	before := randomBytes(9, smallDiskSize)
	clean := &faults{}
	sound := newFaultyDisk(before, clean)
	if _, err := deployOver(d, l, sound, faultySource{store, clean}); err != nil {
		t.Fatal(err)
	}
	kinds := map[string]int{}
	for at := 1; at <= clean.count; at++ {
		for _, lasts := range []bool{false, true} {
			what := fmt.Sprintf("operation %d fails, lasting %t", at, lasts)
			f := &faults{at: at, lasts: lasts}
			target := newFaultyDisk(before, f)
			_, err := deployOver(d, l, target, faultySource{store, f})
			for kind := range f.hits {
				kinds[kind]++
			}
			now := target.durable
			newBoot := !bytes.Equal(now[:512], before[:512]) && !clone.AllZero(now[:512])
			switch retried := !lasts && f.hits["read"] > 0; {
			case len(f.hits) == 0:
				t.Fatalf("%s: nothing failed", what)
			case err == nil && !retried:
				t.Fatalf("%s: went unreported: %v", what, f.hits)
			case err != nil && !errors.Is(err, errFault):
				t.Fatalf("%s: Deploy = %v", what, err)
			case err != nil && newBoot && !bytes.Equal(now, target.b):
				t.Fatalf("%s: the disk could boot", what)
			}
			if bytes.Equal(now, before) {
				continue // the next deploy is the first one
			}
			wholeAgain(t, what, d, l, disk.b, before, sound.durable, now, store)
		}
	}
	for _, kind := range []string{"read", "write", "sync", "drop", "frames", "frame"} {
		if kinds[kind] == 0 {
			t.Errorf("no %s has failed: %v", kind, kinds)
		}
	}
	t.Logf("%d operations, failed: %v", clean.count, kinds)
}

// TestDeployCrashes cuts the power at every write and sync of a deploy, with none, half and all of
// what was not synced on the medium. The disk boots what it did before and has all of it, or
// nothing, or the whole version; the next deploy makes it whole.
func TestDeployCrashes(t *testing.T) {
	disk, l := smallDisk(1)
	store := &memStore{}
	captureTo(t, store, disk, l)
	d := &store.manifest.Disks[0]
	before := randomBytes(9, smallDiskSize)
	clean := &faults{changes: true}
	sound := newFaultyDisk(before, clean)
	if _, err := deployOver(d, l, sound, store); err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(4, 4))
	boots := map[string]int{}
	for at := 1; at <= clean.count; at++ {
		f := &faults{at: at, lasts: true, changes: true}
		target := newFaultyDisk(before, f)
		_, err := deployOver(d, l, target, store)
		if !errors.Is(err, errFault) {
			t.Fatalf("power cut at operation %d: Deploy = %v", at, err)
		}
		for _, kept := range []float64{0, 0.5, 1} {
			what := fmt.Sprintf("power cut at operation %d, %.0f %% kept", at, 100*kept)
			now := target.crash(kept, random)
			switch {
			case bytes.Equal(now[:512], before[:512]):
				boots["old"]++
				if !bytes.Equal(now, before) {
					t.Fatalf("%s: the old system boots, and not all of it is there", what)
				}
			case clone.AllZero(now[:512]):
				boots["nothing"]++
			default:
				boots["new"]++
				checkDeployed(t, d, disk.b, before, now)
			}
			wholeAgain(t, what, d, l, disk.b, before, sound.durable, now, store)
		}
	}
	if len(boots) != 3 {
		t.Errorf("what booted: %v", boots)
	}
	t.Logf("%d operations; afterwards boots: %v", clean.count, boots)
}

// TestCaptureFaults lets every operation of a capture fail, once and for good.
func TestCaptureFaults(t *testing.T) {
	disk, l := smallDisk(1)
	opts := captureOrder{Image: "test"}
	clean, whole := &faults{}, &memStore{}
	want, err := captureOne(newFaultyDisk(disk.b, clean), l, faultySource{whole, clean}, opts)
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]int{}
	for at := 1; at <= clean.count; at++ {
		for _, lasts := range []bool{false, true} {
			what := fmt.Sprintf("operation %d fails, lasting %t", at, lasts)
			f, store := &faults{at: at, lasts: lasts}, &memStore{}
			source := newFaultyDisk(disk.b, f)
			got, err := captureOne(source, l, faultySource{store, f}, opts)
			for kind := range f.hits {
				kinds[kind]++
			}
			switch retried := !lasts && f.hits["read"] > 0; {
			case len(f.hits) == 0:
				t.Fatalf("%s: nothing failed", what)
			case err == nil && (!retried || got.Version.ID != want.Version.ID || len(got.Unreadable) > 0):
				t.Fatalf("%s: went unreported: %v, %+v", what, f.hits, got)
			case err != nil && !errors.Is(err, errFault):
				t.Fatalf("%s: Capture = %v", what, err)
			case err != nil && store.manifest != nil:
				t.Fatalf("%s: a version was made", what)
			}
			source.at = 0
			if got, err := captureOne(source, l, store, opts); err != nil || got.Version.ID != want.Version.ID {
				t.Fatalf("%s: rerun: %+v, %v", what, got, err)
			}
		}
	}
	for _, kind := range []string{"read", "missing", "put", "publish"} {
		if kinds[kind] == 0 {
			t.Errorf("no %s has failed: %v", kind, kinds)
		}
	}
	t.Logf("%d operations, failed: %v", clean.count, kinds)
}
