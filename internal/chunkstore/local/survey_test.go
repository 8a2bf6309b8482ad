package local

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"clonecast/internal/chunk"
	"clonecast/internal/vfs"
	"clonecast/internal/vfs/memfs"

	"github.com/klauspost/compress/zstd"
)

func surveyStore(t testing.TB) *Store {
	t.Helper()
	s, err := CreateFS(memfs.New(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func fileOf(t testing.TB, b []byte) vfs.File {
	t.Helper()
	f, err := memfs.New().Create("p", 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
	return f
}

// samplePack makes a pack and says where its frames are.
func samplePack(t testing.TB, contents ...[]byte) (pack []byte, frames []packFrame) {
	t.Helper()
	enc, err := chunk.NewEncoder(zstd.SpeedFastest)
	if err != nil {
		t.Fatal(err)
	}
	pack = []byte(packMagic)
	for _, c := range contents {
		at, e := len(pack), []chunk.Entry{{ID: chunk.Sum(c), Length: len(c)}}
		pack = enc.AppendFrame(pack, e, c)
		frames = append(frames, packFrame{uint32(at), uint32(len(pack) - at), e})
	}
	return pack, frames
}

func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

func sameFrames(a, b []packFrame) bool {
	return slices.EqualFunc(a, b, func(a, b packFrame) bool {
		return a.offset == b.offset && a.size == b.size && slices.Equal(a.chunks, b.chunks)
	})
}

// Every byte of every header is damaged in turn: the frame is lost, no other one, and the
// gap is exactly its bytes.
func TestSurveyDamagedHeader(t *testing.T) {
	s := surveyStore(t)
	pack, frames := samplePack(t, noise(1, 700), bytes.Repeat([]byte("text "), 3000), noise(2, 5000))
	for k, f := range frames {
		for i := range 16 + 36 {
			bad := bytes.Clone(pack)
			bad[int(f.offset)+i] ^= 0x40
			got, gaps, err := s.surveyPack(fileOf(t, bad), int64(len(bad)))
			want := slices.Delete(slices.Clone(frames), k, k+1)
			gap := gap{int64(f.offset), int64(f.offset) + int64(f.size)}
			if err != nil || !sameFrames(got, want) || len(gaps) != 1 || gaps[0] != gap {
				t.Fatalf("frame %d, byte %d: %d frames, gaps %v, %v; want %d and %v", k, i, len(got), gaps, err, len(want), gap)
			}
		}
	}
	bad := bytes.Clone(pack)
	bad[3] ^= 1
	got, gaps, err := s.surveyPack(fileOf(t, bad), int64(len(bad)))
	if err != nil || !sameFrames(got, frames) || len(gaps) != 1 || gaps[0] != (gap{0, 8}) {
		t.Errorf("damaged magic: %d frames, gaps %v, %v", len(got), gaps, err)
	}
}

// The disk of a server was captured: a frame's payload holds another store's frames, and one
// of them is cut at the end. When the outer header is lost, the cut one must not swallow
// the next frame of the pack.
func TestSurveyFrameInsideFrame(t *testing.T) {
	s := surveyStore(t)
	inner, innerFrames := samplePack(t, noise(3, 3000), noise(4, 4000))
	outer := slices.Concat(noise(5, 1000), inner[:len(inner)-1000])
	pack, frames := samplePack(t, noise(6, 500), outer, noise(7, 800))
	if !bytes.Contains(pack, inner[:len(inner)-1000]) {
		t.Fatal("the frame is compressed: the test has lost its bite")
	}
	bad := bytes.Clone(pack)
	bad[frames[1].offset+20] ^= 1
	got, gaps, err := s.surveyPack(fileOf(t, bad), int64(len(bad)))
	if err != nil || len(got) != 3 || len(gaps) != 2 {
		t.Fatalf("%d frames, gaps %v, %v; want 3 with one of the inner store", len(got), gaps, err)
	}
	if !sameFrames([]packFrame{got[0], got[2]}, []packFrame{frames[0], frames[2]}) ||
		got[1].chunks[0] != innerFrames[0].chunks[0] {
		t.Errorf("frames %v", got)
	}
}

// FuzzSurveyPack: whatever a pack holds, frames and gaps lie one behind the other and
// cover the file.
func FuzzSurveyPack(f *testing.F) {
	pack, frames := samplePack(f, noise(1, 300), []byte("bb"), noise(2, 100))
	f.Add(pack)
	f.Add(pack[:len(pack)-1])
	f.Add(slices.Concat(pack[:frames[1].offset+3], pack[frames[2].offset:]))
	f.Add([]byte(packMagic))
	s := surveyStore(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		frames, gaps, err := s.surveyPack(fileOf(t, b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		at := int64(0)
		if bytes.HasPrefix(b, []byte(packMagic)) {
			at = int64(len(packMagic))
		}
		for len(frames)+len(gaps) > 0 {
			switch {
			case len(frames) > 0 && int64(frames[0].offset) == at:
				at += int64(frames[0].size)
				frames = frames[1:]
			case len(gaps) > 0 && gaps[0].from == at && gaps[0].to > at:
				at = gaps[0].to
				gaps = gaps[1:]
			default:
				t.Fatalf("nothing begins at byte %d: frames %v, gaps %v", at, frames, gaps)
			}
		}
		if at != int64(len(b)) {
			t.Errorf("frames and gaps end at %d of %d", at, len(b))
		}
	})
}

func FuzzParseMarks(f *testing.F) {
	m := &marks{epoch: 7, time: time.Unix(1795560000, 0), packs: map[string]bool{"0123456789abcdef0123": true, "x": true}}
	f.Add(m.marshal()[:len(m.marshal())-len("sum \n")-64])
	f.Add([]byte(marksHeading))
	f.Fuzz(func(t *testing.T, body []byte) {
		b := append(bytes.Clone(body), "sum "+chunk.Sum(body).String()+"\n"...)
		m, err := parseMarks(b)
		if err == nil && !bytes.Equal(m.marshal(), b) {
			t.Errorf("marshal(parseMarks(b)) = %q, want %q", m.marshal(), b)
		}
		if err != nil && m != nil {
			t.Error("parseMarks returns marks beside an error")
		}
	})
}

func TestMarksRoundTrip(t *testing.T) {
	m := &marks{epoch: 7, time: time.Unix(1795560000, 0), packs: map[string]bool{"bb": true, "aa": true}}
	b := m.marshal()
	const want = "clonecast condemned 1\nepoch 7\ntime 1795560000\npack aa\npack bb\nsum "
	if !bytes.HasPrefix(b, []byte(want)) {
		t.Errorf("marshal = %q", b)
	}
	got, err := parseMarks(b)
	if err != nil || got.epoch != 7 || !got.time.Equal(m.time) || len(got.packs) != 2 || !got.packs["aa"] {
		t.Errorf("parseMarks = %+v, %v", got, err)
	}
	for i := range len(b) * 8 {
		bad := bytes.Clone(b)
		bad[i/8] ^= 1 << (i % 8)
		if _, err := parseMarks(bad); err == nil {
			t.Fatalf("a flip of bit %d is accepted", i)
		}
	}
}
