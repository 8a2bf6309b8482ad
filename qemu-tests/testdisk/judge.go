package testdisk

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"clonecast/qemu-tests/vm"
)

// Partition is a row of a disk's table as sfdisk sees it.
type Partition struct {
	Number      int
	Start, Size int64 // in bytes
	Type        string
}

var sfdiskRow = regexp.MustCompile(`(\d+) : start= *(\d+), size= *(\d+), type=([0-9A-Fa-f-]+)`)

// Partitions reads a disk's partition table with sfdisk.
func Partitions(t vm.T, disk string) []Partition {
	t.Helper()
	var all []Partition
	for line := range strings.Lines(run(t, "", "sfdisk", "--dump", disk)) {
		if m := sfdiskRow.FindStringSubmatch(line); m != nil {
			number, _ := strconv.Atoi(m[1])
			start, _ := strconv.ParseInt(m[2], 10, 64)
			size, _ := strconv.ParseInt(m[3], 10, 64)
			all = append(all, Partition{number, start * 512, size * 512, m[4]})
		}
	}
	if len(all) == 0 {
		t.Fatalf("%s: sfdisk sees no partition", disk)
	}
	return all
}

// CheckTable lets sfdisk judge a disk's partition table, and sgdisk a GPT: that its backup lies at the disk's end, too.
func CheckTable(t vm.T, disk string) {
	t.Helper()
	if out := run(t, "", "sfdisk", "--verify", disk); !strings.Contains(out, "No errors detected") {
		t.Errorf("sfdisk --verify %s:\n%s", disk, out)
	}
	if !IsGPT(t, disk) {
		return
	}
	if out := run(t, "", "sgdisk", "--verify", disk); !strings.Contains(out, "No problems found") {
		t.Errorf("sgdisk --verify %s:\n%s", disk, out)
	}
}

// IsGPT tells whether sfdisk calls a disk's table a GPT.
func IsGPT(t vm.T, disk string) bool {
	t.Helper()
	return strings.Contains(run(t, "", "sfdisk", "--dump", disk), "label: gpt")
}

// Extract copies a partition into a file of its own.
func Extract(t vm.T, disk string, p Partition) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), fmt.Sprintf("partition-%d", p.Number))
	in, err := os.Open(disk)
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer in.Close()
	out, err := os.Create(path)
	if err != nil {
		t.Fatalf("%v", err)
	}
	if _, err := io.Copy(out, io.NewSectionReader(in, p.Start, p.Size)); err != nil {
		t.Fatalf("extract partition %d of %s: %v", p.Number, disk, err)
	}
	if err := out.Close(); err != nil {
		t.Fatalf("%v", err)
	}
	return path
}

// Area is a run of a disk's bytes that has a name.
type Area struct {
	Name         string
	Offset, Size int64
}

// BootAreas lists what boots a disk besides its partitions: the MBR with the gap behind it, and every EBR with the
// track up to its logical partition. The chain of EBRs is walked here anew, so that the judge shares no code with the
// judged. Of a GPT disk it is boot code and gap: the table says how large the disk is.
func BootAreas(t vm.T, disk string) []Area {
	t.Helper()
	if IsGPT(t, disk) {
		const gap = 34 * 512
		return []Area{{"boot code", 0, 440}, {"gap behind the GPT", gap, Partitions(t, disk)[0].Start - gap}}
	}
	f, err := os.Open(disk)
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer f.Close()
	first, extended := int64(1<<62), int64(0)
	for _, p := range Partitions(t, disk) {
		switch p.Type {
		case "5", "f", "85":
			extended = p.Start
		}
		first = min(first, p.Start)
	}
	areas := []Area{{"MBR and gap", 0, first}}
	sector := make([]byte, 512)
	for at := extended; at != 0; {
		if _, err := f.ReadAt(sector, at); err != nil {
			t.Fatalf("read EBR of %s: %v", disk, err)
		}
		track := int64(binary.LittleEndian.Uint32(sector[446+8:])) * 512
		areas = append(areas, Area{fmt.Sprintf("EBR at sector %d and its track", at/512), at, track})
		next := int64(binary.LittleEndian.Uint32(sector[446+16+8:]))
		if sector[446+16+4] == 0 || next == 0 || len(areas) > 100 {
			break
		}
		at = extended + next*512
	}
	return areas
}

// SameBytes compares an area of two disks.
func SameBytes(t vm.T, a, b string, area Area) {
	t.Helper()
	if x, y := readArea(t, a, area), readArea(t, b, area); !bytes.Equal(x, y) {
		at := 0
		for x[at] == y[at] {
			at++
		}
		t.Errorf("%s differs between %s and %s from byte %d on", area.Name, filepath.Base(a), filepath.Base(b), at)
	}
}

func readArea(t vm.T, disk string, area Area) []byte {
	t.Helper()
	f, err := os.Open(disk)
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer f.Close()
	data := make([]byte, area.Size)
	if _, err := f.ReadAt(data, area.Offset); err != nil {
		t.Fatalf("read %s of %s: %v", area.Name, disk, err)
	}
	return data
}

