package swap

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"clonecast/internal/disktest"
	"clonecast/internal/filesystem"
	"clonecast/internal/layouttest"
	"clonecast/internal/quantity"
)

func TestLayout(t *testing.T) { layouttest.Check[header](t, 0x2c) }

const (
	uuid     = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
	areaSize = 8*quantity.MiB + 512 // not a whole number of pages
)

// mkswap makes a swap area and returns its first bytes.
func mkswap(t testing.TB, page quantity.Bytes, label string) []byte {
	t.Helper()
	path := disktest.Image(t, areaSize)
	disktest.Run(t, "", "mkswap", "-q", "-p", fmt.Sprint(int64(page)), "-U", uuid, "-L", label, path)
	b := make([]byte, maxPage)
	if _, err := disktest.Open(t, path).ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

// TestAgainstMkswap reads what mkswap wrote and makes the very same page.
func TestAgainstMkswap(t *testing.T) {
	for page := minPage; page <= maxPage; page *= 2 {
		for _, label := range []string{"", "swap ä", "sixteen--letters"} {
			// mkswap keeps 15 letters of a longer label.
			want := filesystem.Volume{Type: "swap", UUID: uuid, Label: label[:min(15, len(label))], BlockSize: page,
				Size: maxPage, Allocated: []quantity.Extent{{Length: page}}}
			b := mkswap(t, page, label)
			got, err := Read(bytes.NewReader(b), maxPage)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("page %d, label %q (-want +got):\n%s", page, label, diff)
			}
			header, err := Header(got, areaSize)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(b[:page], header); diff != "" {
				t.Errorf("page %d, label %q: page 0 (-mkswap +ours):\n%s", page, label, diff)
			}
		}
	}
}

// TestHeader lets blkid and swaplabel read ours.
func TestHeader(t *testing.T) {
	v := filesystem.Volume{Type: "swap", UUID: uuid, Label: "scratch", BlockSize: 4096}
	header, err := Header(v, 3*areaSize)
	if err != nil {
		t.Fatal(err)
	}
	path := disktest.Image(t, 3*areaSize)
	if _, err := disktest.Open(t, path).WriteAt(header, 0); err != nil {
		t.Fatal(err)
	}
	got := disktest.Run(t, "", "blkid", "-p", "-o", "export", path)
	for _, want := range []string{"TYPE=swap", "UUID=" + uuid, "LABEL=scratch", "VERSION=1"} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("blkid lacks %s:\n%s", want, got)
		}
	}
	label := disktest.Run(t, "", "swaplabel", path)
	if !strings.Contains(label, "LABEL: scratch") || !strings.Contains(label, "UUID:  "+uuid) {
		t.Errorf("swaplabel: %s", label)
	}
}

func TestHeaderRefuses(t *testing.T) {
	good := filesystem.Volume{UUID: uuid, BlockSize: 4096}
	for _, tc := range []struct {
		name string
		edit func(*filesystem.Volume)
		size quantity.Bytes
	}{
		{"page size", func(v *filesystem.Volume) { v.BlockSize = 4095 }, areaSize},
		{"no page size", func(v *filesystem.Volume) { v.BlockSize = 0 }, areaSize},
		{"large page size", func(v *filesystem.Volume) { v.BlockSize = 1 << 40 }, areaSize},
		{"small partition", func(*filesystem.Volume) {}, 9 * 4096},
		{"UUID", func(v *filesystem.Volume) { v.UUID = "12" }, areaSize},
		{"label", func(v *filesystem.Volume) { v.Label = "seventeen letters" }, areaSize},
	} {
		v := good
		tc.edit(&v)
		if b, err := Header(v, tc.size); err == nil {
			t.Errorf("%s: Header gives %d bytes, want an error", tc.name, len(b))
		}
	}
}

