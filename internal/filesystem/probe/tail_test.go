package probe

import (
	"os"
	"slices"
	"strings"
	"testing"

	"clonecast/internal/disktest"
	"clonecast/internal/quantity"
)

// TestTail holds every reader to the one rule for what lies behind a volume. Each volume is made on a
// partition that then becomes longer.
func TestTail(t *testing.T) {
	const small, mib = sampleSize, quantity.MiB
	const verityHeader, luks2 = "verity\x00\x00\x01\x00\x00\x00", "\xba\xbe\x00\x02"
	all := formats()
	tests := map[string]struct {
		tail   quantity.Bytes
		bytes  string         // put into the tail ...
		at     quantity.Bytes // ... from its start, or its end if negative
		stored bool           // all of the tail is
		note   string         // part of the note; "" for none
		doubt  string         // part of the doubt's reason
	}{
		"zero":               {tail: mib},
		"a sector":           {tail: 512, bytes: "x", stored: true},
		"padding":            {tail: 64 * mib, bytes: "x", at: -1, stored: true, note: "behind the TYPE are stored"},
		"long":               {tail: 64*mib + 512, bytes: "x", at: 77, note: "behind the TYPE are not stored"},
		"very long":          {tail: 5 * quantity.GiB, note: "5.0 GiB behind the TYPE are not stored"},
		"verity":             {tail: 16 * mib, bytes: verityHeader, stored: true, note: "DM_verity_hash"},
		"verity of much":     {tail: quantity.GiB, bytes: verityHeader, at: 4096, stored: true, note: "DM_verity_hash"},
		"verity of too much": {tail: quantity.GiB + 512, bytes: verityHeader, at: 512, doubt: "DM_verity_hash"},
		"LUKS":               {tail: 128 * mib, bytes: "LUKS" + luks2, at: 65536, stored: true, note: "crypto_LUKS"},
		"second LUKS header": {tail: 128 * mib, bytes: "SKUL" + luks2, at: 0x4000, stored: true, note: "crypto_LUKS"},
		"verified boot":      {tail: 128 * mib, bytes: "AVBf", at: -64, stored: true, note: "Android verified boot"},
		"a file system":      {tail: 128 * mib, bytes: "XFSB", stored: true, note: "xfs"},
		"too far off":        {tail: 128 * mib, bytes: "LUKS" + luks2, at: 2 * mib, note: "not stored"},
	}
	for _, format := range trusted() {
		image, _ := all[format].build(t)
		plain := disktest.Volume(t, image, Read)
		if slack := small - plain.Size; slack < 0 || slack >= quantity.MiB {
			t.Fatalf("%s ends at %d of %d", format, int64(plain.Size), int64(small))
		}
		for name, tt := range tests {
			t.Run(format+"/"+name, func(t *testing.T) {
				size := plain.Size + tt.tail
				at := plain.Size + tt.at
				if tt.at < 0 {
					at = size + tt.at
				}
				resize(t, image, small, size)
				f := disktest.Open(t, image)
				old := put(t, f, []piece{{at, []byte(tt.bytes)}})
				v := disktest.Volume(t, image, Read)
				put(t, f, old)
				note := strings.ReplaceAll(tt.note, "TYPE", plain.Type)
				if tt.doubt != "" {
					if v.Doubt == nil || !strings.Contains(v.Doubt.Reason, tt.doubt) || v.Allocated != nil {
						t.Errorf("doubt %+v with %d extents, want %q", v.Doubt, len(v.Allocated), tt.doubt)
					}
					return
				}
				if v.Doubt != nil || v.Size != plain.Size {
					t.Fatalf("volume of %d bytes, doubt %+v; want %d bytes", int64(v.Size), v.Doubt, int64(plain.Size))
				}
				if got := strings.Join(v.Notes, "; "); (got == "") != (note == "") || !strings.Contains(got, note) {
					t.Errorf("notes %q, want %q", got, note)
				}
				tail := quantity.Extent{Start: v.Size, Length: tt.tail}
				stored := tt.tail - quantity.Total(disktest.Subtract([]quantity.Extent{tail}, v.Allocated))
				if want := storedOf(plain.Type, tt.stored, tt.tail); stored != want {
					t.Errorf("%d bytes of the tail are stored, want %d", int64(stored), int64(want))
				}
			})
		}
	}
}

// storedOf is how much of a tail is stored. NTFS may have its backup boot sector in the last one.
func storedOf(typ string, all bool, tail quantity.Bytes) quantity.Bytes {
	switch {
	case all:
		return tail
	case typ == "ntfs":
		return min(tail, 512)
	}
	return 0
}

// resize makes the image as long as its volume, or longer, with zeroes behind it.
func resize(t *testing.T, image string, small, size quantity.Bytes) {
	t.Helper()
	for _, n := range []quantity.Bytes{small, size} {
		if err := os.Truncate(image, int64(n)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTailOfLogicalVolume: the rule holds inside of a logical volume, and behind a physical one.
func TestTailOfLogicalVolume(t *testing.T) {
	pv := disktest.Image(t, 64*quantity.MiB)
	dev := disktest.Loop(t, pv, 512)
	disktest.LVM(t, dev, "pvcreate -y DEV", "vgcreate -s 1m lab DEV", "lvcreate -y -an -Zn -Wn -L 20m -n root lab")
	where := lvmSegments(t, dev)["root"]
	root := newVolume(t, where)
	disktest.Run(t, "", "mke2fs", "-q", "-t", "ext4", root.path, "12M")
	put(t, disktest.Open(t, root.path), []piece{{12 * quantity.MiB, []byte("verity\x00\x00\x01\x00\x00\x00")}})
	root.putBack(t, pv)
	resize(t, pv, 64*quantity.MiB, 300*quantity.MiB)

	v := disktest.Volume(t, pv, Read)
	notes := []string{
		"logical volume root: 8.0 MiB behind the ext4 are stored as well: DM_verity_hash",
		"236.0 MiB behind the LVM2_member are not stored: nothing known is in them (--policy N=raw stores all)",
	}
	if v.Doubt != nil || !slices.Equal(v.Notes, notes) || v.Size != 64*quantity.MiB {
		t.Fatalf("volume of %v, notes %q, doubt %+v", v.Size, v.Notes, v.Doubt)
	}
	tail := quantity.Extent{Start: where[0].Start + 12*quantity.MiB, Length: 8 * quantity.MiB}
	if len(where) != 1 || !quantity.Covers(v.Allocated, tail) {
		t.Errorf("the tail of root, in %v, is not stored", where)
	}
}
