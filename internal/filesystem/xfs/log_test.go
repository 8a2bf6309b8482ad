package xfs

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"clonecast/internal/disktest"
	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

// smallXFS makes a file system of two groups, smaller than mkfs.xfs likes.
func smallXFS(t testing.TB, args string) string {
	t.Helper()
	path := disktest.Image(t, 64*quantity.MiB)
	disktest.Command(t, "mkfs.xfs -q -f --unsupported -b size=1024 -d agcount=2 "+args+" DEV", "DEV", path)
	return path
}

// TestLogRoundTheEnd lets a small log go round many times. At each stop, the file
// system in use or unmounted, our word on the log is compared with xfs_logprint's.
func TestLogRoundTheEnd(t *testing.T) {
	for _, args := range []string{"-m rmapbt=0,reflink=0 -l size=4m", "-m rmapbt=0,reflink=0 -l size=7m,su=256k"} {
		t.Run(args, func(t *testing.T) {
			path := smallXFS(t, args)
			verdicts := map[bool]int{}
			lastCycle := uint32(0)
			// How much is logged depends on how the kernel is scheduled.
			rounds := 0
			for ; rounds < 6 || lastCycle < 3 && rounds < 40; rounds++ {
				dir := disktest.Mount(t, path, mountCommand)
				churn(t, dir, rounds)
				used := filepath.Join(t.TempDir(), "used.img")
				disktest.Run(t, "", "cp", "--sparse=always", path, used)
				verdicts[checkLog(t, used)]++
				disktest.Unmount(t, dir)
				verdicts[checkLog(t, path)]++
				lastCycle = cycleOf(t, path)
			}
			if verdicts[true] < rounds || verdicts[false] < rounds-2 || lastCycle < 3 {
				t.Errorf("verdicts %v, cycle %d: the test does not show what it should", verdicts, lastCycle)
			}
		})
	}
}

// churn changes much metadata and syncs now and then, and at the end.
func churn(t *testing.T, dir string, round int) {
	t.Helper()
	sync := func() {
		f, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3000 + 37*round {
		name := filepath.Join(dir, fmt.Sprintf("a rather long name of a file, number %d of round %d", i, round))
		if err := os.WriteFile(name, []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
		if i%8 > 0 {
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
		}
		if i%50 == 0 {
			sync()
		}
	}
	sync()
}

// checkLog compares what Read says of the log with xfs_logprint. It reports whether
// the log is clean.
func checkLog(t *testing.T, path string) bool {
	t.Helper()
	out := disktest.Run(t, "", "xfs_logprint", "-t", path)
	clean := strings.Contains(out, "state: <CLEAN>")
	if !clean && !strings.Contains(out, "state: <DIRTY>") {
		t.Fatalf("xfs_logprint gives no state:\n%s", out)
	}
	v := disktest.Volume(t, path, Read)
	if (v.Doubt == nil) != clean {
		t.Errorf("Doubt = %+v, xfs_logprint says clean: %v", v.Doubt, clean)
	}
	if v.Doubt != nil && (v.Allocated != nil || v.Doubt.Remedy != remedyUnmount || v.Doubt.Refuse) {
		t.Errorf("Doubt = %+v with %d extents", v.Doubt, len(v.Allocated))
	}
	return clean
}

// cycleOf gives the cycle of the first sector of the log.
func cycleOf(t *testing.T, path string) uint32 {
	t.Helper()
	rd := openFile(t, path)
	b := make([]byte, logSector)
	if err := filesystem.ReadFull(rd.r, b, rd.offset(rd.logGroup, rd.log.start)); err != nil {
		t.Fatal(err)
	}
	cycle, _ := sectorCycle(b)
	return cycle
}

func openFile(t *testing.T, path string) *reader {
	t.Helper()
	f := disktest.Open(t, path)
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	sb, err := readSuperblock(f, quantity.Bytes(info.Size()))
	if err != nil {
		t.Fatal(err)
	}
	g, problem := newGeometry(sb, quantity.Bytes(info.Size()))
	if problem != "" {
		t.Fatal(problem)
	}
	return &reader{r: f, geometry: g}
}

// TestDirty takes a file system as a power cut leaves it: the data are there, synced,
// but in blocks that the trees call free.
func TestDirty(t *testing.T) {
	path := smallXFS(t, "")
	dir := disktest.Mount(t, path, mountCommand)
	content := bytes.Repeat([]byte("synced. "), 1<<17)
	f, err := os.Create(filepath.Join(dir, "synced"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	f.Close()
	cut := filepath.Join(t.TempDir(), "cut.img")
	disktest.Run(t, "", "cp", "--sparse=always", path, cut)
	if checkLog(t, cut) {
		t.Error("clean, though a file was synced and nothing unmounted")
	}
	disktest.Unmount(t, dir)
	if !checkLog(t, path) {
		t.Error("dirty after unmounting")
	}

	t.Run("replayed", func(t *testing.T) {
		dir := disktest.Mount(t, cut, mountCommand)
		disktest.Unmount(t, dir)
		v := disktest.Volume(t, cut, Read)
		if v.Doubt != nil {
			t.Fatalf("Doubt = %+v after mounting and unmounting", v.Doubt)
		}
		disktest.Scribble(t, cut, v.Allocated)
		dir = disktest.Mount(t, cut, mountCommand)
		defer disktest.Unmount(t, dir)
		if got, err := os.ReadFile(filepath.Join(dir, "synced")); err != nil || !bytes.Equal(got, content) {
			t.Errorf("the synced file has %d bytes, %v", len(got), err)
		}
	})
}

// TestRepaired takes logs that tools made anew, with sectors never written in them.
func TestRepaired(t *testing.T) {
	path := smallXFS(t, "")
	dir := disktest.Mount(t, path, mountCommand)
	disktest.Fill(t, dir, 30, 40*quantity.KiB)
	disktest.Run(t, "", "sync", "-f", dir)
	cut := filepath.Join(t.TempDir(), "cut.img")
	disktest.Run(t, "", "cp", "--sparse=always", path, cut)
	disktest.Unmount(t, dir)
	disktest.Try("", "xfs_repair", "-L", cut) // its exit code tells that it found something
	if !checkLog(t, cut) {
		t.Error("dirty after xfs_repair -L")
	}
	disktest.Command(t, "xfs_admin -U generate DEV", "DEV", cut)
	if !checkLog(t, cut) {
		t.Error("dirty after a new UUID")
	}
	dir = disktest.Mount(t, cut, mountCommand)
	churn(t, dir, 0)
	disktest.Unmount(t, dir)
	if !checkLog(t, cut) {
		t.Error("dirty after using it")
	}
	disktest.Scribble(t, cut, disktest.Volume(t, cut, Read).Allocated)
	disktest.Run(t, "", "xfs_repair", "-n", cut)
}
