// Package storetest is the suite that every chunkstore.Store passes.
//
// A new implementation calls Run with a function that makes an empty store. Sample is a
// disk to capture; its Verify tells data that is absent or refused (an error) from data
// that is wrong (a *WrongError), so that tests with broken media can use it too.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"clonecast/internal/chunk"
	"clonecast/internal/chunkstore"
	"clonecast/internal/image"
)

// Run tests the store that open makes, which must be empty each time.
func Run(t *testing.T, open func(t *testing.T) chunkstore.Store) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, s chunkstore.Store)
	}{
		{"empty", testEmpty},
		{"capture", testCapture},
		{"versions", testVersions},
		{"frames", testFrames},
		{"refused frames", testRefusedFrames},
		{"incomplete", testIncomplete},
		{"parts", testParts},
		{"invalid manifest", testInvalidManifest},
		{"abandoned session", testAbandoned},
		{"closed session", testClosed},
		{"cancelled", testCancelled},
		{"concurrent", testConcurrent},
		{"check", testCheck},
		{"lengths", testLengths},
		{"delete", testDelete},
		{"stats", testStats},
		{"collect", testCollect},
		{"collect old only", testCollectAge},
		{"pins of readers", testPin},
		{"pins of captures", testSessionPins},
		{"concurrent collections", testConcurrentCollect},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t)
			t.Cleanup(func() {
				if err := s.Close(); err != nil {
					t.Errorf("Close = %v", err)
				}
			})
			c.test(t, s)
		})
	}
}

