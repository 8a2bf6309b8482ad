package clone_test

import (
	"bytes"
	"errors"
	"slices"
	"sync"
	"testing"

	"clonecast/internal/clone/rescue"
	"clonecast/internal/quantity"
)

// readTries is how often a capture reads before it gives a sector up.
const readTries = 3

var errMedium = errors.New("input/output error")

// badDisk cannot read some ranges; those of shaky can be read at the third try.
type badDisk struct {
	*memDisk
	bad, shaky []quantity.Extent

	mu    sync.Mutex
	tries map[quantity.Bytes]int // of a shaky range, by its start
	reads int
}

func (d *badDisk) ReadAt(b []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reads++
	hit := func(e quantity.Extent) bool {
		return quantity.Bytes(off) < e.End() && e.Start < quantity.Bytes(off)+quantity.Bytes(len(b))
	}
	for _, e := range d.bad {
		if hit(e) {
			return 0, errMedium
		}
	}
	for _, e := range d.shaky {
		if d.tries == nil {
			d.tries = map[quantity.Bytes]int{}
		}
		if hit(e) && len(b) <= 4096 {
			d.tries[e.Start]++
		}
		if hit(e) && d.tries[e.Start] < readTries {
			return 0, errMedium
		}
	}
	return d.memDisk.ReadAt(b, off)
}

// In testDisk, partition 1 begins at byte 63*512 and has an extent from 8192 to 315392 in it,
// partition 2 is stored whole from 12 MiB on.
func TestBadSectors(t *testing.T) {
	const part1 = 63 * 512
	page := func(at quantity.Bytes) quantity.Extent {
		return quantity.Extent{Start: at / 4096 * 4096, Length: 4096}
	}
	for name, c := range map[string]struct {
		bad, shaky []quantity.Extent
		want       []quantity.Extent // unreadable, of what is stored
	}{
		"none":          {},
		"in free bytes": {bad: []quantity.Extent{{Start: part1 + 5000, Length: 100}}},
		"one sector": {
			bad:  []quantity.Extent{{Start: part1 + 100_000, Length: 512}},
			want: []quantity.Extent{page(part1 + 100_000)},
		},
		"two places, one across pages": {
			bad:  []quantity.Extent{{Start: 13<<20 - 512, Length: 1024}, {Start: 14<<20 + 100, Length: 1}},
			want: []quantity.Extent{{Start: 13<<20 - 4096, Length: 8192}, page(14 << 20)},
		},
		"the start of an extent": {
			bad:  []quantity.Extent{{Start: part1 + 8192, Length: 1}},
			want: []quantity.Extent{{Start: part1 + 8192, Length: 512}},
		},
		"only shaky": {
			shaky: []quantity.Extent{{Start: part1 + 50_000, Length: 512}, {Start: 13 << 20, Length: 512}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			disk, l := testDisk(1)
			options := captureOrder{Image: "test"}
			failing := &badDisk{memDisk: disk, bad: c.bad, shaky: c.shaky}
			store := &memStore{}
			_, err := captureOne(failing, l, store, options)
			var bad *rescue.UnreadableError
			reported := errors.As(err, &bad) && errors.Is(err, errMedium) && slices.Equal(bad.Extents, c.want)
			if len(c.want) == 0 {
				if err != nil {
					t.Fatal(err)
				}
			} else if !reported || store.manifest != nil {
				t.Fatalf("Capture = %v with %v, want an UnreadableError of %v and no version", err, bad, c.want)
			}

			options.FillBadSectors = true
			failing = &badDisk{memDisk: disk, bad: c.bad, shaky: c.shaky}
			r, err := captureOne(failing, l, store, options)
			if err != nil {
				t.Fatal(err)
			}
			want := bytes.Clone(disk.b)
			for _, e := range c.want {
				clear(want[e.Start:e.End()])
			}
			if got := len(r.Unreadable); got != min(1, len(c.want)) ||
				got > 0 && !slices.Equal(r.Unreadable[0].Extents, c.want) {
				t.Errorf("reported as filled: %v, want %v", r.Unreadable, c.want)
			}
			target := &memDisk{b: randomBytes(9, testDiskSize)}
			before := bytes.Clone(target.b)
			if _, err := deployOne(&store.manifest.Disks[0], target, l.Geometry, store, deployOrder{Verify: true}); err != nil {
				t.Fatal(err)
			}
			checkDeployed(t, &store.manifest.Disks[0], want, before, target.b)
			// A disk may take seconds for each read that fails: there must be few of them.
			if limit := 100 + 100*len(c.want); failing.reads > limit {
				t.Errorf("%d reads, want at most %d", failing.reads, limit)
			}
		})
	}
}
