package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"clonecast/internal/blockdev"
	"clonecast/internal/chunkstore/local"
	"clonecast/internal/clone"
	"clonecast/internal/container"
	"clonecast/internal/text"
)

// openDisk opens a disk that a command line names. A file that holds a disk in another form is refused, and
// so is one that belongs to a store.
func openDisk(path string, open func(string) (*blockdev.Device, error)) (*blockdev.Device, error) {
	if err := notInStore(path); err != nil {
		return nil, err
	}
	dev, err := open(path)
	if err != nil {
		return nil, diskError(err)
	}
	if err := notContainer(dev); err != nil {
		return nil, errors.Join(err, dev.Close())
	}
	return dev, nil
}

// notContainer refuses a file that is a disk only for the program that made it. What is on a block device is
// the disk.
func notContainer(dev *blockdev.Device) error {
	if dev.Block {
		return nil
	}
	format, found, err := container.Detect(dev, int64(dev.Size))
	if err != nil {
		return fmt.Errorf("read %s: %w", dev.Path, err)
	}
	if !found {
		return nil
	}
	return withCode(exitRefused, fmt.Errorf("%s is %s, not a disk byte for byte", dev.Path, format.Name),
		fmt.Sprintf("make a plain file of it: %s", format.Convert(dev.Path)))
}

// notInStore refuses a path within a store: writing there would destroy images, reading there is a mistake.
func notInStore(path string) error {
	real, err := filepath.EvalSymlinks(path)
	if err != nil { // not there yet: its directory counts
		if real, err = filepath.EvalSymlinks(filepath.Dir(path)); err != nil {
			return nil
		}
	}
	if real, err = filepath.Abs(real); err != nil {
		return nil
	}
	for dir := real; ; dir = filepath.Dir(dir) {
		if local.IsStore(dir) {
			return withCode(exitRefused, fmt.Errorf("%s belongs to the store %s", path, dir), "choose a file elsewhere")
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

// differentDisks refuses disks that share bytes: the same one under two names, a file and its loop device, a
// disk and a partition of it.
func differentDisks(paths []string) error {
	for i, a := range paths {
		for _, b := range paths[:i] {
			if blockdev.Overlap(a, b) {
				return withCode(exitRefused, fmt.Errorf("%s and %s are the same disk, or one is a part of the other",
					b, a), "name each disk once")
			}
		}
	}
	return nil
}

// warnInUse says who may change a disk while it is read.
func warnInUse(rep *reporter, dev *blockdev.Device) {
	for _, user := range dev.Users() {
		rep.warn("%s is in use, what is read may change meanwhile: %s", text.Escape(dev.Path), text.Escape(user))
	}
}

// absent gives the error of a target that is not there the command that makes it.
func absent(err error, path string, d clone.Geometry) error {
	if errors.Is(err, fs.ErrNotExist) {
		return withCode(exitNotFound, err, fmt.Sprintf("for a disk image file make it first: truncate -s %d %s",
			d.Size, path))
	}
	return err
}

// writableDirectory tells early whether a file can be made beside another one.
func writableDirectory(path string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".clonecast-*")
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = withCode(exitNotFound, &fs.PathError{Op: "write", Path: path, Err: fs.ErrNotExist},
				"its directory is not there")
		}
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}
