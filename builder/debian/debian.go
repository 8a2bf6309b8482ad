// Package debian reads Debian binary packages and gets them through apt.
//
// A package is an ar archive of three members: debian-binary, control.tar.* and
// data.tar.*, see deb(5). Walk shows the files of data.tar one by one; nothing
// is ever unpacked to disk, so a path in a package can lead nowhere.
//
// Fetch asks apt, which verifies the signatures of the archive, and keeps what
// it got: the second build needs no network. A file in the cache is used again
// only under the name that apt gives it, which holds the version.
//
// xz(1) decompresses ten times as fast as the Go code, so it is used where it is
// installed; the result is the same.
package debian

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// Limits of a package; the largest kernel package today has 6,000 files and 500 MB.
const (
	maxUnpacked = 4 << 30
	maxEntries  = 200_000
	maxWindow   = 128 << 20 // of zstd
	maxPadding  = 1 << 20   // behind the end mark of tar
)

// ErrNotPackage: the file is not a Debian package.
var ErrNotPackage = errors.New("not a Debian package")

// File is one entry of a package. Name is clean and relative ("boot/vmlinuz-6.12").
type File struct {
	Name string
	Size int64
	Link string // target if the entry is a symbolic link
}

// Walk calls fn for each regular file and symbolic link of the package at name, in its order.
// r ends with the file; what fn does not read is skipped.
func Walk(ctx context.Context, name string, fn func(f File, r io.Reader) error) error {
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("open package: %w", err)
	}
	defer f.Close()
	if err := walk(ctx, bufio.NewReaderSize(f, 1<<20), fn); err != nil {
		return fmt.Errorf("read package %s: %w", name, err)
	}
	return nil
}

func walk(ctx context.Context, r io.Reader, fn func(File, io.Reader) error) error {
	archive, err := newAr(r)
	if err != nil {
		return err
	}
	for {
		member, content, err := archive.next()
		if err == io.EOF {
			return fmt.Errorf("%w: it has no data.tar", ErrNotPackage)
		}
		if err != nil {
			return err
		}
		if extension, ok := strings.CutPrefix(member, "data.tar"); ok {
			return walkData(ctx, extension, content, fn)
		}
	}
}

func walkData(ctx context.Context, extension string, r io.Reader, fn func(File, io.Reader) error) error {
	plain, err := decompress(ctx, extension, r)
	if err != nil {
		return fmt.Errorf("data.tar%s: %w", extension, err)
	}
	if err = walkTar(plain, fn); err == nil {
		// tar stops at its end mark; the checksum of the stream comes after it.
		_, err = io.Copy(io.Discard, io.LimitReader(plain, maxPadding))
	}
	return errors.Join(err, plain.Close())
}

func walkTar(r io.Reader, fn func(File, io.Reader) error) error {
	archive := tar.NewReader(&limitedReader{r, maxUnpacked})
	for range maxEntries {
		h, err := archive.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("data.tar: %w", err)
		}
		f := File{Name: strings.TrimPrefix(path.Clean("/"+h.Name), "/"), Size: h.Size}
		switch h.Typeflag {
		case tar.TypeReg:
		case tar.TypeSymlink:
			f.Link = h.Linkname
		default:
			continue
		}
		if err := fn(f, archive); err != nil {
			return fmt.Errorf("%s: %w", f.Name, err)
		}
	}
	return fmt.Errorf("data.tar: more than %d entries", maxEntries)
}

// limitedReader fails, rather than ends, after n bytes.
type limitedReader struct {
	r io.Reader
	n int64
}

func (l *limitedReader) Read(p []byte) (int, error) {
	if l.n <= 0 {
		return 0, fmt.Errorf("more than %d bytes", int64(maxUnpacked))
	}
	n, err := l.r.Read(p[:min(int64(len(p)), l.n)])
	l.n -= int64(n)
	return n, err
}

// decompress opens a stream by its file name extension.
func decompress(ctx context.Context, extension string, r io.Reader) (io.ReadCloser, error) {
	switch extension {
	case "":
		return io.NopCloser(r), nil
	case ".gz":
		return gzip.NewReader(r)
	case ".zst":
		d, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	case ".xz":
		if tool, err := exec.LookPath("xz"); err == nil {
			return pipe(exec.CommandContext(ctx, tool, "--decompress", "--stdout", "--memlimit-decompress=256MiB"), r)
		}
		plain, err := xz.NewReader(r)
		if err != nil {
			return nil, err
		}
		return io.NopCloser(plain), nil
	}
	return nil, fmt.Errorf("unknown compression %q", extension)
}

// command reads a program's output; Close reports how it ended.
type command struct {
	io.Reader
	cmd    *exec.Cmd
	stderr *strings.Builder
	ended  bool
}

func pipe(cmd *exec.Cmd, stdin io.Reader) (*command, error) {
	c := &command{cmd: cmd, stderr: &strings.Builder{}}
	cmd.Stdin, cmd.Stderr = stdin, c.stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.Reader = out
	return c, cmd.Start()
}

func (c *command) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.ended = c.ended || err == io.EOF
	return n, err
}

// Close reports how the program ended; one that is not needed to the end is stopped.
func (c *command) Close() error {
	if !c.ended {
		c.cmd.Process.Kill()
		c.cmd.Wait()
		return nil
	}
	if err := c.cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w: %s", c.cmd.Path, err, strings.TrimSpace(c.stderr.String()))
	}
	return nil
}
