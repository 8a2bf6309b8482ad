// Package local is a chunk store in a directory.
//
//	format                           "clonecast store 1"
//	keys/signing.key, keys/*.pub     Ed25519 seed; the public keys that are trusted (hex)
//	packs/NAME.pack                  frames back to back, in capture order (pack.go)
//	index/NAME.idx                   which chunks are where in a pack (idx.go)
//	images/IMAGE/SEQUENCE.manifest   a version: a signed manifest
//	staging/                         packs and files being written
//	images/IMAGE/SEQUENCE.deleted    keeps the number of a version that was deleted
//	pins/EPOCH                       locked by captures and readers (pins.go)
//	condemned                        packs that the next collection removes (marks.go)
//	publish.lock                     taken while a version gets its number or is deleted
//	collect.lock                     taken while packs are collected
//
// A pack is written in staging under the lock of its writer, and moved to packs when
// it is full or its session ends. Files outside staging never change; an index can
// be made again from its pack.
//
// Order of writing: pack data, fsync; rename into packs, fsync directories; index;
// manifest, fsync; rename into images, fsync directory. Reading goes the other way: who
// sees a manifest finds its chunks. A failed fsync is final: the file is thrown away
// and the store accepts no more captures until it is opened again.
//
// Several processes may use one store. A reader that misses a chunk looks for new
// packs. Two sessions that store the same new chunk at once both keep it.
//
// Not guaranteed: protection against somebody who can write to the directory (damage is
// found, a replaced key is not), and locks on network file systems without flock(2).
package local

import (
	"cmp"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"strings"
	"sync"
	"syscall"
	"time"

	"clonecast/internal/chunkstore"
	"clonecast/internal/quantity"
	"clonecast/internal/vfs"
)

const (
	formatFile  = "format"
	formatText  = "clonecast store 1\n"
	publishLock = "publish.lock"
	collectLock = "collect.lock"
	marksFile   = "condemned"

	keysDir    = "keys"
	packsDir   = "packs"
	indexDir   = "index"
	imagesDir  = "images"
	stagingDir = "staging"
	pinsDir    = "pins"

	packSuffix     = ".pack"
	idxSuffix      = ".idx"
	lockSuffix     = ".lock"
	manifestSuffix = ".manifest"
	deletedSuffix  = ".deleted"
)

var dirs = []string{keysDir, packsDir, indexDir, imagesDir, stagingDir, pinsDir}

// Options tune a store. The zero value is good.
type Options struct {
	// ReadOnly changes nothing in the directory: no captures, no repair of indexes, and
	// packs that a dead process left in staging stay there.
	ReadOnly bool
	Logger   *slog.Logger     // nil discards
	Now      func() time.Time // clock for Created; nil is time.Now

	PackSize quantity.Bytes // a pack is sealed when it reaches this; 0 is 64 MiB
	Reserve  quantity.Bytes // free space that captures leave alone; 0 is 256 MiB, negative none
	Cache    quantity.Bytes // verified frames kept in memory; 0 is 32 MiB, negative none
}

const (
	defaultPackSize = 64 * quantity.MiB
	defaultReserve  = 256 * quantity.MiB
	defaultCache    = 32 * quantity.MiB
	// maxPackSize bounds what PackSize may be, so that offsets fit 32 bits.
	maxPackSize = quantity.GiB
)

// Store is an open store.
type Store struct {
	fs      vfs.FS
	opts    Options
	log     *slog.Logger
	signing ed25519.PrivateKey // nil when read-only
	trusted []ed25519.PublicKey

	cache *frameCache

	refreshing sync.Mutex // one look for new packs at a time
	publishing sync.Mutex // goes before publish.lock, which only knows processes

	mu      sync.RWMutex
	packs   []*pack
	names   map[string]bool // of packs
	index   index
	failed  error              // why no capture may begin any more
	listing map[string]summary // of manifests that were opened once
}

var _ chunkstore.Store = (*Store)(nil)

// Create makes a store in a directory, which is made when absent and must otherwise be
// empty. A store that a crash left half made is completed.
func Create(directory string, opts Options) (*Store, error) {
	if err := os.Mkdir(directory, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	fsys, err := vfs.Dir(directory)
	if err != nil {
		return nil, err
	}
	return closeOnError(fsys)(CreateFS(fsys, opts))
}

// Open opens the store in a directory; chunkstore.ErrNotStore when there is none.
func Open(directory string, opts Options) (*Store, error) {
	fsys, err := vfs.Dir(directory)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			return nil, fmt.Errorf("%w: %w", chunkstore.ErrNotStore, err)
		}
		return nil, err
	}
	s, err := closeOnError(fsys)(OpenFS(fsys, opts))
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", directory, err)
	}
	return s, nil
}

func closeOnError(fsys vfs.FS) func(*Store, error) (*Store, error) {
	return func(s *Store, err error) (*Store, error) {
		if err != nil {
			return nil, errors.Join(err, fsys.Close())
		}
		return s, nil
	}
}

// CreateFS is Create on any file system.
func CreateFS(fsys vfs.FS, opts Options) (*Store, error) {
	entries, err := fsys.ReadDir(".")
	if err != nil {
		return nil, fmt.Errorf("create store: %w", err)
	}
	for _, e := range entries {
		switch {
		case e.Name() == formatFile:
			return nil, fmt.Errorf("create store: %w: there is one already", fs.ErrExist)
		case !isOurs(e.Name()):
			return nil, fmt.Errorf("create store: the directory is not empty: it holds %q", e.Name())
		}
	}
	for _, d := range dirs {
		if err := fsys.Mkdir(d, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("create store: %w", err)
		}
	}
	if err := fsys.SyncDir("."); err != nil {
		return nil, fmt.Errorf("create store: %w", err)
	}
	if err := createKeys(fsys); err != nil {
		return nil, fmt.Errorf("create store: %w", err)
	}
	if err := writeFile(fsys, stagingDir+"/"+formatFile, formatFile, 0o600, []byte(formatText)); err != nil {
		return nil, fmt.Errorf("create store: %w", err)
	}
	return OpenFS(fsys, opts)
}

