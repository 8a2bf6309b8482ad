package qemutests

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"clonecast/qemu-tests/lab"
	"clonecast/qemu-tests/testdisk"
)

// The tests of this file need no virtual PC: `clonecast disk` works on the same dual-boot disks as files.

type captured struct {
	Allocated int64 `json:"bytes_allocated"`
	Read      int64 `json:"bytes_read"`
	Stored    int64 `json:"bytes_stored"`
}

type deployed struct {
	Compared int64 `json:"bytes_compared"`
	Kept     int64 `json:"bytes_kept"`
	Written  int64 `json:"bytes_written"`
	Fetched  int64 `json:"bytes_fetched"`
}

type inspected struct {
	Partitions []struct {
		Number     int
		Filesystem string
		UUID       string
		Mode       string
		Reason     string
		Remedy     string
		Allocated  int64
	}
}

func capture(t *testing.T, disk, image, store string) (c captured) {
	t.Helper()
	lab.Clonecast(t, "disk", "capture", disk, image, "--store", store, "--json").OK(t).Summary(t, &c)
	return c
}

func deploy(t *testing.T, image, disk, store string) (d deployed) {
	t.Helper()
	lab.Clonecast(t, "disk", "deploy", image, disk, "--store", store, "--yes", "--json").OK(t).Summary(t, &d)
	t.Logf("deploy %s: %+v", filepath.Base(disk), d)
	return d
}

