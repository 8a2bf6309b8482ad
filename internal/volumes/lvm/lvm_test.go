package lvm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"clonecast/internal/disktest"
	"clonecast/internal/filesystem"
	"clonecast/internal/layouttest"
	"clonecast/internal/quantity"
)

func TestLayouts(t *testing.T) {
	layouttest.Check[labelHeader](t, labelSize)
	layouttest.Check[areaHeader](t, sectorSize)
	layouttest.Check[textLocation](t, 24)
}

// newPV makes a physical volume with two logical volumes and gives its bytes.
func newPV(t testing.TB) []byte {
	t.Helper()
	path := disktest.Image(t, 32*quantity.MiB)
	disktest.LVM(t, disktest.Loop(t, path, 512), "pvcreate -y DEV", "vgcreate -s 1m lab DEV",
		"lvcreate -y -an -Zn -Wn -L 4m -n one lab", "lvcreate -y -an -Zn -Wn -L 6m -n two lab")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func read(b []byte) (Physical, *filesystem.Doubt, error) {
	return Read(bytes.NewReader(b), quantity.Bytes(len(b)))
}

func TestRead(t *testing.T) {
	p, doubt, err := read(newPV(t))
	if err != nil || doubt != nil || p.Group != "lab" || len(p.Volumes) != 2 {
		t.Fatalf("Read = %+v, doubt %+v, %v", p, doubt, err)
	}
	for i, want := range []string{"one 4.0 MiB 1.0 MiB", "two 6.0 MiB 5.0 MiB"} {
		l := p.Volumes[i]
		place, _ := l.place(0)
		if got := l.Name + " " + l.Size.String() + " " + place.String(); got != want {
			t.Errorf("logical volume %s, want %s", got, want)
		}
	}
}

// setText replaces the text of a physical volume by an edited one of any length.
func setText(b []byte, edit func(text string) string) {
	le := binary.LittleEndian
	const area = 4096
	location := b[area+0x28:]
	start := area + le.Uint64(location)
	text := edit(string(b[start : start+le.Uint64(location[8:])]))
	copy(b[start:], text)
	le.PutUint64(location[8:], uint64(len(text)))
	le.PutUint32(location[16:], checksum([]byte(text)))
	fixArea(b)
}

// fixArea makes the checksum of the metadata area's header fit, fixLabel the label's.
func fixArea(b []byte) { binary.LittleEndian.PutUint32(b[4096:], checksum(b[4100:4096+sectorSize])) }
func fixLabel(b []byte) {
	binary.LittleEndian.PutUint32(b[512+16:], checksum(b[512+labelChecksumAt:1024]))
}

func replace(old, new string) func(b []byte) {
	return func(b []byte) {
		setText(b, func(s string) string { return strings.Replace(s, old, new, 1) })
	}
}

func TestReadRefuses(t *testing.T) {
	sound := newPV(t)
	le := binary.LittleEndian
	label := func(f func(b []byte)) func(b []byte) {
		return func(b []byte) { f(b[512:]); fixLabel(b) }
	}
	area := func(f func(b []byte)) func(b []byte) {
		return func(b []byte) { f(b[4096:]); fixArea(b) }
	}
	for name, tc := range map[string]struct {
		edit func(b []byte)
		want string
	}{
		"label's checksum":    {func(b []byte) { b[600] ^= 1 }, "label at byte 512: checksum"},
		"letters of the UUID": {label(func(b []byte) { b[0x20] = 27 }), "UUID"},
		"place of header": {label(func(b []byte) { le.PutUint32(b[0x14:], 500) }),
			"header of the physical volume at byte 500"},
		"area outside": {label(func(b []byte) { le.PutUint64(b[0x68:], 1<<40) }), "area of"},
		"no end of areas": {label(func(b []byte) {
			copy(b[0x48:],
				bytes.Repeat([]byte{0, 0x10, 0, 0, 0, 0, 0, 0}, 55))
		}), "without an end"},
		"area's checksum": {func(b []byte) { b[4096+300] ^= 1 }, "metadata area at byte 4096: checksum"},
		"area's magic":    {area(func(b []byte) { b[5] ^= 1 }), "wrong magic"},
		"area's place":    {area(func(b []byte) { b[0x19] ^= 1 }), "version 1"},
		"text outside":    {area(func(b []byte) { le.PutUint64(b[0x28:], 1<<40) }), "text of"},
		"text too long":   {area(func(b []byte) { le.PutUint64(b[0x30:], 1<<40) }), "text of 1099511627776 bytes"},
		"text's checksum": {area(func(b []byte) { b[0x38] ^= 1 }), "metadata at byte"},
		"cut text":        {replace("logical_volumes {", "logical_volumes "), `after the name "logical_volumes"`},
		"open string":     {replace(`"ALLOCATABLE"]`, `"ALLOCATABLE]`), ""},
		"name twice":      {replace("pe_start", "pe_count"), `"pe_count" stands twice`},
		"no group":        {replace("lab {", "lab = 3 other = 4 }"), ""},
		"no extent size":  {replace("extent_size = 2048", "extent_size = 0"), "extents of 0 sectors"},
		"size as text":    {replace("extent_size = 2048", `extent_size = "2048"`), "no number extent_size"},
		"extents too large": {replace("extent_size = 2048", "extent_size = 9000000000000000000"),
			"extents of 9000000000000000000 sectors"},
		"larger than device": {replace("pe_count = 31", "pe_count = 32"), "extents end at byte"},
		"hole in a volume":   {replace("start_extent = 0", "start_extent = 1"), "segment1 begins at byte 1048576"},
		"segment outside":    {replace("\"pv0\", 4", "\"pv0\", 28"), `6 extents from 28 of "pv0"`},
		"overlap":            {replace("\"pv0\", 4", "\"pv0\", 3"), "two segments have byte"},
		"other device":       {replace("\"pv0\", 4", "\"pv1\", 4"), `of "pv1"`},
		"no stripes":         {replace("stripe_count = 1", "stripe_count = 0"), "in 0 stripes"},
		"no stripe size":     {replace("stripe_count = 1", "stripe_count = 2"), "in 2 stripes"},
		"deep":               {replace("lab {", "lab {"+strings.Repeat("a {", 50)), "nested more than"},
		"segment missing":    {replace("segment1 {", "segment2 {"), "no segment1"},
	} {
		t.Run(name, func(t *testing.T) {
			b := bytes.Clone(sound)
			tc.edit(b)
			p, doubt, err := read(b)
			var corrupt *filesystem.CorruptError
			if !errors.As(err, &corrupt) || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("Read = %+v, doubt %+v, %v, want a *CorruptError with %q", p, doubt, err, tc.want)
			}
		})
	}
	if _, _, err := read(make([]byte, 4096)); !errors.Is(err, filesystem.ErrNotFound) {
		t.Errorf("blank: %v, want ErrNotFound", err)
	}
	if _, _, err := Read(bytes.NewReader(sound[:5000]), quantity.Bytes(len(sound))); !errors.Is(err,
		io.ErrUnexpectedEOF) {
		t.Errorf("device that ends early: %v", err)
	}
}

