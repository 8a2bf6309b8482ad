package local_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"clonecast/internal/chunkstore"
	"clonecast/internal/chunkstore/local"
	"clonecast/internal/disktest"
	"clonecast/internal/quantity"
	"clonecast/internal/vfs"
)

// mount mounts a file system of the kernel for the test.
func mount(t *testing.T, args ...string) string {
	t.Helper()
	dir := t.TempDir()
	disktest.Run(t, "", "mount", append(args, dir)...)
	t.Cleanup(func() {
		if _, err := disktest.Try("", "umount", dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// A real disk that fills up while a capture runs, with no reserve to stop it before: the error
// says so, nothing that was there is lost, and the capture goes on when there is room.
func TestRealDiskFull(t *testing.T) {
	t.Parallel()
	for name, mountNew := range map[string]func(t *testing.T) string{
		"tmpfs": func(t *testing.T) string { return mount(t, "-t", "tmpfs", "-o", "size=1m", "tmpfs") },
		"ext4": func(t *testing.T) string {
			file := disktest.Image(t, 8*quantity.MiB)
			disktest.Run(t, "", "mkfs.ext4", "-q", "-m", "0", file)
			return mount(t, "-o", "loop", file)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := mountNew(t)
			opts := local.Options{Reserve: -1, PackSize: 64 * quantity.KiB}
			s, err := local.Create(filepath.Join(dir, "store"), opts)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = s.Close() }()
			first := newSample(t, 1, 60, 0)
			capture(t, s, first)
			failed := 0
			for i, room := range []int64{0, 4, 50, 120, 180} {
				where := fmt.Sprintf("%d KiB free", room)
				sample := newSample(t, uint64(i+2), 400, 0)
				filler := fill(t, dir, room<<10)
				_, _, err := sample.Capture(t.Context(), s)
				if err != nil && !errors.Is(err, chunkstore.ErrFull) {
					t.Errorf("%s: capture = %v, want ErrFull", where, err)
				}
				if err != nil {
					failed++
				}
				p := slices.DeleteFunc(check(t, s, true), func(p chunkstore.Problem) bool {
					return strings.HasPrefix(p.Object, "index/") // there was no room for it
				})
				if len(p) > 0 {
					t.Errorf("%s: Check = %v", where, p)
				}
				if err := os.Remove(filler); err != nil {
					t.Fatal(err)
				}
				if s, err = reopen(s, filepath.Join(dir, "store"), opts); err != nil {
					t.Fatalf("%s: Open = %v", where, err)
				}
				v, _, err := sample.Capture(t.Context(), s)
				if err == nil {
					err = errors.Join(first.Verify(t.Context(), s, 1), sample.Verify(t.Context(), s, v.Sequence))
				}
				if err != nil {
					t.Fatalf("%s: with room again: %v", where, err)
				}
				list, err := s.Versions(t.Context(), "lab")
				if err != nil {
					t.Fatal(err)
				}
				for _, v := range list[1:] {
					remove(t, s, v.Sequence)
				}
				collect(t, s, 0)
			}
			if failed < 3 {
				t.Errorf("only %d of 5 captures found the disk full: the test has lost its bite", failed)
			}
		})
	}
}

func reopen(s *local.Store, dir string, opts local.Options) (*local.Store, error) {
	if err := s.Close(); err != nil {
		return nil, err
	}
	return local.Open(dir, opts)
}

// fill leaves so many bytes of a file system free and gives the file that has the rest.
func fill(t *testing.T, dir string, leave int64) string {
	t.Helper()
	fsys, err := vfs.Dir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer fsys.Close()
	name := filepath.Join(dir, "filler")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for {
		free, err := fsys.Free()
		if err != nil {
			t.Fatal(err)
		}
		if free <= leave {
			return name
		}
		_, err = f.Write(make([]byte, free-leave))
		if err == nil {
			err = f.Sync()
		}
		if errors.Is(err, syscall.ENOSPC) {
			return name // the file system keeps some blocks for itself
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
