package storetest

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"clonecast/internal/chunk"
	"clonecast/internal/chunkstore"
	"clonecast/internal/image"
	"clonecast/internal/quantity"
)

func collect(t testing.TB, store chunkstore.Store, minAge time.Duration) chunkstore.CollectReport {
	t.Helper()
	r, err := store.Collect(t.Context(), chunkstore.CollectOptions{MinAge: minAge})
	if err != nil {
		t.Fatalf("Collect = %v", err)
	}
	return r
}

func remove(t testing.TB, store chunkstore.Store, name string, sequence uint64) {
	t.Helper()
	if err := store.Delete(t.Context(), name, sequence); err != nil {
		t.Fatalf("Delete = %v", err)
	}
}

// wantChunks reads chunks, which must be there or gone.
func wantChunks(t testing.TB, store chunkstore.Store, ids []chunk.ID, there bool) {
	t.Helper()
	for _, id := range ids {
		var missing *chunk.MissingError
		err := store.Frames(t.Context(), []chunk.ID{id}, func([]byte) error { return nil })
		if there && err != nil || !there && !errors.As(err, &missing) {
			t.Fatalf("Frames = %v; want there %v", err, there)
		}
	}
}

// A chunk that does not fill its place, or does not fit it, is not what the manifest describes.
func testLengths(t *testing.T, s chunkstore.Store) {
	for _, more := range []int{-1, 1} {
		disk := sample(t, "lab", 1, 6, 0)
		n := begin(t, s)
		for _, f := range disk.Frames {
			if _, err := n.PutFrame(t.Context(), f); err != nil {
				t.Fatal(err)
			}
		}
		parts := disk.Manifest.Disks[0].Partitions
		c := &parts[len(parts)-1].Content
		have := int(c.Length)
		c.Length += quantity.Bytes(more)
		c.Extents[0].Length = c.Length
		var wrong *chunkstore.LengthError
		if _, _, err := n.Publish(t.Context(), disk.Manifest); !errors.As(err, &wrong) ||
			wrong.Have != have || wrong.Want != have+more || wrong.ID != c.Chunks[0] {
			t.Errorf("%+d: Publish = %v, want a LengthError", more, err)
		}
	}
	wantSound(t, s, 0)
}

func testDelete(t *testing.T, s chunkstore.Store) {
	disk, other := sample(t, "lab", 1, 9, 2), sample(t, "lab", 2, 9, 2)
	capture(t, s, disk)
	v2, _ := capture(t, s, other)
	for _, absent := range []uint64{0, 3} {
		if err := s.Delete(t.Context(), "lab", absent); !errors.Is(err, chunkstore.ErrNotFound) {
			t.Errorf("Delete(%d) = %v, want ErrNotFound", absent, err)
		}
	}
	if err := s.Delete(t.Context(), "../lab", 1); !errors.Is(err, chunkstore.ErrNotFound) {
		t.Errorf("Delete of another place = %v, want ErrNotFound", err)
	}
	remove(t, s, "lab", 1)
	if err := s.Delete(t.Context(), "lab", 1); !errors.Is(err, chunkstore.ErrNotFound) {
		t.Errorf("Delete again = %v, want ErrNotFound", err)
	}
	if _, err := s.Manifest(t.Context(), "lab", 1); !errors.Is(err, chunkstore.ErrNotFound) {
		t.Errorf("Manifest of a deleted version = %v, want ErrNotFound", err)
	}
	if list, err := s.Versions(t.Context(), "lab"); err != nil || !slices.Equal(list, []image.Version{v2}) {
		t.Errorf("Versions = %+v, %v; want the second", list, err)
	}
	remove(t, s, "lab", 2)
	if names, err := s.Images(t.Context()); err != nil || len(names) != 0 {
		t.Errorf("Images = %v, %v after the last version was deleted", names, err)
	}
	if _, err := s.Manifest(t.Context(), "lab", 0); !errors.Is(err, chunkstore.ErrNotFound) {
		t.Errorf("Manifest(0) = %v, want ErrNotFound", err)
	}
	// A number is never used twice, and what was not collected need not be sent again.
	v3, stored := capture(t, s, disk)
	if v3.Sequence != 3 || stored != 0 {
		t.Errorf("the capture after deletion has number %d and stores %d bytes, want 3 and 0", v3.Sequence, stored)
	}
	remove(t, s, "lab", 3)
	if v4, _ := capture(t, s, disk); v4.Sequence != 4 {
		t.Errorf("the next capture has number %d, want 4", v4.Sequence)
	}
	wantSound(t, s, 1)
}

