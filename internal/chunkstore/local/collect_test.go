package local_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"clonecast/internal/chunkstore"
	"clonecast/internal/chunkstore/local"
	"clonecast/internal/chunkstore/storetest"
	"clonecast/internal/faultfs"
	"clonecast/internal/image"
	"clonecast/internal/vfs/memfs"
)

func collect(t testing.TB, s *local.Store, minAge time.Duration) chunkstore.CollectReport {
	t.Helper()
	r, err := s.Collect(t.Context(), chunkstore.CollectOptions{MinAge: minAge})
	if err != nil {
		t.Fatalf("Collect = %v", err)
	}
	return r
}

func remove(t testing.TB, s *local.Store, sequence uint64) {
	t.Helper()
	if err := s.Delete(t.Context(), "lab", sequence); err != nil {
		t.Fatalf("Delete = %v", err)
	}
}

// part is the disk of a sample with the chunks of some frames only, and of the last of them
// without its first chunk. Frame 0, whose chunks share a partition, cannot be one.
func part(t testing.TB, s *storetest.Sample, frames ...int) *storetest.Sample {
	t.Helper()
	small := *s
	m := *s.Manifest
	m.Comment += fmt.Sprint(frames)
	m.Disks = slices.Clone(m.Disks)
	small.Manifest, small.Frames, small.IDs, small.Chunks = &m, nil, nil, nil
	for _, i := range frames {
		small.Frames, small.IDs = append(small.Frames, s.Frames[i]), append(small.IDs, s.IDs[i])
		small.Chunks = append(small.Chunks, s.IDs[i]...)
	}
	last := len(small.Chunks) - len(s.IDs[frames[len(frames)-1]])
	small.Chunks = slices.Delete(small.Chunks, last, last+1)
	m.Disks[0].Partitions = slices.DeleteFunc(slices.Clone(m.Disks[0].Partitions), func(p image.Partition) bool {
		return !slices.Contains(small.Chunks, p.Content.Chunks[0])
	})
	return &small
}

// litter is a store with one version left of two. Of its packs some are dead, and some are
// sparse: they have a frame, or a part of one, that is needed.
func litter(t testing.TB) (*memfs.FS, *storetest.Sample) {
	t.Helper()
	disk := memfs.New()
	gone := newSample(t, 1, 36, 0)
	kept := part(t, gone, 2, 7)
	s := createFS(t, disk, small)
	capture(t, s, gone)
	capture(t, s, kept)
	remove(t, s, 1)
	return clone(disk), kept
}

// A collection frees what no version needs, also where a pack is partly needed, and tells
// by how much the store became smaller.
func TestCollectFreesSpace(t *testing.T) {
	disk, kept := litter(t)
	s := open(t, disk, small)
	bytes := func() (sum int64) {
		for _, name := range files(t, disk, "packs", ".pack") {
			sum += int64(size(t, disk, name))
		}
		return sum
	}
	before := bytes()
	r := collect(t, s, 0)
	after := bytes()
	if r.Rewritten == 0 || r.Removed == 0 || r.Bytes != before {
		t.Errorf("Collect = %+v with %d bytes before", r, before)
	}
	if freed := before - after; freed < before/3 || freed < r.Freed-r.Rewritten-1000 || freed > r.Freed-r.Rewritten {
		t.Errorf("the packs shrink by %d bytes from %d, Collect says %d - %d", before-after, before, r.Freed, r.Rewritten)
	}
	for _, s := range []*local.Store{s, open(t, disk, small)} {
		if err := kept.Verify(t.Context(), s, 2); err != nil {
			t.Error(err)
		}
		if p := check(t, s, true); len(p) > 0 {
			t.Errorf("Check = %v", p)
		}
	}
	if left := files(t, disk, ".", "condemned"); len(left) > 0 {
		t.Errorf("the mark is still there: %v", left)
	}
	if pins := files(t, disk, "pins", ""); len(pins) != 1 {
		t.Errorf("pins of old epochs stay: %v", pins)
	}
}