func TestHibernated(t *testing.T) {
	for page := minPage; page <= maxPage; page *= 2 {
		for _, magic := range []string{"S1SUSPEND\x00", "S2SUSPEND\x00", "ULSUSPEND\x00", "LINHIB0001"} {
			b := mkswap(t, page, "")
			copy(b[page-10:], magic)
			v, err := Read(bytes.NewReader(b), maxPage)
			if err != nil || v.Doubt == nil || !v.Doubt.Refuse || !v.Doubt.Hibernated || v.UUID != uuid {
				t.Errorf("%q, page %d: %+v, doubt %+v, %v, want a refusal", magic, page, v, v.Doubt, err)
			}
		}
	}
	b := mkswap(t, 4096, "")
	copy(b, "\xed\xc3\x02\xe9\x98\x56\xe5\x0c")
	for range 2 {
		if v, err := Read(bytes.NewReader(b), maxPage); err != nil || v.Doubt == nil || !v.Doubt.Refuse {
			t.Errorf("TuxOnIce: %+v, %v, want a refusal", v, err)
		}
		clear(b[8:]) // without the signature of swap, too
	}
}

func TestReadOthers(t *testing.T) {
	old := make([]byte, 8192)
	copy(old[4086:], oldMagic)
	v, err := Read(bytes.NewReader(old), 8192)
	if err != nil || v.Type != "swap" || v.UUID != "" || v.Doubt != nil || len(v.Allocated) != 1 {
		t.Errorf("version 0: %+v, %v", v, err)
	}
	for _, size := range []int{0, 4095, 4096, 65536} {
		_, err := Read(bytes.NewReader(make([]byte, size)), quantity.Bytes(size))
		if !errors.Is(err, filesystem.ErrNotFound) {
			t.Errorf("%d blank bytes: %v, want ErrNotFound", size, err)
		}
	}
	_, err = Read(bytes.NewReader(mkswap(t, 4096, "")[:4096]), maxPage)
	if err == nil || errors.Is(err, filesystem.ErrNotFound) {
		t.Errorf("partition that ends early: %v, want a read error", err)
	}
}

// TestLeftOver: a signature that another format's superblock has overwritten makes no swap area.
// blkid agrees.
func TestLeftOver(t *testing.T) {
	for name, edit := range map[string]func(info []byte){
		"version":   func(info []byte) { info[0] = 2 },
		"last page": func(info []byte) { clear(info[4:8]) },
	} {
		b := mkswap(t, 4096, "")
		edit(b[infoOffset:])
		if v, err := Read(bytes.NewReader(b), maxPage); !errors.Is(err, filesystem.ErrNotFound) {
			t.Errorf("no %s: %+v, %v, want ErrNotFound", name, v, err)
		}
		path := disktest.Image(t, areaSize)
		if _, err := disktest.Open(t, path).WriteAt(b, 0); err != nil {
			t.Fatal(err)
		}
		if got := disktest.Blkid(t, path, "TYPE"); got != "" {
			t.Errorf("no %s: blkid says %q", name, got)
		}
	}
}

// TestBytes: a header page is content whatever it holds. Labels that are no UTF-8 are shown as
// well as can be.
func TestBytes(t *testing.T) {
	b := mkswap(t, 4096, "")
	copy(b, "\xeb\x3c\x90 boot code")
	copy(b[1024+0x1c:], "Pl\xe4tz\x00old")
	copy(b[1536:], "\x07\x00\x00\x00")
	v, err := Read(bytes.NewReader(b), maxPage)
	if err != nil || v.Doubt != nil || v.Label != "Pl\ufffdtz" || v.UUID != uuid {
		t.Fatalf("%+v, %v", v, err)
	}
	if diff := cmp.Diff([]quantity.Extent{{Length: 4096}}, v.Allocated); diff != "" {
		t.Errorf("allocated (-want +got):\n%s", diff)
	}
}

// bigEndian turns the numbers of a header round, as a machine of that byte order writes them.
func bigEndian(page []byte) {
	for at := 0; at < 12; at += 4 {
		b := page[infoOffset+at:][:4]
		b[0], b[1], b[2], b[3] = b[3], b[2], b[1], b[0]
	}
}

