package local_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
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
	"clonecast/internal/vfs"
	"clonecast/internal/vfs/memfs"
)

// Faults come in pairs as well: the disk is full, and the copy that was just made is rotten.
// Every operation that a kind of fault can hit is hit, followed by every operation after it that
// another kind can hit. With CLONECAST_LONG=1 all pairs are tried, else some hundred of them.

// kind is a kind of fault.
type kind struct {
	name   string
	err    error // what an operation returns, or a silent fault of faultfs
	match  func(op faultfs.Op, name string) bool
	silent bool // nobody is told
}

func ops(list ...faultfs.Op) func(faultfs.Op, string) bool {
	return func(op faultfs.Op, _ string) bool {
		for _, o := range list {
			if o == op {
				return true
			}
		}
		return false
	}
}

// errCrash ends a run: the disk is what a power cut leaves.
var errCrash = errors.New("power cut")

var kinds = []kind{
	{"ENOSPC", syscall.ENOSPC, ops(faultfs.OpCreate, faultfs.OpWrite), false},
	{"EIO", syscall.EIO, ops(faultfs.OpRead, faultfs.OpWrite, faultfs.OpRemove, faultfs.OpReadDir), false},
	{"short write", faultfs.ErrShort, ops(faultfs.OpWrite), false},
	{"failed fsync", syscall.EIO, ops(faultfs.OpSync, faultfs.OpSyncDir), false},
	{"failed rename", syscall.EIO, ops(faultfs.OpRename), false},
	{"rotten copy", faultfs.ErrRot, ops(faultfs.OpWrite), true},
	{"lost file", faultfs.ErrLost, ops(faultfs.OpRename), true},
	{"crash", errCrash, func(op faultfs.Op, _ string) bool { return op.Changes() }, true},
}

// pair is two faults: the first hits the number-th operation that it can hit, the second one
// counts from there. A number of 0 hits nothing.
type pair struct {
	faults  [2]kind
	numbers [2]int

	disk  *memfs.FS
	seed  uint64
	stage int // 0, or faults that hit
	seen  int // operations that the present fault could hit
	later map[string]int
	dead  *memfs.FS
	hit   []string

	spoilt map[string]faultfs.Op // files of which a write or a sync failed
	wrong  []string              // operations on such files that may not be
}

// watch notes files that are written to after a write that failed, or once more synced after a
// sync that failed.
func (p *pair) watch(op faultfs.Op, name string, err error) {
	failed, spoilt := p.spoilt[name]
	switch {
	case op == faultfs.OpCreate || op == faultfs.OpRename:
		delete(p.spoilt, name) // another file of that name
	case spoilt && (op == faultfs.OpWrite || op == faultfs.OpSync && failed == faultfs.OpSync):
		p.wrong = append(p.wrong, fmt.Sprintf("%s %s after a failed %s", op, name, failed))
	case err != nil && !errors.Is(err, faultfs.ErrRot) && (op == faultfs.OpWrite || op == faultfs.OpSync):
		p.spoilt[name] = op
	}
}

// inject is the Injector.
func (p *pair) inject(op faultfs.Op, name string) error {
	err := p.fault(op, name)
	p.watch(op, name, err)
	return err
}

func (p *pair) fault(op faultfs.Op, name string) error {
	if p.dead != nil {
		return errCrash
	}
	if p.stage == 1 {
		for _, k := range kinds {
			if k.match(op, name) {
				p.later[k.name]++
			}
		}
	}
	if p.stage == 2 || !p.faults[p.stage].match(op, name) {
		return nil
	}
	if p.seen++; p.seen != p.numbers[p.stage] {
		return nil
	}
	k := p.faults[p.stage]
	p.hit = append(p.hit, fmt.Sprintf("%s at %s %s", k.name, op, name))
	p.stage, p.seen = p.stage+1, 0
	if errors.Is(k.err, errCrash) {
		p.dead = p.disk.CrashClone([]int{0, 50, 100}[p.seed%3], rand.New(rand.NewPCG(p.seed, 0)))
	}
	return k.err
}

// mustReport says whether a fault that hit has to be reported.
func (p *pair) mustReport() bool {
	for i := range p.stage {
		if !p.faults[i].silent {
			return true
		}
	}
	return false
}

