package disktest

import (
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

// Reader is the Read function of a file system.
type Reader func(r io.ReaderAt, size quantity.Bytes) (filesystem.Volume, error)

// Volume reads the file system in an image, which must be possible.
func Volume(t testing.TB, path string, read Reader) filesystem.Volume {
	t.Helper()
	f := Open(t, path)
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	v, err := read(f, quantity.Bytes(info.Size()))
	if err != nil {
		t.Fatalf("Read: %v", err)
	}
	return v
}

// CheckVolume holds what the reader of a file system says of a partition of the given
// size, however damaged it is, to what every reader promises.
func CheckVolume(t testing.TB, v filesystem.Volume, err error, size quantity.Bytes) {
	t.Helper()
	if err != nil {
		var corrupt *filesystem.CorruptError
		if !errors.As(err, &corrupt) && !errors.Is(err, filesystem.ErrNotFound) {
			t.Fatalf("Read = %v, of no known kind", err)
		}
		if diff := cmp.Diff(filesystem.Volume{}, v); diff != "" {
			t.Fatalf("a volume comes with the error %v: %s", err, diff)
		}
		return
	}
	if (v.Doubt == nil) != (v.Allocated != nil) {
		t.Fatalf("Doubt %+v with %d extents", v.Doubt, len(v.Allocated))
	}
	end := quantity.Bytes(-1)
	for i, e := range v.Allocated {
		if e.Length <= 0 || e.Start <= end || e.End() > size {
			t.Fatalf("extent %d: %+v after %d in %d", i, e, end, size)
		}
		end = e.End()
	}
}
