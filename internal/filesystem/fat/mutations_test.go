package fat

import (
	"math/rand/v2"
	"strings"
	"testing"

	"clonecast/internal/disktest"
	"clonecast/internal/quantity"
)

// TestMutations reads thousands of damaged volumes that hold files.
func TestMutations(t *testing.T) {
	for args, size := range map[string]quantity.Bytes{
		"-F 12":              6 * quantity.MiB,
		"-F 16 -s 1":         20 * quantity.MiB,
		"-F 32 -s 1":         40 * quantity.MiB,
		"-F 32 -s 1 -S 4096": 300 * quantity.MiB,
	} {
		image := makeVolume(t, size, strings.Fields(args)...)
		disktest.FillFAT(t, image, 60, 20*quantity.KiB)
		base := disktest.Load(t, image)
		places := []quantity.Extent{{Length: 0x60}, {Length: 0x60}, {Length: 512}}
		boot := make([]byte, 512)
		if _, err := base.ReadAt(boot, 0); err != nil {
			t.Fatal(err)
		}
		sectorSize := quantity.Bytes(boot[0x0b]) | quantity.Bytes(boot[0x0c])<<8
		reserved := (quantity.Bytes(boot[0x0e]) | quantity.Bytes(boot[0x0f])<<8) * sectorSize
		places = append(places, quantity.Extent{Start: reserved, Length: 16}, quantity.Extent{Start: reserved, Length: 2048})
		rng := rand.New(rand.NewPCG(5, 2))
		clean := 0
		const runs = 1500
		for range runs {
			s := base.Clone()
			for range 1 + rng.IntN(4) {
				p := places[rng.IntN(len(places))]
				s.Edit(int64(p.Start)+rng.Int64N(int64(p.Length)), 1)[0] ^= byte(1 << rng.IntN(8))
			}
			v, err := Read(s, s.Size)
			disktest.CheckVolume(t, v, err, s.Size)
			if err == nil && v.Doubt == nil {
				clean++
			}
		}
		if clean == 0 || clean > runs*19/20 {
			t.Errorf("mkfs.fat %s: %d of %d damaged volumes pass for clean", args, clean, runs)
		}
	}
}
