// Package disktest makes test disks with the system's own tools: sparse image
// files, loop devices for sector sizes other than 512, and a way to run a tool that
// fails the test when the tool is missing or fails.
package disktest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"clonecast/internal/quantity"
)

// Image makes a sparse file of the given size in the test's directory.
func Image(t testing.TB, size quantity.Bytes) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(int64(size)); err != nil {
		t.Fatal(err)
	}
	return path
}

// Open opens a file or device for reading and writing until the test ends.
func Open(t testing.TB, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// Run runs a tool with input on its standard input and returns what it prints.
func Run(t testing.TB, input, name string, args ...string) string {
	t.Helper()
	out, err := Try(input, name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Try is Run for tools that may fail; the error holds their output.
func Try(input, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.Stdin = strings.NewReader(input)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s (make deps installs the tools the tests need): %w\n%s%s",
			cmd, err, &stdout, &stderr)
	}
	return stdout.String(), nil
}

// Loop gives a loop device with the given sector size for the image (needs root).
func Loop(t testing.TB, image string, sector quantity.SectorSize) string {
	t.Helper()
	return loop(t, "--sector-size", fmt.Sprint(sector), image)
}

// LoopPart gives a loop device for a part of the image (needs root).
func LoopPart(t testing.TB, image string, part quantity.Extent) string {
	t.Helper()
	return loop(t, "--offset", fmt.Sprint(int64(part.Start)), "--sizelimit", fmt.Sprint(int64(part.Length)), image)
}

func loop(t testing.TB, args ...string) string {
	t.Helper()
	dev := strings.TrimSpace(Run(t, "", "losetup", append([]string{"--find", "--show"}, args...)...))
	t.Cleanup(func() {
		if _, err := Try("", "losetup", "--detach", dev); err != nil {
			t.Error(err)
		}
	})
	return dev
}
