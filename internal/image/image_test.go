package image

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"os"
	"strings"
	"testing"

	"clonecast/internal/chunk"
	"clonecast/internal/quantity"

	"github.com/google/go-cmp/cmp"
)

// example has every field and every mode.
func example() *Manifest {
	id := func(s string) chunk.ID { return chunk.Sum([]byte(s)) }
	return &Manifest{
		Image: "win11-lab", Sequence: 300, Parent: VersionID{1, 2, 3}, Created: 1700000000,
		Comment: "März", Origin: "room1-pc05", Creator: "admin", Engine: "clonecast 1",
		Disks: []Disk{
			{
				Model: "Disk", Serial: "S1", Size: 64 * quantity.MiB, LogicalSector: 512, PhysicalSector: 4096,
				TableKind: "mbr", DiskID: "deadbeef",
				Table: []TableArea{{0, bytes.Repeat([]byte{0x55, 0xaa}, 4)}},
				Boot: []Content{{
					Start: 512, Length: 4096,
					Extents: []quantity.Extent{{Start: 0, Length: 4096}}, Chunks: []chunk.ID{id("gap")},
				}},
				Partitions: []Partition{
					{Number: 1, Type: "0x83", Mode: ModeClone, Filesystem: Filesystem{"ext4", "u-1", "root", 4096}, Content: Content{
						Start: quantity.MiB, Length: 4 * quantity.MiB,
						// Two extents that share a chunk, then one that spans two.
						Extents: []quantity.Extent{
							{Start: 0, Length: 4096}, {Start: 8192, Length: 4096}, {Start: 2*chunk.Size - 512, Length: 1024},
						},
						Chunks: []chunk.ID{id("a"), id("b"), id("c")},
					}},
					{Number: 2, Type: "0x7", Mode: ModeRaw, Reason: "journal needs recovery", Content: Content{
						Start: 8 * quantity.MiB, Length: 512,
						Extents: []quantity.Extent{{Start: 0, Length: 512}}, Chunks: []chunk.ID{id("d")},
					}},
					{
						Number: 5, Type: "0x82", Mode: ModeSwap, Reason: "swap",
						Filesystem: Filesystem{"swap", "u-2", "", 4096},
						Content:    Content{Start: 16 * quantity.MiB, Length: quantity.MiB},
					},
					{
						Number: 6, Type: "0xee", Mode: ModeSkip, Reason: "asked for",
						Content: Content{Start: 32 * quantity.MiB, Length: quantity.MiB},
					},
				},
			},
			{Size: 1 << 40, LogicalSector: 4096, PhysicalSector: 4096, TableKind: "none"},
		},
	}
}

func marshal(t testing.TB, m *Manifest) []byte {
	t.Helper()
	b, err := m.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The golden file is the format: a change of it is a new format.
func TestManifestGolden(t *testing.T) {
	text, err := os.ReadFile("testdata/manifest.hex")
	if err != nil {
		t.Fatal(err)
	}
	want, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatal(err)
	}
	if got := marshal(t, example()); !bytes.Equal(got, want) {
		t.Errorf("MarshalBinary = %x, want %x", got, want)
	}
	m, err := Parse(want)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(example(), m); diff != "" {
		t.Errorf("Parse (-want +got):\n%s", diff)
	}
	if got := Identify(want).Short(); got != "05a1529fe6a1" {
		t.Errorf("version id %s: the name of every version has changed", got)
	}
}

func TestManifestCut(t *testing.T) {
	whole := marshal(t, example())
	for n := range whole {
		if m, err := Parse(whole[:n]); err == nil || m != nil {
			t.Fatalf("Parse accepts the first %d of %d bytes", n, len(whole))
		}
	}
	if m, err := Parse(append(whole, 0)); err == nil || m != nil {
		t.Error("Parse accepts a byte after the end")
	}
}

