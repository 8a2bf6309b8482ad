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
			want := filesystem.Volume{Type: "swap", UUID: uuid, Label: label[:min(15, len(label))], BlockSize: page, Size: maxPage}
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
	if got := disktest.Run(t, "", "swaplabel", path); !strings.Contains(got, "LABEL: scratch") || !strings.Contains(got, "UUID:  "+uuid) {
		t.Errorf("swaplabel: %s", got)
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
			if err != nil || v.Doubt == nil || !v.Doubt.Refuse || v.UUID != uuid {
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
	if v, err := Read(bytes.NewReader(old), 8192); err != nil || v.Type != "swap" || v.UUID != "" || v.Doubt != nil {
		t.Errorf("version 0: %+v, %v", v, err)
	}
	big := mkswap(t, 4096, "")
	copy(big[1024:], "\x00\x00\x00\x01")
	if v, err := Read(bytes.NewReader(big), maxPage); err != nil || v.Doubt == nil || v.Doubt.Refuse {
		t.Errorf("big-endian: %+v, %v, want a doubt", v, err)
	}
	for _, size := range []int{0, 4095, 4096, 65536} {
		if _, err := Read(bytes.NewReader(make([]byte, size)), quantity.Bytes(size)); !errors.Is(err, filesystem.ErrNotFound) {
			t.Errorf("%d blank bytes: %v, want ErrNotFound", size, err)
		}
	}
	if _, err := Read(bytes.NewReader(big[:4096]), maxPage); err == nil || errors.Is(err, filesystem.ErrNotFound) {
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

func FuzzRead(f *testing.F) {
	f.Add(mkswap(f, 4096, "fuzz")[:8192])
	f.Add(mkswap(f, 8192, "")[:8192])
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := Read(bytes.NewReader(b), quantity.Bytes(len(b)))
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
