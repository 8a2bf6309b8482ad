package capture_test

import (
	"bytes"
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/klauspost/compress/zstd"

	"clonecast/internal/chunk"
	"clonecast/internal/clone"
	"clonecast/internal/clone/capture"
	"clonecast/internal/clone/layout"
	"clonecast/internal/filesystem"
	"clonecast/internal/image"
	"clonecast/internal/partition"
	"clonecast/internal/quantity"
)

// farStore is a store behind a network: an answer takes a round trip.
type farStore struct {
	trip time.Duration

	mu     sync.Mutex
	now    int // frames on their way
	most   int
	frames int
	told   []chunk.ID
	stored map[chunk.ID]bool
}

func (s *farStore) Missing(_ context.Context, ids []chunk.ID) ([]bool, error) {
	return slices.Repeat([]bool{true}, len(ids)), nil
}

func (s *farStore) PutFrame(_ context.Context, frame []byte) (int64, error) {
	h, err := chunk.ParseFrameHeader(frame)
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	s.now++
	s.most, s.frames = max(s.most, s.now), s.frames+1
	s.mu.Unlock()
	time.Sleep(s.trip)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now--
	for _, e := range h.Entries {
		s.stored[e.ID] = true
	}
	return int64(len(frame)), nil
}

func (s *farStore) Publish(context.Context, *image.Manifest) ([]byte, image.Version, error) {
	return nil, image.Version{}, nil
}

func (s *farStore) Outline(context.Context, *image.Manifest) error { return nil }

func (s *farStore) Stored(_ context.Context, ids []chunk.ID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told = append(s.told, ids...)
	for _, id := range ids {
		if !s.stored[id] {
			panic("told before it was stored")
		}
	}
	return nil
}

// Two frames are on their way at once, so a network with latency costs half as much, by the clock of the test; and
// followers hear of chunks in the disk's order, when they are stored.
func TestTwoUploadsInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 48 * quantity.MiB
		disk := make([]byte, size+quantity.MiB)
		_, _ = rand.NewChaCha8([32]byte{1}).Read(disk)
		l := &layout.Layout{
			Geometry: clone.Geometry{Size: quantity.Bytes(len(disk)), LogicalSector: 512, PhysicalSector: 512},
			Table:    partition.Table{Kind: partition.None},
			Partitions: []layout.Partition{layout.NewPartition(
				partition.Partition{Number: 1, Start: quantity.MiB, Length: size},
				filesystem.Volume{Doubt: &filesystem.Doubt{Reason: "no known file system"}})},
		}
		store := &farStore{trip: time.Second, stored: map[chunk.ID]bool{}}
		disks := []capture.Disk{{Reader: bytes.NewReader(disk), Layout: l}}
		plan, err := capture.NewPlan(disks, capture.Options{Image: "lab"})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if _, err := capture.Execute(t.Context(), plan, disks, capture.Means{
			Sink: store, Followers: store, Level: zstd.SpeedFastest,
		}); err != nil {
			t.Fatal(err)
		}
		took := time.Since(start)
		t.Logf("%d frames over a round trip of %v: %v", store.frames, store.trip, took)
		if store.most != 2 || took > time.Duration(store.frames/2+2)*store.trip {
			t.Errorf("%d frames at once, %d frames took %v", store.most, store.frames, took)
		}
		var order []chunk.ID
		for at := quantity.MiB; at < quantity.Bytes(len(disk)); at += quantity.Bytes(chunk.Size) {
			order = append(order, chunk.Sum(disk[at:at+quantity.Bytes(chunk.Size)]))
		}
		if !slices.Equal(store.told, order) {
			t.Errorf("followers were told of %d chunks in another order than the disk's %d", len(store.told), len(order))
		}
	})
}