// TestGrow makes areas longer. What mkswap makes of a partition of the new size is the judge; all
// else in the page stays.
func TestGrow(t *testing.T) {
	for page := minPage; page <= maxPage; page *= 2 {
		for _, big := range []bool{false, true} {
			path := disktest.Image(t, 3*areaSize)
			disktest.Run(t, "", "mkswap", "-q", "-p", fmt.Sprint(int64(page)), "-U", uuid, "-L", "swap", path)
			want := make([]byte, page)
			if _, err := disktest.Open(t, path).ReadAt(want, 0); err != nil {
				t.Fatal(err)
			}
			small := mkswap(t, page, "swap")[:page]
			if bytes.Equal(small, want) {
				t.Fatal("mkswap makes the same page for both sizes")
			}
			for _, b := range [][]byte{small, want} {
				copy(b, "boot code")
				copy(b[1024+0x1c:], "Pl\xe4tz")
				copy(b[1536:], "bad!")
				if big {
					bigEndian(b)
				}
			}
			disk := append(bytes.Clone(small), make([]byte, maxPage)...)
			g, err := Grow(bytes.NewReader(disk), 3*areaSize)
			if err != nil || len(g.Steps) != 1 || len(g.Steps[0]) != 1 ||
				g.From != areaSize/page*page || g.To != 3*areaSize/page*page {
				t.Fatalf("page %d, big-endian %v: %v to %v in %d steps, %v", page, big, g.From, g.To, len(g.Steps), err)
			}
			if w := g.Steps[0][0]; w.Offset != 0 || !bytes.Equal(w.Data, want) {
				t.Errorf("page %d, big-endian %v (-mkswap +ours):\n%s", page, big, cmp.Diff(want, w.Data))
			}
			copy(disk, g.Steps[0][0].Data)
			for _, size := range []quantity.Bytes{3 * areaSize, areaSize} { // fills it; is never made shorter
				if g, err := Grow(bytes.NewReader(disk), size); err != nil || len(g.Steps) != 0 {
					t.Errorf("page %d, grown and then %v: %d steps, %v", page, size, len(g.Steps), err)
				}
			}
		}
	}
	suspended := mkswap(t, 4096, "")
	copy(suspended[4086:], "S1SUSPEND\x00")
	old := make([]byte, maxPage)
	copy(old[4086:], oldMagic)
	for name, b := range map[string][]byte{"hibernated": suspended, "version 0": old} {
		var unchanged *filesystem.UnchangedError
		if _, err := Grow(bytes.NewReader(b), 3*areaSize); !errors.As(err, &unchanged) {
			t.Errorf("%s: %v, want an *UnchangedError", name, err)
		}
	}
	if _, err := Grow(bytes.NewReader(make([]byte, maxPage)), maxPage); !errors.Is(err, filesystem.ErrNotFound) {
		t.Errorf("no swap area: %v", err)
	}
}

// TestBigEndian reads areas that a machine of the other byte order has made.
func TestBigEndian(t *testing.T) {
	b := mkswap(t, 65536, "power")
	bigEndian(b)
	v, err := Read(bytes.NewReader(b), areaSize)
	want := filesystem.Volume{Type: "swap", UUID: uuid, Label: "power", BlockSize: 65536, Size: areaSize / 65536 * 65536,
		Allocated: []quantity.Extent{{Length: 65536}}}
	if diff := cmp.Diff(want, v); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

func TestHoldsSystem(t *testing.T) {
	for _, page := range []int{4096, 65536} {
		b := mkswap(t, quantity.Bytes(page), "")
		if HoldsSystem(b) || HoldsSystem(b[:2048]) || HoldsSystem(nil) {
			t.Errorf("page %d: swap that is not suspended holds a system", page)
		}
		copy(b[page-10:], "S1SUSPEND\x00")
		if !HoldsSystem(b) || !HoldsSystem(b[:page]) {
			t.Errorf("page %d: suspended swap holds no system", page)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(mkswap(f, 4096, "fuzz")[:8192])
	f.Add(mkswap(f, 8192, "")[:8192])
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := Read(bytes.NewReader(b), quantity.Bytes(len(b)))
		disktest.CheckVolume(t, v, err, quantity.Bytes(len(b)))
		if err != nil || v.Doubt != nil || v.UUID == "" || strings.ContainsRune(v.Label, '\ufffd') {
			return
		}
		page, err := Header(v, areaSize)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Read(bytes.NewReader(page), quantity.Bytes(len(page)))
		again.Size = v.Size // the header is for a longer partition
		if diff := cmp.Diff(v, again); err != nil || diff != "" {
			t.Fatalf("a fresh header reads differently: %v\n%s", err, diff)
		}
	})
}
