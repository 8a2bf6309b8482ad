// Package kernelfs makes file systems larger, and replays their journals, with the kernel's
// own code.
//
// The kernel of the appliance knows ext4, XFS and btrfs better than we ever could. It
// grows them while they are mounted, and replays a journal when it mounts. So:
//
//	a loop device on the partition's range of the disk (no partition nodes are needed,
//	and a disk image in a file works the same)
//	mount, on a directory of its own
//	the file system's ioctl, if it is to grow
//	unmount, flush
//
// A journal protects every step: a cut leaves a file system that the next mount repairs.
package kernelfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"

	"golang.org/x/sys/unix"
)

// Disk is a disk whose file systems the kernel is to change.
type Disk struct {
	Path   string // block device or file
	Sector quantity.SectorSize

	// Load makes sure that the kernel has a module; nil where the kernel loads modules
	// by itself.
	Load func(module string) error
}

// Disks are the disks of one deploy.
type Disks []Disk

// Grow is Disk.Grow of a disk, counted from 0.
func (d Disks) Grow(ctx context.Context, disk int, fsType string, where quantity.Extent) (quantity.Bytes, error) {
	return d[disk].Grow(ctx, fsType, where)
}

// kind is how a file system is mounted and made larger.
type kind struct {
	module  string // also the type to mount
	options string
	replay  string // more options, to replay the journal and do nothing else
	grow    func(root *os.File, size quantity.Bytes) error
	size    func(loop *os.File, root *os.File) (quantity.Bytes, error)
	forget  func(device string) error // what the kernel remembers after unmounting
}

func kinds() map[string]kind {
	// The inode tables of new groups are made by the system that uses the file system.
	// What its superblock says of errors may be to stop the machine.
	ext := kind{module: "ext4", options: "noinit_itable,errors=remount-ro", grow: growExt, size: sizeExt}
	return map[string]kind{
		"ext2": ext, "ext3": ext, "ext4": ext,
		// A machine may have another disk with a clone of the same file system.
		"xfs":   {module: "xfs", options: "nouuid", grow: growXFS, size: sizeXFS},
		"btrfs": {module: "btrfs", replay: "skip_balance", grow: growBtrfs, size: sizeBtrfs, forget: forgetBtrfs},
	}
}

// Modules are what Load may be asked for.
func Modules() []string { return []string{"loop", "ext4", "xfs", "btrfs"} }

// Grow makes the file system in a range of the disk fill that range, and returns its new
// size. It does nothing to one that does already. A *filesystem.UnchangedError says that
// it stays as it was; after other errors the disk may be bad.
func (d Disk) Grow(ctx context.Context, fsType string, where quantity.Extent) (quantity.Bytes, error) {
	k, ok := kinds()[fsType]
	if !ok {
		return 0, &filesystem.UnchangedError{Reason: fmt.Sprintf("the kernel cannot grow %s", fsType)}
	}
	var size quantity.Bytes
	err := d.mounted(k, k.options, where, func(device *os.File, dir string) (err error) {
		size, err = k.growAt(device, dir, where.Length)
		return err
	})
	return size, err
}

// Replay mounts the file system in a range of the disk and unmounts it, so that its journal
// is empty and everything in place. After a *filesystem.UnchangedError the kernel did not
// mount it. The file system may still be in doubt when all went well: look at it again.
func (d Disk) Replay(ctx context.Context, fsType string, where quantity.Extent) error {
	k, ok := kinds()[fsType]
	if !ok {
		reason := fmt.Sprintf("clonecast does not let the kernel replay the journal of %s", fsType)
		return &filesystem.UnchangedError{Reason: reason}
	}
	options := strings.Trim(k.options+","+k.replay, ",")
	return d.mounted(k, options, where, func(*os.File, string) error { return ctx.Err() })
}

// mounted calls do while the file system in a range of the disk is mounted, with its device
// and directory.
func (d Disk) mounted(k kind, options string, where quantity.Extent, do func(device *os.File, dir string) error) error {
	if d.Load != nil {
		for _, module := range []string{"loop", k.module} {
			if err := d.Load(module); err != nil {
				return &filesystem.UnchangedError{Reason: err.Error()}
			}
		}
	}
	l, err := attach(d.Path, d.Sector, where)
	if err != nil {
		return err
	}
	err = k.mounted(l.device, options, do)
	if err := l.close(); err != nil {
		return fmt.Errorf("write %s: %w", d.Path, err)
	}
	return err
}

func (k kind) mounted(device *os.File, options string, do func(device *os.File, dir string) error) error {
	dir, err := os.MkdirTemp("", "clonecast-mount-")
	if err != nil {
		return err
	}
	defer os.Remove(dir)
	const flags = unix.MS_NOATIME | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOSUID
	if err := unix.Mount(device.Name(), dir, k.module, flags, options); err != nil {
		if k.forget != nil {
			_ = k.forget(device.Name()) // it may not have been noticed at all
		}
		return &filesystem.UnchangedError{Reason: fmt.Sprintf("mount it as %s: %v", k.module, err)}
	}
	err = do(device, dir)
	if err := patiently(func() error { return unix.Unmount(dir, 0) }); err != nil {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	if k.forget != nil {
		err = errors.Join(err, patiently(func() error { return k.forget(device.Name()) }))
	}
	return err
}

// patience is how long a program may take that looks into every new mount, or that has got a
// copy of it in a mount namespace of its own.
const patience = 30 * time.Second

// patiently calls do until nobody keeps it busy.
func patiently(do func() error) error {
	started := time.Now()
	for {
		err := do()
		if !errors.Is(err, unix.EBUSY) || time.Since(started) > patience {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (k kind) growAt(device *os.File, dir string, length quantity.Bytes) (quantity.Bytes, error) {
	root, err := os.Open(dir)
	if err != nil {
		return 0, err
	}
	defer root.Close()
	err = k.grow(root, length)
	if errors.Is(err, unix.EIO) || errors.Is(err, unix.ENOMEM) {
		return 0, err
	}
	if err != nil {
		return 0, &filesystem.UnchangedError{Reason: err.Error()}
	}
	if err := unix.Syncfs(int(root.Fd())); err != nil {
		return 0, err
	}
	return k.size(device, root)
}
