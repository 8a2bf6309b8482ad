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
	"strings"
	"time"

	"clonecast/internal/chunkstore"
	"clonecast/internal/chunkstore/export"
	"clonecast/internal/chunkstore/local"
	"clonecast/internal/image"
	"clonecast/internal/quantity"
	"clonecast/internal/text"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

func newImageExportCmd(c *connection) *cobra.Command {
	var store string
	cmd := &cobra.Command{
		Use:   "export IMAGE[@VERSION] FILE|- --store DIR",
		Short: "Write a version as one file",
		Long: `Write a version of an image (the newest when none is given) as one file: its signed manifest and its
chunks, and no others of the store. FILE must not exist; it gets its name when it is whole. With - the version goes to
standard output, which must not be a terminal: clonecast image export lab - --store DIR | ssh HOST clonecast image
import - --store DIR`,
		Args: words("IMAGE", "FILE"),
		RunE: func(cmd *cobra.Command, a []string) error {
			rep := newReporter(cmd, c.json)
			defer rep.close()
			if a[1] == "-" {
				return runImageExportStream(cmd, store, a[0], rep)
			}
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
	if err := notInStore(path); err != nil {
		return err
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return alreadyThere(&fs.PathError{Op: "write", Path: path, Err: fs.ErrExist})
	}
	store, err := openStore(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	name, sequence, err := exportable(ctx, store, ref)
	if err != nil {
		return err
	}
	file, err := createPart(path)
	if err != nil {
		return err
	}
	if err := roomFor(ctx, file.File, store, name, sequence); err != nil {
		return errors.Join(err, file.discard())
	}
	v, size, err := exportTo(ctx, file, store, name, sequence, rep)
	if err != nil {
		return errors.Join(fmt.Errorf("export %s: %w", ref, err), file.discard())
	}
	if err := file.finish(false); err != nil {
		return alreadyThere(err)
	}
	took := time.Since(started)
	rep.printf("exported %s@%d (%s) to %s: %v, %s\n", v.Image, v.Sequence, v.ID.Short(), text.Escape(path),
		quantity.Bytes(size), rate(v.Allocated, took))
	return rep.summary(fileSummary{v.Image, v.Sequence, v.ID.String(), size, nil, took.Seconds()})
}

// runImageExportStream writes a version to standard output. What it has to say goes to standard error.
func runImageExportStream(cmd *cobra.Command, dir, ref string, rep *reporter) (err error) {
	started, ctx := time.Now(), cmd.Context()
	if rep.json {
		return usage(cmd, errors.New("the version goes to standard output, and so does what --json asks for"))
	}
	if isTerminal(fileOf(rep.stdout)) {
		return withCode(exitRefused, errors.New("a version is not for a terminal"),
			"redirect standard output to a file or a program")
	}
	store, err := openStore(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	name, sequence, err := exportable(ctx, store, ref)
	if err != nil {
		return err
	}
	v, size, err := exportTo(ctx, asBytes(rep.stdout), store, name, sequence, rep)
	if err != nil {
		return fmt.Errorf("export %s: %w", ref, err)
	}
	rep.close()
	fmt.Fprintf(rep.stderr, "exported %s@%d (%s): %v, %s\n", v.Image, v.Sequence, v.ID.Short(), quantity.Bytes(size),
		rate(v.Allocated, time.Since(started)))
	return nil
}

// alreadyThere says what to do about a file that exists.
func alreadyThere(err error) error {
	if errors.Is(err, fs.ErrExist) {
		return withCode(exitRefused, err, "remove it, or choose another name")
	}
	return err
}

// exportable finds the version that a reference means, before a file is made for it.
func exportable(ctx context.Context, store *local.Store, ref string) (string, uint64, error) {
	m, _, err := findVersion(ctx, store, ref)
	if err != nil {
		return "", 0, err
	}
	return m.Image, m.Sequence, nil
}

// roomFor refuses to begin what the disk behind the file has no room for. A store with damage does not know how
// much it takes, and a file system may compress: then the writing shows.
func roomFor(ctx context.Context, f *os.File, store *local.Store, name string, sequence uint64) error {
	var room unix.Statfs_t
	stats, err := store.Stats(ctx)
	if err != nil || unix.Fstatfs(int(f.Fd()), &room) != nil || room.Bsize <= 0 {
		return ctx.Err()
	}
	free := quantity.Bytes(room.Bavail) * quantity.Bytes(room.Bsize)
	for _, v := range stats.Versions {
		need := quantity.Bytes(v.OwnStored + v.SharedStored)
		if v.Image == name && v.Sequence == sequence && need > free {
			err := fmt.Errorf("%s@%d takes %v, and %v are free for %s", name, sequence, need, free, f.Name())
			return withCode(exitFailed, err, "export it to another disk")
		}
	}
	return nil
}

// exportTo writes a version and tells how many bytes that were.
func exportTo(ctx context.Context, to io.Writer, store chunkstore.Reader, name string, sequence uint64,
	rep *reporter) (image.Version, int64, error) {
	count := &countingWriter{to: to}
	w := bufio.NewWriterSize(count, 1<<20)
	progress := func(done, total int64) { rep.progress("write", done, total) }
	v, err := export.Write(ctx, store, name, sequence, w, progress)
	if err == nil {
		err = w.Flush()
	}
	return v, count.done, err
}

type countingWriter struct {
	to   io.Writer
	done int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.to.Write(p)
	c.done += int64(n)
	return n, err
}

type importOptions struct{ store, name, trust string }

func newImageImportCmd(c *connection) *cobra.Command {
	var o importOptions
	cmd := &cobra.Command{
		Use:   "import FILE|- --store DIR",
		Short: "Read a version from a file that was exported",
		Long: `Read a version from a file that 'clonecast image export' wrote, or with - from standard input, as the
next version of its image. Every chunk is verified, and there is no version unless the file is whole. The manifest
must be signed by a key that the store trusts. A file of another store is refused with its key; when you know that
key, from whoever exported the file, say so with --trust-key. The store signs the version with its own key, so that
its machines accept it. An empty directory becomes a store.`,
		Args: words("FILE"),
		RunE: func(cmd *cobra.Command, a []string) error {
			rep := newReporter(cmd, c.json)
			defer rep.close()
			return runImageImport(cmd.Context(), a[0], o, rep, cmd.InOrStdin())
		},
	}
	cmd.Flags().StringVar(&o.store, "store", "", storeUsage)
	require(cmd, "store")
	cmd.Flags().StringVar(&o.name, "name", "", "call the image `NAME`")
	cmd.Flags().StringVar(&o.trust, "trust-key", "", "accept this public key for this file, 64 `HEX` digits")
	return cmd
}

func runImageImport(ctx context.Context, path string, o importOptions, rep *reporter, in io.Reader) (err error) {
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
	f, size, err := importSource(ctx, path, in)
	if err != nil {
		return err
	}
	defer f.Close()
	store, err := openOrCreateStore(o.store)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	file := &countingReader{reader: f, heard: func(n int64) { rep.progress("read", n, size) }}
	r, err := export.Read(ctx, store, file, opts)
	var untrusted *export.UntrustedError
	if errors.As(err, &untrusted) {
		return withCode(exitRefused, fmt.Errorf("import %s: %w", path, err), fmt.Sprintf("ask whoever exported it "+
			"whether this is his store's key (keys/signing.pub); if it is: --trust-key %x", []byte(untrusted.Key)))
	}
	if err != nil {
		return fmt.Errorf("import %s: %w", path, err)
	}
	took, v := time.Since(started), r.Version
	rep.printf("imported %s as %s@%d (%s): %v new in the store, %s\n", text.Escape(path), v.Image, v.Sequence,
		v.ID.Short(), quantity.Bytes(r.Stored), rate(v.Allocated, took))
	return rep.summary(fileSummary{v.Image, v.Sequence, v.ID.String(), file.done, &r.Stored, took.Seconds()})
}

// importSource opens the file to import, or standard input for "-". The size is 0 if nobody knows it.
func importSource(ctx context.Context, path string, in io.Reader) (io.ReadCloser, int64, error) {
	if path == "-" {
		if f, ok := in.(*os.File); ok && isTerminal(f) {
			return nil, 0, withCode(exitRefused, errors.New("a version does not come from a terminal"),
				"name a FILE, or redirect standard input")
		}
		return interruptibleReader(ctx, in), 0, nil
	}
	if err := notInStore(path); err != nil {
		return nil, 0, err
	}
	f, err := openInput(path)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && info.Mode()&os.ModeNamedPipe != 0 && !strings.HasPrefix(path, "/dev/fd/") {
		err = withCode(exitUsage, fmt.Errorf("%s is a pipe", path),
			"for a stream: clonecast image import - --store DIR < PIPE")
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Size(), nil
}

// interruptibleReader ends reads of a stream that nobody writes to when the context does. The goroutine that waits
// for the stream ends with the program.
func interruptibleReader(ctx context.Context, in io.Reader) io.ReadCloser {
	r, w := io.Pipe()
	stop := context.AfterFunc(ctx, func() { r.CloseWithError(context.Cause(ctx)) })
	go func() {
		_, err := io.Copy(w, in)
		stop()
		w.CloseWithError(err) // nil is io.EOF
	}()
	return r
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