func TestManifestInvalid(t *testing.T) {
	first := func(m *Manifest) *Partition { return &m.Disks[0].Partitions[0] }
	for name, change := range map[string]func(m *Manifest){
		"empty name":              func(m *Manifest) { m.Image = "" },
		"name with a slash":       func(m *Manifest) { m.Image = "a/b" },
		"hidden name":             func(m *Manifest) { m.Image = ".a" },
		"long name":               func(m *Manifest) { m.Image = strings.Repeat("a", 65) },
		"time before 1970":        func(m *Manifest) { m.Created = -1 },
		"time after all days":     func(m *Manifest) { m.Created = 1<<62 + 1 },
		"comment is not UTF-8":    func(m *Manifest) { m.Comment = "\xff" },
		"long comment":            func(m *Manifest) { m.Comment = strings.Repeat("a", 4097) },
		"no disks":                func(m *Manifest) { m.Disks = nil },
		"odd sector":              func(m *Manifest) { m.Disks[0].LogicalSector = 520 },
		"huge physical sector":    func(m *Manifest) { m.Disks[0].PhysicalSector = 1<<20 + 1 },
		"empty disk":              func(m *Manifest) { m.Disks[1].Size = 0 },
		"huge disk":               func(m *Manifest) { m.Disks[1].Size = 1<<56 + 1 },
		"empty table area":        func(m *Manifest) { m.Disks[0].Table[0].Data = nil },
		"negative table area":     func(m *Manifest) { m.Disks[0].Table[0].Start = -1 },
		"table over boot area":    func(m *Manifest) { m.Disks[0].Table[0].Start = 510 },
		"unknown mode":            func(m *Manifest) { first(m).Mode = "copy" },
		"skip with content":       func(m *Manifest) { first(m).Mode = ModeSkip },
		"negative number":         func(m *Manifest) { first(m).Number = -1 },
		"partitions overlap":      func(m *Manifest) { first(m).Content.Length = 8 * quantity.MiB },
		"partition after the end": func(m *Manifest) { m.Disks[0].Partitions[3].Content.Length = 33 * quantity.MiB },
		"start overflows":         func(m *Manifest) { m.Disks[0].Partitions[3].Content.Start = 1<<63 - 1 },
		"chunk too many": func(m *Manifest) {
			first(m).Content.Chunks = append(first(m).Content.Chunks, chunk.ID{})
		},
		"chunk too few":        func(m *Manifest) { first(m).Content.Chunks = first(m).Content.Chunks[1:] },
		"extents touch":        func(m *Manifest) { first(m).Content.Extents[1].Start = 4096 },
		"extents out of order": func(m *Manifest) { first(m).Content.Extents[1].Start = 0 },
		"empty extent":         func(m *Manifest) { first(m).Content.Extents[0].Length = 0 },
		"extent after the end": func(m *Manifest) { first(m).Content.Extents[2].Length = 4 * quantity.MiB },
		"extent overflows":     func(m *Manifest) { first(m).Content.Extents[2].Length = 1<<63 - 1 },
	} {
		m := example()
		change(m)
		if b, err := m.MarshalBinary(); err == nil || b != nil {
			t.Errorf("%s: MarshalBinary accepts it", name)
		}
	}
}

// Parse must bound its memory by the input: lists that claim more than is left.
func TestManifestHostileCounts(t *testing.T) {
	whole := marshal(t, example())
	for at := len(manifestMagic); at < len(whole); at++ {
		for _, v := range [][]byte{
			{0x80, 0},
			{0xff, 0xff, 0xff, 0xff, 0x0f},
			{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01},
		} {
			b := append(append(bytes.Clone(whole[:at]), v...), whole[at+1:]...)
			if m, err := Parse(b); err == nil && !bytes.Equal(marshal(t, m), b) {
				t.Fatalf("%x at byte %d: Parse accepts a form that MarshalBinary does not write", v, at)
			}
		}
	}
}

