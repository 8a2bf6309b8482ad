package initramfs

import (
	"bytes"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func example(t *testing.T, reverse bool) []byte {
	t.Helper()
	var a Archive
	steps := []func() error{
		func() error { return a.AddDevice("dev/console", 0o600, 5, 1) },
		func() error { return a.AddFile("init", []byte("#!"), true) },
		func() error { return a.AddFile("etc/clonecast/class.json", []byte("{}"), false) },
		func() error { return a.AddSymlink("lib/firmware/a", "b") },
		func() error { return a.AddDir("proc") },
	}
	for i := range steps {
		if reverse {
			i = len(steps) - 1 - i
		}
		if err := steps[i](); err != nil {
			t.Fatal(err)
		}
	}
	data, err := a.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestArchiveDoesNotDependOnTheOrder(t *testing.T) {
	if !bytes.Equal(example(t, false), example(t, true)) {
		t.Error("the same entries in another order give another archive")
	}
}

// cpio(1) is the second opinion on what the archive holds.
func TestArchiveByCpio(t *testing.T) {
	cmd := exec.Command("cpio", "--list", "--verbose", "--numeric-uid-gid", "--quiet")
	cmd.Stdin = bytes.NewReader(example(t, false))
	cmd.Env = []string{"TZ=UTC", "LC_ALL=C", "PATH=/usr/bin:/bin"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("cpio (run 'make deps' if it is missing): %v\n%s", err, out)
	}
	var got []string
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		got = append(got, f[0]+" "+f[2]+" "+f[3]+" "+strings.Join(f[4:], " "))
	}
	want := []string{
		"drwxr-xr-x 0 0 0 Jan 1 1970 dev",
		"crw------- 0 0 5, 1 Jan 1 1970 dev/console",
		"drwxr-xr-x 0 0 0 Jan 1 1970 etc",
		"drwxr-xr-x 0 0 0 Jan 1 1970 etc/clonecast",
		"-rw-r--r-- 0 0 2 Jan 1 1970 etc/clonecast/class.json",
		"-rwxr-xr-x 0 0 2 Jan 1 1970 init",
		"drwxr-xr-x 0 0 0 Jan 1 1970 lib",
		"drwxr-xr-x 0 0 0 Jan 1 1970 lib/firmware",
		"lrwxrwxrwx 0 0 1 Jan 1 1970 lib/firmware/a -> b",
		"drwxr-xr-x 0 0 0 Jan 1 1970 proc",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestArchiveRefuses(t *testing.T) {
	for _, name := range []string{"", ".", "/init", "../init", "a/../b", "a//b", "init", "init/x"} {
		var a Archive
		if err := a.AddFile("init", nil, true); err != nil {
			t.Fatal(err)
		}
		if err := a.AddFile(name, nil, false); err == nil {
			t.Errorf("AddFile(%q) beside init: no error", name)
		}
	}
}

// The programs of Debian that unpack each method are the second opinion.
func TestCompress(t *testing.T) {
	random := rand.NewChaCha8([32]byte{1})
	data := make([]byte, 300_000)
	random.Read(data[:100_000])
	for _, c := range []struct{ method, path, tool, unpack string }{
		{"auto", "", "xz(1)", "xz"},
		{"xz", "", "xz(1)", "xz"},
		{"auto", "/nonexistent", "Go", "zstd"},
		{"xz", "/nonexistent", "Go", "xz"},
		{"zstd", "", "Go", "zstd"},
		{"gzip", "", "Go", "gzip"},
		{"none", "", "Go", ""},
	} {
		unpack, err := exec.LookPath("cat")
		if c.unpack != "" {
			unpack, err = exec.LookPath(c.unpack)
		}
		if err != nil {
			t.Fatalf("run 'make deps': %v", err)
		}
		t.Run(c.method+c.path, func(t *testing.T) {
			if c.path != "" {
				t.Setenv("PATH", c.path)
			}
			packed, err := Compress(t.Context(), c.method, data)
			if err != nil || packed.Tool != c.tool {
				t.Fatalf("tool %q, error %v; want %q", packed.Tool, err, c.tool)
			}
			again, err := Compress(t.Context(), c.method, data)
			if err != nil || !bytes.Equal(packed.Data, again.Data) {
				t.Errorf("compressed twice: the bytes differ (error %v)", err)
			}
			cmd := exec.Command(unpack, "-dc")
			if c.unpack == "" {
				cmd = exec.Command(unpack)
			}
			cmd.Stdin = bytes.NewReader(packed.Data)
			if out, err := cmd.Output(); err != nil || !bytes.Equal(out, data) {
				t.Errorf("%s gives back %d bytes, error %v", unpack, len(out), err)
			}
		})
	}
	if _, err := Compress(t.Context(), "rar", data); err == nil {
		t.Error("unknown method: no error")
	}
}

// The kernel's decoder knows no check but CRC32.
func TestXZCheckIsCRC32(t *testing.T) {
	for _, path := range []string{"/usr/bin:/bin", "/nonexistent"} {
		t.Setenv("PATH", path)
		packed, err := Compress(t.Context(), "xz", []byte("hello"))
		if err != nil || packed.Data[7] != 1 {
			t.Errorf("stream flags % x, error %v; want check 1", packed.Data[6:8], err)
		}
	}
}
