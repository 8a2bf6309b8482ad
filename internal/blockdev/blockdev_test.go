package blockdev

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"clonecast/internal/quantity"
)

func image(t *testing.T, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s (make deps installs what is missing; loop devices need root)",
			name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// loop gives a block device over a file (root).
func loop(t *testing.T, size int64) string {
	t.Helper()
	dev := run(t, "losetup", "-f", "--show", image(t, size))
	t.Cleanup(func() { run(t, "losetup", "-d", dev) })
	return dev
}

func TestFile(t *testing.T) {
	path := image(t, 1<<20)
	d, err := OpenExclusive(path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if d.Size != 1<<20 || d.LogicalSector != 512 || d.Block {
		t.Errorf("%+v", d)
	}
	if _, err := d.WriteAt([]byte("xy"), 1<<20-1); err == nil {
		t.Error("a write past the end was accepted: the file would grow")
	}
	if _, err := d.WriteAt([]byte("xy"), -1); err == nil {
		t.Error("a write before the start was accepted")
	}
	if _, err := d.WriteAt([]byte("xy"), 1<<20-2); err != nil {
		t.Error(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Size() != 1<<20 {
		t.Errorf("size %d, %v", info.Size(), err)
	}
}

// Holes of a file read as zeroes, data beside them as it is, and a file that was cut
// meanwhile is an error.
func TestHoles(t *testing.T) {
	path := image(t, 8<<20)
	d, err := OpenExclusive(path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	want := make([]byte, 8<<20)
	data := bytes.Repeat([]byte("data"), 4<<10)
	copy(want[3<<20:], data)
	if _, err := d.WriteAt(data, 3<<20); err != nil {
		t.Fatal(err)
	}
	for _, length := range []int{1000, sparseRead, 1 << 20, 4 << 20} {
		for off := 0; off+length <= len(want); off += length / 2 {
			got := bytes.Repeat([]byte{1}, length)
			if n, err := d.ReadAt(got, int64(off)); n != length || err != nil {
				t.Fatalf("ReadAt(%d bytes at %d) = %d, %v", length, off, n, err)
			}
			if !bytes.Equal(got, want[off:off+length]) {
				t.Fatalf("%d bytes at %d are not what was written", length, off)
			}
			if length == 1000 && off > 1<<16 {
				break
			}
		}
	}
	if err := os.Truncate(path, 1<<20); err != nil {
		t.Fatal(err)
	}
	if n, err := d.ReadAt(make([]byte, 1<<20), 6<<20); err == nil {
		t.Errorf("%d bytes read behind the end of a file that was cut", n)
	}
}

// Loop devices and files give back the space of trimmed bytes; their neighbours stay.
func TestTrim(t *testing.T) {
	for name, open := range map[string]func(path string) string{
		"file": func(path string) string { return path },
		"loop": func(path string) string {
			dev := run(t, "losetup", "-f", "--show", path)
			t.Cleanup(func() { run(t, "losetup", "-d", dev) })
			return dev
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := image(t, 4<<20)
			d, err := OpenExclusive(open(path))
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			data := bytes.Repeat([]byte{7}, 4<<20)
			if _, err := d.WriteAt(data, 0); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(d.Sync(), d.Trim(1<<20, 2<<20), d.Sync()); err != nil {
				t.Fatal(err)
			}
			clear(data[1<<20 : 3<<20])
			got := make([]byte, 4<<20)
			if _, err := d.ReadAt(got, 0); err != nil || !bytes.Equal(got, data) {
				t.Errorf("the bytes around the trimmed ones changed, or those are not zero: %v", err)
			}
			if used := strings.Fields(run(t, "du", "-k", path))[0]; used > "2100" || len(used) != 4 {
				t.Errorf("%s KiB are still in use, want 2048", used)
			}
			outside := []quantity.Extent{{Start: -1, Length: 1}, {Start: 3 << 20, Length: 2 << 20}, {Start: 0, Length: -1}}
			for _, e := range outside {
				if d.Trim(e.Start, e.Length) == nil {
					t.Errorf("%v was trimmed", e)
				}
			}
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	for name, path := range map[string]string{
		"directory":        t.TempDir(),
		"character device": "/dev/null",
		"absent":           "/nonexistent",
	} {
		if d, err := Open(path); err == nil {
			t.Errorf("%s: Open = %v, want an error", name, d)
		}
	}
}

// Aligned transfers bypass the cache, others do not; both must see the same bytes.
func TestBlockDeviceDirectAndCached(t *testing.T) {
	d, err := OpenExclusive(loop(t, 4<<20))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if !d.Block || d.Size != 4<<20 || !d.LogicalSector.Valid() {
		t.Fatalf("%+v", d)
	}
	raw := make([]byte, 3*alignment)
	skip := alignment - int(uintptr(unsafe.Pointer(&raw[0]))%alignment)
	aligned := raw[skip : skip+alignment]
	if d.pick(aligned, alignment) == d.file {
		t.Error("an aligned transfer goes through the cache")
	}
	if d.pick(aligned[:512], 0) != d.file || d.pick(aligned, 512) != d.file {
		t.Error("a transfer that is not aligned goes past the cache")
	}
	for i := range aligned {
		aligned[i] = byte(i)
	}
	want := bytes.Clone(aligned)
	if _, err := d.WriteAt(aligned, 8192); err != nil {
		t.Fatal(err)
	}
	odd := make([]byte, 100)
	if _, err := d.ReadAt(odd, 8192+7); err != nil || !bytes.Equal(odd, want[7:107]) {
		t.Errorf("cached read after a direct write: %v", err)
	}
	if _, err := d.WriteAt([]byte("hello"), 8192); err != nil {
		t.Fatal(err)
	}
	clear(aligned)
	_, err = d.ReadAt(aligned, 8192)
	if err != nil || string(aligned[:5]) != "hello" || !bytes.Equal(aligned[5:], want[5:]) {
		t.Errorf("direct read after a cached write: %q, %v", aligned[:8], err)
	}
	if err := errors.Join(d.Sync(), d.DropCache(), d.RereadPartitions()); err != nil {
		t.Error(err)
	}
}

func TestMountedDiskIsRefused(t *testing.T) {
	dev := loop(t, 4<<20)
	run(t, "mkfs.ext4", "-q", dev)
	dir := t.TempDir()
	run(t, "mount", dev, dir)
	defer run(t, "umount", dir)
	if d, err := OpenExclusive(dev); !errors.Is(err, ErrBusy) {
		t.Errorf("OpenExclusive of a mounted disk = %v, %v, want ErrBusy", d, err)
	}
	if d, err := OpenUnused(dev); !errors.Is(err, ErrBusy) {
		t.Errorf("OpenUnused of a mounted disk = %v, %v, want ErrBusy", d, err)
	}
	d, err := Open(dev)
	if err != nil {
		t.Fatalf("Open of a mounted disk = %v", err)
	}
	d.Close()
}

func TestReadFacts(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sda")
	for name, content := range map[string]string{
		"size": "2048\n", "removable": "1\n", "ro": "0\n",
		"queue/logical_block_size": "4096\n", "queue/physical_block_size": "4096\n",
		"device/model": "QEMU  HARDDISK\x1b[2J   \n", "device/vpd_pg80": "\x00\x80\x00\x04WD-1\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got := readFacts(dir)
	want := Facts{
		Name: "sda", Path: "/dev/sda", Model: "QEMU HARDDISK [2J", Serial: "WD-1", Removable: true,
		Size: quantity.MiB, LogicalSector: 4096, PhysicalSector: 4096,
	}
	if got != want {
		t.Errorf("readFacts = %+v, want %+v", got, want)
	}
}

func TestListLeavesOutLoops(t *testing.T) {
	loop(t, 1<<20)
	disks, err := List()
	if err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(disks, func(f Facts) bool { return strings.HasPrefix(f.Name, "loop") }) {
		t.Errorf("List = %+v", disks)
	}
}
