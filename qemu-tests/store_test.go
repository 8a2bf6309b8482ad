package qemutests

import (
	"bytes"
	"path/filepath"
	"testing"

	"clonecast/internal/chunk"
	localstore "clonecast/internal/chunkstore/local"
	"clonecast/internal/image"
	"clonecast/qemu-tests/testdisk"
)

// TestStoreHoldsNoFreeSpace decodes every chunk of a capture. The source's free space is full of marks, and none
// is stored; that the search would find one is shown by a text of a file.
func TestStoreHoldsNoFreeSpace(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	source := testdisk.DualBootOriginal(t, 63)
	capture(t, source, "pc", dir)
	store, err := localstore.Open(dir, localstore.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	envelope, err := store.Manifest(t.Context(), "pc", 0)
	if err != nil {
		t.Fatal(err)
	}
	manifest, _, err := image.Open(envelope, store.TrustedKeys())
	if err != nil {
		t.Fatal(err)
	}
	var ids []chunk.ID
	for i := range manifest.Disks {
		for _, c := range manifest.Disks[i].Contents() {
			ids = append(ids, c.Chunks...)
		}
	}
	decoder, err := chunk.NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	defer decoder.Close()
	letters := 0
	var marks []testdisk.Mark
	err = store.Frames(t.Context(), ids, func(frame []byte) error {
		_, plain, err := decoder.Decode(frame, nil)
		letters += bytes.Count(plain, []byte("line of letter 1 on file system 8"))
		marks = append(marks, testdisk.Marks(plain)...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if letters == 0 {
		t.Error("the store lacks the text of a letter: the search finds nothing")
	}
	if all := testdisk.MarksIn(t, source); len(testdisk.Free(t, source, all)) < len(all)/2 {
		t.Error("the judge of free space does not know it")
	}
	testdisk.ReportFree(t, source, "the store", marks)
}