// work is a piece of work on a store. It tells whether it reported, other than by its error, that
// something was not done.
type work func(ctx context.Context, fsys vfs.FS, opts local.Options) (said bool, err error)

// run does the work on a clone of base with the faults of p, and lets judge look at what is left.
func (p *pair) run(t *testing.T, base *memfs.FS, do work, judge func(t *testing.T, name string, disk *memfs.FS)) {
	p.disk, p.later, p.spoilt = clone(base), map[string]int{}, map[string]faultfs.Op{}
	var logged atomic.Int64
	opts := small
	opts.Logger = slog.New(alarms{n: &logged})
	said, err := do(t.Context(), faultfs.New(p.disk, p.inject), opts)
	name := strings.Join(p.hit, ", then ")
	if p.mustReport() && !said && err == nil && logged.Load() == 0 {
		t.Errorf("%s: nobody was told", name)
	}
	if len(p.wrong) > 0 && p.dead == nil {
		t.Errorf("%s: %v", name, p.wrong)
	}
	left := []*memfs.FS{p.dead}
	if p.dead == nil {
		left = []*memfs.FS{p.disk.CrashClone(int(p.seed%4)/2*50, rand.New(rand.NewPCG(p.seed, 1))), p.disk}
		if !long() { // one of the two
			left = left[p.seed%2:][:1]
		}
	}
	for _, disk := range left {
		judge(t, fmt.Sprintf("%s (seed %d, power cut after it %v)", name, p.seed, disk != p.disk), disk)
	}
}

func long() bool { return os.Getenv("CLONECAST_LONG") != "" }

// singles runs work with every single fault of every kind, or every seventh of the kinds that may hit
// almost every operation.
func singles(t *testing.T, base *memfs.FS, do work, judge func(t *testing.T, name string, disk *memfs.FS)) {
	for _, k := range kinds {
		step := 1
		if !long() && (k.name == "EIO" || k.name == "crash") {
			step = 7
		}
		for i := 1; ; i += step {
			p := &pair{faults: [2]kind{k, kinds[0]}, numbers: [2]int{i, 0}, seed: uint64(i)}
			p.run(t, base, do, judge)
			if p.stage == 0 {
				break
			}
		}
	}
}

// pairs runs work on clones of base with every pair of faults, or one pair in stride, and lets
// judge look at what is left.
func pairs(t *testing.T, stride int, base *memfs.FS, do work, judge func(t *testing.T, name string, disk *memfs.FS)) {
	if long() {
		stride = 1
	}
	number, ran := 0, 0
	for _, first := range kinds {
		for i := 1; ; i++ {
			single := &pair{faults: [2]kind{first, kinds[0]}, numbers: [2]int{i, 0}, seed: uint64(i)}
			single.run(t, base, do, judge)
			if single.stage == 0 {
				break
			}
			for _, second := range kinds {
				for j := 1; j <= single.later[second.name]; j++ {
					if number++; number%stride == 0 {
						p := &pair{faults: [2]kind{first, second}, numbers: [2]int{i, j}, seed: uint64(number)}
						p.run(t, base, do, judge)
						ran++
					}
				}
			}
		}
	}
	t.Logf("%d of %d pairs", ran, number)
	if number < 800 || ran < 10 {
		t.Errorf("only %d of %d pairs: the test no longer sees the store", ran, number)
	}
}

// collections collects, and tries again what fails once, as a server does a day later.
func collections(ctx context.Context, s *local.Store) (said bool, err error) {
	for _, age := range []time.Duration{time.Nanosecond, 0, 0} {
		r, err2 := s.Collect(ctx, chunkstore.CollectOptions{MinAge: age})
		said, err = said || len(r.Kept) > 0, errors.Join(err, err2)
	}
	return said, err
}

// A version is deleted, and what only it needed is collected.
func TestFaultPairsOfCollect(t *testing.T) {
	t.Parallel()
	base, gone, kept := twoToCollect(t)
	pairs(t, 211, base, func(ctx context.Context, fsys vfs.FS, opts local.Options) (said bool, err error) {
		s, err := local.OpenFS(fsys, opts)
		if err == nil {
			err = s.Delete(ctx, "lab", 1)
		}
		if err != nil {
			return false, err
		}
		return collections(ctx, s)
	}, func(t *testing.T, name string, disk *memfs.FS) { afterCollections(t, name, disk, gone, kept) })
}

