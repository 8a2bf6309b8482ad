package fat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"testing"

	"clonecast/internal/disktest"
	"clonecast/internal/filesystem"
	"clonecast/internal/layouttest"
	"clonecast/internal/quantity"
	"github.com/google/go-cmp/cmp"
)

// TestScribble is the acceptance test of the reader: what it calls free is
// overwritten, and the volume must not notice.
func TestScribble(t *testing.T) {
	tests := map[string]struct {
		size  quantity.Bytes
		mkfs  []string
		want  string
		files int
	}{
		"fat12 floppy":       {1440 * quantity.KiB, []string{"-F", "12", "-n", "FLOPPY"}, "fat12", 20},
		"fat12 odd":          {8*quantity.MiB + 5*512, []string{"-F", "12"}, "fat12", 60},
		"fat16":              {40 * quantity.MiB, []string{"-F", "16", "-n", "DATA"}, "fat16", 200},
		"fat32":              {600 * quantity.MiB, []string{"-F", "32", "-n", "ESP TWO"}, "fat32", 200},
		"fat32 small":        {40 * quantity.MiB, []string{"-F", "32", "-s", "1"}, "fat32", 200},
		"fat32 4 KiB sector": {300*quantity.MiB + 4096, []string{"-F", "32", "-S", "4096", "-s", "1"}, "fat32", 100},
		"fat32 one FAT":      {100 * quantity.MiB, []string{"-F", "32", "-f", "1"}, "fat32", 100},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			image := makeVolume(t, tt.size, tt.mkfs...)
			disktest.FillFAT(t, image, tt.files, 40_000)
			want := disktest.HashesFAT(t, image)
			v := disktest.Volume(t, image, Read)
			if v.Doubt != nil {
				t.Fatalf("Doubt = %+v, want none", v.Doubt)
			}
			identity := disktest.Identity(t, image)
			identity[0] = tt.want
			if got := [3]string{v.Type, v.UUID, v.Label}; got != identity {
				t.Errorf("identity = %q, want %q", got, identity)
			}
			disktest.Scribble(t, image, v.Allocated)
			disktest.Run(t, "", "fsck.fat", "-n", image)
			f := disktest.Open(t, image)
			files, err := Files(f, tt.size)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, disktest.HashesOf(t, f, files)); diff != "" {
				t.Errorf("files (-mcopy's +ours):\n%s", diff)
			}
			if diff := cmp.Diff(want, disktest.HashesFAT(t, image)); diff != "" {
				t.Errorf("files changed (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDirty(t *testing.T) {
	tests := map[string]struct {
		mkfs  []string
		size  quantity.Bytes
		patch func(b []byte)
		want  string
	}{
		"fat12 mounted": {[]string{"-F", "12"}, 4 * quantity.MiB, func(b []byte) { b[0x25] |= 1 }, "not unmounted"},
		"fat16 mounted": {[]string{"-F", "16"}, 40 * quantity.MiB, func(b []byte) { b[0x25] |= 1 }, "not unmounted"},
		"fat32 mounted": {[]string{"-F", "32"}, 40 * quantity.MiB, func(b []byte) { b[0x41] |= 1 }, "not unmounted"},
		"fat16 dirty":   {[]string{"-F", "16"}, 40 * quantity.MiB, func(b []byte) { fatOf(b)[3] &^= 0x80 }, "marked dirty"},
		"fat32 dirty":   {[]string{"-F", "32"}, 40 * quantity.MiB, func(b []byte) { fatOf(b)[7] &^= 0x08 }, "marked dirty"},
		"fat32 errors":  {[]string{"-F", "32"}, 40 * quantity.MiB, func(b []byte) { fatOf(b)[7] &^= 0x04 }, "disk errors"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			image := makeVolume(t, tt.size, tt.mkfs...)
			b, err := os.ReadFile(image)
			if err != nil {
				t.Fatal(err)
			}
			tt.patch(b)
			v, err := Read(bytes.NewReader(b), tt.size)
			if err != nil {
				t.Fatal(err)
			}
			if v.Doubt == nil || !strings.Contains(v.Doubt.Reason, tt.want) || v.Doubt.Remedy == "" || v.Doubt.Refuse {
				t.Errorf("Doubt = %+v, want %q", v.Doubt, tt.want)
			}
			if v.Allocated != nil {
				t.Error("a map was given in spite of the doubt")
			}
		})
	}
}

// TestEntries checks what no tool makes: reserved bits, bad clusters, the second
// FAT as the active one.
func TestEntries(t *testing.T) {
	image := makeVolume(t, 40*quantity.MiB, "-F", "32", "-s", "1")
	b, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	clean, err := Read(bytes.NewReader(b), 40*quantity.MiB)
	if err != nil {
		t.Fatal(err)
	}
	before := quantity.Total(clean.Allocated)
	entry := func(fat []byte, n int, value uint32) { binary.LittleEndian.PutUint32(fat[4*n:], value) }

	entry(fatOf(b), 100, 0xF0000000) // free, with reserved bits
	entry(fatOf(b), 101, 0x0FFFFFF7) // bad
	entry(fatOf(b), 102, 0x0FFFFFFF) // in use
	v, err := Read(bytes.NewReader(b), 40*quantity.MiB)
	if err != nil {
		t.Fatal(err)
	}
	if got := quantity.Total(v.Allocated); got != before+512 {
		t.Errorf("allocated %d bytes, want one cluster more than %d", int64(got), int64(before))
	}

	b[0x28] = 0x81 // no mirroring, the second FAT counts
	v, err = Read(bytes.NewReader(b), 40*quantity.MiB)
	if err != nil {
		t.Fatal(err)
	}
	if got := quantity.Total(v.Allocated); got != before {
		t.Errorf("with the second FAT allocated %d bytes, want %d", int64(got), int64(before))
	}
}

func TestNotFAT(t *testing.T) {
	image := makeVolume(t, 40*quantity.MiB, "-F", "32")
	b, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		patch   func(b []byte)
		corrupt bool
	}{
		"no signature":        {func(b []byte) { b[510] = 0 }, false},
		"no jump":             {func(b []byte) { b[0] = 0 }, false},
		"sector size 1000":    {func(b []byte) { binary.LittleEndian.PutUint16(b[0x0b:], 1000) }, false},
		"too large":           {func(b []byte) { binary.LittleEndian.PutUint32(b[0x20:], 1<<31) }, true},
		"FAT too small":       {func(b []byte) { binary.LittleEndian.PutUint32(b[0x24:], 1) }, true},
		"root directory lost": {func(b []byte) { binary.LittleEndian.PutUint32(b[0x2c:], 1<<27) }, true},
		"too large, unnamed": {func(b []byte) {
			binary.LittleEndian.PutUint32(b[0x20:], 1<<31)
			copy(b[0x52:], "whatever")
		}, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b := bytes.Clone(b)
			tt.patch(b)
			_, err := Read(bytes.NewReader(b), quantity.Bytes(len(b)))
			var c *filesystem.CorruptError
			if got := errors.As(err, &c); got != tt.corrupt {
				t.Errorf("Read = %v, corrupt %v, want %v", err, got, tt.corrupt)
			}
			if !tt.corrupt && !errors.Is(err, filesystem.ErrNotFound) {
				t.Errorf("Read = %v, want ErrNotFound", err)
			}
		})
	}
}

