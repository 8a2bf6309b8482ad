package clone_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"clonecast/internal/clone/deploy"
	"clonecast/internal/image"
	"clonecast/internal/quantity"
)

// trimDisk is a disk that forgets trimmed bytes.
type trimDisk struct {
	*memDisk
	err     error
	trimmed quantity.Bytes
}

func (d *trimDisk) Trim(start, length quantity.Bytes) error {
	if d.err != nil {
		return d.err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.b[start : start+length] {
		d.b[start:][i] = 0xdb
	}
	d.trimmed += length
	return nil
}

// Only free bytes of cloned partitions are trimmed, and all of them but for odd ends.
func TestTrim(t *testing.T) {
	disk, l := testDisk(1)
	store := &memStore{}
	captureTo(t, store, disk, l)
	d := &store.manifest.Disks[0]
	before := randomBytes(9, testDiskSize)
	target := &trimDisk{memDisk: &memDisk{b: bytes.Clone(before)}}
	r, err := deployOne(d, target, l.Geometry, store, deployOrder{Verify: true, Trim: true})
	if err != nil {
		t.Fatal(err)
	}
	checkDeployed(t, d, disk.b, before, target.b)
	free := d.Partitions[0].Content.Length - d.Partitions[0].Content.Allocated()
	if r.Trimmed != target.trimmed || r.Trimmed > free || r.Trimmed < free-200*quantity.KiB {
		t.Errorf("%v trimmed, %v in the result, %v are free", target.trimmed, r.Trimmed, free)
	}
	for _, p := range d.Partitions[1:] { // one is stored whole, one skipped
		from, to := p.Content.Start, p.Content.Start+p.Content.Length
		if p.Mode == image.ModeSkip && !bytes.Equal(target.b[from:to], before[from:to]) {
			t.Errorf("the skipped partition %d was changed", p.Number)
		}
	}

	target.trimmed = 0
	if _, err := deployOne(d, target, l.Geometry, store, deployOrder{Trim: true}); err != nil || target.trimmed != 0 {
		t.Errorf("a deploy with nothing to write trims %v, %v", target.trimmed, err)
	}
}

func TestTrimRefused(t *testing.T) {
	disk, l := testDisk(1)
	store := &memStore{}
	captureTo(t, store, disk, l)
	d := &store.manifest.Disks[0]
	deploy := func(err error, on bool) error {
		target := &trimDisk{memDisk: &memDisk{b: randomBytes(9, testDiskSize)}, err: err}
		_, deployErr := deployOne(d, target, l.Geometry, store, deployOrder{Trim: on})
		return deployErr
	}
	if err := deploy(errors.ErrUnsupported, true); err != nil {
		t.Errorf("a disk that cannot trim: %v", err)
	}
	if err := deploy(errMedium, true); !errors.Is(err, errMedium) {
		t.Errorf("a disk that fails: %v", err)
	}
	if err := deploy(errMedium, false); err != nil {
		t.Errorf("trimmed without being asked to: %v", err)
	}
}

// Nothing is trimmed where something else has a place in the partition.
func TestTrimOverlap(t *testing.T) {
	disk, l := testDisk(1)
	store := &memStore{}
	captureTo(t, store, disk, l)
	d := store.manifest.Disks[0]
	d.Partitions[2].Content.Start = d.Partitions[0].Content.Start + 6<<20 // the skipped one, inside the first
	free := func() []quantity.Extent {
		t.Helper()
		target := &memDisk{b: randomBytes(9, testDiskSize)}
		plan, err := deploy.NewPlan(context.Background(), []deploy.Disk{{Image: &d, Target: target, Geometry: l.Geometry}},
			sourceOf(store), deploy.Options{Trim: true}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return plan.Disks[0].Regions[1].Trim
	}
	if e := free(); e != nil {
		t.Errorf("%v would be trimmed", e)
	}
	d.Partitions[2].Content.Start = 17 << 20
	if free() == nil {
		t.Error("nothing would be trimmed without the other partition")
	}
}
