package debian

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// member is one member of an ar archive.
func member(name string, data []byte) []byte {
	header := fmt.Sprintf("%-16s%-12d%-6d%-6d%-8s%-10d`\n", name, 0, 0, 0, "100644", len(data))
	return append([]byte(header), append(data, "\n"[:len(data)%2]...)...)
}

func deb(extension string, data []byte) []byte {
	members := append(member("debian-binary", []byte("2.0\n")), member("control.tar.xz", []byte("odd"))...)
	return append([]byte(arMagic), append(members, member("data.tar"+extension, data)...)...)
}

func tarball(t testing.TB) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range []tar.Header{
		{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "./boot/vmlinuz", Typeflag: tar.TypeReg, Size: 5},
		{Name: "../../etc/passwd", Typeflag: tar.TypeReg, Size: 5},
		{Name: "./link", Typeflag: tar.TypeSymlink, Linkname: "boot/vmlinuz"},
	} {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			io.WriteString(w, "hello")
		}
	}
	w.Close()
	return out.Bytes()
}

func pack(t *testing.T, extension string, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	var w io.WriteCloser
	var err error
	switch extension {
	case ".gz":
		w = gzip.NewWriter(&out)
	case ".zst":
		w, err = zstd.NewWriter(&out)
	case ".xz":
		w, err = xz.NewWriter(&out)
	default:
		return data
	}
	if err != nil {
		t.Fatal(err)
	}
	w.Write(data)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestWalk(t *testing.T) {
	want := []string{"boot/vmlinuz=hello", "etc/passwd=hello", "link->boot/vmlinuz"}
	for _, path := range []string{os.Getenv("PATH"), "/nonexistent"} { // with xz(1) and without
		t.Setenv("PATH", path)
		for _, extension := range []string{"", ".gz", ".zst", ".xz"} {
			name := filepath.Join(t.TempDir(), "x.deb")
			if err := os.WriteFile(name, deb(extension, pack(t, extension, tarball(t))), 0o600); err != nil {
				t.Fatal(err)
			}
			var got []string
			err := Walk(t.Context(), name, func(f File, r io.Reader) error {
				if f.Link != "" {
					got = append(got, f.Name+"->"+f.Link)
					return nil
				}
				data, err := io.ReadAll(r)
				got = append(got, f.Name+"="+string(data))
				return err
			})
			if err != nil {
				t.Errorf("%q: %v", extension, err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%q: -want +got\n%s", extension, diff)
			}
		}
	}
}

func TestWalkDamaged(t *testing.T) {
	packed := pack(t, ".xz", tarball(t))
	flipped := bytes.Clone(packed)
	flipped[len(flipped)/2] ^= 1
	for name, data := range map[string][]byte{
		"empty":      {},
		"no archive": []byte("hello, this is no archive"),
		"no data":    append([]byte(arMagic), member("debian-binary", nil)...),
		"header cut": []byte(arMagic + "data.tar"),
		"bad size": append([]byte(arMagic),
			bytes.Replace(member("data.tar", nil), []byte("0         `"), []byte("-1        `"), 1)...),
		"unknown format": deb(".lz4", tarball(t)),
		"xz cut":         deb(".xz", packed[:len(packed)/2]),
		"xz flipped":     deb(".xz", flipped),
		"tar cut":        deb("", tarball(t)[:700]),
	} {
		for _, path := range []string{os.Getenv("PATH"), "/nonexistent"} {
			t.Setenv("PATH", path)
			err := walk(t.Context(), bytes.NewReader(data), func(f File, r io.Reader) error {
				_, err := io.Copy(io.Discard, r)
				return err
			})
			if err == nil {
				t.Errorf("%s: no error", name)
			}
		}
	}
}

func TestLimitedReaderFails(t *testing.T) {
	n, err := io.Copy(io.Discard, &limitedReader{strings.NewReader("0123456789"), 4})
	if n != 4 || err == nil {
		t.Errorf("read %d bytes, error %v; want 4 and an error", n, err)
	}
}

func TestCompareVersions(t *testing.T) {
	for _, c := range []struct{ older, newer string }{
		{"linux-image-6.12.9+deb12-amd64", "linux-image-6.12.117+deb12-amd64"},
		{"linux-image-6.12.100+deb12-amd64", "linux-image-6.12.101+deb12-amd64"},
		{"a_1.0", "a_1.0.1"},
		{"a_09", "a_10"},
	} {
		if compareVersions(c.older, c.newer) >= 0 || compareVersions(c.newer, c.older) <= 0 ||
			compareVersions(c.older, c.older) != 0 {
			t.Errorf("compareVersions does not put %s before %s", c.older, c.newer)
		}
	}
}

// fakeApt puts programs apt-cache and apt-get on PATH that know two kernels.
func fakeApt(t *testing.T, works bool) {
	t.Helper()
	dir := t.TempDir()
	get := "#!/bin/sh\nexit 100\n"
	if works {
		get = `#!/bin/sh
case "$*" in
*--print-uris*) echo "'http://x/k.deb' kernel-6.12_1_amd64.deb 5 SHA256:0" ;;
*) echo hello > kernel-6.12_1_amd64.deb ;;
esac
`
	}
	for name, text := range map[string]string{
		"apt-cache": "#!/bin/sh\necho kernel-6.9 kernel-6.12 kernel-6.12-dbg\n",
		"apt-get":   get,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
}

func TestFetch(t *testing.T) {
	cache := t.TempDir()
	fakeApt(t, false)
	var missing *NoPackageError
	if _, err := Fetch(t.Context(), "kernel-6.?*", cache, quiet()); !errors.As(err, &missing) || missing.Hint() == "" {
		t.Fatalf("without network and cache: error %v, want a NoPackageError with a hint", err)
	}
	fakeApt(t, true)
	file, err := Fetch(t.Context(), "kernel-6.[0-9]*[0-9]", cache, quiet())
	if want := filepath.Join(cache, "kernel-6.12_1_amd64.deb"); err != nil || file != want {
		t.Fatalf("Fetch = %q, %v; want %q", file, err, want)
	}
	fakeApt(t, false)
	if again, err := Fetch(t.Context(), "kernel-6.*", cache, quiet()); err != nil || again != file {
		t.Errorf("without network: Fetch = %q, %v; want %q from the cache", again, err, file)
	}
	entries, _ := os.ReadDir(cache)
	if len(entries) != 1 {
		t.Errorf("cache holds %d entries, want the package alone", len(entries))
	}
}

func FuzzWalk(f *testing.F) {
	f.Add(deb("", tarball(f)))
	f.Add([]byte(arMagic))
	f.Fuzz(func(t *testing.T, data []byte) {
		if bytes.Contains(data, []byte("data.tar.")) {
			return // decompressors have their own tests, and a program for every input is slow
		}
		walk(context.Background(), bytes.NewReader(data), func(f File, r io.Reader) error {
			if filepath.IsAbs(f.Name) || f.Name == ".." || strings.HasPrefix(f.Name, "../") {
				t.Errorf("name %q leads out", f.Name)
			}
			n, err := io.Copy(io.Discard, r)
			if n > int64(len(data)) && n > f.Size {
				t.Errorf("%d bytes out of %d", n, len(data))
			}
			return err
		})
	})
}

// Without a network, what is missing says how to go on without one.
func TestHintWithoutNetwork(t *testing.T) {
	for pattern, want := range map[string]string{
		"linux-image-6.?*-amd64": "--kernel-package FILE", "ipxe": "apt-get install ipxe",
	} {
		if hint := (&NoPackageError{Pattern: pattern}).Hint(); !strings.Contains(hint, want) {
			t.Errorf("hint for %s: %q has no %q", pattern, hint, want)
		}
	}
}