func TestDoubts(t *testing.T) {
	sound := newPV(t)
	for name, tc := range map[string]struct {
		edit func(b []byte)
		want string
	}{
		"two physical volumes": {replace("physical_volumes {",
			"physical_volumes { pv1 {\nid = \"x\"\npe_start = 2048\npe_count = 1\n}\n"), "one of 2 physical volumes"},
		"other UUID": {replace("pv0 {\nid = \"", "pv0 {\nid = \"x"), "another physical volume"},
		"shared":     {replace("extent_size", "lock_type = \"sanlock\"\nextent_size"), `shared ("sanlock")`},
		"missing": {replace("\"ALLOCATABLE\"", "\"ALLOCATABLE\", \"MISSING\""),
			`physical volume is "MISSING"`},
		"being moved": {replace("\"VISIBLE\"", "\"VISIBLE\", \"PVMOVE\""), `logical volume one is "PVMOVE"`},
		"thin":        {replace("type = \"striped\"", "type = \"thin\""), `of type "thin"`},
		"change under way": {func(b []byte) { b[4096+0x41] = 0x20; fixArea(b) },
			"change of the volume group was not finished"},
		"area not in use": {func(b []byte) { b[4096+0x3c] = flagIgnored; fixArea(b) }, "keeps no metadata"},
	} {
		t.Run(name, func(t *testing.T) {
			b := bytes.Clone(sound)
			tc.edit(b)
			p, doubt, err := read(b)
			if err != nil || doubt == nil || !strings.Contains(doubt.Reason, tc.want) || p.Volumes != nil ||
				p.UUID == "" {
				t.Fatalf("Read = %+v, doubt %+v, %v, want doubt %q", p, doubt, err, tc.want)
			}
		})
	}
}

