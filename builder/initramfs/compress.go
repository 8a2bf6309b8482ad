package initramfs

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// Compressed is an initramfs ready to boot.
type Compressed struct {
	Data   []byte
	Method string // xz, zstd, gzip or none
	Tool   string // what made it: "xz(1)", "Go"
}

// Compress packs data by method, or by the best there is for "auto".
func Compress(ctx context.Context, method string, data []byte) (Compressed, error) {
	if method == "auto" {
		method = "xz"
		if _, err := exec.LookPath("xz"); err != nil {
			method = "zstd"
		}
	}
	var packed []byte
	var err error
	tool := "Go"
	switch method {
	case "xz":
		packed, err = execXZ(ctx, data)
		if tool = "xz(1)"; errors.Is(err, exec.ErrNotFound) {
			packed, err = goXZ(data)
			tool = "Go"
		}
	case "zstd":
		packed, err = goZstd(data)
	case "gzip":
		packed, err = goGzip(data)
	case "none":
		packed = data
	default:
		return Compressed{}, fmt.Errorf("compress initramfs: unknown method %q", method)
	}
	if err != nil {
		return Compressed{}, fmt.Errorf("compress initramfs with %s: %w", method, err)
	}
	return Compressed{packed, method, tool}, nil
}

// dictionary is the window of xz: the kernel allocates it beside the packed and the
// unpacked files. Four times as much would save 2 % of class generic-pc.
const dictionary = 8 << 20

// execXZ runs xz(1). One thread: more would cut the stream into blocks. CRC32 is
// the only check that the kernel knows.
func execXZ(ctx context.Context, data []byte) ([]byte, error) {
	tool, err := exec.LookPath("xz")
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, tool, "--compress", "--stdout", "--format=xz", "--check=crc32", "--threads=1",
		fmt.Sprintf("--lzma2=preset=9,dict=%d", dictionary))
	var out, problems bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(data), &out, &problems
	cmd.Env = []string{} // XZ_DEFAULTS would change the bytes
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, strings.TrimSpace(problems.String()))
	}
	return out.Bytes(), nil
}

func goXZ(data []byte) ([]byte, error) {
	return through(data, func(w io.Writer) (io.WriteCloser, error) {
		return xz.WriterConfig{DictCap: dictionary, CheckSum: xz.CRC32}.NewWriter(w)
	})
}

func goZstd(data []byte) ([]byte, error) {
	return through(data, func(w io.Writer) (io.WriteCloser, error) {
		return zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1),
			zstd.WithWindowSize(8<<20), zstd.WithEncoderCRC(true)) // the kernel takes 8 MiB at most
	})
}

func goGzip(data []byte) ([]byte, error) {
	return through(data, func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriterLevel(w, gzip.BestCompression) })
}

func through(data []byte, open func(io.Writer) (io.WriteCloser, error)) ([]byte, error) {
	var out bytes.Buffer
	w, err := open(&out)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
