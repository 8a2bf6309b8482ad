package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// A manifest is lost: the check names it, the version can still be listed, and a repair brings the
// file back byte for byte.
func TestStoreLostManifest(t *testing.T) {
	dir, _ := newTestStore(t)
	file := filepath.Join(dir, "images", "lab", "1.manifest")
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	check := []string{"store", "check", "--store", dir}
	repair := []string{"store", "repair", "--store", dir}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	runHere(t, "", exitFailed, check,
		"images/lab/1.manifest: is missing", "no version is lost by it", "clonecast store repair")
	wantLibrary(t, dir, "lab@1")
	runHere(t, "", exitOK, repair, "found  images/lab/1.manifest: ", "made anew  images/lab/1.manifest")
	runHere(t, "", exitOK, check)
	if after, err := os.ReadFile(file); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the manifest is not what it was: %v", err)
	}
}

// The signing key is lost with its copy: every command says so with what to do, a repair makes
// nothing up, and a new key is made when that is asked for.
func TestStoreLostKey(t *testing.T) {
	dir, _ := newTestStore(t)
	for _, file := range []string{"keys/signing.key", "copies/keys/signing.key"} {
		if err := os.Remove(filepath.Join(dir, file)); err != nil {
			t.Fatal(err)
		}
	}
	repair := []string{"store", "repair", "--store", dir}
	means := "keys/signing.key: is missing; new versions are signed with it"
	runHere(t, "", exitFailed, []string{"store", "check", "--store", dir}, means, "--new-key")
	runHere(t, "", exitFailed, []string{"store", "gc", "--store", dir}, "keys/signing.key is missing", "--new-key")
	runHere(t, "", exitFailed, repair, "lost   "+means)
	out := runHere(t, "", exitOK, append(repair, "--new-key", "--json"))
	var s repairSummary
	if lastJSON(t, out, &s); !s.Sound || !s.NewKey {
		t.Errorf("summary %+v", s)
	}
	runHere(t, "", exitOK, []string{"store", "check", "--read-data", "--store", dir}, "1 version")
	runHere(t, "", exitOK, []string{"store", "gc", "--store", dir})
}

// A damaged format is named, not taken for a directory that is no store.
func TestStoreLostFormat(t *testing.T) {
	dir, _ := newTestStore(t)
	if err := os.Remove(filepath.Join(dir, "format")); err != nil {
		t.Fatal(err)
	}
	runHere(t, "", exitFailed, []string{"store", "check", "--store", dir}, "format: is missing; without it no program")
	runHere(t, "", exitFailed, []string{"store", "stats", "--store", dir}, "format is missing", "clonecast store repair")
	runHere(t, "", exitOK, []string{"store", "repair", "--store", dir}, "made anew  format")
	runHere(t, "", exitOK, []string{"store", "stats", "--store", dir})
}