// TestStriped reads a logical volume of two stripes, byte by byte where they meet.
func TestStriped(t *testing.T) {
	b := newPV(t)
	// "two" becomes three extents at 4 and three at 12, in turns of 64 KiB.
	setText(b, func(s string) string {
		i := strings.Index(s, "two {")
		s = s[:i] + strings.Replace(s[i:], "stripe_count = 1", "stripe_count = 2\nstripe_size = 128", 1)
		return strings.Replace(s, "\"pv0\", 4", "\"pv0\", 4,\n\"pv0\", 12", 1)
	})
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(b[quantity.MiB:])
	p, doubt, err := read(b)
	if err != nil || doubt != nil || len(p.Volumes) != 2 {
		t.Fatalf("Read = %+v, doubt %+v, %v", p, doubt, err)
	}
	const stripe = 64 << 10
	var want []byte
	for i := range 3 << 20 / stripe {
		want = append(want, b[5<<20+i*stripe:][:stripe]...)
		want = append(want, b[13<<20+i*stripe:][:stripe]...)
	}
	l := &p.Volumes[1]
	got, err := io.ReadAll(io.NewSectionReader(l, 0, int64(l.Size)))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes read, %v; equal: %t", len(got), err, bytes.Equal(got, want))
	}
	var pieces []quantity.Extent
	for e := range l.Map(quantity.Extent{Start: stripe - 10, Length: stripe + 20}) {
		pieces = append(pieces, e)
	}
	if diff := cmp.Diff([]quantity.Extent{
		{Start: 5*quantity.MiB + stripe - 10, Length: 10}, {Start: 13 * quantity.MiB,
			Length: stripe}, {Start: 5*quantity.MiB + stripe, Length: 10},
	}, pieces); diff != "" {
		t.Errorf("pieces (-want +got):\n%s", diff)
	}
	if n, err := l.ReadAt(make([]byte, 10), int64(l.Size)-4); n != 4 || err != io.EOF {
		t.Errorf("read at the end: %d, %v", n, err)
	}
}

// TestRing reads a text that goes on at the start of its area.
func TestRing(t *testing.T) {
	b := newPV(t)
	le := binary.LittleEndian
	location := b[4096+0x28:]
	size := le.Uint64(location[8:])
	text := bytes.Clone(b[4096+le.Uint64(location):][:size])
	length := le.Uint64(b[4096+0x20:])
	le.PutUint64(location, length-100)
	copy(b[4096+length-100:], text[:100])
	copy(b[4096+512:], text[100:])
	fixArea(b)
	if p, doubt, err := read(b); err != nil || doubt != nil || len(p.Volumes) != 2 {
		t.Errorf("Read = %+v, doubt %+v, %v", p, doubt, err)
	}
}

