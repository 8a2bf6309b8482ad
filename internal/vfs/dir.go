package vfs

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// dir is a directory of the machine's file system. os.Root keeps every name inside it,
// symbolic links included.
type dir struct {
	path string
	root *os.Root
}

// Dir opens a directory as a file system.
func Dir(path string) (FS, error) {
	if info, err := os.Stat(path); err == nil && !info.IsDir() { // opening a FIFO would wait for a writer
		return nil, &fs.PathError{Op: "open", Path: path, Err: syscall.ENOTDIR}
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	return &dir{path, root}, nil
}

func (d *dir) Create(name string, perm fs.FileMode) (File, error) {
	return d.open(name, os.O_RDWR|os.O_CREATE|os.O_EXCL|os.O_APPEND, perm)
}

func (d *dir) Open(name string) (File, error) { return d.open(name, os.O_RDONLY, 0) }

func (d *dir) OpenAppend(name string) (File, error) {
	return d.open(name, os.O_RDWR|os.O_APPEND, 0)
}

// file is an open file of a dir.
type file struct{ *os.File }

// DropCache implements File. The advice is only taken for pages that are clean, and not by
// every file system: there is nothing to do about an error.
func (f file) DropCache() { _ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) }

// open refuses what is not a plain file: a store never reads devices or pipes.
func (d *dir) open(name string, flag int, perm fs.FileMode) (File, error) {
	f, err := d.root.OpenFile(name, flag|syscall.O_NONBLOCK, perm)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: name, Err: errors.New("not a regular file")}
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return file{f}, nil
}

func (d *dir) ReadDir(name string) ([]fs.DirEntry, error) {
	f, err := d.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	entries, err := f.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return cmp.Compare(a.Name(), b.Name()) })
	return entries, nil
}

func (d *dir) Stat(name string) (fs.FileInfo, error)     { return d.root.Stat(name) }
func (d *dir) Rename(oldName, newName string) error      { return d.root.Rename(oldName, newName) }
func (d *dir) Remove(name string) error                  { return d.root.Remove(name) }
func (d *dir) Mkdir(name string, perm fs.FileMode) error { return d.root.Mkdir(name, perm) }
func (d *dir) Close() error                              { return d.root.Close() }

func (d *dir) SyncDir(name string) error {
	f, err := d.root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Lock uses flock(2), which ends with the process and also excludes another open of
// the same file in this process. The holder may remove the file before it unlocks:
// one that locked a file which is no longer there tries again with the new one.
func (d *dir) Lock(name string) (io.Closer, error) {
	for {
		f, err := d.root.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		lock, err := d.flock(f, name, syscall.LOCK_EX)
		if lock != nil || err != nil {
			return lock, err
		}
	}
}

// LockShared is Lock without the right to be alone. A file that its holder removed is gone.
func (d *dir) LockShared(name string) (io.Closer, error) {
	for {
		f, err := d.root.Open(name)
		if err != nil {
			return nil, err
		}
		lock, err := d.flock(f, name, syscall.LOCK_SH)
		if lock != nil || err != nil {
			return lock, err
		}
	}
}

// flock locks f, which was opened by that name. It gives neither lock nor error when the name
// is no longer that file's. On anything but success it closes f.
func (d *dir) flock(f *os.File, name string, how int) (io.Closer, error) {
	err := flock(f, how)
	if err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = ErrLocked
		}
		return nil, &fs.PathError{Op: "lock", Path: name, Err: err}
	}
	locked, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	if named, err := d.root.Stat(name); err == nil && os.SameFile(locked, named) {
		return f, nil
	}
	_ = f.Close()
	return nil, nil
}

func flock(f *os.File, how int) error {
	for {
		err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB)
		if err != syscall.EINTR {
			return err
		}
	}
}

func (d *dir) Free() (int64, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(d.path, &s); err != nil {
		return 0, fmt.Errorf("ask %s for its free space: %w", d.path, err)
	}
	if s.Bsize <= 0 || s.Bavail > math.MaxInt64/uint64(s.Bsize) {
		return math.MaxInt64, nil
	}
	return int64(s.Bavail) * s.Bsize, nil
}
