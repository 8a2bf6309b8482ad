package saved

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"clonecast/internal/disktest"
	"clonecast/internal/partition"
	"clonecast/internal/quantity"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const diskSize = 64 * quantity.MiB

// A table that is saved, overwritten with random bytes and put back is the same table, and
// nothing outside of it was written.
func TestSaveAndPutBack(t *testing.T) {
	for name, steps := range map[string]string{
		"MBR": "printf 'start=63,size=100\nstart=5000,size=70000,type=5\n" +
			"start=5100,size=100\nstart=9000,size=100\n' | sfdisk -q -f -X dos $D",
		"GPT":      "printf 'start=2048,size=100\nstart=4096,size=100\n' | sfdisk -q -X gpt $D",
		"GPT, far": "printf 'start=90000,size=100\n' | sfdisk -q -X gpt $D",
		"GPT, both bad": "printf 'start=2048,size=100\n' | sfdisk -q -X gpt $D; " +
			"printf x | dd of=$D bs=1 seek=600 conv=notrunc status=none; " +
			"printf x | dd of=$D bs=1 seek=67108400 conv=notrunc status=none",
		"MBR, partition far": "printf 'start=90000,size=100\n' | sfdisk -q -X dos $D",
	} {
		t.Run(name, func(t *testing.T) {
			path := disktest.Image(t, diskSize)
			disktest.Run(t, "", "sh", "-ec", "D="+path+"\n"+steps+"\nprintf GRUB |"+
				" dd of=$D bs=512 seek=1023 conv=notrunc status=none")
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			c, err := Take(bytes.NewReader(before), diskSize, 512)
			if err != nil || c.Empty() {
				t.Fatalf("Take = %+v, %v", c, err)
			}
			raw, err := c.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			again, err := Parse(raw)
			if diff := cmp.Diff(c, again); err != nil || diff != "" {
				t.Fatalf("%v; -taken +parsed\n%s", err, diff)
			}
			after := bytes.Clone(before)
			for _, a := range c.Areas {
				for i := range after[a.Start : a.Start+a.Length] {
					after[int(a.Start)+i] ^= 0xA5
				}
			}
			var last partition.Content
			for w := range again.Writes() {
				copy(after[w.Start:], w.Data)
				last = w
			}
			if !bytes.Equal(after, before) {
				t.Error("the disk is not what it was")
			}
			if last.Start != 0 || len(last.Data) != 512 {
				t.Errorf("the last write is of %d bytes at %d, want LBA 0 alone", len(last.Data), last.Start)
			}
			if strings.Contains(name, "bad") != (c.Note != "") {
				t.Errorf("note %q", c.Note)
			}
		})
	}
}

func TestNothingToSave(t *testing.T) {
	c, err := Take(bytes.NewReader(make([]byte, quantity.MiB)), quantity.MiB, 512)
	if err != nil || !c.Empty() || c.Table != partition.None {
		t.Errorf("Take of a blank disk = %+v, %v", c, err)
	}
}

// A disk with bad sectors is saved as far as it can be read.
func TestUnreadable(t *testing.T) {
	path := disktest.Image(t, diskSize)
	disktest.Run(t, "start=2048,size=100\n", "sfdisk", "-q", "-X", "gpt", path)
	sound, err := Take(disktest.Open(t, path), diskSize, 512)
	if err != nil {
		t.Fatal(err)
	}
	const page = 4 * quantity.KiB
	for name, tc := range map[string]struct {
		bad     quantity.Extent
		rebuilt bool // the copy is that of the sound disk
		missing quantity.Bytes
	}{
		"primary GPT": {quantity.Extent{Start: 512, Length: 512}, true, 0},
		"first page":  {quantity.Extent{Length: page}, false, page},
		"boot area":   {quantity.Extent{Start: 600 * quantity.KiB, Length: 512}, false, page},
	} {
		r := &disktest.Faulty{ReaderAt: disktest.Open(t, path), Bad: []quantity.Extent{tc.bad}}
		c, err := Take(r, diskSize, 512)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if tc.rebuilt {
			if diff := cmp.Diff(sound, c); diff != "" {
				t.Errorf("%s (-sound +saved):\n%s", name, diff)
			}
			continue
		}
		raw, err := c.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(raw); err != nil || !strings.Contains(c.Note, "input/output error") {
			t.Errorf("%s: note %q, %v", name, c.Note, err)
		}
		covered := quantity.Bytes(0)
		for _, a := range c.Areas {
			covered += a.Length
			if a.Start < tc.bad.Start+tc.bad.Length && tc.bad.Start < a.Start+a.Length {
				t.Errorf("%s: the area of %d bytes at %d was never read", name, a.Length, a.Start)
			}
		}
		if want := quantity.MiB + 33*512 - tc.missing; covered != want {
			t.Errorf("%s: %d bytes are saved, want %d", name, covered, want)
		}
	}
	r := &disktest.Faulty{ReaderAt: disktest.Open(t, path), Bad: []quantity.Extent{{Length: diskSize}}}
	if c, err := Take(r, diskSize, 512); err == nil {
		t.Errorf("nothing can be read: %+v", c)
	}
}

func FuzzParse(f *testing.F) {
	c := Copy{Format: format, Size: quantity.MiB, Sector: 512, Table: partition.MBR,
		Areas: []Area{{0, 1024, []byte("abc")}, {4096, 512, nil}}}
	raw, err := c.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(`{"format":"clonecast saved table 1","size":9223372036854775807,"logical_sector":512,` +
		`"areas":[{"start":9223372036854775807,"length":1}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Parse(b)
		if err != nil {
			return
		}
		end := c.Size
		for w := range c.Writes() {
			if w.Start < 0 || w.Start+quantity.Bytes(len(w.Data)) > end {
				t.Fatalf("write of %d bytes at %d, behind it is byte %d", len(w.Data), w.Start, end)
			}
			end = w.Start
		}
		again, err := c.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if d, err := Parse(again); err != nil || !cmp.Equal(c, d, cmpopts.EquateEmpty()) {
			t.Fatalf("written and read again: %v", err)
		}
	})
}