// Check runs the file system's own checker, changing nothing, and fails the test when it is not content.
func Check(t vm.T, filesystem, partition string) {
	t.Helper()
	checks := map[string][][]string{
		"ext":   {{"e2fsck", "-fn", partition}},
		"vfat":  {{"fsck.fat", "-n", partition}},
		"ntfs":  {{"ntfsresize", "--info", "--force", "--no-progress-bar", partition}, {"ntfsfix", "-n", partition}},
		"xfs":   {{"xfs_repair", "-n", partition}},
		"btrfs": {{"btrfs", "check", "--readonly", partition}},
	}[strings.TrimRight(filesystem, "234")]
	if len(checks) == 0 {
		t.Errorf("%s: no tool checks %q", partition, filesystem)
	}
	for _, argv := range checks {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", strings.Join(argv, " "), err, out)
		}
	}
}

// Identity is what a partition is known by.
type Identity struct{ Filesystem, UUID, Label string }

// Identify asks blkid; a partition without file system has the zero identity.
func Identify(t vm.T, partition string) Identity {
	t.Helper()
	out, err := exec.Command("blkid", "--probe", "--output", "export", partition).Output()
	if exit, ok := err.(*exec.ExitError); err != nil && (!ok || exit.ExitCode() != 2) {
		t.Fatalf("blkid %s: %v", partition, err)
	}
	var id Identity
	for line := range strings.Lines(string(out)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch key {
		case "TYPE":
			id.Filesystem = value
		case "UUID":
			id.UUID = value
		case "LABEL":
			id.Label = value
		}
	}
	return id
}

// Tree returns a hash over names and contents of all files, read by the file system's own tools.
func Tree(t vm.T, filesystem, partition string) string {
	t.Helper()
	dir := t.TempDir()
	switch strings.TrimRight(filesystem, "234") {
	case "ext":
		run(t, "", "debugfs", "-R", "rdump / "+dir, partition)
	case "vfat":
		run(t, dir, "env", "MTOOLS_SKIP_CHECK=1", "mcopy", "-s", "-Q", "-n", "-m", "-i", partition, "::*", dir)
	case "ntfs":
		extractNTFS(t, partition, dir)
	default:
		t.Fatalf("%s: no tool to read %q", partition, filesystem)
	}
	return hashTree(t, dir)
}

// The lines of ntfsls: name alone, one a line.
func extractNTFS(t vm.T, partition, dir string) {
	t.Helper()
	for name := range strings.Lines(run(t, "", "ntfsls", "--force", partition)) {
		name = strings.TrimSpace(name)
		if name == "" || name == "." || strings.Contains(name, "/") {
			continue
		}
		content := run(t, "", "ntfscat", "--force", partition, name)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatalf("%v", err)
		}
	}
}

func hashTree(t vm.T, dir string) string {
	t.Helper()
	h, files := sha256.New(), 0
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		files++
		data, err := os.ReadFile(path)
		fmt.Fprintf(h, "%s\x00%x\n", strings.TrimPrefix(path, dir), sha256.Sum256(data))
		return err
	})
	if err != nil {
		t.Fatalf("%v", err)
	}
	if files == 0 {
		t.Fatalf("%s: no files to compare", dir)
	}
	return fmt.Sprintf("%d files %s", files, hex.EncodeToString(h.Sum(nil)))
}

// tableText is what sfdisk says of a table, without what depends on the disk's name and size.
func tableText(t vm.T, disk string) string {
	t.Helper()
	var text strings.Builder
	for line := range strings.Lines(strings.ReplaceAll(run(t, "", "sfdisk", "--dump", disk), disk, "")) {
		if !strings.HasPrefix(line, "last-lba:") {
			text.WriteString(line)
		}
	}
	return text.String()
}

// Equal fails the test unless deployed is, in all that counts, the disk that source was.
func Equal(t vm.T, source, deployed string) {
	t.Helper()
	for _, area := range BootAreas(t, source) {
		SameBytes(t, source, deployed, area)
	}
	if IsGPT(t, source) {
		CheckTable(t, deployed)
		if want, got := tableText(t, source), tableText(t, deployed); got != want {
			t.Errorf("the table of %s is\n%swant\n%s", filepath.Base(deployed), got, want)
		}
	}
	for _, p := range Partitions(t, source) {
		if p.Type == "f" || p.Type == "5" || p.Type == "85" {
			continue
		}
		a, b := Extract(t, source, p), Extract(t, deployed, p)
		want, got := Identify(t, a), Identify(t, b)
		if got != want {
			t.Errorf("partition %d of %s is %+v, want %+v", p.Number, filepath.Base(deployed), got, want)
		}
		switch want.Filesystem {
		case "swap":
		case "":
			SameBytes(t, source, deployed, Area{fmt.Sprintf("unformatted partition %d", p.Number), p.Start, p.Size})
		default:
			Check(t, want.Filesystem, b)
			if x, y := Tree(t, want.Filesystem, a), Tree(t, want.Filesystem, b); x != y {
				t.Errorf("partition %d of %s: files are %s, want %s", p.Number, filepath.Base(deployed), y, x)
			}
		}
		os.Remove(a)
		os.Remove(b)
	}
}