func size(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// TestDiskRoundTrip follows one image through its life: capture, deploy to disks of the same and a larger size, deploy
// again, deploy after files changed. Free space of the source must be in none of it.
func TestDiskRoundTrip(t *testing.T) {
	for _, first := range []int{2048, 63} {
		t.Run(fmt.Sprint(first), func(t *testing.T) {
			source := testdisk.DualBootOriginal(t, first)
			store := filepath.Join(t.TempDir(), "store")
			c := capture(t, source, "pc", store)
			if c.Allocated <= 0 || c.Allocated > size(t, source)/2 {
				t.Errorf("capture says %d bytes are allocated on a disk of %d that is mostly free", c.Allocated, size(t, source))
			}
			lab.Clonecast(t, "store", "check", "--read-data", "--store", store).OK(t)

			same := lab.BlankDisk(t, size(t, source))
			deploy(t, "pc", same, store)
			testdisk.Equal(t, source, same)
			testdisk.NoFreeSpace(t, source, same)

			larger := lab.BlankDisk(t, size(t, source)+200<<20)
			deploy(t, "pc", larger, store)
			testdisk.Equal(t, source, larger)

			t.Run("again", func(t *testing.T) {
				if d := deploy(t, "pc", same, store); d.Written != 0 || d.Fetched != 0 {
					t.Errorf("deploy to an up-to-date disk wrote %d bytes and fetched %d, want none", d.Written, d.Fetched)
				}
			})
			t.Run("changed", func(t *testing.T) {
				before := snapshotChunks(t, same)
				changeFiles(t, same, 50)
				testdisk.Check(t, "ext4", testdisk.Extract(t, same, partition(t, same, 8)))
				limit := changedChunks(t, before, same) * chunkSize
				d := deploy(t, "pc", same, store)
				if d.Written == 0 || d.Written > limit {
					t.Errorf("deploy wrote %d bytes after 50 files changed, want at most the %d of the chunks that they touch",
						d.Written, limit)
				}
				testdisk.Equal(t, source, same)
			})
			t.Run("capture again", func(t *testing.T) {
				if c := capture(t, source, "pc", store); c.Stored > 64<<10 {
					t.Errorf("capture of an unchanged disk added %d bytes to the store", c.Stored)
				}
			})
		})
	}
}

// chunkSize is the largest chunk, the unit of transfer (design: internal/image).
const chunkSize = 256 << 10

func partition(t *testing.T, disk string, number int) testdisk.Partition {
	t.Helper()
	for _, p := range testdisk.Partitions(t, disk) {
		if p.Number == number {
			return p
		}
	}
	t.Fatalf("%s has no partition %d", disk, number)
	return testdisk.Partition{}
}

// onPartition lets change work on a partition's copy in a file and puts it back.
func onPartition(t *testing.T, disk string, number int, change func(path string)) {
	t.Helper()
	p := partition(t, disk, number)
	path := testdisk.Extract(t, disk, p)
	change(path)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(disk, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(data, p.Start); err != nil {
		t.Fatal(err)
	}
}

func mustRun(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// changeFiles writes n files of a disk's partition 8 anew, as debugfs does it: the old ones are deleted.
func changeFiles(t *testing.T, disk string, n int) {
	t.Helper()
	onPartition(t, disk, 8, func(path string) {
		fresh := filepath.Join(t.TempDir(), "fresh")
		if err := os.WriteFile(fresh, bytes.Repeat([]byte("changed "), 2000), 0o644); err != nil {
			t.Fatal(err)
		}
		var script strings.Builder
		for i := range n {
			name := fmt.Sprintf("/data/file-%d.bin", i+1)
			if i >= 40 {
				name = fmt.Sprintf("/docs/letters/letter-%d.txt", i-39)
			}
			fmt.Fprintf(&script, "rm %s\nwrite %s %s\n", name, fresh, name)
		}
		commands := filepath.Join(t.TempDir(), "commands")
		if err := os.WriteFile(commands, []byte(script.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		if out := mustRun(t, "debugfs", "-w", "-f", commands, path); strings.Contains(out, "not found") {
			t.Fatalf("debugfs: %s", out)
		}
	})
}

// snapshotChunks keeps partition 8's bytes, to count later which chunks changed.
func snapshotChunks(t *testing.T, disk string) []byte {
	t.Helper()
	data, err := os.ReadFile(testdisk.Extract(t, disk, partition(t, disk, 8)))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func changedChunks(t *testing.T, before []byte, disk string) (n int64) {
	t.Helper()
	after := snapshotChunks(t, disk)
	for at := 0; at < len(before); at += chunkSize {
		end := min(at+chunkSize, len(before))
		if !bytes.Equal(before[at:end], after[at:end]) {
			n++
		}
	}
	return n
}

// TestDiskCut cuts a deploy at several points by killing the program;
// the next run finishes and fetches only what is missing.
func TestDiskCut(t *testing.T) {
	source := testdisk.DualBootOriginal(t, 2048)
	store := filepath.Join(t.TempDir(), "store")
	capture(t, source, "pc", store)
	whole := deploy(t, "pc", lab.BlankDisk(t, size(t, source)), store)

	disk := lab.BlankDisk(t, size(t, source))
	var last deployed
	cuts := 0
	for more := int64(1 << 20); ; more *= 2 {
		cmd := exec.Command(lab.Program(t, "clonecast"), "disk", "deploy", "pc", disk, "--store", store, "--yes", "--json")
		var out bytes.Buffer
		cmd.Stdout = &out
		before := written(t, disk)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		var err error
		for running := true; running; {
			select {
			case err = <-ended:
				running = false
			case <-time.After(time.Millisecond):
				if written(t, disk)-before > more {
					_ = cmd.Process.Kill() // it may have ended
				}
			}
		}
		if err == nil {
			lab.Result{Stdout: out.String()}.Summary(t, &last)
			break
		}
		cuts++
		if boots(t, disk) {
			t.Logf("cut after %d more bytes: the boot sector is there already", more)
			testdisk.Equal(t, source, disk)
		}
	}
	t.Logf("after %d cuts: %+v; in one go: %+v", cuts, last, whole)
	if cuts == 0 {
		t.Fatal("no deploy was cut: the program had written all when it was looked at")
	}
	if last.Kept <= whole.Kept || last.Fetched >= whole.Fetched {
		t.Errorf("after %d cuts the deploy kept %d bytes and fetched %d of %d, want only what was missing",
			cuts, last.Kept, last.Fetched, whole.Fetched)
	}
	testdisk.Equal(t, source, disk)
}

// boots tells whether a BIOS would start the disk.
func boots(t *testing.T, disk string) bool {
	t.Helper()
	f, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var sector [512]byte
	if _, err := f.ReadAt(sector[:], 0); err != nil {
		t.Fatal(err)
	}
	return sector[510] == 0x55 && sector[511] == 0xaa
}

// TestDiskDoubt shows that a file system that is not proven clean is not captured by its bitmap, and that the output
// says why and what to do.
func TestDiskDoubt(t *testing.T) {
	disk := testdisk.Copy(t, testdisk.DualBootOriginal(t, 2048))
	onPartition(t, disk, 8, func(path string) { mustRun(t, "debugfs", "-w", "-R", "feature needs_recovery", path) })
	onPartition(t, disk, 11, func(path string) { mustRun(t, "ntfsfix", path) }) // sets the dirty flag
	var found inspected
	lab.Clonecast(t, "disk", "inspect", disk, "--json").OK(t).Summary(t, &found)
	whole := map[int]int64{8: partition(t, disk, 8).Size, 11: partition(t, disk, 11).Size}
	seen := 0
	for _, p := range found.Partitions {
		want, doubtful := whole[p.Number]
		if !doubtful {
			continue
		}
		seen++
		if p.Mode != "raw" || p.Allocated != want || p.Reason == "" || p.Remedy == "" {
			t.Errorf("partition %d is %+v, want mode raw of %d bytes with a reason and a remedy", p.Number, p, want)
		}
	}
	if seen != 2 {
		t.Fatalf("inspect names %d of the 2 partitions", seen)
	}
	store := filepath.Join(t.TempDir(), "store")
	r := lab.Clonecast(t, "disk", "capture", disk, "pc", "--store", store).OK(t)
	for _, want := range []string{`partition 8 .*journal`, `partition 11 .*(dirty|chkdsk)`} {
		if !regexp.MustCompile(want).MatchString(r.Stdout + r.Stderr) {
			t.Errorf("capture's output lacks %q:\n%s%s", want, r.Stdout, r.Stderr)
		}
	}
	target := lab.BlankDisk(t, size(t, disk))
	deploy(t, "pc", target, store)
	for _, n := range []int{8, 11} {
		p := partition(t, disk, n)
		area := testdisk.Area{Name: fmt.Sprintf("raw partition %d", n), Offset: p.Start, Size: p.Size}
		testdisk.SameBytes(t, disk, target, area)
	}
}

// TestStoreDamage damages the store in every way of the list. Deploy must say so and leave a disk that boots nothing.
// What is there twice is damaged in both places; in one of them it is only said.
func TestStoreDamage(t *testing.T) {
	source := testdisk.DualBootOriginal(t, 2048)
	original := filepath.Join(t.TempDir(), "store")
	capture(t, source, "pc", original)
	flip := func(b []byte) []byte { b[len(b)/2] ^= 1; return b }
	short := func(b []byte) []byte { return b[:len(b)-1] }
	cases := map[string]struct {
		files  []string // patterns of the files' paths inside the store
		damage func(data []byte) []byte
		heals  bool
	}{
		"flipped bit in a pack":  {[]string{"packs/"}, flip, false},
		"truncated pack":         {[]string{"packs/"}, func(b []byte) []byte { return b[:len(b)/2] }, false},
		"altered manifests":      {[]string{"copies/images/pc/", "images/pc/"}, flip, false},
		"truncated manifests":    {[]string{"copies/images/pc/", "images/pc/"}, short, false},
		"one altered manifest":   {[]string{"images/pc/"}, flip, true},
		"one truncated manifest": {[]string{"copies/images/pc/"}, short, true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			store := filepath.Join(t.TempDir(), "store")
			mustRun(t, "cp", "-a", original, store)
			for _, file := range c.files {
				damageFile(t, store, file, c.damage)
			}
			disk := lab.BlankDisk(t, size(t, source))
			r := lab.Clonecast(t, "disk", "deploy", "pc", disk, "--store", store, "--yes")
			if healed := r.Exit == 0; healed != c.heals || healed == strings.Contains(r.Stderr, "clonecast: error: ") {
				t.Errorf("deploy ended with exit code %d and %q; want success: %v", r.Exit, r.Stderr, c.heals)
			}
			t.Logf("deploy: %s", r.Stderr)
			if boots(t, disk) != c.heals {
				t.Errorf("the disk has a boot sector with its signature: %v, want %v", !c.heals, c.heals)
			}
			r = lab.Clonecast(t, "store", "check", "--read-data", "--store", store)
			if r.Exit != 1 {
				t.Errorf("store check ended with exit code %d, want 1:\n%s%s", r.Exit, r.Stdout, r.Stderr)
			}
			t.Logf("check: %s%s", r.Stdout, r.Stderr)
		})
	}
}

// damageFile changes the largest file of the store whose path begins with the word.
func damageFile(t *testing.T, store, word string, damage func([]byte) []byte) {
	t.Helper()
	largest, most := "", int64(-1)
	err := filepath.WalkDir(store, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && strings.HasPrefix(strings.TrimPrefix(path, store+"/"), word) &&
			size(t, path) > most {
			largest, most = path, size(t, path)
		}
		return err
	})
	if err != nil || largest == "" {
		t.Fatalf("no file named %q in the store (%v):\n%s", word, err, mustRun(t, "find", store, "-type", "f"))
	}
	data, err := os.ReadFile(largest)
	if err != nil {
		t.Fatal(err)
	}
	os.Chmod(largest, 0o600)
	if err := os.WriteFile(largest, damage(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestStoreFull captures into a file system that has no room: the message names the cause, no version appears, and the
// same capture succeeds when there is room.
func TestStoreFull(t *testing.T) {
	source := testdisk.DualBootOriginal(t, 2048)
	mount := t.TempDir()
	mustRun(t, "mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", mount)
	t.Cleanup(func() { mustRun(t, "umount", mount) })
	store := filepath.Join(mount, "store")
	r := lab.Clonecast(t, "disk", "capture", source, "pc", "--store", store)
	if r.Exit != 1 || !strings.Contains(r.Stderr, "the store is full") {
		t.Errorf("capture into a full disk ended with exit code %d and %q, want 1 and the cause", r.Exit, r.Stderr)
	}
	disk := lab.BlankDisk(t, size(t, source))
	if r := lab.Clonecast(t, "disk", "deploy", "pc", disk, "--store", store, "--yes"); r.Exit != 6 {
		t.Errorf("deploy of the unfinished capture ended with exit code %d and %q, want 6", r.Exit, r.Stderr)
	}
	mustRun(t, "mount", "-o", "remount,size=800m", mount)
	capture(t, source, "pc", store)
	deploy(t, "pc", disk, store)
	testdisk.Equal(t, source, disk)
}

// TestDiskRefusals shows that a target that is too small stays untouched.
func TestDiskRefusals(t *testing.T) {
	source := testdisk.DualBootOriginal(t, 2048)
	store := filepath.Join(t.TempDir(), "store")
	capture(t, source, "pc", store)
	small := lab.BlankDisk(t, size(t, source)/2)
	r := lab.Clonecast(t, "disk", "deploy", "pc", small, "--store", store, "--yes")
	if r.Exit != 3 {
		t.Errorf("deploy to a disk of half the size ended with exit code %d and %q, want 3", r.Exit, r.Stderr)
	}
	if out := mustRun(t, "du", "-k", small); !strings.HasPrefix(out, "0\t") {
		t.Errorf("the refused disk was written: %s", out)
	}
	untouched := lab.BlankDisk(t, size(t, source))
	r = lab.Clonecast(t, "disk", "deploy", "pc", untouched, "--store", store)
	if r.Exit != 3 {
		t.Errorf("deploy without --yes and without terminal ended with exit code %d, want 3", r.Exit)
	}
}
