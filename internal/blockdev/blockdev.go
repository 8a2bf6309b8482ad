// Package blockdev opens disks: Linux block devices, and files that hold a disk's
// bytes.
//
// Large aligned reads and writes of a block device bypass the page cache (O_DIRECT):
// that is faster and what is read back is what the medium holds. All others go
// through the cache; the kernel keeps the two coherent.
package blockdev

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"clonecast/internal/quantity"

	"golang.org/x/sys/unix"
)

// alignment is what O_DIRECT asks of address, offset and length; it serves every
// logical sector size up to 4096.
const alignment = 4096

// Device is an open disk.
type Device struct {
	Path           string
	Size           quantity.Bytes
	LogicalSector  quantity.SectorSize
	PhysicalSector quantity.SectorSize
	Model          string
	Serial         string
	Block          bool // a block device, not a file

	file   *os.File
	direct *os.File // nil for files and where O_DIRECT is refused
}

// ErrBusy is wrapped by a *BusyError.
var ErrBusy = errors.New("the disk is in use")

// BusyError reports a disk that something else uses.
type BusyError struct {
	Path  string
	Users []string // what uses it, in words; may be empty
}

func (e *BusyError) Error() string {
	text := fmt.Sprintf("open %s: %v", e.Path, ErrBusy)
	if len(e.Users) > 0 {
		text += ": " + strings.Join(e.Users, "; ")
	}
	return text
}

func (e *BusyError) Unwrap() error { return ErrBusy }

// purpose is what a disk is opened for, and so what others may do with it meanwhile.
type purpose int

const (
	look  purpose = iota // read, whatever happens to it
	read                 // read what does not change
	write                // nobody else has to do with it
)

// Open opens a disk for reading, whoever else uses it; Users tells.
func Open(path string) (*Device, error) { return open(path, look) }

// OpenUnused opens a disk for reading. One that may change while it is read is a *BusyError: it, a partition or
// a device upon it is mounted, swap or part of a RAID or LVM, or another process has locked it for writing, as
// QEMU and clonecast do. A loop device that nobody uses does not matter.
func OpenUnused(path string) (*Device, error) { return open(path, read) }

// OpenExclusive opens a disk for reading and writing. One that anything else uses is a *BusyError, also a file
// that a loop device is attached to: that would go on showing what was there. Until it is closed QEMU and clonecast
// refuse to use it.
func OpenExclusive(path string) (*Device, error) { return open(path, write) }

func open(path string, why purpose) (*Device, error) {
	info, err := os.Stat(path) // before it is opened: a FIFO would wait for a writer
	if err != nil {
		return nil, err
	}
	d := &Device{Path: path, Block: info.Mode()&os.ModeDevice != 0 && info.Mode()&os.ModeCharDevice == 0}
	if !d.Block && !info.Mode().IsRegular() {
		return nil, &NotDiskError{Path: path, Mode: info.Mode()}
	}
	mode := os.O_RDONLY
	if why == write {
		mode = os.O_RDWR
	}
	flags := mode
	switch {
	case !d.Block:
		flags |= unix.O_NONBLOCK // should it be a FIFO by now
	case why != look:
		flags |= unix.O_EXCL
	}
	d.file, err = os.OpenFile(path, flags, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, &BusyError{path, d.reasons(info, true)}
	}
	if err != nil {
		return nil, err
	}
	if err = d.claim(why); err == nil {
		err = d.describe(info)
	}
	if err != nil {
		return nil, errors.Join(err, d.file.Close())
	}
	if d.Block {
		// Without O_DIRECT everything still works, through the cache.
		d.direct, _ = os.OpenFile(path, mode|unix.O_DIRECT, 0)
	}
	return d, nil
}

// NotDiskError reports a path that leads to neither a block device nor a file.
type NotDiskError struct {
	Path string
	Mode os.FileMode
}

func (e *NotDiskError) Error() string {
	kind := "a character device"
	switch {
	case e.Mode.IsDir():
		kind = "a directory"
	case e.Mode&os.ModeNamedPipe != 0:
		kind = "a pipe"
	case e.Mode&os.ModeSocket != 0:
		kind = "a socket"
	}
	return fmt.Sprintf("open %s: it is %s, neither a block device nor a file", e.Path, kind)
}

// claim refuses a disk that something else uses, and keeps others off as far as the purpose asks for.
func (d *Device) claim(why purpose) error {
	if why == look {
		return nil
	}
	info, err := d.file.Stat()
	if err != nil {
		return err
	}
	lock := lockForReading
	if why == write {
		lock = lockForWriting
	}
	users := d.reasons(info, why == write)
	if err := lock(d.file); err != nil {
		n, _ := nodeOf(info)
		users = append(users, lockedBy(n))
	}
	if len(users) > 0 {
		return &BusyError{d.Path, users}
	}
	return nil
}

// reasons lists who uses the disk; idle ones count as well if all do.
func (d *Device) reasons(info os.FileInfo, all bool) []string {
	var out []string
	if n, ok := nodeOf(info); ok {
		for _, u := range usersOf(n) {
			if all || !u.idle {
				out = append(out, u.text)
			}
		}
	}
	return out
}

// Users lists in words what else uses a disk that was opened for reading only, and may change it.
func (d *Device) Users() []string {
	info, err := d.file.Stat()
	if err != nil {
		return nil
	}
	out := d.reasons(info, false)
	if testLock(d.file, useBase+permWrite, 1) != nil || testLock(d.file, useBase+permResize, 1) != nil {
		n, _ := nodeOf(info)
		out = append(out, lockedBy(n))
	}
	return out
}

