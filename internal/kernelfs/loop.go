package kernelfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"

	"golang.org/x/sys/unix"
)

// loop is a loop device on a range of a disk.
type loop struct {
	device  *os.File
	backing *os.File
}

// attachTries is how often a free loop device is looked for: between looking and taking
// another program may take it.
const attachTries = 16

// attach makes a loop device of a range of the disk. It goes away with its last user.
func attach(path string, sector quantity.SectorSize, where quantity.Extent) (*loop, error) {
	backing, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		err = &filesystem.UnchangedError{Reason: "no loop devices: " + err.Error()}
	}
	if err != nil {
		return nil, errors.Join(err, backing.Close())
	}
	defer control.Close()
	config := unix.LoopConfig{Fd: uint32(backing.Fd()), Size: uint32(sector), Info: unix.LoopInfo64{
		Offset: uint64(where.Start), Sizelimit: uint64(where.Length), Flags: unix.LO_FLAGS_AUTOCLEAR,
	}}
	for range attachTries {
		device, err := freeLoop(control)
		if err != nil {
			return nil, errors.Join(err, backing.Close())
		}
		err = unix.IoctlLoopConfigure(int(device.Fd()), &config)
		if err == nil {
			return &loop{device, backing}, nil
		}
		device.Close()
		if !errors.Is(err, unix.EBUSY) {
			return nil, errors.Join(fmt.Errorf("set up %s: %w", device.Name(), err), backing.Close())
		}
	}
	return nil, errors.Join(errors.New("no free loop device"), backing.Close())
}

func freeLoop(control *os.File) (*os.File, error) {
	n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return nil, fmt.Errorf("find a free loop device: %w", err)
	}
	return os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
}

// close brings everything to the disk and gives the loop device back.
func (l *loop) close() error {
	err := errors.Join(l.device.Sync(), l.backing.Sync())
	return errors.Join(err, l.device.Close(), l.backing.Close())
}
