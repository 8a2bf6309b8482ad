package image

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"clonecast/internal/chunk"

	"github.com/google/go-cmp/cmp"
)

func exampleOutline() *Outline {
	o := &Outline{Nonce: [32]byte{7, 8}, Task: "12", Manifest: *example()}
	o.Manifest.Sequence, o.Manifest.Parent, o.Manifest.Created = 0, VersionID{}, 0
	for i := range o.Manifest.Disks {
		d := &o.Manifest.Disks[i]
		for k := range d.Boot {
			d.Boot[k].Chunks = nil
		}
		for k := range d.Partitions {
			d.Partitions[k].Content.Chunks = nil
		}
	}
	return o
}

// parts cuts the example's chunks into parts of one and of the rest.
func parts(t testing.TB) (chain Chain, list []*Part) {
	t.Helper()
	_, id, err := SealOutline(exampleOutline(), testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	var ids []chunk.ID
	for c := range example().Regions() {
		ids = append(ids, c.Chunks...)
	}
	chain = NewChain(exampleOutline(), id)
	making := chain
	for _, some := range [][]chunk.ID{ids[:1], ids[1:3], ids[3:]} {
		p := making.Part(some)
		if err := making.Add(p); err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	if !making.Whole() {
		t.Fatalf("%d of %d chunks are in the parts", making.Next, making.Count)
	}
	return chain, list
}

func TestOutline(t *testing.T) {
	o := exampleOutline()
	envelope, id, err := SealOutline(o, testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	got, gotID, err := OpenOutline(envelope, trust(testKey(2), testKey(1)))
	if err != nil || gotID != id {
		t.Fatalf("OpenOutline = %v, %v; want %v", gotID, err, id)
	}
	if diff := cmp.Diff(o, got); diff != "" {
		t.Errorf("OpenOutline (-want +got):\n%s", diff)
	}
	if o.Count() != 5 {
		t.Errorf("Count = %d, want 5", o.Count())
	}
	other := exampleOutline()
	other.Nonce[0]++
	if _, otherID, err := SealOutline(other, testKey(1)); err != nil || otherID == id {
		t.Errorf("another nonce gives the same cast: %v", err)
	}
	other.Manifest = *example()
	if _, _, err := SealOutline(other, testKey(1)); err == nil {
		t.Error("SealOutline accepts chunk ids")
	}
	if _, _, err := OpenOutline(envelope, trust(testKey(2))); !errors.Is(err, ErrUntrusted) {
		t.Errorf("OpenOutline of a key that is not trusted = %v", err)
	}
	for i := range len(envelope) * 8 {
		bad := bytes.Clone(envelope)
		bad[i/8] ^= 1 << (i % 8)
		if o, _, err := OpenOutline(bad, trust(testKey(1))); err == nil || o != nil {
			t.Fatalf("OpenOutline accepts the envelope with bit %d flipped", i)
		}
	}
}

// A signature of one kind never stands for another kind, whatever magic is put before it.
func TestKindsOfEnvelopes(t *testing.T) {
	outline, _, err := SealOutline(exampleOutline(), testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	manifest, _, err := Seal(example(), testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	_, list := parts(t)
	part, err := SealPart(list[0], testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	keys := trust(testKey(1))
	open := map[sealKind]func([]byte) error{
		manifestSeal: func(b []byte) error { _, _, err := Open(b, keys); return err },
		outlineSeal:  func(b []byte) error { _, _, err := OpenOutline(b, keys); return err },
		partSeal:     func(b []byte) error { _, err := OpenPart(b, keys); return err },
	}
	for made, envelope := range map[sealKind][]byte{manifestSeal: manifest, outlineSeal: outline, partSeal: part} {
		for kind, open := range open {
			if kind == made {
				if err := open(envelope); err != nil {
					t.Errorf("%s: %v", kind.name, err)
				}
				continue
			}
			if open(envelope) == nil {
				t.Errorf("a %s is taken for a %s", made.name, kind.name)
			}
			if err := open(append([]byte(kind.magic), envelope[len(kind.magic):]...)); !errors.Is(err, ErrUntrusted) {
				t.Errorf("a %s with the magic of a %s = %v, want ErrUntrusted", made.name, kind.name, err)
			}
		}
	}
}

func TestChain(t *testing.T) {
	whole, list := parts(t)
	chain := whole
	for _, p := range list {
		envelope, err := SealPart(p, testKey(1))
		if err != nil {
			t.Fatal(err)
		}
		got, err := OpenPart(envelope, trust(testKey(1)))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(p, got); diff != "" {
			t.Fatalf("OpenPart (-want +got):\n%s", diff)
		}
		if err := chain.Add(got); err != nil {
			t.Fatal(err)
		}
	}
	if !chain.Whole() {
		t.Error("the chain is not whole after its last part")
	}
	changed := func(change func(p *Part)) *Part {
		p := *list[1]
		change(&p)
		return &p
	}
	for name, p := range map[string]*Part{
		"one left out":        list[2],
		"the same again":      list[0],
		"of another cast":     changed(func(p *Part) { p.Cast[0]++ }),
		"another number":      changed(func(p *Part) { p.Number = 2 }),
		"another place":       changed(func(p *Part) { p.First++ }),
		"after another part":  changed(func(p *Part) { p.Before[0]++ }),
		"more than is left":   changed(func(p *Part) { p.Chunks = make([]chunk.ID, 5) }),
		"without chunks":      changed(func(p *Part) { p.Chunks = nil }),
		"more than a part is": changed(func(p *Part) { p.Chunks = make([]chunk.ID, MaxPart+1) }),
	} {
		chain := whole
		if err := chain.Add(list[0]); err != nil {
			t.Fatal(err)
		}
		before := chain
		if err := chain.Add(p); err == nil || chain != before {
			t.Errorf("%s: Add = %v, and the chain is %v", name, err, chain)
		}
	}
	// The first part's content matters to all that follow.
	other := whole
	first := *list[0]
	first.Chunks = []chunk.ID{{1}}
	if err := other.Add(&first); err != nil {
		t.Fatal(err)
	}
	if other.Add(list[1]) == nil {
		t.Error("a part follows one that was exchanged")
	}
}

func TestOutlineInvalid(t *testing.T) {
	for name, change := range map[string]func(o *Outline){
		"no disks":           func(o *Outline) { o.Manifest.Disks = nil },
		"long task":          func(o *Outline) { o.Task = strings.Repeat("1", maxString+1) },
		"partitions overlap": func(o *Outline) { o.Manifest.Disks[0].Partitions[0].Content.Length <<= 3 },
		"extents touch":      func(o *Outline) { o.Manifest.Disks[0].Partitions[0].Content.Extents[1].Start = 4096 },
	} {
		o := exampleOutline()
		change(o)
		if b, err := o.MarshalBinary(); err == nil || b != nil {
			t.Errorf("%s: MarshalBinary accepts it", name)
		}
	}
}

func FuzzParseOutline(f *testing.F) {
	b, err := exampleOutline().MarshalBinary()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := ParseOutline(b)
		if err != nil {
			return
		}
		if got, err := o.MarshalBinary(); err != nil || !bytes.Equal(got, b) {
			t.Errorf("MarshalBinary of what was parsed = %x, %v; want %x", got, err, b)
		}
	})
}

func FuzzParsePart(f *testing.F) {
	_, list := parts(f)
	for _, p := range list {
		b, err := p.MarshalBinary()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParsePart(b)
		if err != nil {
			return
		}
		if got, err := p.MarshalBinary(); err != nil || !bytes.Equal(got, b) {
			t.Errorf("MarshalBinary of what was parsed = %x, %v; want %x", got, err, b)
		}
	})
}

// Slices name the same chunks with the same lengths as the version does.
func TestSlice(t *testing.T) {
	type named struct {
		id     chunk.ID
		length int
	}
	o := exampleOutline()
	var all []named
	var ids []chunk.ID
	for id, n := range example().Chunks() {
		all, ids = append(all, named{id, n}), append(ids, id)
	}
	for first := range ids {
		for end := first; end <= len(ids); end++ {
			m, err := o.Slice(uint64(first), ids[first:end])
			if err != nil {
				t.Fatalf("Slice %d to %d: %v", first, end, err)
			}
			got := []named{}
			for id, n := range m.Chunks() {
				got = append(got, named{id, n})
			}
			if !slices.Equal(got, all[first:end]) {
				t.Errorf("Slice %d to %d = %v, want %v", first, end, got, all[first:end])
			}
		}
	}
	if _, err := o.Slice(1, ids); err == nil {
		t.Error("Slice takes more chunks than there are places")
	}
}
