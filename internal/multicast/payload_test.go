package multicast

import (
	"log/slog"
	"maps"
	"slices"
	"testing"

	"clonecast/internal/chunk"
	"clonecast/internal/chunkstore/local"
	"clonecast/internal/chunkstore/storetest"
	"clonecast/internal/multicast/blocks"
)

// TestPayloadHoldsOneVersion sends a version whose frames hold chunks of another one: these
// are left out, and nothing else.
func TestPayloadHoldsOneVersion(t *testing.T) {
	store, err := local.Create(t.TempDir()+"/store", local.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	var last *storetest.Sample
	for seed := range uint64(2) {
		if last, err = storetest.NewSample("lab", seed+1, 40, 2); err != nil {
			t.Fatal(err)
		}
		if _, _, err := last.Capture(t.Context(), store); err != nil {
			t.Fatal(err)
		}
	}
	p, err := NewImagePayload(store, last.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.mixed) == 0 || len(p.mixed) == len(p.first) {
		t.Fatalf("%d of %d frames hold chunks of another version: the test shows nothing", len(p.mixed), len(p.first))
	}
	payload := make([]byte, p.Size())
	geo := blocks.Geometry{Payload: p.Size()}
	for b := range geo.Count() {
		if err := p.Block(b, payload[geo.Offset(b):][:geo.Length(b)]); err != nil {
			t.Fatal(err)
		}
	}
	d, err := chunk.NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	sent := map[chunk.ID]bool{}
	for rest := payload; len(rest) > 0; {
		h, err := chunk.ParseFrameHeader(rest)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := d.Decode(rest[:h.Size()], nil); err != nil {
			t.Error(err)
		}
		for _, e := range h.Entries {
			if sent[e.ID] {
				t.Errorf("chunk %v is sent twice", e.ID)
			}
			sent[e.ID] = true
		}
		rest = rest[h.Size():]
	}
	want := map[chunk.ID]bool{}
	for _, id := range payloadChunks(last.Manifest) {
		want[id] = true
	}
	if !maps.Equal(sent, want) {
		t.Errorf("%d chunks are sent, %d belong to the version", len(sent), len(want))
	}
	table, err := parseTable(p.Table(), payloadChunks(last.Manifest))
	if err != nil || !slices.Equal(table.starts, p.table.starts) {
		t.Errorf("the table that receivers get differs: %v", err)
	}
}
