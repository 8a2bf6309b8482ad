package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"clonecast/internal/chunkstore/local"
	"clonecast/internal/chunkstore/storetest"
)

// runHere runs a command line with what a person types.
func runHere(t *testing.T, stdin string, code int, line []string, wants ...string) (stdout string) {
	t.Helper()
	var out, errs bytes.Buffer
	root := newRootCmd()
	root.SetIn(strings.NewReader(stdin))
	root.SetOut(&out)
	root.SetErr(&errs)
	root.SetArgs(line)
	got := report(&errs, root.ExecuteContext(t.Context()))
	text := out.String() + errs.String()
	if got != code {
		t.Errorf("clonecast %s: exit code %d, want %d\n%s", strings.Join(line, " "), got, code, text)
	}
	for _, want := range wants {
		if !strings.Contains(text, want) {
			t.Errorf("clonecast %s: no %q in\n%s", strings.Join(line, " "), want, text)
		}
	}
	return out.String()
}

// lastJSON decodes the last line of NDJSON, which must be of type summary.
func lastJSON(t *testing.T, out string, v any) {
	t.Helper()
	var kind struct{ Type string }
	if err := json.Unmarshal([]byte(lastLine(out)), &kind); err != nil || kind.Type != "summary" {
		t.Fatalf("the last line is %q, %v", lastLine(out), err)
	}
	if err := json.Unmarshal([]byte(lastLine(out)), v); err != nil {
		t.Fatal(err)
	}
}

