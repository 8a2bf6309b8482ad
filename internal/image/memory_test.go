package image

import (
	"crypto/ed25519"
	"math/rand/v2"
	"runtime"
	"testing"

	"clonecast/internal/chunk"
	"clonecast/internal/quantity"
)

// TestMemory: the chunk ids of a version, which are nearly all of a manifest, are there once
// when it is sent, and what is received is what is worked with.
func TestMemory(t *testing.T) {
	const chunks = 1 << 18
	ids := make([]chunk.ID, chunks) // 8 MiB for 64 GiB
	_, _ = rand.NewChaCha8([32]byte{1}).Read(chunk.Bytes(ids))
	length := chunks * quantity.Bytes(chunk.Size)
	m := &Manifest{Image: "lab", Disks: []Disk{{
		Size: length + quantity.MiB, LogicalSector: 512, PhysicalSector: 512, TableKind: "none",
		Partitions: []Partition{{Mode: ModeRaw, Content: Content{
			Start: quantity.MiB, Length: length, Extents: []quantity.Extent{{Length: length}}, Chunks: ids,
		}}},
	}}}
	var segments [][]byte
	atMost(t, "Segments", 1<<20, func() (err error) {
		segments, err = m.Segments()
		return err
	})
	total := 0
	for _, s := range segments {
		total += len(s)
	}
	atMost(t, "MarshalBinary", uint64(total)+1<<20, func() error {
		_, err := m.MarshalBinary()
		return err
	})
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	envelope, _, err := Seal(m, key)
	if err != nil {
		t.Fatal(err)
	}
	var opened *Manifest
	atMost(t, "Open", uint64(total)+6<<20, func() (err error) { // a decoder takes some MiB, whatever it decodes
		opened, _, err = Open(envelope, []ed25519.PublicKey{key.Public().(ed25519.PublicKey)})
		return err
	})
	if got := opened.Disks[0].Partitions[0].Content.Chunks; len(got) != chunks || got[chunks-1] != ids[chunks-1] {
		t.Errorf("%d chunks, the last %v", len(got), got[len(got)-1])
	}
}

// atMost checks what f allocates.
func atMost(t *testing.T, what string, most uint64, f func() error) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := f(); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > most {
		t.Errorf("%s allocates %d bytes, want at most %d", what, got, most)
	}
}
