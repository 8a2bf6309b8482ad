package kernelfs

import (
	"encoding/binary"
	"fmt"
	"os"
	"unsafe"

	"clonecast/internal/quantity"

	"golang.org/x/sys/unix"
)

// Requests of the file systems (linux/ext4.h: fs/ext4/ext4.h; fs/xfs/libxfs/xfs_fs.h;
// uapi/linux/btrfs.h). Amd64's and every other architecture's of Linux but for a few
// that no PC has.
const (
	extResizeFS     = 0x40086610 // EXT4_IOC_RESIZE_FS
	xfsGeometry     = 0x80705864 // XFS_IOC_FSGEOMETRY_V1
	xfsGrowData     = 0x4010586e // XFS_IOC_FSGROWFSDATA
	btrfsResize     = 0x50009403 // BTRFS_IOC_RESIZE
	btrfsForgetDev  = 0x50009405 // BTRFS_IOC_FORGET_DEV
	btrfsFSInfo     = 0x8400941f // BTRFS_IOC_FS_INFO
	btrfsDeviceInfo = 0xd000941e // BTRFS_IOC_DEV_INFO
)

func ioctl[T any](f *os.File, request uintptr, argument *T) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(unsafe.Pointer(argument))); errno != 0 {
		return errno
	}
	return nil
}

func growExt(root *os.File, size quantity.Bytes) error {
	var s unix.Statfs_t
	if err := unix.Fstatfs(int(root.Fd()), &s); err != nil {
		return err
	}
	blocks := uint64(size) / uint64(s.Bsize)
	err := ioctl(root, extResizeFS, &blocks)
	switch err {
	case nil:
		return nil
	case unix.EPERM:
		return fmt.Errorf("the kernel refuses (%w): it wants CAP_SYS_RESOURCE, and a file system without errors", err)
	case unix.EOPNOTSUPP:
		return fmt.Errorf("the kernel cannot grow an ext4 with its features (sparse_super2): %w", err)
	}
	return fmt.Errorf("grow to %d blocks: %w", blocks, err)
}

// sizeExt reads s_blocks_count and s_log_block_size from the superblock, which is on the
// device after the flush.
func sizeExt(loop, _ *os.File) (quantity.Bytes, error) {
	b := make([]byte, 1024)
	if _, err := loop.ReadAt(b, 1024); err != nil {
		return 0, fmt.Errorf("read the superblock: %w", err)
	}
	blocks := quantity.Bytes(binary.LittleEndian.Uint32(b[4:])) | quantity.Bytes(binary.LittleEndian.Uint32(b[0x150:]))<<32
	return blocks << (10 + binary.LittleEndian.Uint32(b[0x18:])), nil
}

// xfsGeom is struct xfs_fsop_geom_v1.
type xfsGeom struct {
	blockSize, rtExtSize, agBlocks, agCount uint32
	logBlocks, sectorSize, inodeSize        uint32
	imaxPercent                             uint32
	dataBlocks                              uint64
	_                                       [72]byte
}

func growXFS(root *os.File, size quantity.Bytes) error {
	var g xfsGeom
	if err := ioctl(root, xfsGeometry, &g); err != nil {
		return fmt.Errorf("ask for its geometry: %w", err)
	}
	// struct xfs_growfs_data
	grow := struct {
		blocks           uint64
		imaxPercent, pad uint32
	}{uint64(size) / uint64(g.blockSize), g.imaxPercent, 0}
	if grow.blocks <= g.dataBlocks {
		return nil
	}
	if err := ioctl(root, xfsGrowData, &grow); err != nil {
		return fmt.Errorf("grow from %d to %d blocks: %w", g.dataBlocks, grow.blocks, err)
	}
	return nil
}

func sizeXFS(_, root *os.File) (quantity.Bytes, error) {
	var g xfsGeom
	if err := ioctl(root, xfsGeometry, &g); err != nil {
		return 0, fmt.Errorf("ask for its geometry: %w", err)
	}
	return quantity.Bytes(g.dataBlocks) * quantity.Bytes(g.blockSize), nil
}

// btrfsVolume is struct btrfs_ioctl_vol_args.
type btrfsVolume struct {
	_    int64
	name [4088]byte
}

// btrfsInfo is struct btrfs_ioctl_fs_info_args.
type btrfsInfo struct {
	maxID, devices uint64
	_              [1008]byte
}

// minBtrfs is the smallest size that the kernel resizes a btrfs to.
const minBtrfs = 256 * quantity.MiB

func growBtrfs(root *os.File, size quantity.Bytes) error {
	if size < minBtrfs {
		return fmt.Errorf("the kernel grows a btrfs to %v at least", minBtrfs)
	}
	id, err := btrfsDevice(root)
	if err != nil {
		return err
	}
	var v btrfsVolume
	copy(v.name[:], fmt.Sprintf("%d:max", id))
	if err := ioctl(root, btrfsResize, &v); err != nil {
		return fmt.Errorf("grow device %d: %w", id, err)
	}
	return nil
}

// btrfsDevice is the number of the file system's only device.
func btrfsDevice(root *os.File) (uint64, error) {
	var info btrfsInfo
	if err := ioctl(root, btrfsFSInfo, &info); err != nil {
		return 0, fmt.Errorf("ask for its devices: %w", err)
	}
	if info.devices != 1 {
		return 0, fmt.Errorf("it has %d devices", info.devices)
	}
	return info.maxID, nil
}

// sizeBtrfs asks for total_bytes of struct btrfs_ioctl_dev_info_args.
func sizeBtrfs(_, root *os.File) (quantity.Bytes, error) {
	id, err := btrfsDevice(root)
	if err != nil {
		return 0, err
	}
	var info struct {
		id          uint64
		_           [16]byte
		used, total uint64
		_           [4056]byte
	}
	info.id = id
	if err := ioctl(root, btrfsDeviceInfo, &info); err != nil {
		return 0, fmt.Errorf("ask for the size of device %d: %w", id, err)
	}
	return quantity.Bytes(info.total), nil
}

// forgetBtrfs makes the kernel forget the loop device: it would look for the file system
// there when another clone of it is mounted.
func forgetBtrfs(device string) error {
	control, err := os.OpenFile("/dev/btrfs-control", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer control.Close()
	var v btrfsVolume
	copy(v.name[:], device)
	if err := ioctl(control, btrfsForgetDev, &v); err != nil {
		return fmt.Errorf("forget %s: %w", device, err)
	}
	return nil
}