// newLibrary is a store with lab@1 to lab@3 and room2@1, each of another content.
func newLibrary(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	store, err := local.Create(dir, local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"lab", "lab", "lab", "room2"} {
		disk, err := storetest.NewSample(name, uint64(i+1), 9, 3)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := disk.Capture(t.Context(), store); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// library lists what is in a store, as image@sequence.
func library(t *testing.T, dir string) (list []string) {
	t.Helper()
	for line := range strings.Lines(runHere(t, "", exitOK, []string{"store", "stats", "--store", dir, "--json"})) {
		var v struct {
			Type string
			versionStats
		}
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatal(err)
		}
		if v.Type == "version" {
			list = append(list, shelved{Image: v.Image, Sequence: v.Sequence}.String())
		}
	}
	return list
}

func wantLibrary(t *testing.T, dir string, want ...string) {
	t.Helper()
	if got := library(t, dir); !slices.Equal(got, want) {
		t.Errorf("the store has %v, want %v", got, want)
	}
}

func TestImageDelete(t *testing.T) {
	dir := newLibrary(t)
	all := []string{"lab@1", "lab@2", "lab@3", "room2@1"}
	in := func(args ...string) []string { return append([]string{"image", "delete", "--store", dir}, args...) }
	runHere(t, "", exitRefused, in("lab@1"),
		"1 version will be deleted", "lab@1", "frees ", "sample 1", "nothing was deleted")
	runHere(t, "no\n", exitRefused, in("lab@1"), "declined")
	runHere(t, "", exitOK, in("lab", "--dry-run"), "lab@1", "lab@3")
	runHere(t, "", exitNotFound, in("lab@7", "--yes"))
	runHere(t, "", exitNotFound, in("none", "--yes"), "hint: ")
	runHere(t, "", exitUsage, in("../lab", "--yes"))
	runHere(t, "", exitUsage, in())
	runHere(t, "", exitNotFound, []string{"image", "delete", "lab", "--yes", "--store", t.TempDir()}, "hint: ")
	wantLibrary(t, dir, all...)
	runHere(t, "yes\n", exitOK, in("lab@2"), "deleted lab@2")
	wantLibrary(t, dir, "lab@1", "lab@3", "room2@1")
	out := runHere(t, "", exitOK, in("lab", "--yes", "--json"), `{"type":"version","image":"lab","sequence":1,`)
	var summary removeSummary
	if lastJSON(t, out, &summary); summary.Versions != 2 || summary.DryRun {
		t.Errorf("summary %+v", summary)
	}
	wantLibrary(t, dir, "room2@1")
}

func TestImagePrune(t *testing.T) {
	dir := newLibrary(t)
	in := func(args ...string) []string { return append([]string{"image", "prune", "--store", dir}, args...) }
	runHere(t, "", exitUsage, in("--yes"), "--keep N or --keep-days D")
	runHere(t, "", exitUsage, in("--yes", "--keep", "-1"))
	runHere(t, "", exitNotFound, in("none", "--yes", "--keep", "1"))
	runHere(t, "", exitOK, in("--yes", "--keep-days", "1"), "no version to delete") // all are young
	runHere(t, "", exitOK, in("room2", "--yes", "--keep", "1"), "no version to delete")
	runHere(t, "", exitOK, in("--keep", "2", "--dry-run"), "lab@1")
	runHere(t, "", exitRefused, in("--keep", "2"), "1 version will be deleted", "nothing was deleted")
	wantLibrary(t, dir, "lab@1", "lab@2", "lab@3", "room2@1")
	runHere(t, "", exitOK, in("--keep", "2", "--yes"), "deleted lab@1\n")
	wantLibrary(t, dir, "lab@2", "lab@3", "room2@1")
}

func TestPruneRule(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	var list []shelved
	for i, days := range []int{40, 30, 8, 2, 1} {
		list = append(list, shelved{Image: "lab", Sequence: uint64(i + 1), Created: now.AddDate(0, 0, -days)})
	}
	list = append(list, shelved{Image: "old", Sequence: 4, Created: now.AddDate(-1, 0, 0)})
	for _, c := range []struct {
		rule pruneRule
		want []string
	}{
		{pruneRule{keep: 1}, []string{"lab@1", "lab@2", "lab@3", "lab@4"}},
		{pruneRule{keep: 4}, []string{"lab@1"}},
		{pruneRule{keep: 5}, nil},
		{pruneRule{days: 8}, []string{"lab@1", "lab@2", "lab@3"}},
		{pruneRule{days: 9}, []string{"lab@1", "lab@2"}},
		{pruneRule{keep: 4, days: 8}, []string{"lab@1"}},
		{pruneRule{keep: 1, days: 9}, []string{"lab@1", "lab@2"}},
	} {
		got, err := c.rule.choose(list, nil, now)
		var names []string
		for _, v := range got {
			names = append(names, v.String())
		}
		if err != nil || !slices.Equal(names, c.want) {
			t.Errorf("%+v deletes %v, %v; want %v", c.rule, names, err, c.want)
		}
	}
}

func TestStoreGC(t *testing.T) {
	dir := newLibrary(t)
	in := func(args ...string) []string { return append([]string{"store", "gc", "--store", dir}, args...) }
	runHere(t, "", exitOK, in("--min-age", "0"), "4 versions, ", "nothing to remove")
	runHere(t, "", exitOK, []string{"image", "delete", "lab@1", "--yes", "--store", dir})
	packs := func() int {
		list, err := filepath.Glob(filepath.Join(dir, "packs", "*.pack"))
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	before := packs()
	runHere(t, "", exitOK, in("--min-age", "0", "--dry-run"), "to remove: 1 pack")
	runHere(t, "", exitOK, in(), "nothing to remove") // the pack is younger than a day
	if packs() != before {
		t.Errorf("%d packs, want %d: nothing was to be removed", packs(), before)
	}
	out := runHere(t, "", exitOK, in("--min-age", "0", "--json"))
	var summary gcSummary
	if lastJSON(t, out, &summary); summary.Removed != 1 || summary.Freed == 0 || summary.Versions != 3 {
		t.Errorf("summary %+v", summary)
	}
	runHere(t, "", exitOK, []string{"store", "check", "--read-data", "--store", dir}, "3 versions")
	runHere(t, "", exitUsage, in("--min-age", "-1h"))
	runHere(t, "", exitNotFound, []string{"store", "gc", "--store", t.TempDir()})
}

func TestStoreStats(t *testing.T) {
	dir := newLibrary(t)
	runHere(t, "", exitOK, []string{"store", "stats", "--store", dir},
		"lab@3", "room2@1", "logical", "unique", "in 4 versions")
	out := runHere(t, "", exitOK, []string{"store", "stats", "--store", dir, "--json"})
	var s statsSummary
	lastJSON(t, out, &s)
	if s.Versions != 4 || s.Unique >= s.Logical || s.Stored > s.Bytes || s.Waste != s.Bytes-s.Stored || s.Missing != 0 {
		t.Errorf("summary %+v", s)
	}
	runHere(t, "", exitUsage, []string{"store", "stats"})
	runHere(t, "", exitNotFound, []string{"store", "stats", "--store", t.TempDir()})
}

// The same through a server, which refuses what a task needs.
func TestImageDeleteOnServer(t *testing.T) {
	r := newRoom(t)
	r.run("", exitOK, "machine adopt "+r.pc.ID+" --name pc1")
	r.run("", exitOK, "task run deploy --machine pc1 --image win --unseen --yes", "task 1")
	r.run("yes\n", exitRefused, "image delete win@1", "win@1", "first", "task 1 deploys win@1 to pc1", "hint: ")
	r.run("", exitOK, "image prune --keep 1 --yes", "no version to delete")
	r.run("", exitOK, "task cancel 1")
	r.run("", exitNotFound, "image delete win@2 --yes")
	r.run("", exitRefused, "image delete win@1", "nothing was deleted")
	r.run("yes\n", exitOK, "image delete win@1", "deleted win@1")
	r.run("", exitOK, "image list", "no images yet")
	r.run("", exitOK, "store gc --min-age 0", "0 versions", "nothing to remove")
	r.run("", exitOK, "store gc --dry-run --json", `"type":"summary"`)
}

func TestStoreRepair(t *testing.T) {
	dir, pack := newTestStore(t)
	other := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(other, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	in := func(args ...string) []string { return append([]string{"store", "repair", "--store", dir}, args...) }
	runHere(t, "", exitOK, in(), "0 problems found")
	b, err := os.ReadFile(pack)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-10] ^= 1
	if err := os.WriteFile(pack, b, 0o600); err != nil {
		t.Fatal(err)
	}
	runHere(t, "", exitFailed, in(), "lost ", "affects lab@1", "could not be healed", "hint: another store")
	runHere(t, "", exitUsage, in("--from", dir), "the store itself")
	runHere(t, "", exitNotFound, in("--from", t.TempDir()))
	out := runHere(t, "", exitOK, in("--from", other, "--json"), `{"type":"found","object":"packs/`)
	var s repairSummary
	if lastJSON(t, out, &s); !s.Sound || s.Healed == 0 || s.Replaced != 1 || s.Lost != 0 {
		t.Errorf("summary %+v", s)
	}
	runHere(t, "", exitOK, []string{"store", "check", "--read-data", "--store", dir}, "1 version")
	runHere(t, "", exitUsage, []string{"store", "repair"})
}

func TestImageExportImport(t *testing.T) {
	dir, to := newLibrary(t), filepath.Join(t.TempDir(), "other")
	file := filepath.Join(t.TempDir(), "lab.clonecast")
	runHere(t, "", exitNotFound, []string{"image", "export", "lab@9", file, "--store", dir})
	runHere(t, "", exitUsage, []string{"image", "export", "lab@2", file})
	runHere(t, "", exitOK, []string{"image", "export", "lab@2", file, "--store", dir}, "exported lab@2 (")
	runHere(t, "", exitRefused, []string{"image", "export", "lab@2", file, "--store", dir},
		"file already exists", "hint: ")
	out := runHere(t, "", exitOK, []string{"image", "export", "lab", file + "2", "--store", dir, "--json"})
	var s fileSummary
	if lastJSON(t, out, &s); s.Sequence != 3 || s.Bytes == 0 {
		t.Errorf("summary %+v", s)
	}
	in := func(args ...string) []string { return append([]string{"image", "import", "--store", to}, args...) }
	runHere(t, "", exitUsage, in(file, "--trust-key", "12"))
	runHere(t, "", exitUsage, in(file, "--name", "../x"))
	runHere(t, "", exitNotFound, in(file+"3"))
	text, err := os.ReadFile(filepath.Join(dir, "keys", "signing.pub"))
	if err != nil {
		t.Fatal(err)
	}
	key := strings.TrimSpace(string(text))
	runHere(t, "", exitRefused, in(file), "unknown here: "+key, "hint: ", "--trust-key "+key)
	runHere(t, "", exitRefused, in(file, "--trust-key", strings.Repeat("ab", 32)))
	wantLibrary(t, to)
	runHere(t, "", exitOK, in(file, "--trust-key", key), "as lab@1 (")
	out = runHere(t, "", exitOK, in(file+"2", "--trust-key", key, "--name", "copy", "--json"))
	if lastJSON(t, out, &s); s.Image != "copy" || s.Sequence != 1 || s.Stored == nil || *s.Stored == 0 {
		t.Errorf("summary %+v", s)
	}
	wantLibrary(t, to, "copy@1", "lab@1")
	runHere(t, "", exitOK, []string{"store", "check", "--read-data", "--store", to}, "2 versions")
	if err := os.Truncate(file, 3000); err != nil {
		t.Fatal(err)
	}
	runHere(t, "", exitFailed, in(file, "--trust-key", key), "ends early")
	wantLibrary(t, to, "copy@1", "lab@1")
	if left, err := filepath.Glob(filepath.Dir(file) + "/*.part"); err != nil || len(left) > 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}

func TestImageDiff(t *testing.T) {
	dir := newLibrary(t)
	in := func(args ...string) []string { return append([]string{"image", "diff", "--store", dir}, args...) }
	runHere(t, "", exitOK, in("lab@1", "lab@1"), "no difference")
	runHere(t, "", exitOK, in("lab@1", "lab", "--ranges"), "partition 1: ", "changed", "bytes at 262144", "together: ")
	out := runHere(t, "", exitOK, in("lab@1", "room2", "--json", "--ranges"),
		`{"type":"region","disk":0,"region":"partition 1"`, `"kind":"changed"`)
	var s diffSummary
	if lastJSON(t, out, &s); s.Same || s.Changed == 0 {
		t.Errorf("summary %+v", s)
	}
	runHere(t, "", exitNotFound, in("lab@1", "lab@9"))
	runHere(t, "", exitUsage, in("lab@1", "la/b"))
	runHere(t, "", exitUsage, []string{"image", "diff", "lab@1", "lab@2"})
}
