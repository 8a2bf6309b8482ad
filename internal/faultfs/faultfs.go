// Package faultfs makes chosen operations of a file system fail.
//
// A test counts the operations of a run, then repeats it with the first, the second,
// ... the last of them failing, once or from there on. Every operation of vfs.FS and
// vfs.File that can fail on a real machine asks the Injector first. A write that fails
// leaves half of its bytes behind, as a full disk does. A sync that fails forgets what it
// should have written, as the kernel does, where the inner file system can (memfs).
//
// Three faults are silent: the operation says that all is well.
package faultfs

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"sync"

	"clonecast/internal/vfs"
)

// Silent faults: an Injector returns one of them, and the operation returns nil.
var (
	// ErrShort lets a write store half of its bytes. It says how many, which os.File never does
	// without an error.
	ErrShort = errors.New("short write")
	// ErrRot flips a bit of what a write stores.
	ErrRot = errors.New("rotten write")
	// ErrLost lets the file vanish that a rename moves.
	ErrLost = errors.New("lost file")
)

// Op is a kind of operation.
type Op string

const (
	OpCreate   Op = "create"
	OpOpen     Op = "open"
	OpReadDir  Op = "readdir"
	OpStat     Op = "stat"
	OpRename   Op = "rename"
	OpRemove   Op = "remove"
	OpMkdir    Op = "mkdir"
	OpSyncDir  Op = "syncdir"
	OpLock     Op = "lock"
	OpFree     Op = "free"
	OpRead     Op = "read"
	OpWrite    Op = "write"
	OpSync     Op = "sync"
	OpTruncate Op = "truncate"
	OpClose    Op = "close"
)

// Changes tells whether op changes the medium.
func (op Op) Changes() bool {
	switch op {
	case OpCreate, OpRename, OpRemove, OpMkdir, OpSyncDir, OpLock, OpWrite, OpSync, OpTruncate:
		return true
	}
	return false
}

// Injector is asked before each operation; a non-nil error is what the operation
// returns. It may be called concurrently.
type Injector func(op Op, name string) error

// FS wraps a file system.
type FS struct {
	vfs.FS
	inject Injector
}

// New wraps inner.
func New(inner vfs.FS, inject Injector) *FS { return &FS{inner, inject} }

// Nth fails the operation with number N, counted from 1, among those that Match
// accepts, and with Persistent all later ones too.
type Nth struct {
	N          int
	Persistent bool
	Err        error
	Match      func(op Op, name string) bool // nil matches all

	mu    sync.Mutex
	seen  int
	fired int
}

// Inject is the Injector.
func (n *Nth) Inject(op Op, name string) error {
	if n.Match != nil && !n.Match(op, name) {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.seen++
	if n.seen < n.N || n.seen > n.N && !n.Persistent {
		return nil
	}
	n.fired++
	return &fs.PathError{Op: string(op), Path: name, Err: n.Err}
}

// Fired tells how many operations failed so far.
func (n *Nth) Fired() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.fired
}

func (f *FS) file(inner vfs.File, name string) vfs.File { return &file{inner, f.inject, name} }

func (f *FS) Create(name string, perm fs.FileMode) (vfs.File, error) {
	if err := f.inject(OpCreate, name); err != nil {
		return nil, err
	}
	inner, err := f.FS.Create(name, perm)
	if err != nil {
		return nil, err
	}
	return f.file(inner, name), nil
}

func (f *FS) Open(name string) (vfs.File, error) {
	if err := f.inject(OpOpen, name); err != nil {
		return nil, err
	}
	inner, err := f.FS.Open(name)
	if err != nil {
		return nil, err
	}
	return f.file(inner, name), nil
}

func (f *FS) OpenAppend(name string) (vfs.File, error) {
	if err := f.inject(OpOpen, name); err != nil {
		return nil, err
	}
	inner, err := f.FS.OpenAppend(name)
	if err != nil {
		return nil, err
	}
	return f.file(inner, name), nil
}

func (f *FS) ReadDir(name string) ([]fs.DirEntry, error) {
	if err := f.inject(OpReadDir, name); err != nil {
		return nil, err
	}
	return f.FS.ReadDir(name)
}

func (f *FS) Stat(name string) (fs.FileInfo, error) {
	if err := f.inject(OpStat, name); err != nil {
		return nil, err
	}
	return f.FS.Stat(name)
}

func (f *FS) Rename(oldName, newName string) error {
	if err := f.inject(OpRename, newName); errors.Is(err, ErrLost) {
		if err := f.FS.Rename(oldName, newName); err != nil {
			return err
		}
		return f.FS.Remove(newName)
	} else if err != nil {
		return err
	}
	return f.FS.Rename(oldName, newName)
}

func (f *FS) Remove(name string) error {
	if err := f.inject(OpRemove, name); err != nil {
		return err
	}
	return f.FS.Remove(name)
}

func (f *FS) Mkdir(name string, perm fs.FileMode) error {
	if err := f.inject(OpMkdir, name); err != nil {
		return err
	}
	return f.FS.Mkdir(name, perm)
}

func (f *FS) SyncDir(name string) error {
	if err := f.inject(OpSyncDir, name); err != nil {
		return err
	}
	return f.FS.SyncDir(name)
}

func (f *FS) Lock(name string) (io.Closer, error) {
	if err := f.inject(OpLock, name); err != nil {
		return nil, err
	}
	return f.FS.Lock(name)
}

func (f *FS) LockShared(name string) (io.Closer, error) {
	if err := f.inject(OpLock, name); err != nil {
		return nil, err
	}
	return f.FS.LockShared(name)
}

func (f *FS) Free() (int64, error) {
	if err := f.inject(OpFree, "."); err != nil {
		return 0, err
	}
	return f.FS.Free()
}

type file struct {
	vfs.File
	inject Injector
	name   string
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	if err := f.inject(OpRead, f.name); err != nil {
		return 0, err
	}
	return f.File.ReadAt(p, off)
}

func (f *file) Write(p []byte) (int, error) {
	err := f.inject(OpWrite, f.name)
	switch {
	case err == nil:
		return f.File.Write(p)
	case errors.Is(err, ErrRot) && len(p) > 0:
		rotten := bytes.Clone(p)
		rotten[len(p)/2] ^= 1
		return f.File.Write(rotten)
	}
	n, _ := f.File.Write(p[:len(p)/2])
	if errors.Is(err, ErrShort) {
		return n, nil
	}
	return n, err
}

func (f *file) Sync() error {
	if err := f.inject(OpSync, f.name); err != nil {
		if inner, ok := f.File.(interface{ FailSync() }); ok {
			inner.FailSync()
		}
		return err
	}
	return f.File.Sync()
}

func (f *file) Truncate(size int64) error {
	if err := f.inject(OpTruncate, f.name); err != nil {
		return err
	}
	return f.File.Truncate(size)
}

func (f *file) Stat() (fs.FileInfo, error) {
	if err := f.inject(OpStat, f.name); err != nil {
		return nil, err
	}
	return f.File.Stat()
}

// Close always gives the file back; an injected error says so late, as close(2) does.
func (f *file) Close() error {
	return errors.Join(f.inject(OpClose, f.name), f.File.Close())
}
