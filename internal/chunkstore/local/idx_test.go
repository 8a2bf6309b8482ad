package local

import (
	"bytes"
	"encoding/hex"
	"slices"
	"testing"

	"clonecast/internal/chunk"
	"clonecast/internal/vfs/memfs"

	"github.com/klauspost/compress/zstd"
)

func exampleFrames() (length int64, frames []packFrame) {
	a, b, c := chunk.Sum([]byte("a")), chunk.Sum([]byte("b")), chunk.Sum([]byte("c"))
	return 8 + 100 + 0x10203, []packFrame{
		{8, 100, []chunk.Entry{{ID: a, Length: 1}, {ID: b, Length: 0x40000}}},
		{108, 0x10203, []chunk.Entry{{ID: c, Length: 3}}},
	}
}

func TestIdxGolden(t *testing.T) {
	const want = "4343494458320a00" + // magic
		"6f02010000000000" + // pack length
		"02000000" + // frames
		"64000000" + "02" +
		"17762fddd969a453925d65717ac3eea21320b66b54342fde15128d6caf21215f" + "01000000" +
		"10e5cf3d3c8a4f9f3468c8cc58eea84892a22fdadbc1acb22410190044c1d553" + "00000400" +
		"03020100" + "01" +
		"ea7aa1fc9efdbe106dbb70369a75e9671fa29d52bd55536711bf197477b8f021" + "03000000"
	got := marshalIdx(exampleFrames())
	body := got[:len(got)-idxSumSize]
	if hex.EncodeToString(body) != want {
		t.Errorf("marshalIdx = %x, want %s", body, want)
	}
	if sum := chunk.Sum(body); !bytes.Equal(got[len(body):], sum[:]) {
		t.Error("the index does not end in its checksum")
	}
}

func TestIdxRoundTrip(t *testing.T) {
	length, frames := exampleFrames()
	whole := marshalIdx(length, frames)
	gotLength, got, err := parseIdx(whole)
	if err != nil || gotLength != length || !slices.EqualFunc(got, frames, func(a, b packFrame) bool {
		return a.offset == b.offset && a.size == b.size && slices.Equal(a.chunks, b.chunks)
	}) {
		t.Errorf("parseIdx = %d, %v, %v", gotLength, got, err)
	}
	for n := range whole {
		if _, _, err := parseIdx(whole[:n]); err == nil {
			t.Fatalf("parseIdx accepts the first %d of %d bytes", n, len(whole))
		}
	}
	for i := range len(whole) * 8 {
		bad := bytes.Clone(whole)
		bad[i/8] ^= 1 << (i % 8)
		if _, _, err := parseIdx(bad); err == nil {
			t.Fatalf("parseIdx accepts a flip of bit %d", i)
		}
	}
}

// FuzzParseIdx puts the right checksum behind the input, so that the parser is reached.
func FuzzParseIdx(f *testing.F) {
	length, frames := exampleFrames()
	whole := marshalIdx(length, frames)
	f.Add(whole[:len(whole)-idxSumSize])
	f.Add(marshalIdx(8, nil)[:20])
	f.Fuzz(func(t *testing.T, body []byte) {
		sum := chunk.Sum(body)
		b := append(bytes.Clone(body), sum[:]...)
		length, frames, err := parseIdx(b)
		if err != nil {
			if frames != nil {
				t.Error("parseIdx returns frames beside an error")
			}
			return
		}
		if got := marshalIdx(length, frames); !bytes.Equal(got, b) {
			t.Errorf("marshalIdx(parseIdx(b)) = %x, want %x", got, b)
		}
	})
}

// FuzzScanPack: whatever a pack holds, the scan ends and its frames lie inside the file,
// one behind the other.
func FuzzScanPack(f *testing.F) {
	enc, err := chunk.NewEncoder(zstd.SpeedFastest)
	if err != nil {
		f.Fatal(err)
	}
	pack := []byte(packMagic)
	for _, s := range []string{"a", "bb"} {
		pack = enc.AppendFrame(pack, []chunk.Entry{{ID: chunk.Sum([]byte(s)), Length: len(s)}}, []byte(s))
	}
	f.Add(pack)
	f.Add(pack[:len(pack)-1])
	f.Add([]byte(packMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		disk := memfs.New()
		file, err := disk.Create("p", 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.Write(b); err != nil {
			t.Fatal(err)
		}
		frames, end, err := scanPack(file, int64(len(b)), nil)
		if err != nil || end > int64(len(b)) {
			t.Fatalf("scanPack ends at %d of %d bytes, %v", end, len(b), err)
		}
		at := int64(0)
		if end > 0 {
			at = int64(len(packMagic))
		}
		for _, f := range frames {
			if int64(f.offset) != at {
				t.Fatalf("a frame at byte %d, the one before ends at %d", f.offset, at)
			}
			at += int64(f.size)
		}
		if at != end {
			t.Errorf("frames end at %d, scanPack says %d", at, end)
		}
	})
}

func TestIndexFindsAllCopies(t *testing.T) {
	x := newIndex()
	const n = 20000
	id := func(i int) chunk.ID { return chunk.Sum([]byte{byte(i), byte(i >> 8)}) }
	for i := range uint32(n) {
		x.add(chunk.Entry{ID: id(int(i)), Length: int(i) + 1}, location{1, i})
		if i%10 == 0 {
			x.add(chunk.Entry{ID: id(int(i)), Length: int(i) + 1}, location{2, i})
		}
	}
	for i := range uint32(n) {
		want := []location{{1, i}}
		if i%10 == 0 {
			want = append(want, location{2, i})
		}
		var got []location
		for e := range x.find(id(int(i))) {
			got = append(got, x.at[e])
			if x.lengths[e] != i+1 {
				t.Fatalf("chunk %d has %d bytes", i, x.lengths[e])
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("chunk %d is found at %v, want %v", i, got, want)
		}
	}
	if got := slices.Collect(x.find(chunk.Sum([]byte("absent")))); got != nil {
		t.Errorf("an absent chunk is found at %v", got)
	}
}

func TestFrameCacheIsBounded(t *testing.T) {
	c := newFrameCache(100)
	for i := range uint32(20) {
		c.put(location{0, i}, make([]byte, 30))
		c.get(location{0, 0}) // keeps the first one in use
	}
	kept := c.get(location{0, 0}) != nil && c.get(location{0, 19}) != nil && c.get(location{0, 5}) == nil
	if c.bytes > 100 || c.bytes != 30*int64(c.frames.Len()) || !kept {
		t.Errorf("the cache holds %d bytes in %d frames", c.bytes, c.frames.Len())
	}
	c.put(location{0, 99}, make([]byte, 101))
	if c.get(location{0, 99}) != nil {
		t.Error("a frame larger than the cache is kept")
	}
}