func TestParse(t *testing.T) {
	s, err := parse([]byte("# comment\na = 12 b=\"x \\\"y\\\\\" c {\n d = [\"e\", 3]\n f = [] }\ng-h.i = -1\x00 junk }"))
	if err != nil {
		t.Fatal(err)
	}
	n, _ := s.number("a")
	if _, err := s.number("g-h.i"); err == nil {
		t.Error("a negative number is taken")
	}
	if diff := cmp.Diff([]any{uint64(12), `x "y\`, []string{"e", "3"}},
		[]any{n, s.str("b"), s.sections["c"].words("d")}); diff != "" {
		t.Errorf("parsed (-want +got):\n%s", diff)
	}
	for _, bad := range []string{"a", "a =", "a = [1", "a {", "}", "= 3", "a = \"x", "a = }", "a { } a { }",
		"a [ 1 ]"} {
		if s, err := parse([]byte(bad)); err == nil {
			t.Errorf("parse(%q) = %+v, want an error", bad, s)
		}
	}
}

// TestMutations changes bytes of label, header and text, whose checksums are made to fit.
func TestMutations(t *testing.T) {
	sound := newPV(t)
	random := rand.New(rand.NewPCG(1, 2))
	answers := map[string]int{}
	for range 5000 {
		b := bytes.Clone(sound[:64<<10])
		for range random.IntN(3) {
			setText(b, func(s string) string {
				at := random.IntN(len(s))
				return s[:at] + string("\"{}[]=0123456789a\\#"[random.IntN(19)]) + s[min(len(s), at+random.IntN(3)):]
			})
		}
		switch random.IntN(4) {
		case 0:
			b[512+20+random.IntN(120)] = byte(random.Uint32())
		case 1:
			b[4096+20+random.IntN(60)] = byte(random.Uint32())
		}
		fixLabel(b)
		fixArea(b)
		answers[judge(t, padded(b), quantity.Bytes(len(sound)))]++
	}
	if len(answers) < 3 {
		t.Errorf("answers %v: the mutations do not reach everything", answers)
	}
	t.Log(answers)
}

// padded is a device that goes on with zeros.
type padded []byte

func (b padded) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	if off < int64(len(b)) {
		copy(p, b[off:])
	}
	return len(p), nil
}

// judge checks an answer and names its kind.
func judge(t *testing.T, r io.ReaderAt, size quantity.Bytes) string {
	t.Helper()
	p, doubt, err := Read(r, size)
	var corrupt *filesystem.CorruptError
	switch {
	case errors.Is(err, filesystem.ErrNotFound):
		return "not found"
	case errors.As(err, &corrupt):
		return "corrupt"
	case err != nil:
		t.Fatalf("Read = %v, which is no *CorruptError", err)
	case doubt != nil:
		if doubt.Reason == "" || p.Volumes != nil {
			t.Fatalf("%+v, doubt %+v", p, doubt)
		}
		return "doubt"
	}
	for _, e := range p.Own {
		if e.End() > size {
			t.Fatalf("own extent %+v of %v", e, size)
		}
	}
	for i := range p.Volumes {
		l := &p.Volumes[i]
		last := quantity.Extent{Start: l.Size - 1, Length: 1}
		for _, e := range []quantity.Extent{{Length: min(l.Size, quantity.MiB)}, last} {
			for e := range l.Map(e) {
				if e.Start < 0 || e.Length <= 0 || e.End() > size {
					t.Fatalf("logical volume %s: %+v of %v", l.Name, e, size)
				}
			}
		}
	}
	return "volumes"
}

// FuzzRead gets the first 16 KiB; the checksums of label, header and text are made to fit.
func FuzzRead(f *testing.F) {
	sound := newPV(f)
	f.Add(sound[:16<<10])
	f.Fuzz(func(t *testing.T, disk []byte) {
		b := make([]byte, 16<<10)
		copy(b, disk)
		fixLabel(b)
		le := binary.LittleEndian
		location := b[4096+0x28:]
		if start, size := le.Uint64(location), le.Uint64(location[8:]); start < 10000 && size < 2000 {
			le.PutUint32(location[16:], checksum(b[4096+start:][:size]))
		}
		fixArea(b)
		judge(t, padded(b), 32*quantity.MiB)
	})
}

// FuzzParse gets a text.
func FuzzParse(f *testing.F) {
	f.Add([]byte("lab {\nid = \"x\"\nstatus = [\"READ\", \"WRITE\"]\nextent_size = 8192\n" +
		"# comment\nphysical_volumes {\n}\n}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if s, err := parse(text); (s == nil) != (err != nil) {
			t.Errorf("parse = %v, %v", s, err)
		}
	})
}
