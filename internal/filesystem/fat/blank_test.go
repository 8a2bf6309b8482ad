package fat

import (
	"bytes"
	"encoding/binary"
	"os"
	"testing"

	"clonecast/internal/disktest"
	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

// TestBlank makes used and dirty volumes anew over random bytes: the checker finds an
// empty volume of the same identity, and it can be filled again.
func TestBlank(t *testing.T) {
	tests := map[string]struct {
		size  quantity.Bytes
		mkfs  []string
		dirty func(b []byte)
	}{
		"fat12": {8*quantity.MiB + 5*512, []string{"-F", "12", "-n", "SMALL"}, func(b []byte) { b[0x25] |= 1 }},
		"fat16": {40 * quantity.MiB, []string{"-F", "16"}, func(b []byte) { fatOf(b)[3] &^= 0x80 }},
		"fat32": {64 * quantity.MiB, []string{"-F", "32", "-s", "1", "-n", "ESP TWO"},
			func(b []byte) { fatOf(b)[7] &^= 0x08 }},
		"fat32 4 KiB": {264*quantity.MiB + 4096, []string{"-F", "32", "-S", "4096", "-s", "1", "-n", "BIG"},
			func(b []byte) {}},
		"fat32 one FAT": {64 * quantity.MiB, []string{"-F", "32", "-f", "1"}, func(b []byte) { b[0x41] |= 3 }},
		"fat32 second FAT only": {64 * quantity.MiB, []string{"-F", "32", "-n", "TWO"}, func(b []byte) {
			binary.LittleEndian.PutUint16(b[flagsOffset:], 0x81)
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			image := makeVolume(t, tt.size, tt.mkfs...)
			disktest.FillFAT(t, image, 20, 40_000)
			want := [2]string{disktest.Blkid(t, image, "UUID"), disktest.Blkid(t, image, "LABEL")}
			b, err := os.ReadFile(image)
			if err != nil {
				t.Fatal(err)
			}
			tt.dirty(b)
			blank, err := Blank(bytes.NewReader(b), tt.size)
			if err != nil {
				t.Fatal(err)
			}
			made := bytes.Repeat([]byte{0xA5}, len(b))
			apply(made, b, blank)
			if err := os.WriteFile(image, made, 0o600); err != nil {
				t.Fatal(err)
			}
			disktest.Run(t, "", "fsck.fat", "-n", image)
			if got := [2]string{disktest.Blkid(t, image, "UUID"), disktest.Blkid(t, image, "LABEL")}; got != want {
				t.Errorf("identity = %q, want %q", got, want)
			}
			v := disktest.Volume(t, image, Read)
			if free := tt.size - quantity.Total(v.Allocated); v.Doubt != nil || free < tt.size*9/10 {
				t.Errorf("Doubt %+v, %d bytes are free", v.Doubt, int64(free))
			}
			if out := disktest.Run(t, "", "mdir", "-b", "-a", "-i", image, "::/"); out != "" {
				t.Errorf("the blank volume holds %s", out)
			}
			disktest.FillFAT(t, image, 20, 40_000)
			disktest.Run(t, "", "fsck.fat", "-n", image)
		})
	}
}

// apply gives made the bytes that a blank volume has; those that stay come from old.
func apply(made, old []byte, blank filesystem.Blank) {
	for _, e := range blank.Extents {
		copy(made[e.Start:e.End()], old[e.Start:e.End()])
	}
	for _, e := range blank.Zero {
		clear(made[e.Start:e.End()])
	}
	for _, p := range blank.Writes {
		copy(made[p.Offset:], p.Data)
	}
}

// Whatever volume is read: what is made of it lies inside the partition, and is clean.
func FuzzBlank(f *testing.F) {
	for _, args := range [][]string{{"-F", "12"}, {"-F", "16", "-s", "1", "-n", "A"}, {"-F", "32", "-s", "1", "-n", "B"}} {
		image := makeVolume(f, 3*quantity.MiB, args...)
		b, err := os.ReadFile(image)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b[:int(binary.LittleEndian.Uint16(b[0x0e:]))*512+256])
	}
	const size = 3 * quantity.MiB
	f.Fuzz(func(t *testing.T, b []byte) {
		old := make([]byte, size)
		copy(old, b)
		blank, err := Blank(bytes.NewReader(old), size)
		if err != nil {
			return
		}
		made := bytes.Repeat([]byte{0xA5}, int(size))
		end := quantity.Total(blank.Extents)
		for _, p := range blank.Writes {
			if p.Offset+quantity.Bytes(len(p.Data)) > end {
				t.Fatalf("patch of %d bytes at %d leaves the %d bytes to write", len(p.Data), p.Offset, end)
			}
		}
		apply(made, old, blank)
		v, err := Read(bytes.NewReader(made), size)
		if err != nil || v.Doubt != nil {
			t.Fatalf("the blank volume: %v, doubt %+v", err, v.Doubt)
		}
		was, err := Read(bytes.NewReader(old), size)
		if err != nil || was.UUID != v.UUID || was.Label != v.Label || was.Type != v.Type {
			t.Fatalf("identity was %+v, is %+v; %v", was, v, err)
		}
	})
}
