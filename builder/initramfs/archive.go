// Package initramfs writes the archive that the Linux kernel unpacks as its first
// root file system: cpio in its "newc" form, compressed, see
// Documentation/driver-api/early-userspace/buffer-format.rst in the kernel.
//
// Equal content gives equal bytes: entries are sorted by path, owned by root,
// dated 1970, with inode numbers counted from 1.
//
// The appliance crosses slow networks and is kept a hundred times, so Compress
// takes the smallest form that the kernel reads within its memory. Measured with
// Debian's 6.12 kernel on two busy cores, before file systems came in (MB packed, seconds for generic-pc):
//
//	                        qemu   generic-pc
//	unpacked                13.2   77.4
//	xz(1) -9, 8 MiB          3.4   13.5   82 s
//	  with the x86 filter    3.4   13.9          no gain: modules are not linked yet
//	zstd(1) -19              3.8   15.1  125 s
//	zstd in Go, best         4.2   17.3    5 s
//	xz in Go                 4.3   18.0   24 s
//	gzip in Go, best         4.7   21.4   52 s
//
// So "auto" is xz(1) where it is installed and zstd in Go otherwise. The bytes
// depend on which of the two made them; the result of a build names it.
package initramfs

import (
	"bytes"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/u-root/u-root/pkg/cpio"
)

// Archive collects the entries; the zero value is empty and ready.
type Archive struct {
	records map[string]cpio.Record
}

// AddFile adds a file; its directories come by themselves. Names are relative.
func (a *Archive) AddFile(name string, data []byte, executable bool) error {
	mode := uint64(cpio.S_IFREG | 0o644)
	if executable {
		mode |= 0o111
	}
	return a.add(cpio.StaticRecord(data, cpio.Info{Name: name, Mode: mode}))
}

// AddDir adds an empty directory.
func (a *Archive) AddDir(name string) error {
	if r, ok := a.records[name]; ok && r.Mode&cpio.S_IFMT == cpio.S_IFDIR {
		return nil
	}
	return a.add(cpio.Directory(name, 0o755))
}

// AddSymlink adds a symbolic link to target.
func (a *Archive) AddSymlink(name, target string) error {
	return a.add(cpio.Symlink(name, target))
}

// AddDevice adds a character device.
func (a *Archive) AddDevice(name string, permissions, major, minor uint64) error {
	return a.add(cpio.CharDev(name, permissions, major, minor))
}

func (a *Archive) add(r cpio.Record) error {
	if r.Name == "" || r.Name == "." || path.IsAbs(r.Name) ||
		path.Clean(r.Name) != r.Name || strings.HasPrefix(r.Name, "../") {
		return fmt.Errorf("initramfs: name %q is not a clean relative path", r.Name)
	}
	if _, ok := a.records[r.Name]; ok {
		return fmt.Errorf("initramfs: %s is there twice", r.Name)
	}
	if parent := path.Dir(r.Name); parent != "." {
		if p, ok := a.records[parent]; !ok {
			if err := a.AddDir(parent); err != nil {
				return err
			}
		} else if p.Mode&cpio.S_IFMT != cpio.S_IFDIR {
			return fmt.Errorf("initramfs: %s is below %s, which is not a directory", r.Name, parent)
		}
	}
	if a.records == nil {
		a.records = map[string]cpio.Record{}
	}
	a.records[r.Name] = r
	return nil
}

// Bytes writes the archive.
func (a *Archive) Bytes() ([]byte, error) {
	var out bytes.Buffer
	w := cpio.Newc.Writer(&out)
	for i, name := range slices.Sorted(maps.Keys(a.records)) {
		r := a.records[name]
		r.Ino, r.NLink, r.MTime = uint64(i+1), 1, 0
		if err := w.WriteRecord(r); err != nil {
			return nil, fmt.Errorf("initramfs: write %s: %w", name, err)
		}
	}
	if err := cpio.WriteTrailer(w); err != nil {
		return nil, fmt.Errorf("initramfs: write end: %w", err)
	}
	return out.Bytes(), nil
}