// isOurs tells whether Create makes an entry of this name. lost+found stands in the
// root of a file system of its own.
func isOurs(name string) bool {
	for _, d := range dirs {
		if name == d {
			return true
		}
	}
	return name == "lost+found"
}

// OpenFS is Open on any file system. Close of the store closes it.
func OpenFS(fsys vfs.FS, opts Options) (*Store, error) {
	s := &Store{fs: fsys, opts: opts, log: opts.Logger, names: map[string]bool{}, listing: map[string]summary{}, index: newIndex()}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.opts.Now == nil {
		s.opts.Now = time.Now
	}
	s.opts.PackSize = min(cmp.Or(opts.PackSize, defaultPackSize), maxPackSize)
	s.opts.Reserve = cmp.Or(opts.Reserve, defaultReserve)
	s.cache = newFrameCache(int64(cmp.Or(opts.Cache, defaultCache)))
	if err := checkFormat(fsys); err != nil {
		return nil, err
	}
	if err := s.loadKeys(); err != nil {
		return nil, err
	}
	if !opts.ReadOnly {
		if err := s.beginEpoch(1); err != nil {
			return nil, err
		}
		if err := s.salvage(); err != nil {
			return nil, err
		}
	}
	if err := s.refresh(); err != nil {
		return nil, err
	}
	return s, nil
}

func checkFormat(fsys vfs.FS) error {
	b, err := readFile(fsys, formatFile, 1<<10)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: it has no file %q", chunkstore.ErrNotStore, formatFile)
	case err != nil:
		return fmt.Errorf("read format of store: %w", err)
	case string(b) == formatText:
		return nil
	case strings.HasPrefix(string(b), strings.TrimSuffix(formatText, "1\n")):
		return fmt.Errorf("store has %q, this program knows %q: use a newer clonecast",
			strings.TrimSpace(string(b)), strings.TrimSpace(formatText))
	}
	return fmt.Errorf("%w: its file %q says something else", chunkstore.ErrNotStore, formatFile)
}

// Close frees what the store holds in memory. Sessions must be closed before.
func (s *Store) Close() error { return s.fs.Close() }

// fail remembers that the medium lost data, so that no capture trusts it again.
func (s *Store) fail(err error) {
	if errors.Is(err, chunkstore.ErrFull) {
		return
	}
	s.log.Error("store accepts no more captures until it is opened again", "cause", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed == nil {
		s.failed = err
	}
}

// full marks the errors of a full disk as chunkstore.ErrFull.
func full(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", chunkstore.ErrFull, err)
	}
	return err
}

// syncError marks the failure of an fsync.
type syncError struct{ err error }

func (e *syncError) Error() string { return e.err.Error() }
func (e *syncError) Unwrap() error { return e.err }

func syncFailed(err error) error {
	if err == nil {
		return nil
	}
	return &syncError{err}
}

// writeFile stores data under the name to: written to temp, which nobody else may use,
// synced, renamed, the directory synced. On an error there is no file of either name,
// as far as the file system still obeys.
func writeFile(fsys vfs.FS, temp, to string, perm fs.FileMode, data []byte) error {
	if err := moveFile(fsys, temp, to, perm, data); err != nil {
		return err
	}
	if err := fsys.SyncDir(path.Dir(to)); err != nil {
		_ = fsys.Remove(to)
		return full(syncFailed(err))
	}
	return nil
}

// replaceFile is writeFile for a name that has a file already: on an error it has the old
// or the new one.
func replaceFile(fsys vfs.FS, temp, to string, perm fs.FileMode, data []byte) error {
	if err := moveFile(fsys, temp, to, perm, data); err != nil {
		return err
	}
	return full(syncFailed(fsys.SyncDir(path.Dir(to))))
}

// moveFile writes and syncs temp and renames it.
func moveFile(fsys vfs.FS, temp, to string, perm fs.FileMode, data []byte) error {
	if err := fsys.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := fsys.Create(temp, perm)
	if err != nil {
		return full(err)
	}
	_, err = f.Write(data)
	if err == nil {
		err = syncFailed(f.Sync())
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = fsys.Rename(temp, to)
	}
	if err != nil {
		_ = fsys.Remove(temp)
		return full(err)
	}
	return nil
}

// readFile reads a whole file of at most limit bytes.
func readFile(fsys vfs.FS, name string, limit int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > limit {
		return nil, &damage{fmt.Errorf("%s has %d bytes, more than %d", name, info.Size(), limit)}
	}
	b := make([]byte, info.Size())
	if err := readAt(f, b, 0); err != nil {
		return nil, err
	}
	return b, nil
}

// readAt fills b; a file that ends before is damage.
func readAt(f vfs.File, b []byte, off int64) error {
	n, err := f.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return &damage{fmt.Errorf("it ends at byte %d, want %d", off+int64(n), off+int64(len(b)))}
	}
	return err
}

// damage is an error of content, where other errors are the medium's.
type damage struct{ err error }

func (d *damage) Error() string { return d.err.Error() }
func (d *damage) Unwrap() error { return d.err }

func isDamage(err error) bool {
	var d *damage
	return errors.As(err, &d)
}
