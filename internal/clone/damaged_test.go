package clone_test

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"clonecast/internal/clone"
	"clonecast/internal/clone/layout"
	"clonecast/internal/disktest"
	"clonecast/internal/filesystem"
	"clonecast/internal/filesystem/ext4"
	"clonecast/internal/filesystem/fat"
	"clonecast/internal/filesystem/ntfs"
	"clonecast/internal/image"
	"clonecast/internal/partition"
	"clonecast/internal/quantity"
)

// Limits for one damaged image. The memory is all that is ever allocated, which is more than
// what is in use at any time.
const (
	damagedTime   = 2 * time.Minute
	damagedMemory = 128 << 20
)

// TestDamaged inspects the images that the file systems' own tools are tested with, most of
// them damaged. `make damaged` fetches them; they are not part of this repository. Each must
// lead to a typed error or to a layout in which everything that is copied whole has a reason,
// within limits of time and memory.
func TestDamaged(t *testing.T) {
	dir := os.Getenv("CLONECAST_DAMAGED")
	if dir == "" {
		t.Skip("make damaged fetches the images and runs this")
	}
	outcomes := map[string]int{}
	files := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || filepath.Ext(path) == ".done" {
			return err
		}
		files++
		name, _ := filepath.Rel(dir, path)
		outcome := inspectDamaged(t, name, path)
		outcomes[filepath.Dir(name)+": "+outcome]++
		if os.Getenv("CLONECAST_DAMAGED_LIST") != "" {
			t.Logf("%s: %s", name, outcome)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 400 {
		t.Errorf("%d images in %s: they were not all unpacked", files, dir)
	}
	for _, o := range slices.Sorted(maps.Keys(outcomes)) {
		t.Logf("%4d  %s", outcomes[o], o)
	}
	t.Logf("%4d  images", files)
}

// inspectDamaged inspects an image and says in a few words what came out.
func inspectDamaged(t *testing.T, name, path string) string {
	t.Helper()
	f := disktest.Open(t, path)
	defer f.Close()
	g := clone.Geometry{Size: fileSize(t, f), LogicalSector: 512, PhysicalSector: 512}
	type answer struct {
		layout *layout.Layout
		err    error
	}
	answers := make(chan answer, 1)
	before := allocatedSoFar()
	go func() {
		disk := undumped(f)
		l, err := layout.Inspect(disk, g)
		if err == nil {
			listDamaged(t, name, disk, l)
		}
		answers <- answer{l, err}
	}()
	select {
	case a := <-answers:
		if used := allocatedSoFar() - before; used > damagedMemory {
			t.Errorf("%s: %d MiB were allocated", name, used>>20)
		}
		if a.err != nil {
			return damagedError(t, name, a.err)
		}
		return damagedLayout(t, name, a.layout)
	case <-time.After(damagedTime):
		t.Fatalf("%s: no answer after %v", name, damagedTime)
		return ""
	}
}

// undumped makes a btrfs that btrfs-image has restored look like one that was never dumped, so
// that its trees are read: a dump is marked in the superblock, and is none of ours.
func undumped(f io.ReaderAt) io.ReaderAt {
	const superblock, flagsAt, dumped = 0x10000, 0x38, 1<<33 | 1<<34
	b := make([]byte, 4096)
	n, _ := f.ReadAt(b, superblock)
	flags := binary.LittleEndian.Uint64(b[flagsAt:])
	if n < len(b) || string(b[0x40:0x48]) != "_BHRfS_M" || flags&dumped == 0 {
		return f
	}
	binary.LittleEndian.PutUint64(b[flagsAt:], flags&^dumped)
	binary.LittleEndian.PutUint32(b, crc32.Checksum(b[32:], crc32.MakeTable(crc32.Castagnoli)))
	return &patched{f, superblock, b}
}

// patched is a disk of which some bytes are others.
type patched struct {
	io.ReaderAt
	offset int64
	data   []byte
}

func (p *patched) ReadAt(b []byte, off int64) (int, error) {
	n, err := p.ReaderAt.ReadAt(b, off)
	if from, to := max(p.offset, off), min(p.offset+int64(len(p.data)), off+int64(n)); from < to {
		copy(b[from-off:to-off], p.data[from-p.offset:])
	}
	return n, err
}

// listDamaged lists the files of the file systems that are cloned, as the difference of two
// versions does.
func listDamaged(t *testing.T, name string, f io.ReaderAt, l *layout.Layout) {
	for _, p := range l.Partitions {
		list := map[string]func(io.ReaderAt, quantity.Bytes) ([]filesystem.File, error){
			"ext2": ext4.Files, "ext3": ext4.Files, "ext4": ext4.Files, "ntfs": ntfs.Files,
			"fat12": fat.Files, "fat16": fat.Files, "fat32": fat.Files,
		}[p.Volume.Type]
		if list == nil || p.Mode != image.ModeClone {
			continue
		}
		files, err := list(io.NewSectionReader(f, int64(p.Start), int64(p.Length)), p.Length)
		var corrupt *filesystem.CorruptError
		if err != nil && !errors.As(err, &corrupt) && !errors.Is(err, errors.ErrUnsupported) || err != nil && files != nil {
			t.Errorf("%s: Files = %d files, %v", name, len(files), err)
		}
	}
}

func allocatedSoFar() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// damagedError checks that an error names what is wrong and where.
func damagedError(t *testing.T, name string, err error) string {
	t.Helper()
	var table *partition.CorruptError
	switch {
	case errors.As(err, &table):
		return "refused, the table is corrupt"
	case errors.Is(err, partition.ErrUnsupported):
		return "refused, the table is not supported"
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "refused, shorter than a sector"
	}
	t.Errorf("%s: %v, which is of no known kind", name, err)
	return "other error"
}

// damagedLayout checks what every layout promises.
func damagedLayout(t *testing.T, name string, l *layout.Layout) string {
	t.Helper()
	var kinds []string
	for _, p := range l.Partitions {
		whole := len(p.Extents) == 1 && p.Extents[0] == quantity.Extent{Length: p.Length}
		switch {
		case p.Mode == image.ModeRaw && (p.Reason == "" || !whole):
			t.Errorf("%s: partition %d is raw, %d extents, reason %q", name, p.Number, len(p.Extents), p.Reason)
		case p.Mode == image.ModeClone && (len(p.Extents) == 0 || p.Extents[len(p.Extents)-1].End() > p.Length):
			t.Errorf("%s: partition %d is cloned with %d extents", name, p.Number, len(p.Extents))
		}
		kind := fmt.Sprintf("%s %s", cmp.Or(p.Volume.Type, "unknown"), p.Mode)
		if p.Refuse {
			kind += " (refused)"
		}
		if strings.Contains(p.Reason, " at byte ") {
			kind += " (corrupt)"
		}
		if !slices.Contains(kinds, kind) {
			kinds = append(kinds, kind)
		}
	}
	return strings.Join(kinds, ", ")
}