func testCollect(t *testing.T, s chunkstore.Store) {
	first, second := sample(t, "lab", 1, 12, 4), sample(t, "lab", 2, 12, 4)
	capture(t, s, first)
	capture(t, s, second)
	if r := collect(t, s, 0); r.Removed != 0 || r.Freed != 0 || r.Versions != 2 || r.Bytes == 0 ||
		!r.Due.IsZero() || r.Pinned {
		t.Errorf("Collect where all is needed = %+v", r)
	}
	remove(t, s, "lab", 1)
	before, err := s.Collect(t.Context(), chunkstore.CollectOptions{DryRun: true})
	if err != nil || before.Condemned == 0 || before.Removed != 0 || !before.Due.IsZero() {
		t.Errorf("dry run = %+v, %v", before, err)
	}
	wantChunks(t, s, first.Chunks, true)
	r := collect(t, s, 0)
	if r.Removed == 0 || r.Freed == 0 || r.Condemned != 0 || r.Pinned || !r.Due.IsZero() {
		t.Errorf("Collect = %+v", r)
	}
	if err := second.Verify(t.Context(), s, 2); err != nil {
		t.Fatal(err)
	}
	wantSound(t, s, 1)
	if r = collect(t, s, 0); r.Removed != 0 || r.Freed != 0 || r.Live == 0 {
		t.Errorf("Collect again = %+v", r)
	}
	v, stored := capture(t, s, first)
	if stored == 0 {
		t.Error("what was collected is not stored again")
	}
	for sequence, disk := range map[uint64]*Sample{2: second, v.Sequence: first} {
		if err := disk.Verify(t.Context(), s, sequence); err != nil {
			t.Errorf("version %d: %v", sequence, err)
		}
	}
	wantSound(t, s, 2)
	remove(t, s, "lab", 2)
	remove(t, s, "lab", v.Sequence)
	collect(t, s, 0)
	wantChunks(t, s, slices.Concat(first.Chunks, second.Chunks), false)
	for _, minAge := range []time.Duration{0, time.Hour} {
		if r = collect(t, s, minAge); r.Bytes != 0 || !r.Due.IsZero() {
			t.Errorf("an empty store has %d bytes, and something is due at %v", r.Bytes, r.Due)
		}
	}
}

func testCollectAge(t *testing.T, s chunkstore.Store) {
	disk := sample(t, "lab", 1, 9, 0)
	capture(t, s, disk)
	remove(t, s, "lab", 1)
	for range 3 {
		if r := collect(t, s, time.Hour); r.Removed != 0 || r.Due.IsZero() != (r.Condemned == 0) {
			t.Fatalf("Collect removes what is younger than an hour, or is due without a reason: %+v", r)
		}
	}
	if v, stored := capture(t, s, disk); v.Sequence != 2 || disk.Verify(t.Context(), s, 2) != nil {
		t.Errorf("the capture again gives version %d and stores %d", v.Sequence, stored)
	}
	collect(t, s, 0)
	if err := disk.Verify(t.Context(), s, 2); err != nil {
		t.Error(err)
	}
	wantSound(t, s, 1)
}

func testPin(t *testing.T, s chunkstore.Store) {
	disk := sample(t, "lab", 1, 9, 0)
	capture(t, s, disk)
	pin, err := s.Pin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	remove(t, s, "lab", 1)
	for range 3 {
		if r := collect(t, s, 0); !r.Pinned || r.Removed != 0 || r.Condemned == 0 {
			t.Errorf("Collect beside a reader = %+v", r)
		}
	}
	wantChunks(t, s, disk.Chunks, true)
	if err := pin.Close(); err != nil {
		t.Fatal(err)
	}
	if r := collect(t, s, 0); r.Pinned || r.Removed == 0 {
		t.Errorf("Collect after the reader ended = %+v", r)
	}
	wantChunks(t, s, disk.Chunks, false)
}