// The second mark comes when the first one is old enough, by whatever clock, and every pack
// of a cut capture is left alone until then.
func TestCollectWaits(t *testing.T) {
	disk, kept := litter(t)
	now := time.Unix(1_800_000_000, 0)
	opts := small
	opts.Now = func() time.Time { return now }
	s := open(t, disk, opts)
	const day = 24 * time.Hour
	first := collect(t, s, day)
	if first.Removed != 0 || first.Condemned == 0 || first.Rewritten == 0 || !first.Due.Equal(now.Add(day)) {
		t.Fatalf("first mark = %+v", first)
	}
	now = now.Add(day - time.Second)
	if r := collect(t, s, day); r.Removed != 0 || r.Condemned != first.Condemned || r.Rewritten != 0 {
		t.Errorf("a second too early = %+v", r)
	}
	now = now.Add(-10 * 365 * day) // the clock was wrong: the wait begins again
	if r := collect(t, s, day); r.Removed != 0 || !r.Due.Equal(now.Add(day)) {
		t.Errorf("ten years back = %+v", r)
	}
	now = now.Add(day)
	if r := collect(t, s, day); r.Removed != first.Condemned || r.Freed != first.Waiting {
		t.Errorf("second mark = %+v, want what the first one condemned: %+v", r, first)
	}
	if err := kept.Verify(t.Context(), s, 2); err != nil {
		t.Error(err)
	}
}

// Captures that began after the first mark do not hold up the second one.
func TestCollectBesideLaterCaptures(t *testing.T) {
	disk, kept := litter(t)
	now := time.Unix(1_800_000_000, 0)
	opts := small
	opts.Now = func() time.Time { return now }
	s := open(t, disk, opts)
	first := collect(t, s, time.Hour)
	n, err := s.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	now = now.Add(time.Hour)
	if r := collect(t, s, time.Hour); r.Pinned || r.Removed != first.Condemned {
		t.Errorf("Collect = %+v, want %d packs removed", r, first.Condemned)
	}
	if err := kept.Verify(t.Context(), s, 2); err != nil {
		t.Error(err)
	}
}

