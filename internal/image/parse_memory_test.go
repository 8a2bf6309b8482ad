package image

import (
	"bytes"
	"runtime"
	"testing"
)

// TestParseMemory: what a manifest or an outline allocates is at most parseCost times its length, whatever it claims.
func TestParseMemory(t *testing.T) {
	const parseCost, base = 32, 64 << 10
	header := func(disks ...byte) []byte {
		var w writer
		w.raw([]byte(manifestMagic))
		w.string("lab")
		w.uint(1)
		w.raw(make([]byte, 32))
		w.uint(1)
		for range 4 {
			w.string("")
		}
		w.raw(disks)
		return w.b
	}
	disk := func(rest func(w *writer)) []byte {
		var w writer
		w.uint(1) // one disk
		w.uint(maxDiskSize)
		w.uint(512)
		w.uint(512)
		for range 4 {
			w.string("")
		}
		rest(&w)
		return header(w.b...)
	}
	repeat := func(w *writer, n int, item ...byte) {
		w.uint(uint64(n))
		w.raw(bytes.Repeat(item, n))
	}
	inputs := map[string][]byte{
		"disks":      header(append([]byte{maxDisks}, bytes.Repeat([]byte{1, 1, 1, 0, 0, 0, 0, 0, 0, 0}, maxDisks)...)...),
		"many disks": header(append([]byte{0x80, 0x80, 0x80, 0x01}, make([]byte, 1<<20)...)...),
		"areas":      disk(func(w *writer) { repeat(w, maxAreas, 0, 0) }),
		"boot":       disk(func(w *writer) { w.uint(0); repeat(w, maxAreas, 0, 0, 0) }),
		"partitions": disk(func(w *writer) {
			w.uint(0)
			w.uint(0)
			repeat(w, maxPartitions, make([]byte, minPartition)...)
		}),
		"extents": disk(func(w *writer) {
			w.uint(0)
			w.uint(1) // a boot area
			w.uint(0)
			w.uint(maxDiskSize)
			repeat(w, 1<<20, 1, 1)
		}),
		"claims": disk(func(w *writer) {
			w.uint(0)
			w.uint(1)
			w.uint(0)
			w.uint(maxDiskSize)
			w.uint(1 << 21) // extents that are not there
			w.raw(bytes.Repeat([]byte{0xff}, 1<<20))
		}),
	}
	for name, input := range inputs {
		for kind, parse := range map[string]func([]byte) error{
			"manifest": func(b []byte) error { _, err := Parse(b); return err },
			"outline": func(b []byte) error {
				var w writer
				w.raw([]byte(outlineMagic))
				w.raw(make([]byte, 32))
				w.string("")
				_, err := ParseOutline(append(w.b, b[len(manifestMagic):]...))
				return err
			},
		} {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err := parse(input)
			runtime.ReadMemStats(&after)
			got := after.TotalAlloc - before.TotalAlloc
			t.Logf("%s of %s: %d bytes, %d allocated (%v)", kind, name, len(input), got, err)
			if got > uint64(parseCost*len(input))+base {
				t.Errorf("%s of %s: %d bytes make %d allocated, %d times as many",
					kind, name, len(input), got, got/uint64(len(input)))
			}
		}
	}
}
