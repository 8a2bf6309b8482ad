package testdisk

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"

	"clonecast/qemu-tests/vm"
)

// FillerMark begins every sector of a test disk that nothing has been written to since its space was filled.
const FillerMark = "clonecast-free-space:"

// Mark is one filler sector that turned up somewhere: it says itself where it lay on the source.
type Mark struct {
	Partition int   // 0: outside all partitions
	Offset    int64 // bytes from the start of the partition, or of the disk
}

var markText = regexp.MustCompile(FillerMark + `(\d{4}):(\d{10}):`)

// Marks finds the filler sectors in b.
func Marks(b []byte) []Mark {
	var marks []Mark
	for _, m := range markText.FindAllSubmatch(b, -1) {
		seed, _ := strconv.Atoi(string(m[1]))
		sector, _ := strconv.ParseInt(string(m[2]), 10, 64)
		marks = append(marks, Mark{seed - fillerSeed, sector * 512})
	}
	return marks
}

// fillerSeed is the seed of the filler outside all partitions; dualboot.sh adds the partition's number.
const fillerSeed = 100

// MarksIn finds the filler sectors in a file.
func MarksIn(t vm.T, path string) []Mark {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer f.Close()
	var marks []Mark
	for buf := make([]byte, 1<<20); ; {
		n, err := io.ReadFull(f, buf)
		marks = append(marks, Marks(buf[:n])...)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return marks
		}
		if err != nil {
			t.Fatalf("read %s: %v", path, err)
		}
	}
}

// Free keeps those marks whose place on the source belongs to nobody, by the word of the file systems' own tools. The
// others are blocks that a file system has allocated but not written, and sectors that belong to no block: both count
// as in use.
func Free(t vm.T, source string, marks []Mark) []Mark {
	t.Helper()
	if len(marks) == 0 {
		return nil
	}
	byPartition := make(map[int][]Mark)
	for _, m := range marks {
		byPartition[m.Partition] = append(byPartition[m.Partition], m)
	}
	free := byPartition[0]
	for _, p := range Partitions(t, source) {
		if len(byPartition[p.Number]) == 0 {
			continue
		}
		file := Extract(t, source, p)
		isFree := freeSpace(t, file)
		for _, m := range byPartition[p.Number] {
			if isFree(m.Offset) {
				free = append(free, m)
			}
		}
		os.Remove(file)
	}
	return free
}

// freeSpace gives the judge of one partition: whether its tools call the byte at an offset free.
func freeSpace(t vm.T, partition string) func(offset int64) bool {
	t.Helper()
	switch filesystem := Identify(t, partition).Filesystem; strings.TrimRight(filesystem, "234") {
	case "ext":
		return freeExt(t, partition)
	case "ntfs":
		return freeNTFS(t, partition)
	case "vfat":
		return freeFAT(t, partition)
	case "swap": // nothing of its content is kept
		return func(int64) bool { return true }
	default:
		t.Fatalf("%s: no tool tells what is free on %q", partition, filesystem)
		return nil
	}
}

// freeExt reads the lists of free blocks that dumpe2fs prints for each group.
func freeExt(t vm.T, partition string) func(int64) bool {
	t.Helper()
	out := run(t, "", "dumpe2fs", partition)
	blockSize, err := strconv.ParseInt(field(out, "Block size:"), 10, 64)
	if err != nil {
		t.Fatalf("dumpe2fs %s: %v", partition, err)
	}
	free := make(map[int64]bool)
	for line := range strings.Lines(out) {
		list, found := strings.CutPrefix(strings.TrimSpace(line), "Free blocks: ")
		if !found {
			continue
		}
		for _, span := range strings.Split(list, ", ") {
			var first, last int64
			if n, _ := fmt.Sscanf(span, "%d-%d", &first, &last); n == 1 {
				last = first
			}
			for b := first; b <= last && last > 0; b++ {
				free[b] = true
			}
		}
	}
	if len(free) == 0 {
		t.Fatalf("dumpe2fs %s: no free block", partition)
	}
	return func(offset int64) bool { return free[offset/blockSize] }
}

// field gives what follows a name at the start of a line.
func field(out, name string) string {
	for line := range strings.Lines(out) {
		if value, found := strings.CutPrefix(strings.TrimSpace(line), name); found {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// freeNTFS lets ntfscat read $Bitmap, a bit a cluster.
func freeNTFS(t vm.T, partition string) func(int64) bool {
	t.Helper()
	bitmap := run(t, "", "ntfscat", "--force", "--inode", "6", partition)
	cluster, err := strconv.ParseInt(field(run(t, "", "ntfsinfo", "--force", "--mft", partition), "Cluster Size:"), 10, 64)
	if err != nil {
		t.Fatalf("ntfsinfo %s: %v", partition, err)
	}
	return func(offset int64) bool {
		n := offset / cluster
		return n/8 < int64(len(bitmap)) && bitmap[n/8]>>(n%8)&1 == 0
	}
}

// freeFAT reads the first FAT itself: no tool prints it.
// A sector before the first cluster or behind the last one is in no cluster.
func freeFAT(t vm.T, partition string) func(int64) bool {
	t.Helper()
	b, err := os.ReadFile(partition)
	if err != nil {
		t.Fatalf("%v", err)
	}
	word := func(at int) int64 { return int64(binary.LittleEndian.Uint16(b[at:])) }
	long := func(at int) int64 { return int64(binary.LittleEndian.Uint32(b[at:])) }
	sector, perCluster, reserved, copies := word(11), int64(b[13]), word(14), int64(b[16])
	sectors, length := word(19), word(22)
	if sectors == 0 {
		sectors = long(32)
	}
	bits := int64(32)
	if length == 0 {
		length = long(36)
	}
	data := reserved + copies*length + word(17)*32/sector
	clusters := (sectors - data) / perCluster
	if word(22) != 0 {
		bits = 16
		if clusters < 4085 {
			bits = 12
		}
	}
	table := b[reserved*sector:]
	entry := func(n int64) int64 {
		switch bits {
		case 12:
			return int64(binary.LittleEndian.Uint16(table[n*3/2:]) >> (n % 2 * 4) & 0xfff)
		case 16:
			return int64(binary.LittleEndian.Uint16(table[n*2:]))
		}
		return int64(binary.LittleEndian.Uint32(table[n*4:]) & 0x0fffffff)
	}
	return func(offset int64) bool {
		n := (offset/sector-data)/perCluster + 2
		return offset/sector >= data && n < clusters+2 && entry(n) == 0
	}
}

// NoFreeSpace fails the test when the file holds sectors of the source's free space.
func NoFreeSpace(t vm.T, source, path string) {
	t.Helper()
	ReportFree(t, source, path, MarksIn(t, path))
}

// ReportFree fails the test when marks that turned up at a place come from the source's free space.
func ReportFree(t vm.T, source, place string, marks []Mark) {
	t.Helper()
	if free := Free(t, source, marks); len(free) > 0 {
		t.Errorf("%d sectors of the source's free space are in %s, the first one from %+v", len(free), place, free[0])
	}
	t.Logf("%s: %d sectors that are allocated but were never written", place, len(marks))
}