// A capture in another process, which knows nothing of this one but the directory.
func TestCollectBesideAnotherProcess(t *testing.T) {
	dir := t.TempDir()
	a, err := local.Create(dir, small)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	gone, kept := newSample(t, 1, 24, 6), newSample(t, 2, 12, 6)
	capture(t, a, gone)
	capture(t, a, kept)
	b, err := local.Open(dir, small)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	remove(t, a, 1)
	n, err := b.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range gone.Frames {
		if missing, err := n.Missing(t.Context(), gone.IDs[i]); err != nil || missing[0] {
			t.Fatalf("Missing = %v, %v", missing, err)
		}
	}
	if r := collect(t, a, 0); !r.Pinned || r.Removed != 0 {
		t.Errorf("Collect beside the capture of another process = %+v", r)
	}
	_, v, err := n.Publish(t.Context(), gone.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	collect(t, a, 0)
	for _, s := range []*local.Store{a, b} {
		if err := errors.Join(gone.Verify(t.Context(), s, v.Sequence), kept.Verify(t.Context(), s, 2)); err != nil {
			t.Error(err)
		}
	}
	// The other process finds chunks that were moved, and misses those that are gone.
	remove(t, b, v.Sequence)
	if r := collect(t, a, 0); r.Removed == 0 {
		t.Errorf("Collect = %+v", r)
	}
	if err := kept.Verify(t.Context(), b, 2); err != nil {
		t.Error(err)
	}
	if stored := capture(t, b, gone); stored == 0 {
		t.Error("the other process believes that the chunks are still there")
	}
	if p := check(t, b, true); len(p) > 0 {
		t.Errorf("Check = %v", p)
	}
}

// Only one copy is left where it matters: a chunk whose other copy rotted is moved, not lost.
func TestCollectReadsBeforeItRemoves(t *testing.T) {
	disk, kept := litter(t)
	s := open(t, disk, small)
	known := map[string]bool{}
	for _, name := range files(t, disk, "packs", ".pack") {
		known[name] = true
	}
	if r := collect(t, s, time.Hour); r.Rewritten == 0 {
		t.Fatalf("Collect = %+v", r)
	}
	for _, name := range files(t, disk, "packs", ".pack") {
		if !known[name] { // what was moved
			if err := disk.Corrupt(name, func(b []byte) []byte { clear(b[len(b)/2:]); return b }); err != nil {
				t.Fatal(err)
			}
		}
	}
	s = open(t, disk, small)
	collect(t, s, 0)
	collect(t, s, 0)
	if err := kept.Verify(t.Context(), open(t, disk, small), 2); err != nil {
		t.Errorf("a damaged copy was trusted: %v", err)
	}
}

// Doubt means allocated: when nobody knows what a version needs, nothing is removed.
func TestCollectRefusesDamagedManifest(t *testing.T) {
	disk := memfs.New()
	s := createFS(t, disk, small)
	capture(t, s, newSample(t, 1, 9, 0))
	capture(t, s, newSample(t, 2, 9, 0))
	for _, file := range []string{"images/lab/1.manifest", "copies/images/lab/1.manifest"} {
		if r := collect(t, s, 0); r.Versions != 2 || r.Removed != 0 {
			t.Errorf("Collect with one sound manifest = %+v", r)
		}
		if err := disk.Corrupt(file, func(b []byte) []byte { b[len(b)-1] ^= 1; return b }); err != nil {
			t.Fatal(err)
		}
	}
	packs := files(t, disk, "packs", "")
	_, err := s.Collect(t.Context(), chunkstore.CollectOptions{})
	if err == nil || !strings.Contains(err.Error(), "lab@1") {
		t.Errorf("Collect = %v, want a refusal that names the version", err)
	}
	if left := files(t, disk, "packs", ""); len(left) != len(packs) {
		t.Errorf("%d of %d packs are left", len(left), len(packs))
	}
	remove(t, s, 1) // a damaged version can be deleted, and then the store is collected again
	if r := collect(t, s, 0); r.Removed == 0 {
		t.Errorf("Collect = %+v", r)
	}
}

// A full store can be collected: dead packs go although there is no room to move chunks.
func TestCollectWhenFull(t *testing.T) {
	disk, kept := litter(t)
	opts := small
	opts.Reserve = 1 << 30
	free, _ := disk.Free()
	disk.SetCapacity(1 << 20)
	if now, _ := disk.Free(); now >= free {
		t.Fatal("the disk is not small")
	}
	s := open(t, disk, opts)
	r := collect(t, s, 0)
	if r.Removed == 0 || r.Rewritten != 0 || len(r.Kept) == 0 {
		t.Errorf("Collect = %+v, want dead packs gone and sparse ones kept", r)
	}
	if err := kept.Verify(t.Context(), s, 2); err != nil {
		t.Error(err)
	}
}

func TestCollectOneAtATime(t *testing.T) {
	disk, _ := litter(t)
	s := open(t, disk, small)
	lock, err := disk.Lock("collect.lock")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Collect(t.Context(), chunkstore.CollectOptions{}); !errors.Is(err, chunkstore.ErrBusy) {
		t.Errorf("Collect = %v, want ErrBusy", err)
	}
	dryRun := chunkstore.CollectOptions{DryRun: true}
	if _, err := open(t, disk, local.Options{ReadOnly: true}).Collect(t.Context(), dryRun); err != nil {
		t.Errorf("a dry run beside a collection = %v", err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	readOnly := open(t, disk, local.Options{ReadOnly: true})
	if _, err := readOnly.Collect(t.Context(), chunkstore.CollectOptions{}); err == nil {
		t.Error("a store that is only read is collected")
	}
}

// cleanUp deletes a version and collects with both marks at once and one after the other.
func cleanUp(ctx context.Context, s *local.Store) error {
	if err := s.Delete(ctx, "lab", 1); err != nil {
		return err
	}
	for _, age := range []time.Duration{time.Nanosecond, 0} {
		if _, err := s.Collect(ctx, chunkstore.CollectOptions{MinAge: age}); err != nil {
			return err
		}
	}
	return nil
}

// afterCleanUp: the version that stayed is whole, the deleted one is whole or absent, a
// new capture and a new collection work.
func afterCleanUp(t *testing.T, disk *memfs.FS, name string, gone, kept *storetest.Sample) (deleted bool) {
	t.Helper()
	s, err := local.OpenFS(disk, small)
	if err != nil {
		t.Fatalf("%s: Open = %v", name, err)
	}
	if p := check(t, s, true); len(p) > 0 {
		t.Fatalf("%s: Check = %v", name, p)
	}
	if err := kept.Verify(t.Context(), s, 2); err != nil {
		t.Fatalf("%s: the version that stayed: %v", name, err)
	}
	if err := gone.Verify(t.Context(), s, 1); errors.Is(err, chunkstore.ErrNotFound) {
		deleted = true
	} else if err != nil {
		t.Fatalf("%s: the version is listed and not whole: %v", name, err)
	}
	v, _, err := gone.Capture(t.Context(), s)
	if err != nil || v.Sequence != 3 {
		t.Fatalf("%s: the capture again = %d, %v", name, v.Sequence, err)
	}
	for range 2 {
		if _, err := s.Collect(t.Context(), chunkstore.CollectOptions{}); err != nil {
			t.Fatalf("%s: the collection again = %v", name, err)
		}
	}
	if err := errors.Join(kept.Verify(t.Context(), s, 2), gone.Verify(t.Context(), s, 3)); err != nil {
		t.Fatalf("%s: after another collection: %v", name, err)
	}
	if _, err := disk.Stat("condemned"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("%s: the mark stays for ever: %v", name, err)
	}
	return deleted
}

// twoToCollect is a store with two versions, of which the second needs a part of a pack.
func twoToCollect(t testing.TB) (disk *memfs.FS, gone, kept *storetest.Sample) {
	t.Helper()
	disk = memfs.New()
	gone = newSample(t, 1, 12, 0)
	kept = part(t, gone, 1, 3)
	s := createFS(t, disk, small)
	capture(t, s, gone)
	capture(t, s, kept)
	return clone(disk), gone, kept
}

// A power cut before every single operation of a deletion and two collections, with all,
// some or none of what was not synced kept.
func TestCrashAtEveryOperationOfCollect(t *testing.T) {
	t.Parallel()
	disk, gone, kept := twoToCollect(t)
	type cut struct {
		fs   *memfs.FS
		name string
	}
	var cuts []cut
	n := 0
	recording := faultfs.New(disk, func(op faultfs.Op, name string) error {
		if op.Changes() {
			n++
			for _, percent := range []int{0, 50, 100} {
				seed := uint64(len(cuts))
				cuts = append(cuts, cut{disk.CrashClone(percent, rand.New(rand.NewPCG(seed, 0))),
					fmt.Sprintf("cut before operation %d (%s %s), %d %% kept, seed %d", n, op, path.Base(name), percent, seed)})
			}
		}
		return nil
	})
	if err := cleanUp(t.Context(), open(t, recording, small)); err != nil {
		t.Fatal(err)
	}
	if n < 30 {
		t.Fatalf("only %d operations: the test no longer sees the store", n)
	}
	deleted := 0
	for _, c := range cuts {
		if afterCleanUp(t, c.fs, c.name, gone, kept) {
			deleted++
		}
	}
	if deleted == 0 || deleted == len(cuts) {
		t.Errorf("the version is deleted after %d of %d cuts", deleted, len(cuts))
	}
}

// Each operation of a deletion and two collections fails in its turn, once and for good.
func TestFaultAtEveryOperationOfCollect(t *testing.T) {
	t.Parallel()
	for i, fault := range []struct {
		name       string
		err        error
		persistent bool
	}{
		{"EIO once", syscall.EIO, false},
		{"EIO for good", syscall.EIO, true},
		{"ENOSPC once", syscall.ENOSPC, false},
		{"ENOSPC for good", syscall.ENOSPC, true},
	} {
		t.Run(fault.name, func(t *testing.T) {
			base, gone, kept := twoToCollect(t)
			for n := firstOf(i); ; n += everyNth() {
				disk := clone(base)
				inject := &faultfs.Nth{N: n, Persistent: fault.persistent, Err: fault.err}
				var failed string
				var logged atomic.Int64
				opts := small
				opts.Logger = slog.New(alarms{n: &logged})
				var kept1 []string
				s, err := local.OpenFS(faultfs.New(disk, func(op faultfs.Op, name string) error {
					err := inject.Inject(op, name)
					if err != nil && failed == "" {
						failed = fmt.Sprintf("operation %d (%s %s)", n, op, name)
					}
					return err
				}), opts)
				if err == nil {
					err = s.Delete(t.Context(), "lab", 1)
				}
				for _, age := range []time.Duration{time.Nanosecond, 0} {
					if err == nil {
						var r chunkstore.CollectReport
						r, err = s.Collect(t.Context(), chunkstore.CollectOptions{MinAge: age})
						kept1 = append(kept1, r.Kept...)
					}
				}
				if inject.Fired() == 0 {
					if err != nil {
						t.Fatalf("without a fault: %v", err)
					}
					if n < 100 {
						t.Errorf("only %d operations: the test no longer sees the store", n)
					}
					return
				}
				if len(kept1) == 0 { // a report that says what was not done is one way to tell
					judgeFault(t, failed, err, logged.Load(), syscall.EIO)
				}
				afterCleanUp(t, disk, "after "+failed, gone, kept)
			}
		})
	}
}

// Whatever is done to the mark, a collection or a capture never takes it for another one.
func TestDamagedMark(t *testing.T) {
	disk, kept := litter(t)
	s := open(t, disk, small)
	collect(t, s, time.Hour)
	marked := clone(disk)
	length := size(t, disk, "condemned")
	for i := range length {
		disk := clone(marked)
		if err := disk.Corrupt("condemned", func(b []byte) []byte { b[i] ^= 1; return b }); err != nil {
			t.Fatal(err)
		}
		s := open(t, disk, small)
		if r := collect(t, s, time.Hour); r.Removed != 0 {
			t.Fatalf("byte %d flipped: %+v", i, r)
		}
	}
	if err := marked.Corrupt("condemned", func(b []byte) []byte { return b[:length/2] }); err != nil {
		t.Fatal(err)
	}
	s = open(t, marked, small)
	collect(t, s, 0)
	if err := kept.Verify(t.Context(), s, 2); err != nil {
		t.Error(err)
	}
}
