// Package local is a chunk store in a directory.
//
//	format                           "clonecast store 1"
//	keys/signing.key, keys/*.pub     Ed25519 seed; the public keys that are trusted (hex)
//	packs/NAME.pack                  frames back to back, in capture order (pack.go)
//	index/NAME.idx                   which chunks are where in a pack (idx.go)
//	images/IMAGE/SEQUENCE.manifest   a version: a signed manifest
//	copies/                          format, keys and images once more (copies.go)
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
	"slices"
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
	publishFile = stagingDir + "/publish.new" // what is written under publish.lock
	copyFile    = stagingDir + "/copy.new"    // and its copy

	keysDir    = "keys"
	packsDir   = "packs"
	indexDir   = "index"
	imagesDir  = "images"
	stagingDir = "staging"
	pinsDir    = "pins"
	copiesDir  = "copies"

	packSuffix     = ".pack"
	idxSuffix      = ".idx"
	lockSuffix     = ".lock"
	manifestSuffix = ".manifest"
	deletedSuffix  = ".deleted"
)

var dirs = []string{keysDir, packsDir, indexDir, imagesDir, stagingDir, pinsDir, copiesDir,
	copiesDir + "/" + keysDir, copiesDir + "/" + imagesDir}

// Options tune a store. The zero value is good.
type Options struct {
	// ReadOnly changes nothing in the directory: no captures, no repair of indexes, and
	// packs that a dead process left in staging stay there.
	ReadOnly bool
	// Damaged opens a store that is not sound enough to be used, for Check and Repair.
	Damaged bool
	Logger  *slog.Logger     // nil discards
	Now     func() time.Time // clock for Created; nil is time.Now

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
	failed  error              // why nothing is written any more
	listing map[string]summary // of manifests that were opened once

	restored []chunkstore.Problem // what Open made anew
}

// ErrDamaged reports a store that lacks something without which nothing can be done in it. Check
// says what that means, and Repair may bring it back.
var ErrDamaged = errors.New("the store is damaged")

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
	for _, d := range []string{copiesDir, "."} {
		if err := fsys.SyncDir(d); err != nil {
			return nil, fmt.Errorf("create store: %w", err)
		}
	}
	if err := createKeys(fsys); err != nil {
		return nil, fmt.Errorf("create store: %w", err)
	}
	for _, file := range both(formatFile) { // the copy comes last: alone it tells of a loss
		if err := replaceFile(fsys, publishFile, file, 0o600, []byte(formatText)); err != nil {
			return nil, fmt.Errorf("create store: %w", err)
		}
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
	s := &Store{fs: fsys, opts: opts, log: opts.Logger,
		names: map[string]bool{}, listing: map[string]summary{}, index: newIndex()}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.opts.Now == nil {
		s.opts.Now = time.Now
	}
	s.opts.PackSize = min(cmp.Or(opts.PackSize, defaultPackSize), maxPackSize)
	s.opts.Reserve = cmp.Or(opts.Reserve, defaultReserve)
	s.cache = newFrameCache(int64(cmp.Or(opts.Cache, defaultCache)))
	if err := s.openBase(); err != nil {
		return nil, err
	}
	if !opts.ReadOnly {
		if err := s.beginEpoch(1); err != nil {
			return nil, err
		}
		if !opts.Damaged {
			if err := s.recover(); err != nil {
				return nil, err
			}
		}
	}
	if err := s.refresh(); err != nil {
		return nil, err
	}
	return s, nil
}

// recover ends what dead processes left half done.
func (s *Store) recover() error {
	if err := s.complete(); err != nil {
		return err
	}
	return s.salvage()
}

// openBase reads what everything else relies on, and mends what may be mended without a question.
func (s *Store) openBase() error {
	b, err := inspect(s.fs, s.opts.ReadOnly)
	if err != nil {
		return err
	}
	if !s.opts.ReadOnly {
		if err := s.mendAuto(b); err != nil {
			return err
		}
	}
	for _, f := range b.flaws {
		if f.fatal && !s.opts.Damaged {
			return fmt.Errorf("%w: %s %s", ErrDamaged, f.Object, f.Problem.Problem)
		}
	}
	s.trusted = b.trusted
	if !s.opts.ReadOnly {
		s.signing = b.signing
	}
	return nil
}

// mendAuto mends what may be mended without a question, unless somebody else does, or publishes:
// then there is another time.
func (s *Store) mendAuto(b *base) error {
	flaws := slices.DeleteFunc(slices.Clone(b.flaws), func(f flaw) bool { return !f.auto })
	if len(flaws) == 0 {
		return nil
	}
	lock, err := s.fs.Lock(publishLock)
	if errors.Is(err, vfs.ErrLocked) {
		return nil
	}
	if err != nil {
		return full(err)
	}
	err = s.mend(flaws)
	if errors.Is(err, chunkstore.ErrFull) {
		err = nil // the store can be read, and freed
	}
	return errors.Join(err, lock.Close())
}

// noteRestored remembers for a repair what was made anew.
func (s *Store) noteRestored(p chunkstore.Problem) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.restored = append(s.restored, p)
}

// mend mends flaws of the base. The caller has publish.lock.
func (s *Store) mend(flaws []flaw) error {
	for _, f := range flaws {
		if f.mend == nil {
			continue
		}
		if err := f.mend(); err != nil {
			s.log.Error("a file of the store cannot be made anew", "file", f.Object, "cause", err)
			return fmt.Errorf("make %s anew: %w", f.Object, err)
		}
		s.log.Warn("a file of the store was made anew", "file", f.Object)
		s.noteRestored(f.Problem)
	}
	return nil
}

// Close frees what the store holds in memory. Sessions must be closed before.
func (s *Store) Close() error { return s.fs.Close() }

// fail remembers that the medium lost data, so that nothing that writes trusts it again.
func (s *Store) fail(err error) {
	if errors.Is(err, chunkstore.ErrFull) {
		return
	}
	s.log.Error("the store is not written to until it is opened again", "cause", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed == nil {
		s.failed = err
	}
}

// writable tells why nothing may be written: nil, or what fail was told.
func (s *Store) writable() error {
	if s.opts.ReadOnly {
		return errors.New("the store was opened for reading only")
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.failed != nil {
		return fmt.Errorf("the store could not be written before: %w", s.failed)
	}
	return nil
}

// full marks the errors of a full disk as chunkstore.ErrFull.
func full(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", chunkstore.ErrFull, err)
	}
	return err
}

// syncLost tells whether an fsync failed, after which nobody knows what the medium has.
func syncLost(err error) bool {
	var lost *vfs.SyncError
	return errors.As(err, &lost)
}

// writeFile stores data under a new name. On an error there is no file of that name, as far
// as the file system still obeys. Nobody else may use temp.
func writeFile(fsys vfs.FS, temp, to string, perm fs.FileMode, data []byte) error {
	err := replaceFile(fsys, temp, to, perm, data)
	if syncLost(err) {
		_ = fsys.Remove(to)
	}
	return err
}

// replaceFile is writeFile for a name that may have a file already: on an error it has the
// old or the new one.
func replaceFile(fsys vfs.FS, temp, to string, perm fs.FileMode, data []byte) error {
	return full(vfs.Replace(fsys, temp, to, perm, func(w io.Writer) error { return vfs.WriteAll(w, data) }))
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
