package chunk

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"
)

func TestSieve(t *testing.T) {
	parts := [][]byte{bytes.Repeat([]byte("a"), 5000), random(3000), {7}, bytes.Repeat([]byte("secret"), 99)}
	frame, _ := testFrame(t, parts...)
	s, err := NewSieve(zstd.SpeedFastest)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	d, err := NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for mask := range 1 << len(parts) {
		var want []byte
		var ids []ID
		for i, p := range parts {
			if mask>>i&1 == 1 {
				want, ids = append(want, p...), append(ids, Sum(p))
			}
		}
		got, err := s.Keep(frame, func(id ID) bool { return slices.Contains(ids, id) })
		if err != nil {
			t.Fatalf("mask %b: %v", mask, err)
		}
		if mask == 0 {
			if got != nil {
				t.Errorf("a frame of %d bytes for no chunk", len(got))
			}
			continue
		}
		h, plain, err := d.Decode(got, nil)
		if err != nil || !bytes.Equal(plain, want) || len(h.Entries) != len(ids) {
			t.Errorf("mask %b: %d chunks of %d bytes, %v; want %d of %d",
				mask, len(h.Entries), len(plain), err, len(ids), len(want))
		}
		if mask == 1<<len(parts)-1 && &got[0] != &frame[0] {
			t.Error("a frame of which every chunk is wanted is made anew")
		}
	}
	frame[len(frame)-1] ^= 1
	var invalid *InvalidError
	got, err := s.Keep(frame, func(id ID) bool { return id == Sum(parts[0]) })
	if !errors.As(err, &invalid) || got != nil {
		t.Errorf("Keep of a damaged frame = %d bytes, %v", len(got), err)
	}
	if got, err := s.Keep(frame[:20], func(ID) bool { return true }); !errors.Is(err, ErrFrame) || got != nil {
		t.Errorf("Keep of a cut frame = %d bytes, %v", len(got), err)
	}
}

func TestDamagedSaysItOnce(t *testing.T) {
	a, b := Sum([]byte("a")), Sum([]byte("b"))
	for _, c := range []struct {
		frame error
		want  string
	}{
		{
			&InvalidError{ID: a, Problem: "content does not match the name"},
			"chunk " + a.String() + " is damaged: content does not match the name",
		},
		{
			&InvalidError{ID: b, Problem: "content does not match the name"},
			"chunk " + a.String() + " is damaged: " +
				"chunk " + b.String() + " of the same frame: content does not match the name",
		},
		{ErrFrame, "chunk " + a.String() + " is damaged: malformed chunk frame"},
	} {
		if got := Damaged(a, c.frame).Error(); got != c.want {
			t.Errorf("Damaged(%v) = %q, want %q", c.frame, got, c.want)
		}
	}
}
