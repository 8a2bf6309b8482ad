package disktest

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// f2fsFile is a line of the tree that fsck.f2fs prints.
var f2fsFile = regexp.MustCompile("(?m)^[| ]*(?:\\|--|`--) (.+) <ino = (0x[0-9a-f]+)>")

// CheckF2FS gives what fsck.f2fs prints of an image or device, with the tree of files. It
// fails the test when fsck.f2fs finds anything wrong: the exit code does not say so.
func CheckF2FS(t testing.TB, path string) string {
	t.Helper()
	out := Run(t, "", "fsck.f2fs", "-f", "--dry-run", "-t", path)
	if strings.Contains(out, "[Fail]") || strings.Contains(out, "ASSERT") || !strings.Contains(out, "[Ok..]") {
		t.Fatalf("fsck.f2fs:\n%s", out)
	}
	return out
}

// HashesF2FS is Hashes by f2fs-tools, for kernels without the driver: by inode number, not
// by name.
func HashesF2FS(t testing.TB, path string) map[string]string {
	t.Helper()
	dir := t.TempDir()
	for _, m := range f2fsFile.FindAllStringSubmatch(CheckF2FS(t, path), -1) {
		name, inode := m[1], m[2]
		DumpF2FS(t, dir, path, "-i", inode)
		err := os.Rename(filepath.Join(dir, "lost_found", name), filepath.Join(dir, inode))
		if err != nil && !os.IsNotExist(err) { // a directory is not dumped
			t.Fatal(err)
		}
	}
	return Hashes(t, dir)
}

// DumpF2FS runs dump.f2fs, which writes into the directory that it runs in.
func DumpF2FS(t testing.TB, dir, path string, args ...string) {
	t.Helper()
	cmd := exec.Command("dump.f2fs", append(args, path)...)
	cmd.Dir, cmd.Stdin = dir, strings.NewReader("y\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s (make deps installs it): %v\n%s", cmd, err, out)
	}
}