// The copies that the first mark made are rotten. So the second one makes others, and while it does,
// the disk is full, or those are rotten, too, or whatever else goes wrong.
func TestFaultsBesideRottenCopies(t *testing.T) {
	t.Parallel()
	base, gone := memfs.New(), newSample(t, 1, 24, 0)
	kept, other := part(t, gone, 1, 3), part(t, gone, 6)
	s := createFS(t, base, small)
	capture(t, s, gone)
	capture(t, s, kept)
	known := files(t, base, "packs", ".pack")
	remove(t, s, 1)
	collect(t, s, time.Nanosecond)
	for _, name := range files(t, base, "packs", ".pack") {
		if !slices.Contains(known, name) {
			if err := base.Corrupt(name, func(b []byte) []byte { clear(b[len(b)/2:]); return b }); err != nil {
				t.Fatal(err)
			}
		}
	}
	capture(t, s, gone)
	capture(t, s, other) // what the first mark moves that follows the second one
	remove(t, s, 3)
	base = clone(base)
	singles(t, base, func(ctx context.Context, fsys vfs.FS, opts local.Options) (said bool, err error) {
		s, err := local.OpenFS(fsys, opts)
		if err != nil {
			return false, err
		}
		return collections(ctx, s)
	}, func(t *testing.T, name string, disk *memfs.FS) {
		afterCollections(t, name, disk, gone, kept)
		if err := other.Verify(t.Context(), open(t, disk, small), 4); err != nil {
			t.Fatalf("%s: the other version: %v", name, err)
		}
	})
}

// afterCollections: the version that stayed is whole, the other one whole or absent, and both
// outlast more collections. What silent faults did to a file may be found, but costs no version.
func afterCollections(t *testing.T, name string, disk *memfs.FS, gone, kept *storetest.Sample) {
	t.Helper()
	s, err := local.OpenFS(disk, small)
	if err != nil {
		t.Fatalf("%s: Open = %v", name, err)
	}
	for round := range 3 {
		if p := check(t, s, true); len(affected(p)) > 0 {
			t.Fatalf("%s: after %d more collections: Check = %v", name, round, p)
		}
		if err := kept.Verify(t.Context(), s, 2); err != nil {
			t.Fatalf("%s: after %d more collections: the version that stayed: %v", name, round, err)
		}
		if err := gone.Verify(t.Context(), s, 1); err != nil && !errors.Is(err, chunkstore.ErrNotFound) {
			t.Fatalf("%s: after %d more collections: the version is listed and not whole: %v", name, round, err)
		}
		collect(t, s, 0)
	}
}

// A second version is captured beside the first.
func TestFaultPairsOfCapture(t *testing.T) {
	t.Parallel()
	base := memfs.New()
	first, second := newSample(t, 1, 6, 2), newSample(t, 2, 9, 2)
	capture(t, createFS(t, base, small), first)
	base = clone(base)
	pairs(t, 17, base, func(ctx context.Context, fsys vfs.FS, opts local.Options) (bool, error) {
		s, err := local.OpenFS(fsys, opts)
		if err == nil {
			_, _, err = second.Capture(ctx, s)
		}
		return false, err
	}, func(t *testing.T, name string, disk *memfs.FS) { afterFaults(t, name, disk, first, second) })
}

// afterFaults: what was there before is whole; the capture again gives a whole version, at the
// second time at the latest: it relies on what was stored, until a read finds that rotten.
func afterFaults(t *testing.T, name string, disk *memfs.FS, first, second *storetest.Sample) {
	t.Helper()
	s, err := local.OpenFS(disk, small)
	if err != nil {
		t.Fatalf("%s: Open = %v", name, err)
	}
	if err := first.Verify(t.Context(), s, 1); err != nil {
		t.Fatalf("%s: the version that was there: %v", name, err)
	}
	for range 2 {
		var v image.Version
		if v, _, err = second.Capture(t.Context(), s); err == nil {
			err = second.Verify(t.Context(), s, v.Sequence)
		}
	}
	if err != nil {
		t.Fatalf("%s: the capture again: %v", name, err)
	}
}