func TestLayout(t *testing.T) {
	layouttest.Check[bpb](t, bpbSize)
	layouttest.Check[fat32](t, fat32Size)
	layouttest.Check[identity](t, 0x12)
}

// device is a partition that begins with the given bytes; the rest is zero.
type device struct {
	head []byte
	size int64
}

func (d device) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > d.size {
		return 0, errors.New("read outside the device")
	}
	clear(p)
	copy(p, d.head[min(off, int64(len(d.head))):])
	return len(p), nil
}

func FuzzRead(f *testing.F) {
	for _, args := range [][]string{{"-F", "12"}, {"-F", "16", "-s", "1"}, {"-F", "32", "-s", "1"}} {
		image := makeVolume(f, 3*quantity.MiB, args...)
		b, err := os.ReadFile(image)
		if err != nil {
			f.Fatal(err)
		}
		reserved := int(binary.LittleEndian.Uint16(b[0x0e:])) * 512
		f.Add(b[:reserved+256])
	}
	const size = 3 * quantity.MiB
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := Read(device{b, int64(size)}, size)
		if err != nil {
			if diff := cmp.Diff(filesystem.Volume{}, v); diff != "" {
				t.Errorf("a volume with the error %v:\n%s", err, diff)
			}
			return
		}
		if (v.Doubt == nil) != (v.Allocated != nil) {
			t.Errorf("Doubt %v with map %v", v.Doubt, v.Allocated)
		}
		if v.Doubt == nil && (v.Allocated[0].Start != 0 || v.Allocated[len(v.Allocated)-1].End() > size) {
			t.Errorf("allocated %v lies outside the partition", v.Allocated)
		}
	})
}

// The helpers below make, fill and read volumes.

// fatOf is b from the first FAT.
func fatOf(b []byte) []byte {
	sector := int(binary.LittleEndian.Uint16(b[0x0b:]))
	return b[int(binary.LittleEndian.Uint16(b[0x0e:]))*sector:]
}

func makeVolume(t testing.TB, size quantity.Bytes, args ...string) string {
	t.Helper()
	image := disktest.Image(t, size)
	disktest.Run(t, "", "mkfs.fat", append(args, image)...)
	return image
}
