package clone_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"clonecast/internal/chunk"
	"clonecast/internal/clone"
	"clonecast/internal/clone/deploy"
	"clonecast/internal/clone/layout"
	"clonecast/internal/filesystem"
	"clonecast/internal/partition"
	"clonecast/internal/quantity"
)

// borderDisk has many partitions of a few chunks each, so that frames lie across their borders, and more chunks than
// one call asks for.
func borderDisk() (*memDisk, *layout.Layout) {
	const partitions, size, big = 20, quantity.MiB + 256*quantity.KiB, 330 * quantity.MiB
	total := quantity.MiB + partitions*size + big
	disk := &memDisk{b: randomBytes(9, int(total))}
	l := &layout.Layout{
		Geometry: clone.Geometry{Size: total, LogicalSector: 512, PhysicalSector: 512},
		Table: partition.Table{Kind: partition.MBR, Areas: []partition.Area{
			{Kind: partition.AreaTable, Start: 0, Length: 512}, {Kind: partition.AreaBoot, Start: 512, Length: 62 * 512}}},
	}
	start := quantity.MiB
	for i := range partitions + 1 {
		length := size
		if i == partitions {
			length = big
		}
		l.Partitions = append(l.Partitions, layout.NewPartition(
			partition.Partition{Number: i + 1, Start: start, Length: length},
			filesystem.Volume{Doubt: &filesystem.Doubt{Reason: "no known file system"}}))
		start += length
	}
	return disk, l
}

// A frame is fetched once, though its chunks lie in several partitions or in what two calls ask for.
func TestFramesAreFetchedOnce(t *testing.T) {
	store := &memStore{}
	disk, l := borderDisk()
	captureTo(t, store, disk, l)
	target := &memDisk{b: make([]byte, len(disk.b))}
	same := l.Partitions[1] // is there already, so that the calls do not end where frames do
	copy(target.b[same.Start:same.Start+same.Length], disk.b[same.Start:])
	before := bytes.Clone(target.b)
	var fetched quantity.Bytes
	counts := map[*byte]int{}
	count := func(frame []byte) {
		counts[&frame[0]]++
		fetched += quantity.Bytes(len(frame))
	}
	source := framerFunc(func(ctx context.Context, ids []chunk.ID, yield func([]byte) error) error {
		return store.Frames(ctx, ids, func(frame []byte) error {
			count(frame)
			return yield(frame)
		})
	})
	d := &store.manifest.Disks[0]
	r, err := deployOne(d, target, l.Geometry, source, deployOrder{Verify: true})
	if err != nil {
		t.Fatal(err)
	}
	stored := map[*byte]quantity.Bytes{}
	for _, frame := range store.frames {
		stored[&frame[0]] = quantity.Bytes(len(frame))
	}
	var all quantity.Bytes
	for frame, n := range stored {
		all += n
		if counts[frame] != 1 {
			t.Errorf("a frame of %v was fetched %d times", n, counts[frame])
		}
	}
	if fetched != all || r.Fetched != all {
		t.Errorf("%v fetched, %v told, %v stored", fetched, r.Fetched, all)
	}
	checkDeployed(t, d, disk.b, before, target.b)
	if !r.Whole {
		t.Error("the disk is not told to be whole")
	}
}

type framerFunc func(context.Context, []chunk.ID, func([]byte) error) error

func (f framerFunc) Frames(ctx context.Context, ids []chunk.ID, yield func([]byte) error) error {
	return f(ctx, ids, yield)
}

// Begin is told before the first byte is written, once, and not when nothing differs.
func TestBegin(t *testing.T) {
	store := &memStore{}
	disk, l := smallDisk(1)
	captureTo(t, store, disk, l)
	d := &store.manifest.Disks[0]
	target := &memDisk{b: randomBytes(2, len(disk.b))}
	refused := errors.New("the server says no")
	begun := 0
	run := func(answer error) (deploy.Result, error) {
		results, err := deploy.Run(t.Context(), []deploy.Disk{{Image: d, Target: target, Geometry: l.Geometry}},
			deploy.Options{}, deploy.Means{Source: deploy.Source{Frames: store.Frames},
				Begin: func(context.Context, int) error {
					if begun++; target.writes > 0 {
						t.Error("something was written before")
					}
					return answer
				}})
		return results[0], err
	}
	if r, err := run(refused); !errors.Is(err, refused) || target.writes > 0 || r.Whole {
		t.Errorf("refused: %v, %d writes", err, target.writes)
	}
	begun = 0
	if r, err := run(nil); err != nil || begun != 1 || !r.Whole {
		t.Errorf("told %d times, %v, %+v", begun, err, r)
	}
	begun, target.writes = 0, 0
	if _, err := run(nil); err != nil || begun != 0 {
		t.Errorf("nothing differs: told %d times, %v", begun, err)
	}
}
