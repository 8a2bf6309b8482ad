package clone_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"

	"clonecast/internal/chunk"
	"clonecast/internal/clone"
	"clonecast/internal/clone/capture"
	"clonecast/internal/clone/deploy"
	"clonecast/internal/image"
	"clonecast/internal/partition/saved"
	"clonecast/internal/quantity"
)

// liveStore is the store of a capture and its followers. It holds the engine to its promise: chunks
// that it announces are stored.
type liveStore struct {
	*memStore
	t         *testing.T
	outline   *image.Manifest
	announced []chunk.ID
	calls     int
}

func (s *liveStore) Outline(_ context.Context, m *image.Manifest) error {
	o := image.Outline{Manifest: *m}
	raw, err := o.MarshalBinary()
	if err != nil {
		return err
	}
	parsed, err := image.ParseOutline(raw)
	if err == nil {
		s.outline = &parsed.Manifest
	}
	if s.announced != nil {
		s.t.Error("chunks were announced before the outline")
	}
	return err
}

func (s *liveStore) Stored(ctx context.Context, ids []chunk.ID) error {
	missing, err := s.Missing(ctx, ids)
	if slices.Contains(missing, true) {
		s.t.Error("a chunk is announced before it is stored")
	}
	s.announced = append(s.announced, ids...)
	s.calls++
	return err
}

func live(t *testing.T, store *memStore, captured ...capture.Disk) *liveStore {
	t.Helper()
	s := &liveStore{memStore: store, t: t}
	if _, err := captureDisks(captured, s, captureOrder{Image: "test", Followers: s}); err != nil {
		t.Fatal(err)
	}
	var want []chunk.ID
	for id := range store.manifest.Chunks() {
		want = append(want, id)
	}
	if !slices.Equal(s.announced, want) {
		t.Fatalf("%d chunks were announced, which are not the version's %d in their order", len(s.announced), len(want))
	}
	return s
}

// firstDisk is the deploy of the outline's first disk to a target.
func (s *liveStore) firstDisk(target *memDisk, g clone.Geometry) []deploy.Disk {
	return []deploy.Disk{{Image: &s.outline.Disks[0], Target: target, Geometry: g}}
}

// followAll gives all chunks to a follower, in parts of length.
func followAll(s *liveStore, disks []deploy.Disk, length int, opts deployOrder) error {
	_, err := followed(s, disks, length, opts)
	return err
}

func followed(s *liveStore, disks []deploy.Disk, length int, opts deployOrder) (deploy.Result, error) {
	f, err := newFollower(s.outline, disks, opts)
	if err != nil {
		return deploy.Result{}, err
	}
	defer f.Close()
	for ids := range slices.Chunk(s.announced, length) {
		if err := f.Part(context.Background(), ids, sourceOf(s)); err != nil {
			return f.Result(), err
		}
	}
	return f.Result(), nil
}

// A capture tells followers of every chunk, whatever the store has already: nothing, every third
// chunk, or all.
func TestCaptureTellsFollowers(t *testing.T) {
	disk, l := testDisk(1)
	first := &memStore{}
	captureTo(t, first, disk, l)
	for name, keep := range map[string]func(n int) bool{
		"nothing":     func(int) bool { return false },
		"every third": func(n int) bool { return n%3 == 0 },
		"all":         func(int) bool { return true },
	} {
		t.Run(name, func(t *testing.T) {
			store, n := &memStore{frames: map[chunk.ID][]byte{}}, 0
			for id := range first.manifest.Chunks() {
				if n++; keep(n) {
					store.frames[id] = first.frames[id]
				}
			}
			if s := live(t, store, capture.Disk{Reader: disk, Layout: l}); s.calls < 2 {
				t.Errorf("%d chunks were announced in %d calls: followers wait for the end", len(s.announced), s.calls)
			}
		})
	}
}

