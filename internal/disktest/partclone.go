package disktest

import (
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"testing"

	"clonecast/internal/quantity"
)

// partcloneHeader is the head of partclone's image format 2, little-endian; a bitmap
// of the blocks follows.
type partcloneHeader struct {
	Magic       [16]byte
	_           [20]byte // versions, byte order
	FileSystem  [16]byte
	DeviceSize  uint64
	TotalBlocks uint64
	UsedBlocks  uint64
	_           uint64
	BlockSize   uint32
	_           [17]byte // checksums
	BitmapMode  uint8    // 1: a bit for each block
	_           uint32
}

// Partclone gives the bytes that partclone calls used: what the program partclone.NAME
// makes of an image or device.
func Partclone(t testing.TB, name, path string) []quantity.Extent {
	t.Helper()
	dir := t.TempDir()
	out := filepath.Join(dir, "image")
	Run(t, "", "partclone."+name, "-f", "0", "-c", "-s", path, "-o", out, "-L", filepath.Join(dir, "log"))
	f, err := os.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	defer os.Remove(out)
	var h partcloneHeader
	if err := binary.Read(f, binary.LittleEndian, &h); err != nil {
		t.Fatal(err)
	}
	if string(h.Magic[:15]) != "partclone-image" || h.BitmapMode != 1 {
		t.Fatalf("partclone.%s: header %+v is not of format 2 with a bitmap", name, h)
	}
	bitmap := make([]byte, (h.TotalBlocks+7)/8)
	if _, err := io.ReadFull(f, bitmap); err != nil {
		t.Fatal(err)
	}
	var used []quantity.Extent
	size := quantity.Bytes(h.BlockSize)
	for i := range quantity.Bytes(h.TotalBlocks) {
		if bitmap[i/8]>>(i%8)&1 == 1 {
			used = append(used, quantity.Extent{Start: i * size, Length: size})
		}
	}
	return quantity.Normalize(used)
}

// Subtract gives the bytes of extents that are not in minus; both are normalized.
func Subtract(extents, minus []quantity.Extent) []quantity.Extent {
	var out []quantity.Extent
	for _, e := range extents {
		for _, m := range minus {
			if m.End() <= e.Start || m.Start >= e.End() {
				continue
			}
			out = append(out, quantity.Extent{Start: e.Start, Length: m.Start - e.Start})
			e = quantity.Extent{Start: m.End(), Length: e.End() - m.End()}
		}
		out = append(out, e)
	}
	return quantity.Normalize(out)
}
