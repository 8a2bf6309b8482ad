package disktest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

// Mount runs a mount command, in which DEV stands for dev and DIR for a directory of
// the test's, and returns the directory. What Unmount does not unmount the end of the
// test does.
//
// The directory lies on a shared mount: a program that another test starts with mounts
// of its own gets a copy of ours, and without sharing the file system would stay in use
// there after Unmount.
func Mount(t testing.TB, dev, command string) string {
	t.Helper()
	shared := t.TempDir()
	Run(t, "", "mount", "--bind", shared, shared)
	t.Cleanup(func() { Run(t, "", "umount", shared) }) // not Unmount, which would remount what shared lies on
	Run(t, "", "mount", "--make-shared", shared)
	dir := filepath.Join(shared, "mnt")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	Command(t, command, "DEV", dev, "DIR", dir)
	t.Cleanup(func() { Try("", "umount", dir) })
	return dir
}

// Unmount unmounts what Mount mounted. The file system is made read-only first: should a
// process have a mount namespace of its own, where it stays mounted, it is whole all the same.
func Unmount(t testing.TB, dir string) {
	t.Helper()
	_, _ = Try("", "mount", "-o", "remount,ro", dir) // not known to FUSE
	Run(t, "", "umount", dir)
}

// unforked runs f while this process starts no other one: a child holds all open files
// until its exec, and a file system whose files are open cannot be unmounted.
func unforked(f func() error) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	return f()
}

// Command runs the words of a command; replace holds words that stand for others.
func Command(t testing.TB, command string, replace ...string) string {
	t.Helper()
	words := strings.Fields(command)
	for i, w := range words {
		words[i] = strings.NewReplacer(replace...).Replace(w)
	}
	return Run(t, "", words[0], words[1:]...)
}

// Fill writes n files of random bytes and lengths up to the longest, and deletes every
// third of them, so that there are holes between the files.
func Fill(t testing.TB, dir string, n int, longest quantity.Bytes) {
	t.Helper()
	writeFiles(t, dir, n, longest)
	for i := 0; i < n; i += 3 {
		if err := os.Remove(filepath.Join(dir, fileName(i))); err != nil {
			t.Fatal(err)
		}
	}
}

// FillFAT does what Fill does, with mtools: to a FAT volume in an image or on a device.
func FillFAT(t testing.TB, dev string, n int, longest quantity.Bytes) {
	t.Helper()
	dir := t.TempDir()
	writeFiles(t, dir, n, longest)
	subs, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	Run(t, "", "mcopy", append(append([]string{"-s", "-Q", "-i", dev}, subs...), "::/")...)
	var third []string
	for i := 0; i < n; i += 3 {
		third = append(third, "::/"+fileName(i))
	}
	Run(t, "", "mdel", append([]string{"-i", dev}, third...)...)
}

func fileName(i int) string { return filepath.Join(fmt.Sprintf("d%d", i%7), fmt.Sprintf("file %d", i)) }

func writeFiles(t testing.TB, dir string, n int, longest quantity.Bytes) {
	t.Helper()
	random := rand.NewChaCha8([32]byte{1})
	for i := range n {
		b := make([]byte, 1+random.Uint64()%uint64(longest))
		_, _ = random.Read(b)
		name := filepath.Join(dir, fileName(i))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unforked(func() error { return os.WriteFile(name, b, 0o644) }); err != nil {
			t.Fatal(err)
		}
	}
}

// HashesFAT does what Hashes does, with mtools.
func HashesFAT(t testing.TB, dev string) map[string]string {
	t.Helper()
	dir := t.TempDir()
	Run(t, "", "mcopy", "-s", "-n", "-i", dev, "::/*", dir)
	return Hashes(t, dir)
}

// Hashes gives the SHA-256 of every file under dir. It fails when there is none.
func Hashes(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		var b []byte
		err = unforked(func() (err error) {
			b, err = os.ReadFile(path)
			return err
		})
		if err != nil {
			return err
		}
		sum := sha256.Sum256(b)
		out[strings.TrimPrefix(path, dir)] = hex.EncodeToString(sum[:])
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) == 0 {
		t.Fatalf("no files in %s", dir)
	}
	return out
}

// Scribble overwrites every byte of a disk image outside the allocated extents.
func Scribble(t testing.TB, path string, allocated []quantity.Extent) {
	t.Helper()
	f := Open(t, path)
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	size := quantity.Bytes(info.Size())
	if quantity.Total(allocated) >= size {
		t.Fatal("nothing is free: the test would show nothing")
	}
	garbage := bytes.Repeat([]byte{0xa5}, int(quantity.MiB))
	at := quantity.Bytes(0)
	for _, e := range append(slices.Clone(allocated), quantity.Extent{Start: size}) {
		for ; at < e.Start; at += quantity.MiB {
			if _, err := f.WriteAt(garbage[:min(quantity.MiB, e.Start-at)], int64(at)); err != nil {
				t.Fatal(err)
			}
		}
		at = e.End()
	}
}

// Blkid gives what blkid finds on an image or device: TYPE, UUID, LABEL; empty when
// there is no such tag.
func Blkid(t testing.TB, path, tag string) string {
	t.Helper()
	const nothingFound = 2
	out, err := exec.Command("blkid", "-p", "-o", "value", "-s", tag, path).Output()
	if exit := (*exec.ExitError)(nil); err != nil && (!errors.As(err, &exit) || exit.ExitCode() != nothingFound) {
		t.Fatalf("blkid (make deps installs it): %v", err)
	}
	return strings.TrimSuffix(string(out), "\n")
}

// Identity gives the type, UUID and label that blkid finds on an image or device.
func Identity(t testing.TB, path string) [3]string {
	t.Helper()
	return [3]string{Blkid(t, path, "TYPE"), Blkid(t, path, "UUID"), Blkid(t, path, "LABEL")}
}

// HashesOf gives what Hashes gives of files that a lister found on the partition r.
func HashesOf(t testing.TB, r io.ReaderAt, files []filesystem.File) map[string]string {
	t.Helper()
	out := map[string]string{}
	for i := range files {
		h := sha256.New()
		n, err := io.Copy(h, files[i].NewReader(r))
		if err != nil || n != int64(files[i].Size) {
			t.Errorf("%s: read %d of %d bytes, %v", files[i].Path, n, int64(files[i].Size), err)
		}
		if out["/"+files[i].Path] != "" {
			t.Errorf("%s is listed twice", files[i].Path)
		}
		out["/"+files[i].Path] = hex.EncodeToString(h.Sum(nil))
	}
	return out
}
