// Package vfs is what the chunk store needs of a file system: thirteen operations, so
// that a test can stop, fail or lose each of them.
//
// Dir is the real one, confined to a directory by os.Root. Child package memfs keeps
// files in memory and can show what a power cut would leave; faultfs (a sibling)
// makes chosen operations fail.
//
// What a caller may rely on after a crash, and no more:
//
//   - the bytes of a file up to its last Sync that returned nil;
//   - the entries of a directory (created, renamed, removed) up to its last SyncDir
//     that returned nil.
//
// An error of Sync or SyncDir is final: the kernel forgets which pages were not
// written, so a second call that succeeds proves nothing, nor does a read: it may be
// answered from memory. DropCache makes the next read come from the medium.
package vfs

import (
	"errors"
	"io"
	"io/fs"
)

// ErrLocked reports that somebody else holds a lock.
var ErrLocked = errors.New("locked by somebody else")

// FS is a tree of files. Names are slash-separated and relative, as fs.ValidPath wants.
// Errors are *fs.PathError or like it and keep fs.ErrNotExist, fs.ErrExist and the
// syscall.Errno for errors.Is. All methods may be called concurrently.
type FS interface {
	// Create makes a new file for writing and reading; it fails when name exists.
	Create(name string, perm fs.FileMode) (File, error)
	// Open opens a file for reading.
	Open(name string) (File, error)
	// OpenAppend opens an existing file for reading and for writing at its end.
	OpenAppend(name string) (File, error)
	// ReadDir lists a directory, sorted by name.
	ReadDir(name string) ([]fs.DirEntry, error)
	Stat(name string) (fs.FileInfo, error)
	// Rename moves a file and replaces the one at newName atomically.
	Rename(oldName, newName string) error
	Remove(name string) error
	Mkdir(name string, perm fs.FileMode) error
	// SyncDir makes the entries of a directory durable.
	SyncDir(name string) error
	// Lock takes an exclusive lock in the name of a file, which it creates when absent,
	// without waiting: ErrLocked when another process, or another Lock of this one, has
	// it. Close of the result, or the death of the process, gives it back; the file stays.
	Lock(name string) (io.Closer, error)
	// LockShared takes a lock of an existing file that any number may have, but nobody
	// beside one that Lock gave: ErrLocked. It needs no right to write.
	LockShared(name string) (io.Closer, error)
	// Free tells how many bytes can still be stored.
	Free() (int64, error)
	// Close gives back what the file system itself holds.
	Close() error
}

// File is an open file. Write appends.
type File interface {
	io.ReaderAt
	io.Writer
	io.Closer
	Sync() error
	// DropCache makes the system forget the file's pages that need not be written, so that
	// the next read comes from the medium. A file system that has none ignores it.
	DropCache()
	Truncate(size int64) error
	Stat() (fs.FileInfo, error)
}
