package local_test

import (
	"math/rand/v2"
	"testing"

	"clonecast/internal/chunk"
	"clonecast/internal/chunkstore"
	"clonecast/internal/chunkstore/local"

	"github.com/klauspost/compress/zstd"
)

// benchFrames makes frames of four half-random chunks: about what a system disk packs to.
func benchFrames(b *testing.B, n int) (frames [][]byte, ids []chunk.ID, plain int64) {
	b.Helper()
	enc, err := chunk.NewEncoder(zstd.SpeedFastest)
	if err != nil {
		b.Fatal(err)
	}
	rnd := rand.NewChaCha8([32]byte{})
	for range n {
		data := make([]byte, 4*int(chunk.Size))
		var entries []chunk.Entry
		for k := range 4 {
			part := data[k*int(chunk.Size):][:chunk.Size]
			for at := 0; at < len(part); at += 8192 {
				_, _ = rnd.Read(part[at : at+4096])
			}
			entries = append(entries, chunk.Entry{ID: chunk.Sum(part), Length: len(part)})
			ids = append(ids, entries[k].ID)
		}
		frames = append(frames, enc.AppendFrame(nil, entries, data))
		plain += int64(len(data))
	}
	return frames, ids, plain
}

func BenchmarkStore(b *testing.B) {
	frames, ids, plain := benchFrames(b, 128)
	fill := func(b *testing.B) *local.Store {
		s, err := local.Create(b.TempDir(), local.Options{Cache: -1})
		if err != nil {
			b.Fatal(err)
		}
		n, err := s.Begin(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		for _, f := range frames {
			if _, err := n.PutFrame(b.Context(), f); err != nil {
				b.Fatal(err)
			}
		}
		if err := n.Close(); err != nil {
			b.Fatal(err)
		}
		return s
	}
	b.Run("capture", func(b *testing.B) {
		b.SetBytes(plain)
		for b.Loop() {
			_ = fill(b).Close()
		}
	})
	s := fill(b)
	defer s.Close()
	b.Run("frames", func(b *testing.B) {
		b.SetBytes(plain)
		for b.Loop() {
			if err := s.Frames(b.Context(), ids, func([]byte) error { return nil }); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("check read data", func(b *testing.B) {
		b.SetBytes(plain)
		for b.Loop() {
			if _, err := s.Check(b.Context(), chunkstore.CheckOptions{ReadData: true}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
