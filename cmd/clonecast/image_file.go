package main

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"clonecast/internal/chunkstore"
	"clonecast/internal/chunkstore/export"
	"clonecast/internal/image"
	"clonecast/internal/quantity"

	"github.com/spf13/cobra"
)

func newImageExportCmd(c *connection) *cobra.Command {
	var store string
	cmd := &cobra.Command{
		Use:   "export IMAGE[@VERSION] FILE --store DIR",
		Short: "Write a version as one file",
		Long: `Write a version of an image (the newest when none is given) as one file: its signed manifest and its chunks, and
no others of the store. FILE must not exist. 'clonecast image import' reads it.

Exit codes: 0 ok, 1 failed, 2 wrong usage, 3 FILE exists, 6 not found.`,
		Args: words("IMAGE", "FILE"),
		RunE: func(cmd *cobra.Command, a []string) error {
			rep := newReporter(cmd, c.json)
			defer rep.close()
			return runImageExport(cmd.Context(), store, a[0], a[1], rep)
		},
	}
	cmd.Flags().StringVar(&store, "store", "", storeUsage)
	require(cmd, "store")
	return cmd
}

type fileSummary struct {
	Image    string  `json:"image"`
	Sequence uint64  `json:"sequence"`
	Version  string  `json:"version"`
	Bytes    int64   `json:"bytes_file"`
	Stored   *int64  `json:"bytes_stored,omitempty"`
	Seconds  float64 `json:"seconds"`
}

func runImageExport(ctx context.Context, dir, ref, path string, rep *reporter) (err error) {
	started := time.Now()
	name, sequence, err := image.ParseReference(ref)
	if err != nil {
		return withCode(exitUsage, err, "")
	}
	store, err := openStore(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	v, size, err := exportTo(ctx, path, store, name, sequence, rep)
	switch {
	case errors.Is(err, fs.ErrExist):
		return withCode(exitRefused, err, "remove it, or choose another name")
	case errors.Is(err, chunkstore.ErrNotFound):
		return withCode(exitNotFound, err, "")
	case err != nil:
		return fmt.Errorf("export %s: %w", ref, err)
	}
	took := time.Since(started)
	rep.printf("exported %s@%d (%s) to %s: %v, %s\n", v.Image, v.Sequence, v.ID.Short(), path, quantity.Bytes(size), rate(v.Allocated, took))
	return rep.summary(fileSummary{v.Image, v.Sequence, v.ID.String(), size, nil, took.Seconds()})
}

// exportTo writes the file under its name only when it is whole and on the disk.
func exportTo(ctx context.Context, path string, store chunkstore.Reader, name string, sequence uint64, rep *reporter) (v image.Version, size int64, err error) {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return v, 0, &fs.PathError{Op: "write", Path: path, Err: fs.ErrExist}
	}
	part := path + ".part"
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return v, 0, err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(part)
		}
	}()
	w := bufio.NewWriterSize(f, 1<<20)
	v, err = export.Write(ctx, store, name, sequence, w, func(done, total int64) { rep.progress("write", done, total) })
	if err == nil {
		err = errors.Join(w.Flush(), f.Sync())
	}
	if err == nil {
		size, err = f.Seek(0, io.SeekCurrent)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return v, 0, err
	}
	return v, size, os.Rename(part, path)
}

type importOptions struct{ store, name, trust string }

func newImageImportCmd(c *connection) *cobra.Command {
	var o importOptions
	cmd := &cobra.Command{
		Use:   "import FILE --store DIR",
		Short: "Read a version from a file that was exported",
		Long: `Read a version from a file that 'clonecast image export' wrote, as the next version of its image. Every chunk is verified,
and there is no version unless the file is whole. The manifest must be signed by a key that the store trusts. A file of
another store is refused with its key; when you know that key, from whoever exported the file, say so with --trust-key.
The store signs the version with its own key, so that its machines accept it. An empty directory becomes a store.

Exit codes: 0 ok, 1 failed, 2 wrong usage, 3 the key is unknown, 6 not found.`,
		Args: words("FILE"),
		RunE: func(cmd *cobra.Command, a []string) error {
			rep := newReporter(cmd, c.json)
			defer rep.close()
			return runImageImport(cmd.Context(), a[0], o, rep)
		},
	}
	cmd.Flags().StringVar(&o.store, "store", "", storeUsage)
	require(cmd, "store")
	cmd.Flags().StringVar(&o.name, "name", "", "call the image `NAME`")
	cmd.Flags().StringVar(&o.trust, "trust-key", "", "accept this public key for this file, 64 `HEX` digits")
	return cmd
}

func runImageImport(ctx context.Context, path string, o importOptions, rep *reporter) (err error) {
	started := time.Now()
	opts := export.Options{Name: o.name}
	if o.name != "" {
		if err := image.CheckName(o.name); err != nil {
			return withCode(exitUsage, err, "")
		}
	}
	if o.trust != "" {
		if opts.Trust, err = hex.DecodeString(o.trust); err != nil || len(opts.Trust) != ed25519.PublicKeySize {
			return withCode(exitUsage, errors.New("--trust-key wants 64 hex digits"), "")
		}
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return withCode(exitNotFound, err, "")
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	store, err := openOrCreateStore(o.store)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	r, err := export.Read(ctx, store, &countingReader{reader: f, heard: func(n int64) { rep.progress("read", n, info.Size()) }}, opts)
	var untrusted *export.UntrustedError
	if errors.As(err, &untrusted) {
		return withCode(exitRefused, fmt.Errorf("import %s: %w", path, err), fmt.Sprintf("ask whoever exported it whether this is his store's key (keys/signing.pub); if it is: --trust-key %x", []byte(untrusted.Key)))
	}
	if err != nil {
		return fmt.Errorf("import %s: %w", path, err)
	}
	took, v := time.Since(started), r.Version
	rep.printf("imported %s as %s@%d (%s): %v new in the store, %s\n", path, v.Image, v.Sequence, v.ID.Short(), quantity.Bytes(r.Stored), rate(v.Allocated, took))
	return rep.summary(fileSummary{v.Image, v.Sequence, v.ID.String(), info.Size(), &r.Stored, took.Seconds()})
}

// countingReader tells how much was read.
type countingReader struct {
	reader io.Reader
	done   int64
	heard  func(done int64)
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.reader.Read(p)
	c.done += int64(n)
	c.heard(c.done)
	return n, err
}
