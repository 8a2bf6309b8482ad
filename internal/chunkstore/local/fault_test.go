package local_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"path"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"clonecast/internal/chunk"
	"clonecast/internal/chunkstore"
	"clonecast/internal/chunkstore/local"
	"clonecast/internal/chunkstore/storetest"
	"clonecast/internal/faultfs"
	"clonecast/internal/vfs"
	"clonecast/internal/vfs/memfs"

	"github.com/klauspost/compress/zstd"
)

func newSample(t testing.TB, seed uint64, chunks, share int) *storetest.Sample {
	t.Helper()
	s, err := storetest.NewSample("lab", seed, chunks, share)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func sampleOf(seed uint64) (*storetest.Sample, error) { return storetest.NewSample("lab", seed, 12, 2) }

func open(t testing.TB, fsys vfs.FS, opts local.Options) *local.Store {
	t.Helper()
	s, err := local.OpenFS(fsys, opts)
	if err != nil {
		t.Fatalf("Open = %v", err)
	}
	return s
}

func capture(t testing.TB, store *local.Store, s *storetest.Sample) int64 {
	t.Helper()
	_, stored, err := s.Capture(t.Context(), store)
	if err != nil {
		t.Fatalf("capture = %v", err)
	}
	return stored
}

func check(t testing.TB, store *local.Store, readData bool) []chunkstore.Problem {
	t.Helper()
	r, err := store.Check(t.Context(), chunkstore.CheckOptions{ReadData: readData})
	if err != nil {
		t.Fatalf("Check = %v", err)
	}
	return r.Problems
}

// clone copies a file system as it is now.
func clone(f *memfs.FS) *memfs.FS { return f.CrashClone(100, rand.New(rand.NewPCG(0, 0))) }

// A power cut before every single operation of a capture, with all, some or none of what
// was not synced kept: the version that was there stays whole, the new one is whole or
// absent, the store is sound and takes the capture again.
func TestCrashAtEveryOperation(t *testing.T) {
	t.Parallel()
	t.Run("next version", func(t *testing.T) { crashEverywhere(t, "lab") })
	t.Run("new image", func(t *testing.T) { crashEverywhere(t, "room2") })
}

func crashEverywhere(t *testing.T, name string) {
	disk := memfs.New()
	first, second := newSample(t, 1, 9, 2), newSample(t, 2, 18, 2)
	second.Manifest.Image = name
	capture(t, createFS(t, disk, small), first)
	// What was there before is on the disk, for the clock of the crash starts here.
	disk = clone(disk)

	type cut struct {
		fs   *memfs.FS
		name string
	}
	var cuts []cut
	n := 0
	snapshot := func(where string) {
		for _, percent := range []int{0, 50, 50, 100} {
			seed := uint64(len(cuts))
			cuts = append(cuts, cut{disk.CrashClone(percent, rand.New(rand.NewPCG(seed, 0))),
				fmt.Sprintf("cut %s, %d %% kept, seed %d", where, percent, seed)})
		}
	}
	recording := faultfs.New(disk, func(op faultfs.Op, name string) error {
		if op.Changes() {
			n++
			snapshot(fmt.Sprintf("before operation %d (%s %s)", n, op, path.Base(name)))
		}
		return nil
	})
	capture(t, open(t, recording, small), second)
	before := len(cuts)
	snapshot("after the capture")
	if n < 30 {
		t.Fatalf("only %d operations: the test no longer sees the store", n)
	}
	published := 0
	for i, c := range cuts {
		there := afterCrash(t, c.fs, c.name, first, second)
		published += there
		if i >= before && there == 0 {
			t.Errorf("%s: a version that was published is lost", c.name)
		}
	}
	if published == 0 || published == len(cuts) {
		t.Errorf("the version is there after %d of %d cuts", published, len(cuts))
	}
}

// afterCrash opens what a crash left and tells whether the second version was published.
func afterCrash(t *testing.T, disk *memfs.FS, name string, first, second *storetest.Sample) int {
	t.Helper()
	s, err := local.OpenFS(disk, small)
	if err != nil {
		t.Fatalf("%s: Open = %v", name, err)
	}
	if p := check(t, s, true); len(p) > 0 {
		t.Fatalf("%s: Check = %v", name, p)
	}
	if err := first.Verify(t.Context(), s, 1); err != nil {
		t.Fatalf("%s: version 1: %v", name, err)
	}
	next := uint64(1)
	if second.Manifest.Image == first.Manifest.Image {
		next = 2
	}
	published := 1
	if err := second.Verify(t.Context(), s, next); errors.Is(err, chunkstore.ErrNotFound) {
		published = 0
	} else if err != nil {
		t.Fatalf("%s: the new version is there and not whole: %v", name, err)
	}
	v, _, err := second.Capture(t.Context(), s)
	if err != nil || v.Sequence != next+uint64(published) {
		t.Fatalf("%s: the capture again = %d, %v", name, v.Sequence, err)
	}
	if err := second.Verify(t.Context(), s, v.Sequence); err != nil {
		t.Fatalf("%s: after the capture again: %v", name, err)
	}
	return published
}

// A second power cut while the first one is being repaired.
func TestCrashDuringSalvage(t *testing.T) {
	disk := memfs.New()
	first, second := newSample(t, 1, 9, 2), newSample(t, 2, 18, 2)
	capture(t, createFS(t, disk, small), first)
	disk = clone(disk)
	n, err := open(t, disk, small).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range second.Frames[:4] {
		if _, err := n.PutFrame(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	}
	for seed := range uint64(10) {
		cut := disk.CrashClone(70, rand.New(rand.NewPCG(seed, 1)))
		var cuts []*memfs.FS
		open(t, faultfs.New(cut, func(op faultfs.Op, _ string) error {
			if op.Changes() {
				cuts = append(cuts, cut.CrashClone(50, rand.New(rand.NewPCG(seed, uint64(len(cuts))))))
			}
			return nil
		}), small)
		for i, c := range cuts {
			afterCrash(t, c, fmt.Sprintf("seed %d, second cut at %d", seed, i), first, second)
		}
	}
}

func TestCrashDuringCreate(t *testing.T) {
	disk := memfs.New()
	var cuts []*memfs.FS
	createFS(t, faultfs.New(disk, func(op faultfs.Op, _ string) error {
		if op.Changes() {
			for _, percent := range []int{0, 50, 100} {
				cuts = append(cuts, disk.CrashClone(percent, rand.New(rand.NewPCG(uint64(len(cuts)), 0))))
			}
		}
		return nil
	}), small)
	for i, c := range cuts {
		s, err := local.OpenFS(c, small)
		if errors.Is(err, chunkstore.ErrNotStore) {
			s, err = local.CreateFS(c, small)
		}
		if err != nil {
			t.Fatalf("cut %d: neither a store nor a place for one: %v", i, err)
		}
		capture(t, s, newSample(t, 1, 3, 0))
	}
}

// alarms counts what the log says at Warn and above.
type alarms struct {
	slog.Handler
	n *atomic.Int64
}

func (a alarms) Enabled(context.Context, slog.Level) bool { return true }
func (a alarms) Handle(_ context.Context, r slog.Record) error {
	if r.Level >= slog.LevelWarn {
		a.n.Add(1)
	}
	return nil
}

// cycle opens, captures, reads back and checks.
func cycle(ctx context.Context, fsys vfs.FS, disk *storetest.Sample, opts local.Options) (err error) {
	s, err := local.OpenFS(fsys, opts)
	if err != nil {
		return err
	}
	v, _, err := disk.Capture(ctx, s)
	if err != nil {
		return err
	}
	if err := disk.Verify(ctx, s, v.Sequence); err != nil {
		return err
	}
	if _, err := s.Versions(ctx, "lab"); err != nil {
		return err
	}
	if _, err := s.Images(ctx); err != nil {
		return err
	}
	r, err := s.Check(ctx, chunkstore.CheckOptions{ReadData: true})
	if err == nil && len(r.Problems) > 0 {
		err = fmt.Errorf("%w: %v", errProblems, r.Problems)
	}
	return err
}

var errProblems = errors.New("problems")

// firstOf and everyNth let a test of the operations one by one take a third of them, another one for
// every kind of fault: pairs_test.go has more. With CLONECAST_LONG=1 it takes all.
func firstOf(kind int) int { return 1 + kind%everyNth() }

func everyNth() int {
	if long() {
		return 1
	}
	return 3
}

// Each operation fails in its turn, once and for good. None may go unreported (by an
// error, or in the log where the work can go on), none may hand out wrong data, and when
// the fault is gone the store is sound and works.
func TestFaultAtEveryOperation(t *testing.T) {
	t.Parallel()
	for i, fault := range []struct {
		name       string
		err        error
		persistent bool
	}{
		{"EIO once", syscall.EIO, false},
		{"EIO for good", syscall.EIO, true},
		{"ENOSPC once", syscall.ENOSPC, false},
		{"EMFILE once", syscall.EMFILE, false},
	} {
		t.Run(fault.name, func(t *testing.T) {
			first, second := newSample(t, 1, 9, 2), newSample(t, 2, 12, 2)
			base := memfs.New()
			capture(t, createFS(t, base, small), first)
			for n := firstOf(i); ; n += everyNth() {
				disk := clone(base)
				inject := &faultfs.Nth{N: n, Persistent: fault.persistent, Err: fault.err}
				var failed string
				var logged atomic.Int64
				opts := small
				opts.Logger = slog.New(alarms{n: &logged})
				err := cycle(t.Context(), faultfs.New(disk, func(op faultfs.Op, name string) error {
					err := inject.Inject(op, name)
					if err != nil && failed == "" {
						failed = fmt.Sprintf("operation %d (%s %s)", n, op, name)
					}
					return err
				}), second, opts)
				if inject.Fired() == 0 {
					if err != nil {
						t.Fatalf("without a fault: %v", err)
					}
					if n < 100 {
						t.Errorf("only %d operations: the test no longer sees the store", n)
					}
					return
				}
				judgeFault(t, failed, err, logged.Load(), fault.err)
				afterFault(t, disk, failed, first, second)
			}
		})
	}
}

func judgeFault(t *testing.T, failed string, err error, logged int64, cause error) {
	t.Helper()
	var wrong *storetest.WrongError
	switch {
	case err == nil && logged == 0 && !strings.Contains(failed, "(close "):
		// Closing a file that was only read loses nothing.
		t.Errorf("%s failed and nobody was told", failed)
	case errors.As(err, &wrong):
		t.Errorf("%s failed: wrong data: %v", failed, err)
	case cause == syscall.ENOSPC && err != nil && !errors.Is(err, errProblems) &&
		strings.Contains(failed, "(write ") && !errors.Is(err, chunkstore.ErrFull):
		t.Errorf("%s: %v, want ErrFull", failed, err)
	}
}

func afterFault(t *testing.T, disk *memfs.FS, failed string, first, second *storetest.Sample) {
	t.Helper()
	s, err := local.OpenFS(disk, small)
	if err != nil {
		t.Fatalf("after %s: Open = %v", failed, err)
	}
	if p := check(t, s, true); len(p) > 0 {
		t.Fatalf("after %s: Check = %v", failed, p)
	}
	if err := first.Verify(t.Context(), s, 1); err != nil {
		t.Fatalf("after %s: version 1: %v", failed, err)
	}
	v, _, err := second.Capture(t.Context(), s)
	if err == nil {
		err = second.Verify(t.Context(), s, v.Sequence)
	}
	if err != nil {
		t.Fatalf("after %s: the capture again: %v", failed, err)
	}
}

// A failed fsync is final: no second try, no use of the file, no new capture.
func TestFailedSyncIsFinal(t *testing.T) {
	for _, op := range []faultfs.Op{faultfs.OpSync, faultfs.OpSyncDir} {
		for n := 1; ; n++ {
			disk := memfs.New()
			createFS(t, disk, small)
			inject := &faultfs.Nth{N: n, Err: syscall.EIO, Match: func(o faultfs.Op, name string) bool {
				return o == op && !strings.HasSuffix(name, ".idx") && name != "index" && name != "staging" &&
					!strings.Contains(name, "cop") // the second manifest: the version exists by the first one
			}}
			syncs := map[string]int{}
			s := open(t, faultfs.New(disk, func(o faultfs.Op, name string) error {
				if o == faultfs.OpSync {
					syncs[name]++
				}
				return inject.Inject(o, name)
			}), small)
			sample := newSample(t, 1, 6, 0)
			_, _, err := sample.Capture(t.Context(), s)
			if inject.Fired() == 0 {
				if n < 2 {
					t.Errorf("no %s was seen", op)
				}
				break
			}
			if !errors.Is(err, syscall.EIO) {
				t.Errorf("%s %d failed: capture = %v, want EIO", op, n, err)
			}
			for name, count := range syncs {
				if count > 1 && !strings.Contains(name, "publish") {
					t.Errorf("%s %d failed: %s is synced %d times", op, n, name, count)
				}
			}
			if _, err := s.Begin(t.Context()); err == nil {
				t.Errorf("%s %d failed: the store still takes captures", op, n)
			}
			if list, err := s.Versions(t.Context(), "lab"); !errors.Is(err, chunkstore.ErrNotFound) {
				t.Errorf("%s %d failed: a version is listed: %v, %v", op, n, list, err)
			}
		}
	}
}

// A disk that fills up at any byte: ErrFull, a sound store, and the same capture goes on
// when there is room again.
func TestFullAtEveryByte(t *testing.T) {
	first, second := newSample(t, 1, 9, 2), newSample(t, 2, 12, 2)
	base := memfs.New()
	opts := small
	opts.Reserve = -1
	capture(t, createFS(t, base, opts), first)
	used := func(f *memfs.FS) int64 {
		f.SetCapacity(1 << 40)
		free, _ := f.Free()
		f.SetCapacity(0)
		return 1<<40 - free
	}
	start := used(base)
	fullEnd := clone(base)
	capture(t, open(t, fullEnd, opts), second)
	end := used(fullEnd)
	for room := int64(0); start+room < end; room += 97 {
		disk := clone(base)
		disk.SetCapacity(start + room + 1)
		s, err := local.OpenFS(disk, opts)
		if err != nil {
			t.Fatalf("%d bytes free: a full store does not open: %v", room, err)
		}
		if _, _, err := second.Capture(t.Context(), s); err != nil && !errors.Is(err, chunkstore.ErrFull) {
			t.Fatalf("%d bytes free: capture = %v, want ErrFull", room, err)
		} else if err == nil && room < (end-start)/2 {
			t.Fatalf("%d bytes free: the capture of %d fits", room, end-start)
		}
		if err := first.Verify(t.Context(), s, 1); err != nil {
			t.Fatalf("%d bytes free: version 1: %v", room, err)
		}
		disk.SetCapacity(0)
		afterFault(t, disk, fmt.Sprintf("%d bytes free", room), first, second)
	}
}

func TestReserve(t *testing.T) {
	disk := memfs.New()
	disk.SetCapacity(1 << 20)
	s := createFS(t, disk, local.Options{PackSize: 4000, Reserve: 1 << 20})
	_, _, err := newSample(t, 1, 3, 0).Capture(t.Context(), s)
	if !errors.Is(err, chunkstore.ErrFull) || !strings.Contains(err.Error(), "reserve") {
		t.Errorf("capture into the reserve = %v, want ErrFull", err)
	}
}

// files lists all files below a directory of the store.
func files(t testing.TB, f vfs.FS, dir, suffix string) (names []string) {
	t.Helper()
	entries, err := f.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		if e.IsDir() {
			names = append(names, files(t, f, name, suffix)...)
		} else if strings.HasSuffix(name, suffix) {
			names = append(names, name)
		}
	}
	return names
}

func size(t testing.TB, f vfs.FS, name string) int {
	t.Helper()
	info, err := f.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	return int(info.Size())
}

// twoVersions is a store with two versions that share half of their chunks.
func twoVersions(t testing.TB) (*memfs.FS, []*storetest.Sample) {
	t.Helper()
	disk := memfs.New()
	samples := []*storetest.Sample{newSample(t, 1, 9, 2), newSample(t, 2, 9, 2)}
	s := createFS(t, disk, small)
	for _, sample := range samples {
		capture(t, s, sample)
	}
	return clone(disk), samples
}

// damaged opens a store that was damaged, which must never hand out wrong data, and
// tells which versions cannot be read whole and what the check says.
func damaged(t *testing.T, what string, disk *memfs.FS, samples []*storetest.Sample) (
	broken []string, problems []chunkstore.Problem,
) {
	t.Helper()
	s, err := local.OpenFS(disk, local.Options{ReadOnly: true})
	if err != nil {
		t.Fatalf("%s: Open = %v", what, err)
	}
	for i, sample := range samples {
		err := sample.Verify(t.Context(), s, uint64(i+1))
		var wrong *storetest.WrongError
		if errors.As(err, &wrong) {
			t.Fatalf("%s: version %d: %v", what, i+1, err)
		}
		if err != nil {
			broken = append(broken, fmt.Sprintf("lab@%d", i+1))
		}
	}
	return broken, check(t, s, true)
}

// affected joins what the problems affect.
func affected(problems []chunkstore.Problem) map[string]bool {
	set := map[string]bool{}
	for _, p := range problems {
		for _, v := range p.Affects {
			set[v] = true
		}
	}
	return set
}

// One flipped bit, anywhere: no wrong byte is handed out, the check finds it and names
// exactly the versions that cannot be read.
func TestFlippedBits(t *testing.T) {
	t.Parallel()
	base, samples := twoVersions(t)
	rnd := rand.New(rand.NewPCG(7, 7))
	harmless := 0
	for suffix, samplesOf := range map[string]int{".pack": 500, ".idx": 150, ".manifest": 200} {
		names := files(t, base, ".", suffix)
		for range samplesOf {
			name := names[rnd.IntN(len(names))]
			bit := rnd.IntN(8 * size(t, base, name))
			disk := clone(base)
			if err := disk.Corrupt(name, func(b []byte) []byte { b[bit/8] ^= 1 << (bit % 8); return b }); err != nil {
				t.Fatal(err)
			}
			what := fmt.Sprintf("bit %d of %s", bit, name)
			broken, problems := damaged(t, what, disk, samples)
			if len(problems) == 0 {
				// zstd has spare bits: such a frame still gives the right bytes.
				if suffix != ".pack" || len(broken) > 0 {
					t.Fatalf("%s: the check finds nothing", what)
				}
				harmless++
				continue
			}
			if suffix != ".pack" && len(broken) > 0 {
				t.Fatalf("%s: an index can be made anew and a manifest is there twice, but %v are broken", what, broken)
			}
			got := affected(problems)
			for _, v := range broken {
				if !got[v] {
					t.Fatalf("%s: %s cannot be read, the check says %v", what, v, problems)
				}
			}
			if len(got) != len(broken) {
				t.Fatalf("%s: the check says %v, broken are %v", what, problems, broken)
			}
		}
	}
	if harmless > 40 {
		t.Errorf("%d of 500 flips in packs are harmless: the test has lost its bite", harmless)
	}
}

// Damage that a structure check must find without reading the data.
func TestDamagedFiles(t *testing.T) {
	cut := func(n int) func([]byte) []byte { return func(b []byte) []byte { return b[:n*len(b)/10] } }
	zero := func(b []byte) []byte { clear(b); return b }
	for name, c := range map[string]struct {
		suffix string
		change func(b []byte) []byte
		whole  bool // no version suffers
	}{
		"cut pack":        {suffix: ".pack", change: cut(5)},
		"empty pack":      {suffix: ".pack", change: cut(0)},
		"zero pack":       {suffix: ".pack", change: zero},
		"longer pack":     {suffix: ".pack", change: func(b []byte) []byte { return append(b, "junk"...) }, whole: true},
		"cut index":       {suffix: ".idx", change: cut(5), whole: true},
		"empty index":     {suffix: ".idx", change: cut(0), whole: true},
		"zero index":      {suffix: ".idx", change: zero, whole: true},
		"cut manifest":    {suffix: ".manifest", change: cut(5), whole: true},
		"empty manifest":  {suffix: ".manifest", change: cut(0), whole: true},
		"zero manifest":   {suffix: ".manifest", change: zero, whole: true},
		"longer manifest": {suffix: ".manifest", change: func(b []byte) []byte { return append(b, 0) }, whole: true},
	} {
		t.Run(name, func(t *testing.T) {
			base, samples := twoVersions(t)
			for _, file := range files(t, base, ".", c.suffix) {
				disk := clone(base)
				if err := disk.Corrupt(file, c.change); err != nil {
					t.Fatal(err)
				}
				broken, problems := damaged(t, file, disk, samples)
				quick := check(t, open(t, disk, local.Options{ReadOnly: true}), false)
				if len(quick) == 0 || len(affected(quick)) != len(affected(problems)) {
					t.Errorf("%s: the quick check says %v, the full one %v", file, quick, problems)
				}
				if len(broken) != len(affected(problems)) || c.whole != (len(broken) == 0) {
					t.Errorf("%s: broken are %v, the check says %v", file, broken, problems)
				}
			}
		})
	}
}

func TestMissingAndSwappedFiles(t *testing.T) {
	base, samples := twoVersions(t)
	packs, idx := files(t, base, ".", ".pack"), files(t, base, ".", ".idx")
	manifests := files(t, base, "images", ".manifest")
	swap := func(a, b string) func(f *memfs.FS) error {
		return func(f *memfs.FS) error {
			return errors.Join(f.Rename(a, "x"), f.Rename(b, a), f.Rename("x", b))
		}
	}
	remove := func(names ...string) func(f *memfs.FS) error {
		return func(f *memfs.FS) (err error) {
			for _, name := range names {
				err = errors.Join(err, f.Remove(name))
			}
			return err
		}
	}
	for name, change := range map[string]func(f *memfs.FS) error{
		"missing pack":           remove(packs[0]),
		"missing pack and index": remove(packs[0], idx[0]),
		"swapped manifests": func(f *memfs.FS) error {
			return errors.Join(swap(manifests[0], manifests[1])(f), swap("copies/"+manifests[0], "copies/"+manifests[1])(f))
		},
		"manifest of a key that nobody knows": func(f *memfs.FS) error {
			other := memfs.New()
			capture(t, createFS(t, other, small), samples[0])
			foreign, err := other.Open("images/lab/1.manifest")
			if err != nil {
				return err
			}
			b := make([]byte, size(t, other, "images/lab/1.manifest"))
			if _, err := foreign.ReadAt(b, 0); err != nil {
				return err
			}
			theirs := func([]byte) []byte { return b }
			return errors.Join(f.Corrupt(manifests[0], theirs), f.Corrupt("copies/"+manifests[0], theirs))
		},
	} {
		disk := clone(base)
		if err := change(disk); err != nil {
			t.Fatal(err)
		}
		broken, problems := damaged(t, name, disk, samples)
		if got := affected(problems); len(broken) == 0 || len(got) != len(broken) {
			t.Errorf("%s: broken are %v, the check says %v", name, broken, problems)
		}
	}
	// A pack under another's name is damage that costs nothing: its frames say what they are.
	disk := clone(base)
	if err := swap(packs[0], packs[1])(disk); err != nil {
		t.Fatal(err)
	}
	if broken, problems := damaged(t, "swapped packs", disk, samples); len(broken) > 0 || len(problems) != 2 {
		t.Errorf("swapped packs: broken are %v, the check says %v", broken, problems)
	}
	// Indexes alone can always be made anew, and are.
	disk = clone(base)
	if err := remove(idx...)(disk); err != nil {
		t.Fatal(err)
	}
	if broken, problems := damaged(t, "no indexes", disk, samples); len(broken) > 0 || len(problems) != len(idx) {
		t.Errorf("without indexes: broken are %v, the check says %v", broken, problems)
	}
	open(t, disk, small)
	if got := files(t, disk, ".", ".idx"); len(got) != len(idx) {
		t.Errorf("Open made %d of %d indexes anew", len(got), len(idx))
	}
}

// Two packs of the same length that changed places: every frame is sound, and none is
// what the index says.
func TestSwappedPacksOfOneLength(t *testing.T) {
	disk := memfs.New()
	s := createFS(t, disk, small)
	enc, err := chunk.NewEncoder(zstd.SpeedFastest)
	if err != nil {
		t.Fatal(err)
	}
	var ids []chunk.ID
	for i := range byte(2) {
		plain := make([]byte, 1000)
		_, _ = rand.NewChaCha8([32]byte{i}).Read(plain)
		ids = append(ids, chunk.Sum(plain))
		n, err := s.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		frame := enc.AppendFrame(nil, []chunk.Entry{{ID: ids[i], Length: len(plain)}}, plain)
		if _, err := n.PutFrame(t.Context(), frame); err != nil {
			t.Fatal(err)
		}
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
	}
	packs := files(t, disk, "packs", ".pack")
	if size(t, disk, packs[0]) != size(t, disk, packs[1]) {
		t.Fatal("the packs differ in length")
	}
	if err := errors.Join(
		disk.Rename(packs[0], "x"),
		disk.Rename(packs[1], packs[0]),
		disk.Rename("x", packs[1]),
	); err != nil {
		t.Fatal(err)
	}
	s = open(t, disk, small)
	for _, id := range ids {
		var invalid *chunk.InvalidError
		err := s.Frames(t.Context(), []chunk.ID{id}, func([]byte) error { return errors.New("yield is called") })
		if !errors.As(err, &invalid) {
			t.Errorf("Frames = %v, want an InvalidError", err)
		}
	}
	if p := check(t, s, false); len(p) != 2 {
		t.Errorf("Check = %v, want both packs", p)
	}
}

// A frame that a read found damaged is stored anew by the next capture of its chunks.
func TestCaptureHealsDamage(t *testing.T) {
	disk := memfs.New()
	sample := newSample(t, 1, 9, 0)
	capture(t, createFS(t, disk, local.Options{}), sample)
	pack := files(t, disk, "packs", ".pack")[0]
	if err := disk.Corrupt(pack, func(b []byte) []byte { b[len(b)-20] ^= 0xff; return b }); err != nil {
		t.Fatal(err)
	}
	s := open(t, disk, local.Options{})
	var invalid *chunk.InvalidError
	if err := sample.Verify(t.Context(), s, 1); !errors.As(err, &invalid) {
		t.Fatalf("reading the damaged chunk = %v, want an InvalidError", err)
	}
	if stored := capture(t, s, sample); stored != int64(len(sample.Frames[2])) {
		t.Errorf("the capture stores %d bytes, want the damaged frame's %d", stored, len(sample.Frames[2]))
	}
	for _, s := range []*local.Store{s, open(t, disk, local.Options{})} {
		for sequence := range uint64(2) {
			if err := sample.Verify(t.Context(), s, sequence+1); err != nil {
				t.Errorf("version %d after healing: %v", sequence+1, err)
			}
		}
		if p := check(t, s, true); len(p) != 1 || len(p[0].Affects) != 0 {
			t.Errorf("Check = %v, want the damaged copy and no version", p)
		}
	}
}

// What a process that died left in staging is there for the next capture.
func TestSalvage(t *testing.T) {
	disk := memfs.New()
	sample := newSample(t, 1, 12, 0)
	n, err := createFS(t, disk, local.Options{}).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range sample.Frames[:3] {
		if _, err := n.PutFrame(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	}
	// While its writer lives, nobody touches it.
	if got := files(t, disk, "staging", ".pack"); len(got) != 1 {
		t.Fatalf("staging holds %v", got)
	}
	open(t, disk, local.Options{})
	if got := files(t, disk, "packs", ".pack"); len(got) != 0 {
		t.Fatalf("the pack of a running capture was sealed: %v", got)
	}
	dead := clone(disk) // without its locks
	cut := func(b []byte) []byte { return append(b, sample.Frames[3][:100]...) }
	if err := dead.Corrupt(files(t, dead, "staging", ".pack")[0], cut); err != nil {
		t.Fatal(err)
	}
	if got := files(t, dead, "staging", ""); len(got) != 2 {
		t.Errorf("staging holds %v", got)
	}
	open(t, dead, local.Options{ReadOnly: true})
	if got := files(t, dead, "packs", ".pack"); len(got) != 0 {
		t.Errorf("a read-only open changed the store: %v", got)
	}
	s := open(t, dead, local.Options{})
	if stored := capture(t, s, sample); stored != int64(len(sample.Frames[3])) {
		t.Errorf("the capture again stores %d bytes, want %d", stored, len(sample.Frames[3]))
	}
	if got := files(t, dead, "staging", ""); len(got) != 0 {
		t.Errorf("staging still holds %v", got)
	}
	if p := check(t, s, true); len(p) > 0 {
		t.Errorf("Check = %v", p)
	}
}

// Two processes use one store: each sees what the other one published.
func TestTwoProcesses(t *testing.T) {
	dir := t.TempDir()
	a, err := local.Create(dir, local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := local.Open(dir, local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	first, second := newSample(t, 1, 9, 2), newSample(t, 2, 9, 2)
	capture(t, a, first)
	if err := first.Verify(t.Context(), b, 1); err != nil {
		t.Errorf("the other process reads version 1: %v", err)
	}
	if stored := capture(t, b, first); stored != 0 {
		t.Errorf("the other process stores %d bytes that are there", stored)
	}
	done := make(chan error, 2)
	for _, s := range []*local.Store{a, b} {
		go func() {
			for range 5 {
				if _, _, err := second.Capture(t.Context(), s); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	list, err := a.Versions(t.Context(), "lab")
	if err != nil || len(list) != 12 || list[11].Sequence != 12 {
		t.Errorf("%d versions, %v; want 12", len(list), err)
	}
	if err := second.Verify(t.Context(), a, 12); err != nil {
		t.Error(err)
	}
	if p := check(t, b, true); len(p) > 0 {
		t.Errorf("Check = %v", p)
	}
}

func TestCreateRefuses(t *testing.T) {
	disk := memfs.New()
	createFS(t, disk, small)
	if _, err := local.CreateFS(disk, small); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create over a store = %v, want ErrExist", err)
	}
	other := memfs.New()
	if err := other.Mkdir("home", 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := local.CreateFS(other, small); err == nil || !strings.Contains(err.Error(), `"home"`) {
		t.Errorf("Create in a used directory = %v", err)
	}
	newer := func([]byte) []byte { return []byte("clonecast store 2\n") }
	if err := errors.Join(disk.Corrupt("format", newer), disk.Corrupt("copies/format", newer)); err != nil {
		t.Fatal(err)
	}
	_, err := local.OpenFS(disk, small)
	if err == nil || errors.Is(err, chunkstore.ErrNotStore) || !strings.Contains(err.Error(), "newer") {
		t.Errorf("Open of a newer format = %v", err)
	}
	if err := errors.Join(
		disk.Corrupt("format", bytes.ToUpper),
		disk.Corrupt("copies/format", bytes.ToUpper),
	); err != nil {
		t.Fatal(err)
	}
	if _, err := local.OpenFS(disk, small); !errors.Is(err, chunkstore.ErrNotStore) {
		t.Errorf("Open of something else = %v, want ErrNotStore", err)
	}
}

// The private key is nobody else's, and only the writer of the store needs it.
func TestKeys(t *testing.T) {
	disk := memfs.New()
	sample := newSample(t, 1, 3, 0)
	capture(t, createFS(t, disk, small), sample)
	info, err := disk.Stat("keys/signing.key")
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("signing.key: mode %v, %v", info.Mode(), err)
	}
	// A key that was replaced is still trusted when its public half stays.
	if err := disk.Rename("keys/signing.pub", "keys/2026.pub"); err != nil {
		t.Fatal(err)
	}
	other := memfs.New()
	createFS(t, other, small)
	for _, name := range []string{"keys/signing.key", "keys/signing.pub"} {
		b := make([]byte, size(t, other, name))
		f, err := other.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.ReadAt(b, 0); err != nil {
			t.Fatal(err)
		}
		_ = disk.Remove(name)
		to, err := disk.Create(name, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := to.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, disk, small)
	capture(t, s, sample)
	if len(s.TrustedKeys()) != 2 {
		t.Errorf("%d trusted keys", len(s.TrustedKeys()))
	}
	for sequence := range uint64(2) {
		if err := sample.Verify(t.Context(), s, sequence+1); err != nil {
			t.Errorf("version %d: %v", sequence+1, err)
		}
	}
	if err := disk.Corrupt("keys/signing.key", func(b []byte) []byte { b[0] ^= 1; return b }); err != nil {
		t.Fatal(err)
	}
	if _, err := local.OpenFS(disk, small); err == nil {
		t.Error("Open accepts a signing key that is not the public one's")
	}
}