func testKey(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

func trust(keys ...ed25519.PrivateKey) (list []ed25519.PublicKey) {
	for _, k := range keys {
		list = append(list, k.Public().(ed25519.PublicKey))
	}
	return list
}

func TestEnvelope(t *testing.T) {
	key, other := testKey(1), testKey(2)
	envelope, id, err := Seal(example(), key)
	if err != nil {
		t.Fatal(err)
	}
	m, opened, err := Open(envelope, trust(other, key))
	if err != nil || opened != id || id != Identify(marshal(t, example())) {
		t.Fatalf("Open = %v, %v; want %v", opened, err, id)
	}
	if diff := cmp.Diff(example(), m); diff != "" {
		t.Errorf("Open (-want +got):\n%s", diff)
	}
	for name, trusted := range map[string][]ed25519.PublicKey{"another key": trust(other), "no key": nil} {
		if m, _, err := Open(envelope, trusted); !errors.Is(err, ErrUntrusted) || m != nil {
			t.Errorf("Open with %s trusted = %v, want ErrUntrusted", name, err)
		}
	}
	// The right key's name on the wrong key's signature.
	forged, _, err := Seal(example(), other)
	if err != nil {
		t.Fatal(err)
	}
	copy(forged[8:], key.Public().(ed25519.PublicKey))
	if _, _, err := Open(forged, trust(key)); !errors.Is(err, ErrUntrusted) {
		t.Errorf("Open of a forged envelope = %v, want ErrUntrusted", err)
	}
}

func TestEnvelopeSmallAndLarge(t *testing.T) {
	small := &Manifest{Image: "a", Disks: []Disk{{Size: 1, LogicalSector: 512}}}
	large := example()
	c := &large.Disks[0].Partitions[0].Content
	for i := range 20000 {
		c.Chunks = append(c.Chunks, chunk.Sum([]byte{byte(i), byte(i >> 8)}))
	}
	large.Disks[0].Size = 1 << 40
	c.Start, c.Length = 1<<30, 20000*chunk.Size
	c.Extents, c.Chunks = []quantity.Extent{{Start: 0, Length: c.Length}}, c.Chunks[len(c.Chunks)-20000:]
	for name, m := range map[string]*Manifest{"small": small, "large": large} {
		envelope, id, err := Seal(m, testKey(1))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, opened, err := Open(envelope, trust(testKey(1))); err != nil || opened != id {
			t.Errorf("%s: Open = %v", name, err)
		}
	}
}

func TestEnvelopeFlippedBits(t *testing.T) {
	envelope, _, err := Seal(example(), testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	for i := range len(envelope) * 8 {
		bad := bytes.Clone(envelope)
		bad[i/8] ^= 1 << (i % 8)
		if m, _, err := Open(bad, trust(testKey(1))); err == nil || m != nil {
			t.Fatalf("Open accepts the envelope with bit %d flipped", i)
		}
	}
	for n := range envelope {
		if m, _, err := Open(envelope[:n], trust(testKey(1))); err == nil || m != nil {
			t.Fatalf("Open accepts the first %d of %d bytes", n, len(envelope))
		}
	}
	if _, _, err := Open(append(envelope, 0), trust(testKey(1))); err == nil {
		t.Error("Open accepts a byte after the end")
	}
}

func FuzzParse(f *testing.F) {
	f.Add(marshal(f, example()))
	f.Add(marshal(f, &Manifest{Image: "a", Disks: []Disk{{Size: 1, LogicalSector: 512}}}))
	f.Add([]byte(manifestMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(b)
		if err != nil {
			if m != nil {
				t.Error("Parse returns a manifest beside an error")
			}
			return
		}
		if got := marshal(t, m); !bytes.Equal(got, b) {
			t.Errorf("Marshal(Parse(b)) = %x, want %x", got, b)
		}
	})
}

// FuzzOpen reaches the decompression and the parser behind a good signature.
func FuzzOpen(f *testing.F) {
	envelope, _, err := Seal(example(), testKey(1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(envelope[signedFrom:])
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) > 4 && uint(body[2])|uint(body[3]) > 0 && (body[3] > 0 || body[2] > 32) {
			return // claims more than 2 MiB: fine, but slow to try
		}
		b := append([]byte(manifestSeal.magic), testKey(1).Public().(ed25519.PublicKey)...)
		b = append(append(b, ed25519.Sign(testKey(1), manifestSeal.message(body))...), body...)
		m, id, err := Open(b, trust(testKey(1)))
		if err == nil && id != Identify(marshal(t, m)) {
			t.Error("Open gives the id of another manifest")
		}
	})
}
