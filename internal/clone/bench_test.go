package clone_test

import (
	"testing"

	"clonecast/internal/clone"
	"clonecast/internal/clone/layout"
	"clonecast/internal/filesystem"
	"clonecast/internal/image"
	"clonecast/internal/partition"
	"clonecast/internal/quantity"

	"github.com/klauspost/compress/zstd"
)

// benchDisk is a bare file system of 64 MiB, all allocated, half of it random.
func benchDisk() (*memDisk, *layout.Layout) {
	const size = 64 << 20
	disk := &memDisk{b: randomBytes(1, size)}
	for at := 0; at < size; at += 8192 {
		clear(disk.b[at : at+4096])
	}
	g := clone.Geometry{Size: size, LogicalSector: 512, PhysicalSector: 512}
	l := &layout.Layout{Geometry: g, Table: partition.Table{Kind: partition.None}}
	l.Partitions = []layout.Partition{layout.NewPartition(partition.Partition{Length: size},
		filesystem.Volume{Type: "ext4", Allocated: []quantity.Extent{{Length: size}}})}
	return disk, l
}

func benchCapture(b *testing.B, disk *memDisk, l *layout.Layout) *memStore {
	b.Helper()
	store := &memStore{}
	if _, err := captureOne(disk, l, store, captureOrder{Image: "bench", Level: zstd.SpeedDefault}); err != nil {
		b.Fatal(err)
	}
	return store
}

func BenchmarkCapture(b *testing.B) {
	disk, l := benchDisk()
	b.SetBytes(int64(l.Size))
	for b.Loop() {
		benchCapture(b, disk, l)
	}
}

func BenchmarkDeploy(b *testing.B) {
	disk, l := benchDisk()
	store := benchCapture(b, disk, l)
	deploy := func(b *testing.B, d *image.Disk, target *memDisk) {
		b.Helper()
		if _, err := deployOne(d, target, l.Geometry, store, deployOrder{}); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("blank", func(b *testing.B) {
		b.SetBytes(int64(l.Size))
		for b.Loop() {
			deploy(b, &store.manifest.Disks[0], &memDisk{b: make([]byte, l.Size)})
		}
	})
	b.Run("unchanged", func(b *testing.B) {
		b.SetBytes(int64(l.Size))
		for b.Loop() {
			deploy(b, &store.manifest.Disks[0], disk)
		}
	})
}