func (d *Device) describe(info os.FileInfo) error {
	if !d.Block {
		d.Size, d.LogicalSector, d.PhysicalSector = quantity.Bytes(info.Size()), 512, 512
		return nil
	}
	size, err := d.file.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("size of %s: %w", d.Path, err)
	}
	d.Size = quantity.Bytes(size)
	logical, err := unix.IoctlGetInt(int(d.file.Fd()), unix.BLKSSZGET)
	if err != nil {
		return fmt.Errorf("sector size of %s: %w", d.Path, err)
	}
	physical, err := unix.IoctlGetInt(int(d.file.Fd()), unix.BLKPBSZGET)
	if err != nil {
		physical = logical
	}
	d.LogicalSector, d.PhysicalSector = quantity.SectorSize(logical), quantity.SectorSize(physical)
	if !d.LogicalSector.Valid() {
		return fmt.Errorf("sector size of %s: %d bytes is not supported", d.Path, logical)
	}
	if name, err := filepath.EvalSymlinks(d.Path); err == nil {
		facts := readFacts(filepath.Join(sysBlock, filepath.Base(name)))
		d.Model, d.Serial = facts.Model, facts.Serial
	}
	return nil
}

func (d *Device) pick(b []byte, off int64) *os.File {
	if d.direct == nil || len(b) == 0 || len(b)%alignment != 0 || off%alignment != 0 ||
		uintptr(unsafe.Pointer(&b[0]))%alignment != 0 {
		return d.file
	}
	return d.direct
}

// ReadAt reads len(b) bytes at off.
func (d *Device) ReadAt(b []byte, off int64) (int, error) {
	if d.inHole(off, int64(len(b))) {
		clear(b)
		return len(b), nil
	}
	return d.pick(b, off).ReadAt(b, off)
}

// sparseRead is from which length on a look for a hole is worth a system call.
const sparseRead = 64 << 10

// inHole tells whether bytes of a file lie in a hole. Reading one fills the page cache with
// zeroes, at a tenth of the speed of clearing memory. Where holes cannot be told, there are none.
func (d *Device) inHole(off, length int64) bool {
	if d.Block || length < sparseRead || off < 0 || off+length > int64(d.Size) {
		return false
	}
	data, err := unix.Seek(int(d.file.Fd()), off, unix.SEEK_DATA)
	if err == unix.ENXIO { // no data from here to the end, wherever that is by now
		info, err := d.file.Stat()
		return err == nil && info.Size() >= off+length
	}
	return err == nil && data >= off+length
}

// WriteAt writes b at off. It never makes a file longer.
func (d *Device) WriteAt(b []byte, off int64) (int, error) {
	if off < 0 || off > int64(d.Size)-int64(len(b)) {
		return 0, fmt.Errorf("write %s: %d bytes at %d leave its %d bytes", d.Path, len(b), off, int64(d.Size))
	}
	return d.pick(b, off).WriteAt(b, off)
}

// Sync makes everything written durable. An error is final: what was written before it
// may be lost even if a later call succeeds.
func (d *Device) Sync() error { return d.file.Sync() }

// Trim tells the disk that nobody needs the bytes; what they read as afterwards is not
// defined. Of a file it makes a hole. A disk that cannot is an errors.ErrUnsupported.
func (d *Device) Trim(start, length quantity.Bytes) error {
	if start < 0 || length < 0 || start > d.Size-length {
		return fmt.Errorf("trim %s: %d bytes at %d leave its %d bytes", d.Path, int64(length), int64(start), int64(d.Size))
	}
	if !d.Block {
		const hole = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
		for {
			err := unix.Fallocate(int(d.file.Fd()), hole, int64(start), int64(length))
			if err != unix.EINTR { // by a signal of the Go runtime
				return os.NewSyscallError("fallocate", err)
			}
		}
	}
	span := [2]uint64{uint64(start), uint64(length)}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, d.file.Fd(), unix.BLKDISCARD, uintptr(unsafe.Pointer(&span)))
	if errno != 0 {
		return os.NewSyscallError("discard", errno)
	}
	return nil
}

// DropCache forgets cached pages, so that the next read comes from the medium.
func (d *Device) DropCache() error {
	if !d.Block {
		return unix.Fadvise(int(d.file.Fd()), 0, 0, unix.FADV_DONTNEED)
	}
	return ioctlNoArgument(d.file, unix.BLKFLSBUF)
}

// RereadPartitions tells the kernel that the partition table changed. For a file it does
// nothing.
func (d *Device) RereadPartitions() error {
	if !d.Block {
		return nil
	}
	err := ioctlNoArgument(d.file, unix.BLKRRPART)
	if errors.Is(err, unix.EINVAL) {
		return nil // a device that cannot have partitions
	}
	return err
}

// Close closes the disk.
func (d *Device) Close() error {
	var direct error
	if d.direct != nil {
		direct = d.direct.Close()
	}
	return errors.Join(d.file.Close(), direct)
}

func (d *Device) String() string {
	parts := []string{d.Path, d.Size.String()}
	if d.Model != "" {
		parts = append(parts, d.Model)
	}
	if d.Serial != "" {
		parts = append(parts, "serial "+d.Serial)
	}
	return strings.Join(parts, ", ")
}

func ioctlNoArgument(f *os.File, request uint) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), uintptr(request), 0); errno != 0 {
		return errno
	}
	return nil
}
