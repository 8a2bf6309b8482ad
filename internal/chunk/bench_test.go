package chunk

import (
	"testing"

	"github.com/klauspost/compress/zstd"
)

// benchData is a full frame of half random bytes: about what a system disk packs to.
func benchData() ([]Entry, []byte) {
	plain := random(MaxFramePlain)
	for at := 0; at < len(plain); at += 8192 {
		clear(plain[at : at+4096])
	}
	var entries []Entry
	for at := 0; at < len(plain); at += int(Size) {
		entries = append(entries, Entry{Sum(plain[at : at+int(Size)]), int(Size)})
	}
	return entries, plain
}

func BenchmarkSum(b *testing.B) {
	_, plain := benchData()
	b.SetBytes(int64(Size))
	for b.Loop() {
		Sum(plain[:Size])
	}
}

func BenchmarkEncode(b *testing.B) {
	entries, plain := benchData()
	for _, level := range []zstd.EncoderLevel{zstd.SpeedFastest, zstd.SpeedDefault} {
		b.Run(level.String(), func(b *testing.B) {
			e, err := NewEncoder(level)
			if err != nil {
				b.Fatal(err)
			}
			var frame []byte
			b.SetBytes(int64(len(plain)))
			for b.Loop() {
				frame = e.AppendFrame(frame[:0], entries, plain)
			}
		})
	}
}

func BenchmarkDecode(b *testing.B) {
	entries, plain := benchData()
	e, err := NewEncoder(zstd.SpeedDefault)
	if err != nil {
		b.Fatal(err)
	}
	frame := e.AppendFrame(nil, entries, plain)
	d, err := NewDecoder()
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	buf := make([]byte, 0, len(plain))
	b.SetBytes(int64(len(plain)))
	for b.Loop() {
		if _, _, err := d.Decode(frame, buf); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDelta(b *testing.B) {
	entries, plain := benchData()
	entries, plain = entries[:MaxDeltaChunks], plain[:MaxDeltaChunks*int(Size)]
	base := changed(plain)
	bases := make([]ID, len(entries))
	for i := range bases {
		bases[i] = Sum(base[i*int(Size):][:Size])
	}
	e, err := NewDeltaEncoder()
	if err != nil {
		b.Fatal(err)
	}
	var delta []byte
	b.SetBytes(int64(len(plain)))
	for b.Loop() {
		if delta, err = e.Append(delta[:0], entries, bases, plain, base); err != nil {
			b.Fatal(err)
		}
	}
}
