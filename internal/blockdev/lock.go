package blockdev

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Disks are locked with open file description locks as QEMU locks them (block/file-posix.c): who uses a
// permission holds a read lock on byte 100 + its number, who lets nobody else use it on byte 200 + its number.
// So a running virtual PC and a clone keep each other off, and so do two clones.
const (
	useBase  = 100
	denyBase = 200

	permRead   = 0 // a consistent read
	permWrite  = 1
	permResize = 3
)

// lockForWriting keeps everybody else off the disk while it is open.
func lockForWriting(f *os.File) error {
	return setLock(f, unix.F_WRLCK, 0, 0)
}

// lockForReading lets others read, and keeps writers off the disk while it is open.
func lockForReading(f *os.File) error {
	for _, at := range []int64{useBase + permRead, denyBase + permWrite, denyBase + permResize} {
		if err := setLock(f, unix.F_RDLCK, at, 1); err != nil {
			return err
		}
	}
	for _, at := range []int64{useBase + permWrite, useBase + permResize, denyBase + permRead} {
		if err := testLock(f, at, 1); err != nil {
			return err
		}
	}
	return nil
}

// errLocked reports a disk that another process has locked.
var errLocked = errors.New("another process has locked it")

// setLock takes a lock on length bytes, 0 for all to the end. A file system without locks has none to respect.
func setLock(f *os.File, kind int16, start, length int64) error {
	l := unix.Flock_t{Type: kind, Whence: io.SeekStart, Start: start, Len: length}
	err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &l)
	if err == unix.EAGAIN || err == unix.EACCES {
		return errLocked
	}
	return nil
}

// testLock tells whether a write lock could be had.
func testLock(f *os.File, start, length int64) error {
	l := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Start: start, Len: length}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &l); err == nil && l.Type != unix.F_UNLCK {
		return errLocked
	}
	return nil
}

// lockedBy says who has locked a disk.
func lockedBy(n node) string {
	if names := openedBy(n); len(names) > 0 {
		return fmt.Sprintf("locked by another process (%s)", names[0])
	}
	return "locked by another process"
}