// The classic race: a capture is told that a chunk is there, a collection removes it, the
// capture publishes a version that needs it.
func testSessionPins(t *testing.T, s chunkstore.Store) {
	disk := sample(t, "lab", 1, 9, 0)
	capture(t, s, disk)
	remove(t, s, "lab", 1)
	for _, condemnedBefore := range []bool{false, true} {
		if condemnedBefore {
			collect(t, s, time.Hour)
		}
		n := begin(t, s)
		for i, frame := range disk.Frames {
			missing, err := n.Missing(t.Context(), disk.IDs[i])
			if err != nil {
				t.Fatal(err)
			}
			collect(t, s, 0)
			if slices.Contains(missing, true) {
				if _, err := n.PutFrame(t.Context(), frame); err != nil {
					t.Fatal(err)
				}
			}
			collect(t, s, 0)
		}
		_, v, err := n.Publish(t.Context(), disk.Manifest)
		if err != nil {
			t.Fatalf("Publish = %v", err)
		}
		collect(t, s, 0)
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
		collect(t, s, 0)
		if err := disk.Verify(t.Context(), s, v.Sequence); err != nil {
			t.Fatal(err)
		}
		wantSound(t, s, 1)
		remove(t, s, "lab", v.Sequence)
	}
}

// Captures of overlapping content, deletions, and collections without a pause.
func testConcurrentCollect(t *testing.T, s chunkstore.Store) {
	const writers, rounds = 4, 4
	var work, collections sync.WaitGroup
	done := make(chan struct{})
	collections.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if _, err := s.Collect(t.Context(), chunkstore.CollectOptions{}); err != nil {
				t.Errorf("Collect = %v", err)
				return
			}
		}
	})
	for w := range writers {
		var disks []*Sample
		for r := range rounds {
			disks = append(disks, sample(t, "lab", uint64(1+w*r%5), 12, 2))
		}
		work.Go(func() {
			for r, disk := range disks {
				v, _, err := disk.Capture(t.Context(), s)
				if err == nil {
					err = disk.Verify(t.Context(), s, v.Sequence)
				}
				if err == nil && r%2 == 0 {
					err = s.Delete(t.Context(), "lab", v.Sequence)
				}
				if err != nil {
					t.Errorf("writer %d, round %d: %v", w, r, err)
					return
				}
			}
		})
	}
	work.Wait()
	close(done)
	collections.Wait()
	wantSound(t, s, writers*rounds/2)
}

func testStats(t *testing.T, s chunkstore.Store) {
	if r, err := s.Stats(t.Context()); err != nil || r.Versions != nil || r.Bytes != 0 || r.Stored != 0 {
		t.Errorf("Stats of an empty store = %+v, %v", r, err)
	}
	first, second := sample(t, "lab", 1, 12, 4), sample(t, "lab", 2, 12, 4)
	v1, _ := capture(t, s, first)
	v2, _ := capture(t, s, second)
	v3, _ := capture(t, s, second)
	r, err := s.Stats(t.Context())
	if err != nil || len(r.Versions) != 3 {
		t.Fatalf("Stats = %+v, %v", r, err)
	}
	plain, shared := int64(0), int64(0)
	for id, b := range first.Plain {
		plain += int64(len(b))
		if _, both := second.Plain[id]; both {
			shared += int64(len(b))
		}
	}
	logical, unique := int64(v1.Allocated+v2.Allocated+v3.Allocated), int64(v2.Allocated)+plain-shared
	if r.Logical != logical || r.Unique != unique || r.Stored <= 0 || r.Stored > r.Bytes ||
		r.Packs == 0 || r.Missing != 0 {
		t.Errorf("Stats = %+v, want %d logical and %d unique", r, logical, unique)
	}
	for i, want := range []chunkstore.VersionStats{
		{Version: v1, Chunks: 12, Own: plain - shared, Shared: shared},
		{Version: v2, Chunks: 12, Shared: int64(v2.Allocated)},
		{Version: v3, Chunks: 12, Shared: int64(v3.Allocated)},
	} {
		got := r.Versions[i]
		if (got.OwnStored > 0) != (want.Own > 0) || got.SharedStored <= 0 {
			t.Errorf("version %d takes %d own bytes and %d shared ones", i+1, got.OwnStored, got.SharedStored)
		}
		got.OwnStored, got.SharedStored = 0, 0
		if got != want {
			t.Errorf("version %d: %+v, want %+v", i+1, got, want)
		}
	}
	remove(t, s, "lab", 1)
	before := r.Bytes
	collect(t, s, 0)
	r, err = s.Stats(t.Context())
	if err != nil || len(r.Versions) != 2 || r.Unique != int64(v2.Allocated) || r.Bytes >= before {
		t.Errorf("after a deletion: %+v, %v", r, err)
	}
}
