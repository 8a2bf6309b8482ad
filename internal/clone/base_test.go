package clone_test

import (
	"bytes"
	"context"
	"testing"

	"clonecast/internal/chunk"
	"clonecast/internal/chunkstore"
	"clonecast/internal/quantity"
)

// deltaStore sends differences of what a memStore has.
type deltaStore struct {
	*memStore
	differ *chunkstore.Differ
	bases  int // wants that name one
}

func (s *deltaStore) Deltas(ctx context.Context, wants []chunk.Want, yield func([]byte) error) error {
	for _, w := range wants {
		if w.Base != (chunk.ID{}) {
			s.mu.Lock()
			s.bases++
			s.mu.Unlock()
		}
	}
	return s.differ.Deltas(ctx, wants, yield)
}

// A changed disk is captured again. A disk that holds the first version fetches little more
// than what changed; what it does not hold of it is no base, and the result is right.
func TestDeployDifferences(t *testing.T) {
	disk, l := testDisk(1)
	store := &memStore{}
	captureTo(t, store, disk, l)
	parent := store.manifest
	old := bytes.Clone(disk.b)
	var offsets []int
	// Twice in partition 1; at the start of partition 2, which is zeroed first: no base.
	for _, at := range []int{4 << 20, 5 << 20, 12<<20 + 5000} {
		offsets = append(offsets, 63*512+at)
		disk.b[63*512+at] ^= 0xff
	}
	// An extent more: the first version's hash has zeroes there, whatever is on the disk.
	p := &l.Partitions[0]
	p.Extents = append(p.Extents[:2:2], append([]quantity.Extent{{Start: 700 << 10, Length: 4096}}, p.Extents[2:]...)...)
	first := captureTo(t, store, disk, l)
	if limit := quantity.Bytes(6 * (int(chunk.Size) + 500)); first.Stored > limit {
		t.Errorf("the second capture stored %v for 4 changes", first.Stored)
	}
	differ, err := chunkstore.NewDiffer(store)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(b []byte) // of the target, which holds the first version
		bases  int
		limit  quantity.Bytes
	}{
		"as it was":                         {func([]byte) {}, 2, chunk.Size + 10000},
		"changed where the version changed": {func(b []byte) { b[offsets[0]+1] ^= 1 }, 1, 2*chunk.Size + 10000},
		"changed elsewhere":                 {func(b []byte) { b[63*512+3<<20+3000] ^= 1 }, 2, 2*chunk.Size + 10000},
	} {
		t.Run(name, func(t *testing.T) {
			target := &memDisk{b: bytes.Clone(old)}
			c.change(target.b)
			s := &deltaStore{memStore: store, differ: differ}
			r, err := deployOne(&store.manifest.Disks[0], target, l.Geometry, s, deployOrder{Verify: true, Parent: parent})
			if err != nil {
				t.Fatal(err)
			}
			checkDeployed(t, &store.manifest.Disks[0], disk.b, old, target.b)
			if r.Fetched > c.limit || s.bases != c.bases {
				t.Errorf("%v fetched with %d bases, want at most %v with %d", r.Fetched, s.bases, c.limit, c.bases)
			}
		})
	}
}
