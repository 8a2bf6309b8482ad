package blockdev

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// node is what a path leads to: a block device by its number, or a file by device and inode.
type node struct {
	block    bool
	dev, ino uint64 // of a file
	rdev     uint64 // of a block device
}

func nodeOf(info os.FileInfo) (node, bool) {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return node{}, false
	}
	if info.Mode()&os.ModeDevice != 0 && info.Mode()&os.ModeCharDevice == 0 {
		return node{block: true, rdev: s.Rdev}, true
	}
	return node{dev: s.Dev, ino: s.Ino}, true
}

func nodeAt(path string) (node, bool) {
	info, err := os.Stat(path)
	if err != nil {
		return node{}, false
	}
	return nodeOf(info)
}

// sysfs is the kernel's directory of a block device, or "".
func (n node) sysfs() string {
	if !n.block {
		return ""
	}
	dir, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(n.rdev), unix.Minor(n.rdev)))
	if err != nil {
		return ""
	}
	return dir
}

// blockNode reads the number of a block device from its sysfs directory.
func blockNode(dir string) (node, bool) {
	b, err := os.ReadFile(filepath.Join(dir, "dev"))
	if err != nil {
		return node{}, false
	}
	major, minor, _ := strings.Cut(strings.TrimSpace(string(b)), ":")
	x, errX := strconv.ParseUint(major, 10, 32)
	y, errY := strconv.ParseUint(minor, 10, 32)
	return node{block: true, rdev: unix.Mkdev(uint32(x), uint32(y))}, errX == nil && errY == nil
}

func isPartition(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "partition"))
	return err == nil
}

// family is the node and what shares its bytes by partitions: those of a disk, the disk of a partition.
func (n node) family() []node {
	out := []node{n}
	dir := n.sysfs()
	if dir == "" {
		return out
	}
	if isPartition(dir) {
		if disk, ok := blockNode(filepath.Dir(dir)); ok {
			out = append(out, disk)
		}
		return out
	}
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if sub := filepath.Join(dir, e.Name()); e.IsDir() && isPartition(sub) {
			if part, ok := blockNode(sub); ok {
				out = append(out, part)
			}
		}
	}
	return out
}

// loopDevice is a loop device with what it is attached to.
type loopDevice struct {
	name    string // loop0
	self    node
	backing node
}

// loopDevices lists the attached loop devices. Who may not open them learns what lies behind from the
// path that sysfs shows, if that is still true.
func loopDevices() []loopDevice {
	files, _ := filepath.Glob(sysBlock + "/loop*/loop/backing_file")
	var out []loopDevice
	for _, file := range files {
		dir := filepath.Dir(filepath.Dir(file))
		l := loopDevice{name: filepath.Base(dir)}
		var ok bool
		if l.self, ok = blockNode(dir); !ok {
			continue
		}
		if l.backing, ok = loopBacking(filepath.Join("/dev", l.name)); !ok {
			path, err := os.ReadFile(file)
			if err != nil {
				continue
			}
			if l.backing, ok = nodeAt(strings.TrimSuffix(string(path), "\n")); !ok {
				continue
			}
		}
		out = append(out, l)
	}
	return out
}

// loopBacking asks a loop device what it is attached to (LOOP_GET_STATUS64, loop(4)).
func loopBacking(path string) (node, bool) {
	f, err := os.Open(path)
	if err != nil {
		return node{}, false
	}
	defer f.Close()
	info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
	if err != nil {
		return node{}, false
	}
	if info.Rdevice != 0 {
		return node{block: true, rdev: info.Rdevice}, true
	}
	return node{dev: info.Device, ino: info.Inode}, true
}

// user is something that uses a disk.
type user struct {
	text string
	idle bool // a loop device that nobody uses: it changes nothing by itself
}

// maxStack bounds how many devices are followed that stand upon one another.
const maxStack = 8

// usersOf finds who uses the bytes of a disk, except by opening it: mounts, swap, devices built upon it,
// loop devices, also those upon its partitions and upon one another.
func usersOf(n node) []user { return stack(n, loopDevices(), 0) }

func stack(n node, loops []loopDevice, depth int) []user {
	var out []user
	for _, m := range n.family() {
		for _, text := range slices.Concat(mountsOf(m), swapsOf(m), holdersOf(m)) {
			out = append(out, user{text: text})
		}
		for _, l := range loops {
			if l.backing != m || l.self == n || depth == maxStack {
				continue
			}
			above := stack(l.self, loops, depth+1)
			u := user{text: fmt.Sprintf("/dev/%s is attached to it", l.name), idle: !claimed(l.name)}
			for _, a := range above {
				u.idle = u.idle && a.idle
				u.text += ", " + a.text
			}
			out = append(out, u)
		}
	}
	return out
}

