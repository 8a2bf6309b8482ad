package vfs_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"clonecast/internal/faultfs"
	"clonecast/internal/vfs"
	"clonecast/internal/vfs/memfs"
)

// each runs a test on every implementation, so that memfs keeps behaving like the real one.
func each(t *testing.T, test func(t *testing.T, f vfs.FS)) {
	t.Run("dir", func(t *testing.T) {
		f, err := vfs.Dir(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		test(t, f)
	})
	t.Run("memfs", func(t *testing.T) { test(t, memfs.New()) })
	t.Run("faultfs", func(t *testing.T) {
		test(t, faultfs.New(memfs.New(), func(faultfs.Op, string) error { return nil }))
	})
}

func create(t *testing.T, f vfs.FS, name, content string) vfs.File {
	t.Helper()
	file, err := f.Create(name, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	if _, err := io.WriteString(file, content); err != nil {
		t.Fatal(err)
	}
	return file
}

func read(t *testing.T, f vfs.FS, name string) string {
	t.Helper()
	file, err := f.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	b, err := io.ReadAll(io.NewSectionReader(file, 0, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestFiles(t *testing.T) {
	each(t, func(t *testing.T, f vfs.FS) {
		if err := f.Mkdir("d", 0o755); err != nil {
			t.Fatal(err)
		}
		file := create(t, f, "d/a", "hello")
		if err := errors.Join(file.Sync(), file.Truncate(4), f.SyncDir("d")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(file, "!"); err != nil {
			t.Fatal(err)
		}
		again, err := f.OpenAppend("d/a")
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		if _, err := io.WriteString(again, "?"); err != nil {
			t.Fatal(err)
		}
		create(t, f, "d/b", "old")
		if err := f.Rename("d/a", "d/b"); err != nil {
			t.Fatal(err)
		}
		if got := read(t, f, "d/b"); got != "hell!?" {
			t.Errorf("file holds %q", got)
		}
		entries, err := f.ReadDir("d")
		if err != nil || len(entries) != 1 || entries[0].Name() != "b" {
			t.Errorf("ReadDir = %v, %v", entries, err)
		}
		info, err := f.Stat("d/b")
		if err != nil || info.Size() != 6 || info.Mode().Perm() != 0o600 {
			t.Errorf("Stat = %v, %v", info, err)
		}
		if free, err := f.Free(); err != nil || free <= 0 {
			t.Errorf("Free = %d, %v", free, err)
		}
	})
}

func TestErrors(t *testing.T) {
	each(t, func(t *testing.T, f vfs.FS) {
		create(t, f, "a", "")
		if err := f.Mkdir("d", 0o755); err != nil {
			t.Fatal(err)
		}
		create(t, f, "d/x", "")
		_, open := f.Open("none")
		_, appended := f.OpenAppend("none")
		_, stat := f.Stat("none")
		_, list := f.ReadDir("none")
		_, created := f.Create("a", 0o600)
		_, isDir := f.Open("d")
		_, through := f.Open("a/b")
		_, outside := f.Open("../a")
		readOnly, err := f.Open("a")
		if err != nil {
			t.Fatal(err)
		}
		defer readOnly.Close()
		_, written := readOnly.Write([]byte("x"))
		for _, c := range []struct {
			name string
			got  error
			want error // nil: any error
		}{
			{"open", open, fs.ErrNotExist},
			{"append", appended, fs.ErrNotExist},
			{"stat", stat, fs.ErrNotExist},
			{"readdir", list, fs.ErrNotExist},
			{"rename", f.Rename("none", "b"), fs.ErrNotExist},
			{"remove", f.Remove("none"), fs.ErrNotExist},
			{"syncdir", f.SyncDir("none"), fs.ErrNotExist},
			{"create", created, fs.ErrExist},
			{"mkdir", f.Mkdir("d", 0o755), fs.ErrExist},
			{"remove full directory", f.Remove("d"), syscall.ENOTEMPTY},
			{"open directory", isDir, nil},
			{"open through a file", through, syscall.ENOTDIR},
			{"open outside", outside, nil},
			{"write a file opened for reading", written, nil},
		} {
			if c.got == nil || c.want != nil && !errors.Is(c.got, c.want) {
				t.Errorf("%s = %v, want %v", c.name, c.got, c.want)
			}
		}
	})
}

func TestDirStaysInside(t *testing.T) {
	outside, inside := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(inside, "link")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(inside, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := vfs.Dir(inside)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, name := range []string{"link/secret", "pipe"} {
		if _, err := f.Open(name); err == nil {
			t.Errorf("Open(%q) succeeds", name)
		}
	}
}

func TestLock(t *testing.T) {
	each(t, func(t *testing.T, f vfs.FS) {
		first, err := f.Lock("l")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Lock("l"); !errors.Is(err, vfs.ErrLocked) {
			t.Errorf("second Lock = %v, want ErrLocked", err)
		}
		// A holder may remove the file; the name is then free and the old lock harmless.
		if err := f.Remove("l"); err != nil {
			t.Fatal(err)
		}
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		second, err := f.Lock("l")
		if err != nil {
			t.Fatalf("Lock after unlock = %v", err)
		}
		if err := second.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func crash(f *memfs.FS, percent int, seed uint64) *memfs.FS {
	return f.CrashClone(percent, rand.New(rand.NewPCG(seed, 0)))
}

func TestCrashKeepsWhatWasSynced(t *testing.T) {
	f := memfs.New()
	file := create(t, f, "a", "durable ")
	if err := errors.Join(file.Sync(), f.SyncDir(".")); err != nil {
		t.Fatal(err)
	}
	unsynced := bytes.Repeat([]byte("x"), 4*512)
	if _, err := file.Write(unsynced); err != nil {
		t.Fatal(err)
	}
	create(t, f, "b", "unsynced entry")
	if got := read(t, crash(f, 0, 1), "a"); got != "durable " {
		t.Errorf("0 %%: %q", got)
	}
	if _, err := crash(f, 0, 1).Open("b"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("0 %%: an entry that was not synced is there: %v", err)
	}
	if got := read(t, crash(f, 100, 1), "a"); len(got) != 8+len(unsynced) {
		t.Errorf("100 %%: %d bytes", len(got))
	}
	outcomes, entries := map[string]bool{}, map[bool]bool{}
	for seed := range uint64(200) {
		c := crash(f, 50, seed)
		got := read(t, c, "a")
		if got[:8] != "durable " {
			t.Fatalf("50 %%: synced bytes are lost: %q", got[:8])
		}
		outcomes[got] = true
		_, err := c.Stat("b")
		entries[err == nil] = true
	}
	if len(outcomes) < 10 || len(entries) != 2 {
		t.Errorf("50 %%: only %d outcomes of the file, %d of the entry", len(outcomes), len(entries))
	}
}

func TestFullMemory(t *testing.T) {
	f := memfs.New()
	f.SetCapacity(10)
	file := create(t, f, "a", "12345")
	n, err := file.Write([]byte("1234567"))
	if n != 5 || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Write = %d, %v; want 5, ENOSPC", n, err)
	}
	if free, _ := f.Free(); free != 0 {
		t.Errorf("Free = %d", free)
	}
}

func TestNth(t *testing.T) {
	for _, persistent := range []bool{false, true} {
		inject := &faultfs.Nth{N: 2, Persistent: persistent, Err: syscall.EIO,
			Match: func(op faultfs.Op, _ string) bool { return op == faultfs.OpWrite }}
		file := create(t, faultfs.New(memfs.New(), inject.Inject), "a", "first")
		n, err := file.Write([]byte("second"))
		if n != 3 || !errors.Is(err, syscall.EIO) {
			t.Errorf("second write = %d, %v; want half of it and EIO", n, err)
		}
		_, err = file.Write([]byte("third"))
		if (err != nil) != persistent {
			t.Errorf("persistent %v: third write = %v", persistent, err)
		}
		if want := map[bool]int{false: 1, true: 2}[persistent]; inject.Fired() != want {
			t.Errorf("fired %d times, want %d", inject.Fired(), want)
		}
	}
}

func TestLockShared(t *testing.T) {
	each(t, func(t *testing.T, f vfs.FS) {
		if _, err := f.LockShared("l"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("LockShared of an absent file = %v, want ErrNotExist", err)
		}
		_ = create(t, f, "l", "").Close()
		var shared []io.Closer
		for range 2 {
			lock, err := f.LockShared("l")
			if err != nil {
				t.Fatalf("LockShared = %v", err)
			}
			shared = append(shared, lock)
		}
		for _, lock := range shared {
			if _, err := f.Lock("l"); !errors.Is(err, vfs.ErrLocked) {
				t.Errorf("Lock beside a shared one = %v, want ErrLocked", err)
			}
			if err := lock.Close(); err != nil {
				t.Fatal(err)
			}
		}
		lock, err := f.Lock("l")
		if err != nil {
			t.Fatalf("Lock after the shared ones ended = %v", err)
		}
		if _, err := f.LockShared("l"); !errors.Is(err, vfs.ErrLocked) {
			t.Errorf("LockShared beside Lock = %v, want ErrLocked", err)
		}
		if err := errors.Join(f.Remove("l"), lock.Close()); err != nil {
			t.Fatal(err)
		}
		if _, err := f.LockShared("l"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("LockShared of a removed file = %v, want ErrNotExist", err)
		}
	})
}

// A failed sync forgets what it should have written: the next one succeeds and writes nothing of
// it, and only DropCache shows that.
func TestForgottenSync(t *testing.T) {
	disk := memfs.New()
	fail := true
	f := create(t, faultfs.New(disk, func(op faultfs.Op, _ string) error {
		if op == faultfs.OpSync && fail {
			return syscall.EIO
		}
		return nil
	}), "a", string(bytes.Repeat([]byte("x"), 512)))
	if err := f.Sync(); !errors.Is(err, syscall.EIO) {
		t.Fatalf("Sync = %v", err)
	}
	fail = false
	if _, err := io.WriteString(f, "later"); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), disk.SyncDir(".")); err != nil {
		t.Fatal(err)
	}
	want := string(make([]byte, 512)) + "later"
	if got := read(t, crash(disk, 100, 1), "a"); got != want {
		t.Errorf("after a crash the file holds %q", got)
	}
	if got := read(t, disk, "a"); got[0] != 'x' {
		t.Errorf("memory holds %q", got)
	}
	f.DropCache()
	if got := read(t, disk, "a"); got != want {
		t.Errorf("after DropCache the file holds %q", got)
	}
}

func TestSilentFaults(t *testing.T) {
	for fault, want := range map[error]string{faultfs.ErrShort: "12", faultfs.ErrRot: "1224", nil: "1234"} {
		disk := memfs.New()
		file, err := faultfs.New(disk, func(op faultfs.Op, _ string) error {
			if op == faultfs.OpWrite {
				return fault
			}
			return nil
		}).Create("a", 0o600)
		if err != nil {
			t.Fatal(err)
		}
		err = vfs.WriteAll(file, []byte("1234"))
		if short := errors.Is(err, io.ErrShortWrite); short != (fault == faultfs.ErrShort) || !short && err != nil {
			t.Errorf("%v: WriteAll = %v", fault, err)
		}
		if got := read(t, disk, "a"); got != want {
			t.Errorf("%v: the file holds %q, want %q", fault, got, want)
		}
	}
	disk := memfs.New()
	create(t, disk, "a", "x")
	lossy := faultfs.New(disk, func(op faultfs.Op, _ string) error {
		return map[bool]error{true: faultfs.ErrLost}[op == faultfs.OpRename]
	})
	if err := lossy.Rename("a", "b"); err != nil {
		t.Errorf("Rename = %v", err)
	}
	if entries, err := disk.ReadDir("."); err != nil || len(entries) > 0 {
		t.Errorf("ReadDir = %v, %v", entries, err)
	}
}

// Replace fails at every operation, and the machine loses its power before each: the name has what
// it had before or what it should have.
func TestReplace(t *testing.T) {
	each(t, func(t *testing.T, f vfs.FS) {
		for _, content := range []string{"first", "second, longer"} {
			err := vfs.Replace(f, "a.new", "a", 0o600, func(w io.Writer) error { return vfs.WriteAll(w, []byte(content)) })
			if err != nil || read(t, f, "a") != content {
				t.Errorf("Replace = %v, the file holds %q", err, read(t, f, "a"))
			}
		}
	})
	for n := 1; ; n++ {
		disk := memfs.New()
		old := create(t, disk, "a", "old")
		if err := errors.Join(old.Sync(), disk.SyncDir(".")); err != nil {
			t.Fatal(err)
		}
		inject := &faultfs.Nth{N: n, Err: syscall.EIO}
		var cut []*memfs.FS
		err := vfs.Replace(faultfs.New(disk, func(op faultfs.Op, name string) error {
			for _, percent := range []int{0, 50, 100} {
				cut = append(cut, crash(disk, percent, uint64(n)))
			}
			return inject.Inject(op, name)
		}), "a.new", "a", 0o600, func(w io.Writer) error { return vfs.WriteAll(w, []byte("new content")) })
		for _, c := range append(cut, disk) {
			if got := read(t, c, "a"); got != "old" && got != "new content" {
				t.Fatalf("operation %d: the file holds %q", n, got)
			}
		}
		var lost *vfs.SyncError
		if got := read(t, disk, "a"); err != nil && !errors.As(err, &lost) && got != "old" {
			t.Errorf("operation %d: Replace = %v, and the file holds %q", n, err, got)
		}
		if inject.Fired() == 0 {
			if err != nil || n < 6 || read(t, crash(disk, 0, 1), "a") != "new content" {
				t.Errorf("without a fault, after %d operations: %v", n, err)
			}
			return
		}
	}
}

// WriteFile makes a file appear whole, with the mode that was asked for, and leaves nothing beside it.
func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "a")
	for _, content := range []string{"first", "second"} {
		if err := vfs.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(name); err != nil || string(got) != content {
			t.Errorf("the file holds %q, %v", got, err)
		}
	}
	if err := vfs.ReplaceFile(name, 0o600, func(io.Writer) error { return syscall.EIO }); !errors.Is(err, syscall.EIO) {
		t.Errorf("ReplaceFile = %v, want what the writer says", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("left are %v, %v", entries, err)
	}
	if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := vfs.WriteFile(filepath.Join(dir, "none", "a"), nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("WriteFile in no directory = %v, want ErrNotExist", err)
	}
}
