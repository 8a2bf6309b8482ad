package server

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"clonecast/internal/await"
	"clonecast/internal/chunkstore/local"
	"clonecast/internal/chunkstore/storetest"
)

// A running server frees the space of deleted versions by itself, not before a day has passed.
func TestCollect(t *testing.T) {
	dir := t.TempDir()
	var days atomic.Int64 // that each look at the clock adds
	var looks atomic.Int64
	store, err := local.Create(dir, local.Options{Now: func() time.Time {
		return time.Now().Add(time.Duration(looks.Add(1)*days.Load()) * 24 * time.Hour)
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	disk, err := storetest.NewSample("lab", 1, 9, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := disk.Capture(t.Context(), store); err != nil {
		t.Fatal(err)
	}
	if err := store.Delete(t.Context(), "lab", 1); err != nil {
		t.Fatal(err)
	}
	packs := func() int {
		list, err := filepath.Glob(filepath.Join(dir, "packs", "*.pack"))
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	ctx, stop := context.WithCancel(t.Context())
	s := &Server{data: &Data{Store: store}, opts: Options{Log: slog.New(slog.DiscardHandler)}}
	ended := make(chan error)
	go func() { ended <- s.collect(ctx, 0, time.Millisecond) }()
	before := looks.Load()
	if !await.True(func() bool { return looks.Load() >= before+5 }) || packs() != 1 {
		t.Error("the server removes what is younger than a day")
	}
	days.Store(2)
	if !await.True(func() bool { return packs() == 0 }) {
		t.Error("the server does not collect")
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("collect = %v", err)
	}
}
