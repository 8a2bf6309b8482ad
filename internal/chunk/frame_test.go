package chunk

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/compress/zstd"
)

func testFrame(t testing.TB, parts ...[]byte) ([]byte, []byte) {
	t.Helper()
	enc, err := NewEncoder(zstd.SpeedFastest)
	if err != nil {
		t.Fatal(err)
	}
	var plain []byte
	var entries []Entry
	for _, p := range parts {
		entries = append(entries, Entry{Sum(p), len(p)})
		plain = append(plain, p...)
	}
	return enc.AppendFrame(nil, entries, plain), plain
}

func random(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b)
	return b
}

func TestFrameRoundTrip(t *testing.T) {
	text := bytes.Repeat([]byte("clonecast "), 20000)
	for name, parts := range map[string][][]byte{
		"one byte":       {{7}},
		"text":           {text},
		"incompressible": {random(int(Size))},
		"several":        {text, make([]byte, Size), random(100), random(int(Size))},
	} {
		t.Run(name, func(t *testing.T) {
			frame, plain := testFrame(t, parts...)
			d, err := NewDecoder()
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			h, got, err := d.Decode(frame, nil)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, plain) || len(h.Entries) != len(parts) {
				t.Errorf("Decode gives %d bytes in %d chunks, want %d in %d", len(got), len(h.Entries), len(plain), len(parts))
			}
		})
	}
}

// Every single flipped bit must be found: by the header's checksum, by the decoder
// or by the chunk's name.
func TestFrameFlippedBits(t *testing.T) {
	frame, _ := testFrame(t, bytes.Repeat([]byte("abcdefgh"), 40), random(200))
	d, err := NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for i := range len(frame) * 8 {
		bad := bytes.Clone(frame)
		bad[i/8] ^= 1 << (i % 8)
		h, plain, err := d.Decode(bad, nil)
		if err == nil {
			// A flip that decodes to the same bytes (a spare bit of the zstd frame) is harmless.
			at := 0
			for _, e := range h.Entries {
				if Sum(plain[at:at+e.Length]) != e.ID {
					t.Fatalf("bit %d flipped: wrong bytes accepted", i)
				}
				at += e.Length
			}
		}
	}
	for n := range frame {
		if _, _, err := d.Decode(frame[:n], nil); err == nil {
			t.Fatalf("frame cut to %d bytes is accepted", n)
		}
	}
}

func TestDecodeNamesTheDamagedChunk(t *testing.T) {
	frame, _ := testFrame(t, random(1000))
	frame[len(frame)-1] ^= 1
	d, err := NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	_, _, err = d.Decode(frame, nil)
	var invalid *InvalidError
	if !errors.As(err, &invalid) || invalid.ID != Sum(random(1000)) {
		t.Errorf("Decode = %v, want an InvalidError naming the chunk", err)
	}
}

func FuzzDecode(f *testing.F) {
	one, _ := testFrame(f, []byte("hello"))
	several, _ := testFrame(f, bytes.Repeat([]byte("x"), 5000), random(100))
	f.Add(one)
	f.Add(several)
	d, err := NewDecoder()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, plain, err := d.Decode(b, nil)
		if err == nil && (len(plain) != h.PlainSize() || h.Size() != len(b)) {
			t.Errorf("Decode accepts %d bytes as a frame of %d with %d plain bytes", len(b), h.Size(), len(plain))
		}
		if err != nil && plain != nil {
			t.Error("Decode returns bytes beside an error")
		}
	})
}

func TestAppendStored(t *testing.T) {
	plain := []byte("hello, chunks")
	entries := []Entry{{ID: Sum(plain[:5]), Length: 5}, {ID: Sum(plain[5:]), Length: len(plain) - 5}}
	frame := AppendStored([]byte("before"), entries, plain)[6:]
	if len(frame) != StoredSize(2, len(plain)) {
		t.Errorf("%d bytes, StoredSize says %d", len(frame), StoredSize(2, len(plain)))
	}
	d, err := NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	h, got, err := d.Decode(frame, nil)
	if err != nil || string(got) != string(plain) || len(h.Entries) != 2 {
		t.Errorf("Decode = %+v, %q, %v", h, got, err)
	}
}