// A store with damage of several kinds is repaired.
func TestFaultPairsOfRepair(t *testing.T) {
	t.Parallel()
	base, other, samples := broken(t)
	pairs(t, 67, base, func(ctx context.Context, fsys vfs.FS, opts local.Options) (bool, error) {
		s, err := local.OpenFS(fsys, opts)
		if err != nil {
			return false, err
		}
		r, err := s.Repair(ctx, local.RepairOptions{From: other})
		return len(r.Lost) > 0, err
	}, func(t *testing.T, name string, disk *memfs.FS) {
		s := open(t, disk, small)
		if r := repair(t, s, other); len(r.Lost) > 0 {
			t.Fatalf("%s: lost %v", name, r.Lost)
		}
		wantWhole(t, name, s, samples)
	})
}

// A process that deletes is killed between any two operations; another one collects at once; then
// the power fails. A version whose deletion was on no medium yet must not come back in part.
func TestPowerCutAfterKilledDeletion(t *testing.T) {
	base, gone, kept := twoToCollect(t)
	for n := 1; ; n++ {
		disk := clone(base)
		killed := &faultfs.Nth{N: n, Persistent: true, Err: errCrash, Match: func(op faultfs.Op, _ string) bool {
			return op.Changes()
		}}
		s, err := local.OpenFS(faultfs.New(disk, killed.Inject), small)
		if err == nil {
			_ = s.Delete(t.Context(), "lab", 1)
		}
		collect(t, open(t, disk, small), 0)
		for seed := range uint64(3) {
			cut := disk.CrashClone(int(seed)*50, rand.New(rand.NewPCG(seed, uint64(n))))
			afterCollections(t, fmt.Sprintf("killed before operation %d, seed %d", n, seed), cut, gone, kept)
		}
		if killed.Fired() == 0 {
			return
		}
	}
}

// The sync of a pack fails, and so does its removal. The next process finds bytes in memory that no
// sync writes any more: it must not take them for a pack.
func TestForgottenPack(t *testing.T) {
	disk := memfs.New()
	sample := newSample(t, 1, 6, 0)
	createFS(t, disk, small)
	disk = clone(disk)
	failed := 0
	s := open(t, faultfs.New(disk, func(op faultfs.Op, name string) error {
		staged := strings.HasPrefix(name, "staging/") && strings.HasSuffix(name, ".pack")
		if staged && (op == faultfs.OpSync || op == faultfs.OpRemove) {
			failed++
			return syscall.EIO
		}
		return nil
	}), small)
	if _, _, err := sample.Capture(t.Context(), s); !errors.Is(err, syscall.EIO) || failed < 2 {
		t.Fatalf("capture = %v after %d faults", err, failed)
	}
	v, _, err := sample.Capture(t.Context(), open(t, disk, small))
	if err != nil {
		t.Fatal(err)
	}
	cut := disk.CrashClone(0, rand.New(rand.NewPCG(1, 1)))
	if err := sample.Verify(t.Context(), open(t, cut, small), v.Sequence); err != nil {
		t.Errorf("after a power cut: %v", err)
	}
}

// A pack that is damaged where no chunk suffers is rescued, with no other store to help, and
// whatever goes wrong meanwhile: its chunks are not lost.
func TestFaultsOfRescue(t *testing.T) {
	t.Parallel()
	base, samples := twoVersions(t)
	for _, pack := range files(t, base, "packs", ".pack") {
		if err := base.Corrupt(pack, func(b []byte) []byte { b[0] ^= 1; return b }); err != nil {
			t.Fatal(err)
		}
	}
	singles(t, base, func(ctx context.Context, fsys vfs.FS, opts local.Options) (bool, error) {
		s, err := local.OpenFS(fsys, opts)
		if err != nil {
			return false, err
		}
		r, err := s.Repair(ctx, local.RepairOptions{})
		return len(r.Lost) > 0, err
	}, func(t *testing.T, name string, disk *memfs.FS) {
		s := open(t, disk, small)
		if r := repair(t, s, nil); len(r.Lost) > 0 {
			t.Fatalf("%s: lost %v", name, r.Lost)
		}
		wantWhole(t, name, s, samples)
	})
}
