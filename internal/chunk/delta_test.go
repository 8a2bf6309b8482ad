package chunk

import (
	"bytes"
	"errors"
	"slices"
	"testing"
)

// testDelta makes a difference of chunks against bases; a nil base is none.
func testDelta(t testing.TB, chunks, bases [][]byte) []byte {
	t.Helper()
	e, err := NewDeltaEncoder()
	if err != nil {
		t.Fatal(err)
	}
	entries, ids := make([]Entry, len(chunks)), make([]ID, len(chunks))
	for i, c := range chunks {
		entries[i] = Entry{Sum(c), len(c)}
		if bases[i] != nil {
			ids[i] = Sum(bases[i])
		}
	}
	b, err := e.Append(nil, entries, ids, slices.Concat(chunks...), slices.Concat(bases...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func lookup(bases [][]byte) func(ID) []byte {
	return func(id ID) []byte {
		for _, b := range bases {
			if b != nil && Sum(b) == id {
				return b
			}
		}
		return nil
	}
}

// changed is b with a byte changed in every 16 KiB.
func changed(b []byte) []byte {
	b = bytes.Clone(b)
	for i := 0; i < len(b); i += 16 << 10 {
		b[i] ^= 1
	}
	return b
}

func TestDeltaRoundTrip(t *testing.T) {
	full := random(int(Size))
	for name, c := range map[string]struct {
		chunks, bases [][]byte
		limit         int // of the whole difference
	}{
		"one":             {[][]byte{changed(full)}, [][]byte{full}, 2000},
		"no base":         {[][]byte{full}, [][]byte{nil}, len(full) + 200},
		"some with bases": {[][]byte{full[:1000], changed(full), make([]byte, Size)}, [][]byte{nil, full, nil}, 4000},
		"eight": {
			[][]byte{
				changed(full), changed(full[1:]), changed(full[2:]), full[3:], full[4:], full[5:], full[6:], full[7:],
			},
			[][]byte{full, full[1:], full[2:], full[3:], full[4:], full[5:], full[6:], full[7:]},
			8000,
		},
		"unlike": {[][]byte{full}, [][]byte{make([]byte, Size)}, len(full) + 200},
	} {
		t.Run(name, func(t *testing.T) {
			b := testDelta(t, c.chunks, c.bases)
			d, err := NewDeltaDecoder()
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			for range 2 { // a decoder forgets the bases of the difference before
				h, plain, err := d.Decode(b, nil, lookup(c.bases))
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(plain, slices.Concat(c.chunks...)) || len(h.Entries) != len(c.chunks) || h.Size() != len(b) {
					t.Errorf("%d bytes in %d chunks come out, want %d", len(plain), len(h.Entries), len(c.chunks))
				}
				if _, _, err := d.Decode(testDelta(t, [][]byte{full}, [][]byte{nil}), nil, lookup(nil)); err != nil {
					t.Fatal(err)
				}
			}
			if len(b) > c.limit {
				t.Errorf("the difference has %d bytes, want at most %d", len(b), c.limit)
			}
		})
	}
}

func TestDeltaRefuses(t *testing.T) {
	full := random(int(Size))
	b := testDelta(t, [][]byte{changed(full)}, [][]byte{full})
	d, err := NewDeltaDecoder()
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var invalid *InvalidError
	for name, base := range map[string]func(ID) []byte{
		"missing base":  func(ID) []byte { return nil },
		"another base":  func(ID) []byte { return make([]byte, Size) },
		"too long base": func(ID) []byte { return make([]byte, Size+1) },
	} {
		if _, _, err := d.Decode(b, nil, base); !errors.As(err, &invalid) || invalid.ID != Sum(changed(full)) {
			t.Errorf("%s: Decode = %v, want an InvalidError of the chunk", name, err)
		}
	}
	for i := range len(b) * 8 {
		bad := bytes.Clone(b)
		bad[i/8] ^= 1 << (i % 8)
		if h, plain, err := d.Decode(bad, nil, lookup([][]byte{full})); err == nil && Sum(plain) != h.Entries[0].ID {
			t.Fatalf("bit %d flipped: wrong bytes accepted", i)
		}
	}
	for n := range b {
		if _, _, err := d.Decode(b[:n], nil, lookup([][]byte{full})); err == nil {
			t.Fatalf("a difference cut to %d bytes is accepted", n)
		}
	}
	frame, _ := testFrame(t, full)
	if _, _, err := d.Decode(frame, nil, lookup(nil)); !errors.Is(err, ErrFrame) {
		t.Errorf("a frame is taken for a difference: %v", err)
	}
	plain, err := NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	if _, _, err := plain.Decode(b, nil); !errors.Is(err, ErrFrame) {
		t.Errorf("a difference is taken for a frame: %v", err)
	}
}

func FuzzDeltaDecode(f *testing.F) {
	base := random(5000)
	f.Add(testDelta(f, [][]byte{changed(base)}, [][]byte{base}))
	f.Add(testDelta(f, [][]byte{base[:100], changed(base)}, [][]byte{nil, base}))
	d, err := NewDeltaDecoder()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, plain, err := d.Decode(b, nil, lookup([][]byte{base}))
		if err == nil && (len(plain) != h.PlainSize() || h.Size() != len(b)) {
			t.Errorf("Decode accepts %d bytes as a difference of %d with %d plain bytes", len(b), h.Size(), len(plain))
		}
		if err != nil && plain != nil {
			t.Error("Decode returns bytes beside an error")
		}
	})
}