func sample(t testing.TB, name string, seed uint64, chunks, share int) *Sample {
	t.Helper()
	s, err := NewSample(name, seed, chunks, share)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func capture(t testing.TB, store chunkstore.Store, s *Sample) (image.Version, int64) {
	t.Helper()
	v, stored, err := s.Capture(t.Context(), store)
	if err != nil {
		t.Fatalf("capture = %v", err)
	}
	return v, stored
}

func begin(t testing.TB, store chunkstore.Store) chunkstore.Session {
	t.Helper()
	n, err := store.Begin(t.Context())
	if err != nil {
		t.Fatalf("Begin = %v", err)
	}
	t.Cleanup(func() { _ = n.Close() })
	return n
}

func wantSound(t testing.TB, store chunkstore.Store, versions int) chunkstore.CheckReport {
	t.Helper()
	r, err := store.Check(t.Context(), chunkstore.CheckOptions{ReadData: true})
	if err != nil || len(r.Problems) > 0 || r.Versions != versions {
		t.Fatalf("Check = %d versions, problems %v, %v; want %d versions and no problem",
			r.Versions, r.Problems, err, versions)
	}
	return r
}

func testEmpty(t *testing.T, s chunkstore.Store) {
	if names, err := s.Images(t.Context()); err != nil || len(names) != 0 {
		t.Errorf("Images = %v, %v", names, err)
	}
	for _, name := range []string{"none", "", "../keys", "a/b", "."} {
		if v, err := s.Versions(t.Context(), name); !errors.Is(err, chunkstore.ErrNotFound) {
			t.Errorf("Versions(%q) = %v, %v; want ErrNotFound", name, v, err)
		}
		for _, sequence := range []uint64{0, 1} {
			if _, err := s.Manifest(t.Context(), name, sequence); !errors.Is(err, chunkstore.ErrNotFound) {
				t.Errorf("Manifest(%q, %d) = %v; want ErrNotFound", name, sequence, err)
			}
		}
	}
	var missing *chunk.MissingError
	id := chunk.Sum([]byte("absent"))
	err := s.Frames(t.Context(), []chunk.ID{id}, func([]byte) error { return errors.New("yield is called") })
	if !errors.As(err, &missing) || missing.ID != id {
		t.Errorf("Frames of an absent chunk = %v, want a MissingError that names it", err)
	}
	if len(s.TrustedKeys()) == 0 {
		t.Error("no trusted keys")
	}
	wantSound(t, s, 0)
}

func testCapture(t *testing.T, s chunkstore.Store) {
	disk := sample(t, "lab", 1, 10, 0)
	v, stored := capture(t, s, disk)
	var sent int64
	for _, f := range disk.Frames {
		sent += int64(len(f))
	}
	if stored != sent {
		t.Errorf("PutFrame stored %d bytes of %d", stored, sent)
	}
	want := disk.Manifest.Summary(v.ID)
	want.Sequence, want.Created = 1, v.Created
	if v != want || v.Created == 0 {
		t.Errorf("Publish = %+v, want %+v", v, want)
	}
	for _, sequence := range []uint64{0, 1} {
		if err := disk.Verify(t.Context(), s, sequence); err != nil {
			t.Errorf("version %d: %v", sequence, err)
		}
	}
}

func testVersions(t *testing.T, s chunkstore.Store) {
	first, second, other := sample(t, "lab", 1, 9, 2), sample(t, "lab", 2, 9, 2), sample(t, "Room.2-x", 1, 9, 2)
	// What the caller puts into the fields that the store owns does not matter.
	second.Manifest.Sequence, second.Manifest.Created = 77, 5
	v1, _ := capture(t, s, first)
	v2, _ := capture(t, s, second)
	v3, stored := capture(t, s, other)
	if stored != 0 {
		t.Errorf("the same content again stores %d bytes", stored)
	}
	if v1.Sequence != 1 || v2.Sequence != 2 || v3.Sequence != 1 {
		t.Errorf("sequences %d, %d, %d; want 1, 2, 1", v1.Sequence, v2.Sequence, v3.Sequence)
	}
	if names, err := s.Images(t.Context()); err != nil || !slices.Equal(names, []string{"Room.2-x", "lab"}) {
		t.Errorf("Images = %v, %v", names, err)
	}
	if list, err := s.Versions(t.Context(), "lab"); err != nil || !slices.Equal(list, []image.Version{v1, v2}) {
		t.Errorf("Versions = %+v, %v; want %+v", list, err, []image.Version{v1, v2})
	}
	envelope, err := s.Manifest(t.Context(), "lab", 0)
	if err != nil {
		t.Fatal(err)
	}
	m, _, err := image.Open(envelope, s.TrustedKeys())
	if err != nil || m.Sequence != 2 || m.Parent != v1.ID || m.Created == 5 {
		t.Errorf("newest manifest: %v, sequence %d, parent %v, created %d", err, m.Sequence, m.Parent, m.Created)
	}
	if _, err := s.Manifest(t.Context(), "lab", 3); !errors.Is(err, chunkstore.ErrNotFound) {
		t.Errorf("Manifest(3) = %v, want ErrNotFound", err)
	}
	for sequence, disk := range map[uint64]*Sample{1: first, 2: second} {
		if err := disk.Verify(t.Context(), s, sequence); err != nil {
			t.Errorf("version %d: %v", sequence, err)
		}
	}
	wantSound(t, s, 3)
}

func testFrames(t *testing.T, s chunkstore.Store) {
	disk := sample(t, "lab", 1, 9, 0)
	capture(t, s, disk)
	ids := disk.Chunks
	collect := func(ids ...chunk.ID) (got [][]byte) {
		t.Helper()
		if err := s.Frames(t.Context(), ids, func(f []byte) error {
			got = append(got, bytes.Clone(f))
			return nil
		}); err != nil {
			t.Fatalf("Frames = %v", err)
		}
		return got
	}
	same := func(what string, got [][]byte, want ...[]byte) {
		t.Helper()
		if !slices.EqualFunc(got, want, bytes.Equal) {
			t.Errorf("%s: Frames gives %d frames, want the %d of the capture", what, len(got), len(want))
		}
	}
	f := disk.Frames
	same("all", collect(ids...), f...)
	same("none", collect())
	same("backwards", collect(ids[8], ids[7], ids[0], ids[8]), f[2], f[0])
	same("scattered", collect(ids[1], ids[4], ids[2]), f[0], f[1])
	stop := errors.New("stop")
	calls := 0
	err := s.Frames(t.Context(), ids, func([]byte) error { calls++; return stop })
	if !errors.Is(err, stop) || calls != 1 {
		t.Errorf("Frames = %v after %d calls, want the error of the first yield", err, calls)
	}
	calls = 0
	withAbsent := []chunk.ID{ids[0], chunk.Sum([]byte("absent"))}
	err = s.Frames(t.Context(), withAbsent, func([]byte) error { calls++; return nil })
	var missing *chunk.MissingError
	if !errors.As(err, &missing) || calls != 1 {
		t.Errorf("Frames = %v after %d calls, want one frame and a MissingError", err, calls)
	}
}

func testRefusedFrames(t *testing.T, s chunkstore.Store) {
	disk := sample(t, "lab", 1, 3, 0)
	good := disk.Frames[0]
	n := begin(t, s)
	d, err := chunk.NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	refused := 0
	for i := range 64 {
		bad := bytes.Clone(good)
		at := i * len(bad) / 64
		bad[at] ^= 0x10
		if _, _, err := d.Decode(bad, nil); err == nil {
			continue // zstd has spare bits: the frame still holds the right bytes
		}
		refused++
		if _, err := n.PutFrame(t.Context(), bad); err == nil {
			t.Errorf("PutFrame accepts a frame with byte %d changed", at)
		}
	}
	if refused < 50 {
		t.Errorf("only %d of 64 changed bytes damage a frame: the test has lost its bite", refused)
	}
	for _, bad := range [][]byte{
		nil, {}, good[:len(good)-1], append(bytes.Clone(good), 0), append(bytes.Clone(good), good...),
	} {
		if _, err := n.PutFrame(t.Context(), bad); err == nil {
			t.Errorf("PutFrame accepts %d bytes, a frame has %d", len(bad), len(good))
		}
	}
	missing, err := n.Missing(t.Context(), disk.IDs[0])
	if err != nil || slices.Contains(missing, false) {
		t.Errorf("Missing = %v, %v after refused frames", missing, err)
	}
	if stored, err := n.PutFrame(t.Context(), good); err != nil || stored != int64(len(good)) {
		t.Errorf("PutFrame = %d, %v for the sound frame", stored, err)
	}
	if stored, err := n.PutFrame(t.Context(), good); err != nil || stored != 0 {
		t.Errorf("PutFrame = %d, %v for a frame that is there; want 0", stored, err)
	}
	if missing, err := n.Missing(t.Context(), disk.IDs[0]); err != nil || slices.Contains(missing, true) {
		t.Errorf("Missing = %v, %v after the frame was stored", missing, err)
	}
}

func testIncomplete(t *testing.T, s chunkstore.Store) {
	disk := sample(t, "lab", 1, 9, 0)
	n := begin(t, s)
	for _, f := range [][]byte{disk.Frames[0], disk.Frames[2]} {
		if _, err := n.PutFrame(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	}
	_, _, err := n.Publish(t.Context(), disk.Manifest)
	var incomplete *chunkstore.IncompleteError
	if !errors.As(err, &incomplete) || !slices.Equal(incomplete.Missing, disk.IDs[1]) {
		t.Fatalf("Publish = %v, want an IncompleteError with the chunks of the second frame", err)
	}
	if names, err := s.Images(t.Context()); err != nil || len(names) != 0 {
		t.Errorf("an incomplete version is listed: %v, %v", names, err)
	}
	// The same session can send what was missing and go on.
	if _, err := n.PutFrame(t.Context(), disk.Frames[1]); err != nil {
		t.Fatal(err)
	}
	if _, v, err := n.Publish(t.Context(), disk.Manifest); err != nil || v.Sequence != 1 {
		t.Fatalf("Publish = %d, %v", v.Sequence, err)
	}
	if err := disk.Verify(t.Context(), s, 1); err != nil {
		t.Error(err)
	}
}

// outlineOf is what is known of a version before its content.
func outlineOf(m *image.Manifest) *image.Outline {
	o := &image.Outline{Task: "1", Manifest: *m}
	o.Manifest.Disks = slices.Clone(m.Disks)
	for i := range o.Manifest.Disks {
		d := &o.Manifest.Disks[i]
		d.Partitions = slices.Clone(d.Partitions)
		for k := range d.Partitions {
			d.Partitions[k].Content.Chunks = nil
		}
	}
	return o
}

// A part is signed when its chunks can be read, before anything is published.
func testParts(t *testing.T, s chunkstore.Store) {
	disk := sample(t, "lab", 1, 9, 0)
	n := begin(t, s)
	envelope, id, err := n.SignOutline(t.Context(), outlineOf(disk.Manifest))
	if err != nil {
		t.Fatal(err)
	}
	outline, opened, err := image.OpenOutline(envelope, s.TrustedKeys())
	if err != nil || opened != id {
		t.Fatalf("OpenOutline = %v, %v; want %v", opened, err, id)
	}
	chain := image.NewChain(outline, id)
	for i, frame := range disk.Frames {
		part := chain.Part(disk.IDs[i])
		var incomplete *chunkstore.IncompleteError
		_, err := n.SignPart(t.Context(), part)
		if !errors.As(err, &incomplete) || !slices.Equal(incomplete.Missing, disk.IDs[i]) {
			t.Fatalf("SignPart of chunks that are missing = %v", err)
		}
		if _, err := n.PutFrame(t.Context(), frame); err != nil {
			t.Fatal(err)
		}
		envelope, err := n.SignPart(t.Context(), part)
		if err != nil {
			t.Fatal(err)
		}
		got, err := image.OpenPart(envelope, s.TrustedKeys())
		if err != nil {
			t.Fatal(err)
		}
		if err := chain.Add(got); err != nil {
			t.Fatal(err)
		}
		var held [][]byte
		err = s.Frames(t.Context(), got.Chunks, func(frame []byte) error {
			held = append(held, bytes.Clone(frame))
			return nil
		})
		if err != nil || len(held) != 1 || !bytes.Equal(held[0], frame) {
			t.Fatalf("Frames of a part gives %d frames, %v", len(held), err)
		}
	}
	if names, err := s.Images(t.Context()); err != nil || len(names) != 0 || !chain.Whole() {
		t.Errorf("before the publication there are images %v, %v; the chain is %v", names, err, chain)
	}
	if _, _, err := n.Publish(t.Context(), disk.Manifest); err != nil {
		t.Fatal(err)
	}
	if err := disk.Verify(t.Context(), s, 1); err != nil {
		t.Error(err)
	}
}

func testInvalidManifest(t *testing.T, s chunkstore.Store) {
	n := begin(t, s)
	for _, change := range []func(m *image.Manifest){
		func(m *image.Manifest) { m.Image = "../x" },
		func(m *image.Manifest) { m.Disks = nil },
		func(m *image.Manifest) { m.Disks[0].LogicalSector = 1000 },
	} {
		disk := sample(t, "lab", 1, 1, 0)
		if _, err := n.PutFrame(t.Context(), disk.Frames[0]); err != nil {
			t.Fatal(err)
		}
		change(disk.Manifest)
		if _, _, err := n.Publish(t.Context(), disk.Manifest); err == nil {
			t.Error("Publish accepts an invalid manifest")
		}
	}
	wantSound(t, s, 0)
}

func testAbandoned(t *testing.T, s chunkstore.Store) {
	disk := sample(t, "lab", 1, 9, 0)
	n := begin(t, s)
	for _, f := range disk.Frames[:2] {
		if _, err := n.PutFrame(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if _, stored := capture(t, s, disk); stored != int64(len(disk.Frames[2])) {
		t.Errorf("the capture after a cut one stores %d bytes, want only the %d that were not there",
			stored, len(disk.Frames[2]))
	}
}

func testClosed(t *testing.T, s chunkstore.Store) {
	disk := sample(t, "lab", 1, 3, 0)
	n := begin(t, s)
	for range 2 {
		if err := n.Close(); err != nil {
			t.Fatalf("Close = %v", err)
		}
	}
	_, missing := n.Missing(t.Context(), disk.IDs[0])
	_, put := n.PutFrame(t.Context(), disk.Frames[0])
	_, _, publish := n.Publish(t.Context(), disk.Manifest)
	_, _, outline := n.SignOutline(t.Context(), outlineOf(disk.Manifest))
	_, part := n.SignPart(t.Context(), &image.Part{Chunks: disk.IDs[0]})
	if missing == nil || put == nil || publish == nil || outline == nil || part == nil {
		t.Errorf("a closed session answers: Missing %v, PutFrame %v, Publish %v, SignOutline %v, SignPart %v",
			missing, put, publish, outline, part)
	}
}

func testCancelled(t *testing.T, s chunkstore.Store) {
	disk := sample(t, "lab", 1, 3, 0)
	capture(t, s, disk)
	n := begin(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, begin := s.Begin(ctx)
	frames := s.Frames(ctx, disk.IDs[0], func([]byte) error { return nil })
	_, check := s.Check(ctx, chunkstore.CheckOptions{ReadData: true})
	_, missing := n.Missing(ctx, disk.IDs[0])
	_, put := n.PutFrame(ctx, disk.Frames[0])
	_, _, publish := n.Publish(ctx, disk.Manifest)
	for name, err := range map[string]error{
		"Begin": begin, "Frames": frames, "Check": check, "Missing": missing, "PutFrame": put, "Publish": publish,
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s with a cancelled context = %v", name, err)
		}
	}
}

func testConcurrent(t *testing.T, s chunkstore.Store) {
	const writers, rounds = 4, 3
	var wg sync.WaitGroup
	for w := range writers {
		for r := range rounds {
			disk := sample(t, "lab", uint64(1+w*rounds+r), 12, 2)
			wg.Go(func() {
				v, _, err := disk.Capture(t.Context(), s)
				if err == nil {
					err = disk.Verify(t.Context(), s, v.Sequence)
				}
				if err != nil {
					t.Errorf("writer %d, round %d: %v", w, r, err)
				}
			})
		}
	}
	wg.Wait()
	list, err := s.Versions(t.Context(), "lab")
	if err != nil || len(list) != writers*rounds {
		t.Fatalf("Versions = %d, %v; want %d", len(list), err, writers*rounds)
	}
	for i, v := range list {
		if v.Sequence != uint64(i+1) {
			t.Errorf("version %d has sequence %d", i+1, v.Sequence)
		}
	}
	wantSound(t, s, writers*rounds)
}

func testCheck(t *testing.T, s chunkstore.Store) {
	capture(t, s, sample(t, "lab", 1, 9, 0))
	capture(t, s, sample(t, "lab", 2, 9, 0))
	var last, total int64
	r, err := s.Check(t.Context(), chunkstore.CheckOptions{ReadData: true, Progress: func(d, all int64) {
		if d < last || d > all {
			t.Errorf("progress goes from %d to %d of %d", last, d, all)
		}
		last, total = d, all
	}})
	if err != nil || len(r.Problems) != 0 {
		t.Fatalf("Check = %v, %v", r.Problems, err)
	}
	if r.Versions != 2 || r.Chunks != 18 || r.Bytes == 0 || r.BytesRead == 0 || total != r.Bytes || last != total {
		t.Errorf("Check = %+v, progress ended at %d of %d", r, last, total)
	}
}
