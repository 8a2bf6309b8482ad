package local_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"clonecast/internal/chunkstore"
	"clonecast/internal/chunkstore/local"
	"clonecast/internal/chunkstore/storetest"
	"clonecast/internal/vfs/memfs"
)

// everyKind is a store with a file of every kind that a store may have: two versions, the number
// of a deleted one, a second trusted key, the mark of a collection.
func everyKind(t *testing.T) (*memfs.FS, []*storetest.Sample) {
	t.Helper()
	disk := memfs.New()
	samples := []*storetest.Sample{newSample(t, 1, 9, 2), newSample(t, 2, 9, 2)}
	s := createFS(t, disk, small)
	for _, sample := range append(slices.Clone(samples), newSample(t, 3, 9, 0)) {
		capture(t, s, sample)
	}
	remove(t, s, 3)
	collect(t, s, time.Hour)
	key, err := disk.Create("keys/old.pub", 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(key, strings.Repeat("01", 32)+"\n"); err != nil {
		t.Fatal(err)
	}
	open(t, disk, small) // makes the copy of the key
	return clone(disk), samples
}

func content(t *testing.T, f *memfs.FS, name string) []byte {
	t.Helper()
	file, err := f.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, size(t, f, name))
	if len(b) > 0 {
		if _, err := file.ReadAt(b, 0); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// loss is what the loss of a file of some kind does.
type loss struct {
	says    string // what the check says of it, beside its name; empty: nothing, for nothing is lost
	content bool   // the file has some, which may be damaged
	lost    bool   // nothing in the store can bring it back
	gone    bool   // a repair removes it
	refused bool   // the store does not open with it
}

// losses are the kinds of files, by the pattern of their names.
var losses = []struct {
	pattern string
	loss
}{
	{"format", loss{says: "no program takes the directory for a store", content: true, refused: true}},
	{"copies/format", loss{says: "it is a copy", content: true}},
	{"keys/signing.key", loss{says: "new versions are signed with it", content: true, refused: true}},
	{"keys/signing.pub", loss{says: "versions are proven with it", content: true, refused: true}},
	{"keys/*.pub", loss{says: "versions that it signed are not trusted", content: true}},
	{"copies/keys/*", loss{says: "it is a copy", content: true}},
	{"images/*/*.manifest", loss{says: "the version is read from copies/", content: true}},
	{"copies/images/*/*.manifest", loss{says: "the version is read from images/", content: true}},
	{"images/*/*.deleted", loss{says: "keeps the number of a deleted version"}},
	{"copies/images/*/*.deleted", loss{says: "keeps the number of a deleted version"}},
	{"index/*.idx", loss{says: "no chunk is lost", content: true}},
	{"condemned", loss{says: "nothing is lost", content: true, gone: true}},
	{"packs/*.pack", loss{says: "", content: true, lost: true}},
	{"pins/*", loss{}},
	{"publish.lock", loss{}},
	{"collect.lock", loss{}},
}

func lossOf(t *testing.T, file string) loss {
	t.Helper()
	for _, l := range losses {
		if ok, err := path.Match(l.pattern, file); err != nil {
			t.Fatal(err)
		} else if ok {
			return l.loss
		}
	}
	t.Fatalf("%s is of no kind that this test knows", file)
	return loss{}
}

// Every file of a store is lost, cut, and changed by a bit. The check names it with what that
// means; a repair brings it back byte for byte, or says what cannot be brought back. No version
// is lost by any of it, but by that of a pack.
func TestEveryLoss(t *testing.T) {
	t.Parallel()
	base, samples := everyKind(t)
	seen := map[string]bool{}
	for _, file := range files(t, base, ".", "") {
		want := lossOf(t, file)
		for _, damage := range []string{"missing", "cut", "bit flipped"} {
			if damage != "missing" && !want.content {
				continue
			}
			disk := clone(base)
			var err error
			switch damage {
			case "missing":
				err = disk.Remove(file)
			case "cut":
				err = disk.Corrupt(file, func(b []byte) []byte { return b[:len(b)/2] })
			case "bit flipped":
				err = disk.Corrupt(file, func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
			}
			if err != nil {
				t.Fatal(err)
			}
			judgeLoss(t, file, damage, want, base, disk, samples)
		}
		for _, l := range losses {
			if ok, _ := path.Match(l.pattern, file); ok {
				seen[l.pattern] = true
				break
			}
		}
	}
	for _, l := range losses {
		if !seen[l.pattern] {
			t.Errorf("there is no file %s: the test no longer sees the store", l.pattern)
		}
	}
}

func judgeLoss(t *testing.T, file, damage string, want loss, base, disk *memfs.FS, samples []*storetest.Sample) {
	t.Helper()
	doubt := path.Base(file) == "old.pub" && damage == "bit flipped" // two good keys, and nobody knows which
	says := want.says
	if doubt {
		says = "versions that it signed are not trusted"
	}
	if file == "condemned" && damage == "missing" {
		says = "" // a store without one is the usual case
	}
	s, err := local.OpenFS(clone(disk), small)
	if want.refused != (err != nil) && !doubt && file != "keys/old.pub" {
		t.Errorf("%s %s: Open = %v, want refused %v", file, damage, err, want.refused)
	}
	if err != nil && (!errors.Is(err, local.ErrDamaged) || !strings.Contains(err.Error(), file)) {
		t.Errorf("%s %s: Open = %v, want ErrDamaged with the name", file, damage, err)
	}
	problems := check(t, open(t, disk, local.Options{ReadOnly: true, Damaged: true}), true)
	named := slices.IndexFunc(problems, func(p chunkstore.Problem) bool { return p.Object == file })
	switch {
	case want.lost:
		if named < 0 {
			t.Errorf("%s %s: the check does not name it: %v", file, damage, problems)
		}
		return // TestRepairAlone and TestRepairFromAnotherStore have what a repair does then
	case says == "" && len(problems) > 0:
		t.Errorf("%s %s: the check says %v", file, damage, problems)
	case says != "" && (named < 0 || !strings.Contains(problems[named].Problem, says) || len(affected(problems)) > 0):
		t.Errorf("%s %s: the check says %v, want %q", file, damage, problems, says)
	}
	s, err = local.OpenFS(disk, local.Options{PackSize: small.PackSize, Damaged: true})
	if err != nil {
		t.Fatalf("%s %s: Open for a repair = %v", file, damage, err)
	}
	r := repair(t, s, nil)
	switch {
	case doubt:
		if len(r.Lost) == 0 || !strings.Contains(r.Lost[0].Problem, "take it from") {
			t.Errorf("%s %s: Repair = %+v, want it to say that it cannot", file, damage, r)
		}
		return
	case len(r.Lost) > 0:
		t.Errorf("%s %s: Repair = %+v", file, damage, r)
	case says != "" && (!slices.Contains(r.Restored, file) && !strings.HasPrefix(file, "index/") || len(r.Found) == 0):
		t.Errorf("%s %s: Repair = %+v, want it among what was restored", file, damage, r)
	}
	if _, err := disk.Stat(file); want.gone || strings.HasSuffix(file, ".lock") || strings.HasPrefix(file, "pins/") {
		if want.gone && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s %s: it is still there: %v", file, damage, err)
		}
	} else if err != nil || !bytes.Equal(content(t, disk, file), content(t, base, file)) {
		t.Errorf("%s %s: after the repair it has another content, %v", file, damage, err)
	}
	s = open(t, disk, small)
	wantWhole(t, file+" "+damage, s, samples)
	if v, _, err := samples[0].Capture(t.Context(), s); err != nil || v.Sequence != 4 {
		t.Errorf("%s %s: the next capture is version %d, %v", file, damage, v.Sequence, err)
	}
}

// A directory that is lost is named, and made anew with what can be brought back.
func TestLostDirectories(t *testing.T) {
	base, samples := everyKind(t)
	for dir, refused := range map[string]bool{
		"keys": true, "images": true, "index": false, "pins": false, "copies": false, "staging": false,
	} {
		disk := clone(base)
		removeAll(t, disk, dir)
		if _, err := local.OpenFS(clone(disk), small); (err != nil) != refused {
			t.Errorf("%s: Open = %v, want refused %v", dir, err, refused)
		}
		problems := check(t, open(t, disk, local.Options{ReadOnly: true, Damaged: true}), true)
		if !slices.ContainsFunc(problems, func(p chunkstore.Problem) bool {
			return p.Object == dir && strings.HasPrefix(p.Problem, "is missing: ")
		}) || len(affected(problems)) > 0 {
			t.Errorf("%s: the check says %v", dir, problems)
		}
		if r := repair(t, open(t, disk, local.Options{PackSize: small.PackSize, Damaged: true}), nil); len(r.Lost) > 0 {
			t.Errorf("%s: Repair = %+v", dir, r)
		}
		wantWhole(t, "without "+dir, open(t, disk, small), samples)
	}
	disk := clone(base)
	removeAll(t, disk, "packs")
	problems := check(t, open(t, disk, local.Options{ReadOnly: true, Damaged: true}), true)
	if len(affected(problems)) != 2 {
		t.Errorf("without packs: the check says %v", problems)
	}
	other := open(t, clone(base), local.Options{ReadOnly: true})
	r := repair(t, open(t, disk, local.Options{PackSize: small.PackSize, Damaged: true}), other)
	if len(r.Lost) > 0 || r.Healed == 0 {
		t.Errorf("without packs: Repair = %+v", r)
	}
	wantWhole(t, "without packs", open(t, disk, small), samples)
}

func removeAll(t *testing.T, f *memfs.FS, dir string) {
	t.Helper()
	entries, err := f.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if name := path.Join(dir, e.Name()); e.IsDir() {
			removeAll(t, f, name)
		} else if err := f.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Remove(dir); err != nil {
		t.Fatal(err)
	}
}

// A signing key that is lost with its copy: the store can be read and says so, nothing is made up,
// and a new key is made only when that is asked for. What the old one signed stays good.
func TestLostSigningKey(t *testing.T) {
	disk, samples := twoVersions(t)
	for _, file := range []string{"keys/signing.key", "copies/keys/signing.key"} {
		if err := disk.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	_, err := local.OpenFS(disk, small)
	if !errors.Is(err, local.ErrDamaged) || !strings.Contains(err.Error(), "--new-key") {
		t.Errorf("Open = %v, want ErrDamaged and what to do", err)
	}
	for i, sample := range samples {
		if err := sample.Verify(t.Context(), open(t, disk, local.Options{ReadOnly: true}), uint64(i+1)); err != nil {
			t.Error(err)
		}
	}
	damaged := local.Options{PackSize: small.PackSize, Damaged: true}
	r := repair(t, open(t, disk, damaged), nil)
	if len(r.Lost) == 0 || r.Lost[0].Object != "keys/signing.key" || r.NewKey {
		t.Errorf("Repair = %+v", r)
	}
	r, err = open(t, disk, damaged).Repair(t.Context(), local.RepairOptions{NewKey: true})
	if err != nil || !r.NewKey || len(r.Lost) > 0 {
		t.Errorf("Repair with a new key = %+v, %v", r, err)
	}
	s := open(t, disk, small)
	if len(s.TrustedKeys()) != 2 {
		t.Errorf("%d trusted keys", len(s.TrustedKeys()))
	}
	wantWhole(t, "with a new key", s, samples)
	capture(t, s, samples[0])
}

// A store of a program that kept everything once gets its copies when it is opened for writing,
// and can be read before.
func TestStoreWithoutCopies(t *testing.T) {
	disk, samples := twoVersions(t)
	whole := files(t, disk, "copies", "")
	removeAll(t, disk, "copies")
	for i, sample := range samples {
		if err := sample.Verify(t.Context(), open(t, disk, local.Options{ReadOnly: true}), uint64(i+1)); err != nil {
			t.Error(err)
		}
	}
	wantWhole(t, "without copies", open(t, disk, small), samples)
	if got := files(t, disk, "copies", ""); !slices.Equal(got, whole) {
		t.Errorf("copies are %v, want %v", got, whole)
	}
	// A damaged manifest is not copied.
	removeAll(t, disk, "copies/images/lab")
	if err := disk.Corrupt("images/lab/1.manifest", func(b []byte) []byte { b[len(b)/2] ^= 1; return b }); err != nil {
		t.Fatal(err)
	}
	open(t, disk, small)
	if got := files(t, disk, "copies/images", ""); len(got) != 1 {
		t.Errorf("copies are %v, want that of version 2", got)
	}
}
