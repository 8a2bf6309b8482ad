package clone_test

import (
	"bytes"
	"errors"
	"testing"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

// unreadable is a disk some of whose bytes cannot be read.
type unreadable struct {
	*memDisk
	runs []quantity.Extent
}

func (d *unreadable) ReadAt(b []byte, off int64) (int, error) {
	for _, e := range d.runs {
		if quantity.Bytes(off) < e.End() && e.Start < quantity.Bytes(off)+quantity.Bytes(len(b)) {
			return 0, errors.New("input/output error")
		}
	}
	return d.memDisk.ReadAt(b, off)
}

// What is not content is not read, and a deploy puts its fill byte over what the target
// held there.
func TestDiscardedBytes(t *testing.T) {
	disk, l := testDisk(1)
	everything := captureTo(t, &memStore{}, disk, l).Read
	p := &l.Partitions[0]
	page := []quantity.Extent{
		{Start: 8192, Length: 4096}, {Start: 8192 + 200<<10, Length: 512}, {Start: 3<<20 + 1024, Length: 1 << 20},
	}
	log := []quantity.Extent{{Start: 8192 + 4096, Length: 4096}, {Start: 10<<20 - 4096, Length: 4096}}
	p.Volume.Discarded = []filesystem.Discard{
		{What: "pagefile.sys", Extents: page},
		{What: "$LogFile", Fill: 0xff, Extents: log},
	}
	discarded := quantity.Total(page) + quantity.Total(log)
	if got := p.Discarded(); got != discarded {
		t.Errorf("Discarded() = %d, want %d", got, discarded)
	}

	want := bytes.Clone(disk.b)
	broken := &unreadable{memDisk: disk}
	for _, d := range p.Volume.Discarded {
		for _, e := range d.Extents {
			broken.runs = append(broken.runs, quantity.Extent{Start: p.Start + e.Start, Length: e.Length})
			for i := p.Start + e.Start; i < p.Start+e.End(); i++ {
				want[i] = d.Fill
			}
		}
	}
	store := &memStore{}
	r, err := captureOne(broken, l, store, captureOrder{Image: "test"})
	if err != nil {
		t.Fatalf("Capture read what it discards: %v", err)
	}
	if want := everything - discarded; r.Read != want {
		t.Errorf("%d bytes read, want %d", r.Read, want)
	}

	before := randomBytes(9, testDiskSize)
	target := &memDisk{b: bytes.Clone(before)}
	d := &store.manifest.Disks[0]
	if _, err := deployOne(d, target, l.Geometry, store, deployOrder{Verify: true}); err != nil {
		t.Fatal(err)
	}
	checkDeployed(t, d, want, before, target.b)
	if r, err := deployOne(d, target, l.Geometry, store, deployOrder{}); err != nil || r.Written != 0 {
		t.Errorf("second deploy wrote %d bytes, %v", r.Written, err)
	}
}

// A partition that is copied whole keeps every byte, whatever its volume says.
func TestRawDiscardsNothing(t *testing.T) {
	_, l := testDisk(1)
	raw := &l.Partitions[1]
	raw.Volume.Discarded = []filesystem.Discard{{What: "journal", Extents: []quantity.Extent{{Start: 0, Length: 4096}}}}
	if got := raw.Discarded(); got != 0 {
		t.Errorf("a raw partition discards %d bytes", got)
	}
}
