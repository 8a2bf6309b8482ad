package local_test

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"clonecast/internal/chunkstore"
	"clonecast/internal/chunkstore/local"
	"clonecast/internal/chunkstore/storetest"
	"clonecast/internal/faultfs"
	"clonecast/internal/vfs/memfs"
)

func repair(t testing.TB, s *local.Store, from chunkstore.Reader) local.RepairReport {
	t.Helper()
	r, err := s.Repair(t.Context(), local.RepairOptions{From: from})
	if err != nil {
		t.Fatalf("Repair = %v", err)
	}
	return r
}

// damages are what may happen to a file.
var damages = map[string]func(b []byte) []byte{
	"cut":        func(b []byte) []byte { return b[:len(b)/2] },
	"empty":      func(b []byte) []byte { return nil },
	"zero":       func(b []byte) []byte { clear(b); return b },
	"longer":     func(b []byte) []byte { return append(b, "junk"...) },
	"one byte":   func(b []byte) []byte { b[len(b)*2/3] ^= 1; return b },
	"bad header": func(b []byte) []byte { b[min(len(b)-1, 20)] ^= 1; return b },
	"middle":     func(b []byte) []byte { clear(b[len(b)/3 : len(b)/2]); return b },
}

// Every file in turn is damaged in every way, with and without the loss of its index: a
// second store with the same versions heals all of it.
func TestRepairFromAnotherStore(t *testing.T) {
	t.Parallel()
	base, samples := twoVersions(t)
	other := open(t, clone(base), local.Options{ReadOnly: true})
	for name, change := range damages {
		for _, file := range files(t, base, ".", "") {
			if !strings.HasPrefix(file, "packs/") && !strings.HasPrefix(file, "index/") && !strings.HasPrefix(file, "images/") {
				continue
			}
			for _, alone := range []bool{true, false} {
				what := fmt.Sprintf("%s %s, index kept %v", name, file, alone)
				disk := clone(base)
				if err := disk.Corrupt(file, change); err != nil {
					t.Fatal(err)
				}
				if idx := strings.Replace(strings.TrimSuffix(file, ".pack"), "packs/", "index/", 1) + ".idx"; !alone {
					if !strings.HasPrefix(file, "packs/") {
						continue
					}
					if err := disk.Remove(idx); err != nil {
						t.Fatal(err)
					}
				}
				s := open(t, disk, small)
				r := repair(t, s, other)
				if len(r.Lost) > 0 {
					t.Errorf("%s: lost %v", what, r.Lost)
				}
				wantWhole(t, what, s, samples)
				wantWhole(t, what, open(t, disk, small), samples)
				if again := repair(t, s, other); len(again.Found)+again.Healed+again.Moved+again.Replaced > 0 {
					t.Errorf("%s: the second repair is not idle: %+v", what, again)
				}
			}
		}
	}
}

func wantWhole(t *testing.T, what string, s *local.Store, samples []*storetest.Sample) {
	t.Helper()
	if p := check(t, s, true); len(p) > 0 {
		t.Errorf("%s: Check = %v", what, p)
	}
	for i, sample := range samples {
		if err := sample.Verify(t.Context(), s, uint64(i+1)); err != nil {
			t.Errorf("%s: version %d: %v", what, i+1, err)
		}
	}
}

// Without another store, what is sound is saved and the rest is reported: what is lost
// after the repair is what was lost before.
func TestRepairAlone(t *testing.T) {
	base, samples := twoVersions(t)
	other := open(t, clone(base), local.Options{ReadOnly: true})
	for name, change := range damages {
		for _, file := range append(files(t, base, ".", ".pack"), files(t, base, ".", ".manifest")...) {
			what := name + " " + file
			disk := clone(base)
			if err := disk.Corrupt(file, change); err != nil {
				t.Fatal(err)
			}
			before, _ := damaged(t, what, clone(disk), samples)
			s := open(t, disk, small)
			r := repair(t, s, nil)
			after, problems := damaged(t, what, clone(disk), samples)
			if fmt.Sprint(before) != fmt.Sprint(after) {
				t.Errorf("%s: broken are %v, before the repair %v", what, after, before)
			}
			if len(affected(r.Lost)) != len(before) || len(before) == 0 && len(problems) > 0 {
				t.Errorf("%s: Repair reports %v as lost, broken are %v, problems %v", what, r.Lost, before, problems)
			}
			// What was kept of it does not hinder a later repair.
			if r := repair(t, s, other); len(r.Lost) > 0 {
				t.Errorf("%s: lost after the repair from another store: %v", what, r.Lost)
			}
			wantWhole(t, what, s, samples)
		}
	}
}

// A damaged index whose pack is lost tells nothing: it goes.
func TestRepairDamagedIndexWithoutPack(t *testing.T) {
	disk, samples := twoVersions(t)
	f, err := disk.Create("index/0123456789abcdef0123.idx", 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte("junk")); err != nil {
		t.Fatal(err)
	}
	s := open(t, disk, small)
	if r := repair(t, s, nil); len(r.Found) != 1 || len(r.Lost) > 0 {
		t.Errorf("Repair = %+v", r)
	}
	wantWhole(t, "after the repair", s, samples)
}

// Packs that changed places are sound: their frames say what they are.
func TestRepairSwappedPacks(t *testing.T) {
	disk, samples := twoVersions(t)
	packs := files(t, disk, "packs", ".pack")
	if err := errors.Join(
		disk.Rename(packs[0], "x"),
		disk.Rename(packs[1], packs[0]),
		disk.Rename("x", packs[1]),
	); err != nil {
		t.Fatal(err)
	}
	s := open(t, disk, small)
	if r := repair(t, s, nil); r.Moved == 0 || len(r.Lost) > 0 {
		t.Errorf("Repair = %+v", r)
	}
	wantWhole(t, "swapped packs", s, samples)
}

