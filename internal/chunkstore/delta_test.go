package chunkstore_test

import (
	"bytes"
	"errors"
	"sync"
	"testing"

	"clonecast/internal/chunk"
	"clonecast/internal/chunkstore"
	"clonecast/internal/chunkstore/mem"
	"clonecast/internal/chunkstore/storetest"
)

func TestDiffer(t *testing.T) {
	store, err := mem.New()
	if err != nil {
		t.Fatal(err)
	}
	old, err := storetest.NewSample("lab", 1, 100, 0)
	if err != nil {
		t.Fatal(err)
	}
	disk, err := storetest.NewSample("lab", 2, 100, 3)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*storetest.Sample{old, disk} {
		if _, _, err := s.Capture(t.Context(), store); err != nil {
			t.Fatal(err)
		}
	}
	differ, err := chunkstore.NewDiffer(store)
	if err != nil {
		t.Fatal(err)
	}
	var wants []chunk.Want
	for i, id := range disk.Chunks {
		w := chunk.Want{ID: id}
		switch {
		case i%10 == 3:
			w.Base = chunk.Sum([]byte("nowhere")) // is done without
		case i%2 == 0:
			w.Base = old.Chunks[i]
		}
		wants = append(wants, w)
	}
	var g sync.WaitGroup
	for range 4 { // what is remembered is the same as what is made
		g.Go(func() {
			d, err := chunk.NewDeltaDecoder()
			if err != nil {
				t.Error(err)
				return
			}
			defer d.Close()
			next := 0
			err = differ.Deltas(t.Context(), wants, func(delta []byte) error {
				h, plain, err := d.Decode(delta, nil, func(id chunk.ID) []byte { return old.Plain[id] })
				if err != nil {
					return err
				}
				for _, e := range h.Entries {
					if e.ID != disk.Chunks[next] || !bytes.Equal(plain[:e.Length], disk.Plain[e.ID]) {
						t.Errorf("chunk %d is not what was wanted", next)
					}
					plain = plain[e.Length:]
					next++
				}
				return nil
			})
			if err != nil || next != len(wants) {
				t.Errorf("Deltas = %v after %d of %d chunks", err, next, len(wants))
			}
		})
	}
	g.Wait()
	err = differ.Deltas(t.Context(), []chunk.Want{{ID: chunk.Sum([]byte("absent"))}}, func([]byte) error { return nil })
	var missing *chunk.MissingError
	if !errors.As(err, &missing) {
		t.Errorf("Deltas = %v, want a MissingError", err)
	}
}