func TestFollow(t *testing.T) {
	disk, l := testDisk(1)
	s := live(t, &memStore{}, capture.Disk{Reader: disk, Layout: l})
	before := randomBytes(9, testDiskSize)
	target := &memDisk{b: bytes.Clone(before)}
	var last, total quantity.Bytes
	saves := 0
	opts := deployOrder{
		Progress: func(phase string, done, all quantity.Bytes) {
			if phase != clone.PhaseFollow || done < last || done > all {
				t.Errorf("progress %s %d of %d after %d", phase, done, all, last)
			}
			last, total = done, all
		},
		SaveTable: func(context.Context, int, saved.Copy) error { saves++; return nil },
	}
	sum, err := followed(s, s.firstDisk(target, l.Geometry), 3, opts)
	if err != nil || sum.Written != quantity.Bytes(target.written) || sum.Fetched == 0 || sum.Kept != 0 {
		t.Fatalf("%+v, %v; %d bytes were written", sum, err, target.written)
	}
	if last != total || total == 0 {
		t.Errorf("progress ended at %d of %d", last, total)
	}
	if !clone.AllZero(target.b[:512]) {
		t.Error("LBA 0 is there before the manifest: the disk could boot")
	}
	d := &s.manifest.Disks[0]
	r, err := deployOne(d, target, l.Geometry, s, deployOrder{Verify: true})
	if err != nil {
		t.Fatal(err)
	}
	checkDeployed(t, d, disk.b, before, target.b)
	// Each of two partitions lacks its first chunk, the disk its table.
	if limit := 2*chunk.Size + 512; r.Differ > limit {
		t.Errorf("the deploy found %d bytes to write, want at most %d: %+v", r.Differ, limit, r)
	}
	// Of a disk that is up to date nothing is taken away.
	target.writes = 0
	if err := followAll(s, s.firstDisk(target, l.Geometry), 5, deployOrder{}); err != nil || target.writes != 0 {
		t.Errorf("a disk that is up to date: %v after %d writes", err, target.writes)
	}
}

// Power is cut at every write of following and deploying. Before the end the disk does not
// boot; it becomes whole by following again, and also without.
func TestFollowCutAtEveryWrite(t *testing.T) {
	disk, l := testDisk(1)
	l.Partitions = l.Partitions[:2]
	s := live(t, &memStore{}, capture.Disk{Reader: disk, Layout: l})
	d := &s.manifest.Disks[0]
	before := randomBytes(9, testDiskSize)
	run := func(target *memDisk, following bool) error {
		if following {
			if err := followAll(s, s.firstDisk(target, l.Geometry), 7, deployOrder{}); err != nil {
				return err
			}
		}
		_, err := deployOne(d, target, l.Geometry, s, deployOrder{Verify: true})
		return err
	}
	whole := &memDisk{b: bytes.Clone(before)}
	if err := run(whole, true); err != nil {
		t.Fatal(err)
	}
	checkDeployed(t, d, disk.b, before, whole.b)
	for cut := 1; cut < whole.writes; cut++ {
		target := &memDisk{b: bytes.Clone(before), cutAt: cut}
		if err := run(target, true); !errors.Is(err, errCut) {
			t.Fatalf("cut after write %d: %v, the cut went unreported", cut, err)
		}
		if !clone.AllZero(target.b[:512]) {
			t.Fatalf("cut after write %d: LBA 0 is not zero, the disk could boot", cut)
		}
		target.cutAt = 0
		if err := run(target, cut%2 == 0); err != nil {
			t.Fatalf("rerun after write %d: %v", cut, err)
		}
		checkDeployed(t, d, disk.b, before, target.b)
	}
}