// Another store that is damaged at the same place, or whose versions another key signed, heals
// nothing, and says so; it never makes things worse.
func TestRepairFromTheWrongStore(t *testing.T) {
	base, samples := twoVersions(t)
	stranger := memfs.New()
	foreign := createFS(t, stranger, small)
	for _, sample := range samples {
		capture(t, foreign, sample)
	}
	disk := clone(base)
	manifest := files(t, disk, "images", ".manifest")[0]
	for _, file := range []string{manifest, "copies/" + manifest} {
		if err := disk.Corrupt(file, func(b []byte) []byte { return b[:100] }); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, disk, small)
	r := repair(t, s, foreign)
	if len(r.Lost) != 1 || r.Lost[0].Object != manifest ||
		!strings.Contains(r.Lost[0].Problem, "not signed by a trusted key") || len(r.Manifests) > 0 {
		t.Errorf("Repair from a store of another key = %+v", r)
	}
	// Its chunks are as good as ours: their names prove them.
	disk = clone(base)
	pack := files(t, disk, "packs", ".pack")[0]
	if err := disk.Remove(pack); err != nil {
		t.Fatal(err)
	}
	s = open(t, disk, small)
	if r := repair(t, s, foreign); r.Healed == 0 || len(r.Lost) > 0 {
		t.Errorf("Repair = %+v", r)
	}
	wantWhole(t, "chunks of a store of another key", s, samples)
	// Both have lost the same.
	disk = clone(base)
	for _, f := range []*memfs.FS{disk, stranger} {
		for _, name := range files(t, f, "packs", "") {
			if err := f.Remove(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	r = repair(t, open(t, disk, small), open(t, stranger, local.Options{ReadOnly: true}))
	if len(r.Lost) != 2 || !strings.Contains(r.Lost[0].Problem, "of its chunks are lost") {
		t.Errorf("Repair where both lost the same = %+v", r)
	}
}

// broken is a store with damage of several kinds.
func broken(t *testing.T) (disk *memfs.FS, other *local.Store, samples []*storetest.Sample) {
	t.Helper()
	disk, samples = twoVersions(t)
	other = open(t, clone(disk), local.Options{ReadOnly: true})
	packs := files(t, disk, "packs", ".pack")
	for file, change := range map[string]string{
		packs[0]:                                 "middle",
		packs[1]:                                 "bad header",
		files(t, disk, "images", ".manifest")[1]: "cut",
	} {
		if err := disk.Corrupt(file, damages[change]); err != nil {
			t.Fatal(err)
		}
	}
	index := strings.Replace(strings.TrimSuffix(packs[1], ".pack"), "packs/", "index/", 1) + ".idx"
	if err := disk.Remove(index); err != nil {
		t.Fatal(err)
	}
	return clone(disk), other, samples
}

// A power cut before every operation of a repair; then the repair again.
func TestCrashAtEveryOperationOfRepair(t *testing.T) {
	t.Parallel()
	disk, other, samples := broken(t)
	type cut struct {
		fs   *memfs.FS
		name string
	}
	var cuts []cut
	recording := faultfs.New(disk, func(op faultfs.Op, name string) error {
		if op.Changes() {
			for _, percent := range []int{0, 50, 100} {
				seed := uint64(len(cuts))
				cuts = append(cuts, cut{disk.CrashClone(percent, rand.New(rand.NewPCG(seed, 0))),
					fmt.Sprintf("cut before %s %s, %d %% kept, seed %d", op, path.Base(name), percent, seed)})
			}
		}
		return nil
	})
	repair(t, open(t, recording, small), other)
	if len(cuts) < 60 {
		t.Fatalf("only %d cuts: the test no longer sees the store", len(cuts))
	}
	for _, c := range cuts {
		s := open(t, c.fs, small)
		if r := repair(t, s, other); len(r.Lost) > 0 {
			t.Fatalf("%s: lost %v", c.name, r.Lost)
		}
		wantWhole(t, c.name, s, samples)
	}
}

// Each operation of a repair fails in its turn, once and for good; then the repair again.
func TestFaultAtEveryOperationOfRepair(t *testing.T) {
	t.Parallel()
	for i, fault := range []struct {
		err        error
		persistent bool
	}{{syscall.EIO, false}, {syscall.ENOSPC, true}} {
		base, other, samples := broken(t)
		for n := firstOf(i); ; n += everyNth() {
			disk := clone(base)
			inject := &faultfs.Nth{N: n, Persistent: fault.persistent, Err: fault.err}
			var failed string
			var logged atomic.Int64
			opts := small
			opts.Logger = slog.New(alarms{n: &logged})
			s, err := local.OpenFS(faultfs.New(disk, func(op faultfs.Op, name string) error {
				err := inject.Inject(op, name)
				if err != nil && failed == "" {
					failed = fmt.Sprintf("operation %d (%s %s)", n, op, name)
				}
				return err
			}), opts)
			before := logged.Load()
			if err == nil {
				_, err = s.Repair(t.Context(), local.RepairOptions{From: other})
			}
			if inject.Fired() == 0 {
				if err != nil || n < 60 {
					t.Fatalf("after %d operations without a fault: %v", n, err)
				}
				break
			}
			if err == nil && logged.Load() == 0 && before == 0 && !strings.Contains(failed, "(close ") {
				t.Errorf("%s failed and nobody was told", failed)
			}
			s = open(t, disk, small)
			if r := repair(t, s, other); len(r.Lost) > 0 {
				t.Fatalf("after %s: lost %v", failed, r.Lost)
			}
			wantWhole(t, "after "+failed, s, samples)
		}
	}
}
