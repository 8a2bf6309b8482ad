package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// partFile is a file that is being written and takes its name when it is whole. Until then it is called
// .NAME.clonecast-part in the same directory and is locked. What a killed command left under that name is taken
// over by the next one; while another one writes it, it is refused.
type partFile struct {
	*os.File
	name string // that it will have
	part string
}

// maxPartBase keeps the name of a part within the 255 bytes of file systems.
const maxPartBase = 200

// createPart opens the part of a file.
func createPart(name string) (*partFile, error) {
	base := filepath.Base(name)
	p := &partFile{name: name, part: filepath.Join(filepath.Dir(name), "."+base[:min(len(base),
		maxPartBase)]+".clonecast-part")}
	for {
		f, err := os.OpenFile(p.part, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, withCode(exitNotFound, &fs.PathError{Op: "write", Path: name, Err: fs.ErrNotExist},
				"its directory is not there")
		}
		if err != nil {
			return nil, err
		}
		ours, err := lockPart(f, p.part)
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		if !ours { // who had it before gave it another name or removed it meanwhile
			if err := f.Close(); err != nil {
				return nil, err
			}
			continue
		}
		p.File = f
		if err := f.Truncate(0); err != nil {
			return nil, errors.Join(err, p.discard())
		}
		return p, nil
	}
}

// lockPart takes a part for this process alone, and tells whether it still stands under its name.
func lockPart(f *os.File, part string) (bool, error) {
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	if !info.Mode().IsRegular() {
		return false, &fs.PathError{Op: "write", Path: part, Err: errors.New("it is no file")}
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == unix.EWOULDBLOCK {
		return false, withCode(exitRefused, fmt.Errorf("another process writes %s", part),
			"wait for it, or choose another name")
	} else if err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return false, os.NewSyscallError("flock", err)
	}
	now, err := os.Lstat(part)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(info, now), err
}

// finish makes the file durable and gives it its name. A file that has come there meanwhile is replaced only if
// that is asked for.
func (p *partFile) finish(replace bool) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, p.discard())
		}
	}()
	if err := p.Sync(); err != nil {
		return err
	}
	if err := rename(p.part, p.name, replace); err != nil {
		return err
	}
	return errors.Join(p.Close(), syncDirectory(filepath.Dir(p.name)))
}

func rename(from, to string, replace bool) error {
	if replace {
		return os.Rename(from, to)
	}
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if err == unix.EINVAL || err == unix.ENOSYS { // a file system without that promise
		if _, err := os.Lstat(to); err == nil {
			return &fs.PathError{Op: "write", Path: to, Err: fs.ErrExist}
		}
		return os.Rename(from, to)
	}
	if err != nil {
		return &fs.PathError{Op: "write", Path: to, Err: err}
	}
	return nil
}

// discard removes the part. After finish it does nothing.
func (p *partFile) discard() error {
	err := os.Remove(p.part)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if e := p.Close(); !errors.Is(e, os.ErrClosed) {
		err = errors.Join(err, e)
	}
	return err
}
