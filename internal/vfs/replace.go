package vfs

import (
	"errors"
	"io"
	"io/fs"
	"path"
)

// SyncError marks the failure of an fsync, which is final: see the package comment.
type SyncError struct{ Err error }

func (e *SyncError) Error() string { return e.Err.Error() }
func (e *SyncError) Unwrap() error { return e.Err }

func syncFailed(err error) error {
	if err == nil {
		return nil
	}
	return &SyncError{err}
}

// WriteAll writes all of b, or tells why not: io.ErrShortWrite when nobody else does.
func WriteAll(w io.Writer, b []byte) error {
	n, err := w.Write(b)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	return err
}

// Replace gives a name a new file, or its first one: after a crash at any point the name has
// what it had before or all that write wrote. It writes to temp, a name in the same file
// system that nobody else uses and that is free on return, syncs, renames, and syncs the directory.
//
// When only that last step fails, with a *SyncError, the name has the new file, but a power cut
// may still bring the old one back. On every other error it has what it had before.
func Replace(f FS, temp, name string, perm fs.FileMode, write func(io.Writer) error) error {
	if err := f.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file, err := f.Create(temp, perm)
	if err != nil {
		return err
	}
	err = write(file)
	if err == nil {
		err = syncFailed(file.Sync())
	}
	if err = errors.Join(err, file.Close()); err == nil {
		err = f.Rename(temp, name)
	}
	if err != nil {
		_ = f.Remove(temp)
		return err
	}
	return syncFailed(f.SyncDir(path.Dir(name)))
}
