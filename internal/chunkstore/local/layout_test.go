package local_test

import (
	"errors"
	"testing"

	"clonecast/internal/chunk"
	"clonecast/internal/chunkstore/local"
	"clonecast/internal/chunkstore/storetest"
)

// TestLayout compares the layout of chunks with what Frames hands out.
func TestLayout(t *testing.T) {
	s, err := local.Create(t.TempDir()+"/store", local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	sample, err := storetest.NewSample("lab", 1, 20, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := sample.Capture(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	ids := sample.Chunks
	sizes, of, err := s.Layout(ids)
	if err != nil || len(of) != len(ids) {
		t.Fatalf("Layout = %d frames for %d chunks, %v", len(of), len(ids), err)
	}
	n := 0
	where := map[chunk.ID]int{}
	err = s.Frames(t.Context(), ids, func(frame []byte) error {
		if n >= len(sizes) || sizes[n].Bytes != len(frame) {
			t.Errorf("frame %d has %d bytes, the layout says %v", n, len(frame), sizes)
		}
		h, err := chunk.ParseFrameHeader(frame)
		if n < len(sizes) && sizes[n].Chunks != len(h.Entries) {
			t.Errorf("frame %d has %d chunks, the layout says %d", n, len(h.Entries), sizes[n].Chunks)
		}
		for _, e := range h.Entries {
			where[e.ID] = n
		}
		n++
		return err
	})
	if err != nil || n != len(sizes) {
		t.Errorf("Frames gives %d frames (%v), the layout has %d", n, err, len(sizes))
	}
	for i, id := range ids {
		if where[id] != of[i] {
			t.Errorf("chunk %v is in frame %d, the layout says %d", id, where[id], of[i])
		}
	}
	var missing *chunk.MissingError
	if _, _, err := s.Layout([]chunk.ID{{1}}); !errors.As(err, &missing) {
		t.Errorf("Layout of an absent chunk = %v", err)
	}
}
