package ntfs

import (
	"math/rand/v2"
	"testing"

	"clonecast/internal/disktest"
	"clonecast/internal/quantity"
)

// TestMutations reads thousands of damaged volumes that hold files; TestFragmentedMFT goes on
// with a volume that has an attribute list.
func TestMutations(t *testing.T) {
	image := makeVolume(t, 24*quantity.MiB, "-c", "512", "-z", "1")
	mounted(t, image, func(dir string) { disktest.Fill(t, dir, 60, 20_000) })
	mutate(t, image, 3000)
}

// mutate reads so many damaged copies of a volume. Fixups are made to fit, so that more than torn
// writes is found.
func mutate(t *testing.T, image string, runs int) {
	t.Helper()
	base := disktest.Load(t, image)
	v := open(t, image)
	var places []quantity.Extent
	for n := range uint64(12) { // and where extension records are
		places = append(places, quantity.Extent{Start: v.recordPlace(t, n), Length: v.recordSize})
	}
	for n := range uint64(40) {
		if at := 24 + n; quantity.Bytes(at+1)*v.recordSize <= v.mft.size {
			places = append(places, quantity.Extent{Start: v.recordPlace(t, at), Length: v.recordSize})
		}
	}
	bitmap, _ := v.streamPlace(t, recordBitmap)
	log, _ := v.streamPlace(t, recordLogFile)
	places = append(places,
		quantity.Extent{Length: 512},
		quantity.Extent{Start: bitmap, Length: 512},
		quantity.Extent{Start: log, Length: 512})
	rng := rand.New(rand.NewPCG(1, 9))
	clean := 0
	for range runs {
		s := base.Clone()
		for range 1 + rng.IntN(4) {
			p := places[rng.IntN(len(places))]
			s.Edit(int64(p.Start)+rng.Int64N(int64(p.Length)), 1)[0] ^= byte(1 << rng.IntN(8))
			if p.Length == v.recordSize && rng.IntN(8) > 0 {
				b := s.Edit(int64(p.Start), int(p.Length))
				copy(b, protect(b))
			}
		}
		got, err := Read(s, s.Size)
		disktest.CheckVolume(t, got, err, s.Size)
		if err == nil && got.Doubt == nil {
			clean++
		}
	}
	if clean == 0 || clean > runs*19/20 {
		t.Errorf("%d of %d damaged volumes pass for clean", clean, runs)
	}
}

// recordPlace is where a record lies on the volume.
func (v *volume) recordPlace(t *testing.T, n uint64) quantity.Bytes {
	t.Helper()
	at := quantity.Bytes(n) * v.recordSize
	for _, r := range v.mft.runs {
		length := quantity.Bytes(r.length) * v.clusterSize
		if at < length {
			return v.clusterOffset(r.lcn) + at
		}
		at -= length
	}
	t.Fatalf("record %d lies outside of $MFT", n)
	return 0
}