// claimed tells whether somebody holds a block device or a partition of it for himself: by a mount, also of
// another mount namespace, as swap or by a device upon it.
func claimed(name string) bool {
	fd, err := unix.Open(filepath.Join("/dev", name), unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if err == nil {
		unix.Close(fd)
	}
	return err == unix.EBUSY
}

// mountsOf finds the mounts of a device, or of a file that a user space file system reads.
// mountinfo: proc(5).
func mountsOf(n node) []string {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	defer f.Close()
	var out []string
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		left, right, ok := strings.Cut(lines.Text(), " - ")
		fields, source := strings.Fields(left), strings.Fields(right)
		if !ok || len(fields) < 5 || len(source) < 2 {
			continue
		}
		same := n.block && fields[2] == fmt.Sprintf("%d:%d", unix.Major(n.rdev), unix.Minor(n.rdev))
		if path := unescape(source[1]); !same && strings.HasPrefix(path, "/") { // btrfs has a number of its own
			m, ok := nodeAt(path)
			same = ok && m == n
		}
		if same {
			out = append(out, "mounted on "+unescape(fields[4]))
		}
	}
	return slices.Compact(out)
}

func swapsOf(n node) []string {
	b, _ := os.ReadFile("/proc/swaps")
	for _, line := range strings.Split(string(b), "\n") {
		path, _, _ := strings.Cut(line, " ")
		if path = unescape(path); !strings.HasPrefix(path, "/") {
			continue
		}
		if m, ok := nodeAt(path); ok && m == n {
			return []string{"used as swap"}
		}
	}
	return nil
}

// holdersOf lists the devices that are built upon a block device: device-mapper, md.
func holdersOf(n node) []string {
	dir := n.sysfs()
	if dir == "" {
		return nil
	}
	entries, _ := os.ReadDir(filepath.Join(dir, "holders"))
	var out []string
	for _, e := range entries {
		text := "a part of " + e.Name()
		if name, err := os.ReadFile(filepath.Join(sysBlock, e.Name(), "dm/name")); err == nil {
			text += " (" + strings.TrimSpace(string(name)) + ")"
		}
		out = append(out, text)
	}
	return out
}

// unescape reads the octal escapes of mountinfo and swaps.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(v))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// openedBy names other processes that have a disk open, as far as this one may look.
func openedBy(n node) []string {
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	var out []string
	for _, link := range links {
		dir := filepath.Dir(filepath.Dir(link))
		if filepath.Base(dir) == strconv.Itoa(os.Getpid()) {
			continue
		}
		if m, ok := nodeAt(link); ok && m == n {
			name, _ := os.ReadFile(filepath.Join(dir, "comm"))
			out = append(out, fmt.Sprintf("%s, process %s", strings.TrimSpace(string(name)), filepath.Base(dir)))
		}
	}
	return slices.Compact(out)
}

// Overlap tells whether two paths lead to disks that share bytes: the same one under two names, a file and its
// loop device, a disk and its partition. Two partitions of a disk do not. What cannot be looked at overlaps
// nothing.
func Overlap(a, b string) bool {
	x, okX := nodeAt(a)
	y, okY := nodeAt(b)
	if !okX || !okY {
		return false
	}
	loops := loopDevices()
	up, down := x.below(loops), y.below(loops)
	for i, n := range up {
		for j, m := range down {
			if n == m {
				// Both came down to the same disk. Two partitions of it have no common byte.
				return !(i > 0 && j > 0 && up[i-1] != down[j-1] && up[i-1].isPart() && down[j-1].isPart())
			}
		}
	}
	return false
}

func (n node) isPart() bool { return isPartition(n.sysfs()) }

// below gives the node and what it stands on, downwards: a partition's disk, a loop device's file.
func (n node) below(loops []loopDevice) []node {
	out := []node{n}
	for range 2 * maxStack {
		next, found := node{}, false
		if dir := n.sysfs(); dir != "" && isPartition(dir) {
			next, found = blockNode(filepath.Dir(dir))
		} else if at := slices.IndexFunc(loops, func(l loopDevice) bool { return l.self == n }); at >= 0 {
			next, found = loops[at].backing, true
		}
		if !found {
			break
		}
		out = append(out, next)
		n = next
	}
	return out
}