// Two disks, parts that span both; a partition of the follower's that is kept.
func TestFollowDisks(t *testing.T) {
	sources := []*memDisk{
		tableDisk(t, 1, "label: dos\nstart=63,size=2000\nstart=4096,size=8192\n"),
		tableDisk(t, 2, "label: gpt\nstart=2048,size=3000\n"),
	}
	s := live(t, &memStore{}, toCapture(t, sources)...)
	kept := image.Manifest{Disks: slices.Clone(s.outline.Disks)}
	var err error
	if kept.Disks[0], err = deploy.Keep(s.outline.Disks[0], map[int]image.Mode{2: image.ModeSkip}); err != nil {
		t.Fatal(err)
	}
	old := tableDisk(t, 3, "label: dos\nstart=63,size=1000\nstart=4096,size=8192\n")
	for name, outline := range map[string]*image.Manifest{"all": s.outline, "keep": &kept} {
		targets := []*memDisk{{b: bytes.Clone(old.b)}, {b: randomBytes(9, tableDiskSize)}}
		if err := followAll(s, deployments(outline, targets), 100, deployOrder{}); err != nil {
			t.Fatal(err)
		}
		from, to := 4096*512, (4096+8192)*512
		if same := bytes.Equal(targets[0].b[from:to], old.b[from:to]); same != (name == "keep") {
			t.Errorf("%s: the second partition is as it was: %v", name, same)
		}
		if code := targets[0].b[:bootCodeLength]; !clone.AllZero(code) && !bytes.Equal(code, noBoot) {
			t.Errorf("%s: the first disk could boot", name)
		}
		final := image.Manifest{Disks: slices.Clone(s.manifest.Disks)}
		if name == "keep" {
			if final.Disks[0], err = deploy.Keep(s.manifest.Disks[0], map[int]image.Mode{2: image.ModeSkip}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := deployDisks(deployments(&final, targets), s, deployOrder{Verify: true}); err != nil {
			t.Fatal(err)
		}
		for i := range targets {
			checkDeployed(t, &final.Disks[i], sources[i].b, targets[i].b, targets[i].b)
		}
	}
}

// A source that is asked once for all disks is prepared before anything is changed.
func TestFollowWholeSource(t *testing.T) {
	sources := []*memDisk{
		tableDisk(t, 1, "label: dos\nstart=63,size=2000\nstart=4096,size=8192\n"),
		tableDisk(t, 2, "label: gpt\nstart=2048,size=3000\n"),
	}
	s := live(t, &memStore{}, toCapture(t, sources)...)
	for _, refuse := range []error{nil, errors.New("no session")} {
		targets := []*memDisk{{b: randomBytes(8, tableDiskSize)}, {b: randomBytes(9, tableDiskSize)}}
		source := &wholeStore{memStore: s.memStore, disks: targets, refuse: refuse}
		var last, total quantity.Bytes
		progress := func(_ string, done, all quantity.Bytes) { last, total = done, all }
		f, err := newFollower(s.outline, deployments(s.outline, targets), deployOrder{Progress: progress})
		if err != nil {
			t.Fatal(err)
		}
		err = f.Part(context.Background(), s.announced, sourceOf(source))
		f.Close()
		source.checkPrepared(t, err)
		if refuse != nil {
			continue
		}
		if len(source.asked) != 1 || !slices.Equal(source.asked[0], source.prepared[0]) || last != total {
			t.Errorf("asked %d times; progress ended at %d of %d", len(source.asked), last, total)
		}
		if _, err := deployDisks(deployments(s.manifest, targets), s, deployOrder{Verify: true}); err != nil {
			t.Fatal(err)
		}
		for i := range targets {
			checkDeployed(t, &s.manifest.Disks[i], sources[i].b, targets[i].b, targets[i].b)
		}
	}
}

// liar is a source whose frames hold other chunks than those that were asked for.
type liar struct{ frame []byte }

func (l liar) Frames(_ context.Context, _ []chunk.ID, yield func([]byte) error) error {
	return yield(l.frame)
}

func TestFollowRefuses(t *testing.T) {
	disk, l := testDisk(1)
	s := live(t, &memStore{}, capture.Disk{Reader: disk, Layout: l})
	blank := func(size int) *memDisk { return &memDisk{b: make([]byte, size)} }

	small := blank(18<<20 - 512)
	tooSmall := clone.Geometry{Size: 18<<20 - 512, LogicalSector: 512}
	var refused *clone.RefusedError
	_, err := newFollower(s.outline, s.firstDisk(small, tooSmall), deployOrder{})
	if !errors.As(err, &refused) || refused.Remedy == "" || small.writes != 0 {
		t.Errorf("a small disk: %v after %d writes, want a refusal", err, small.writes)
	}
	if _, err := newFollower(s.outline, nil, deployOrder{}); err == nil {
		t.Error("Follow without disks succeeds")
	}

	target := blank(testDiskSize)
	f, err := newFollower(s.outline, s.firstDisk(target, l.Geometry), deployOrder{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var missing *chunk.MissingError
	other := s.frames[s.announced[len(s.announced)-1]]
	if err := f.Part(context.Background(), s.announced[:2], sourceOf(liar{other})); !errors.As(err, &missing) {
		t.Errorf("a source that gives other chunks: %v, want a MissingError", err)
	}
	if !clone.AllZero(target.b) {
		t.Error("bytes of other chunks were written")
	}
	damaged := bytes.Clone(s.frames[s.announced[0]])
	damaged[len(damaged)-1] ^= 1
	f, err = newFollower(s.outline, s.firstDisk(target, l.Geometry), deployOrder{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	err = f.Part(context.Background(), s.announced[:2], sourceOf(liar{damaged}))
	if err == nil || !clone.AllZero(target.b) {
		t.Errorf("a damaged frame: %v", err)
	}
	if err := f.Part(context.Background(), append(slices.Clone(s.announced), chunk.ID{}), sourceOf(s)); err == nil {
		t.Error("a part with more chunks than the outline has room for is accepted")
	}

	fails := errors.New("the server does not take it")
	old := tableDisk(t, 3, "label: dos\nstart=63,size=1000\n")
	old.b = append(old.b, make([]byte, testDiskSize-len(old.b))...)
	err = followAll(s, s.firstDisk(old, l.Geometry), 9, deployOrder{
		SaveTable: func(context.Context, int, saved.Copy) error { return fails }})
	if !errors.Is(err, fails) || old.writes != 0 {
		t.Errorf("the old table cannot be saved: %v after %d writes", err, old.writes)
	}
}
