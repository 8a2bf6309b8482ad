// Package memfs is a file system in memory that knows what a power cut would leave.
//
// Each file remembers its bytes at the last Sync, each directory its entries at the
// last SyncDir. CrashClone builds the tree that a machine could find after a crash:
// everything synced, and of the rest a share. What was not synced is lost in units:
// blocks of 512 bytes of a file, its length, and single entries of a directory, each on
// its own. That is harsher than a journaling file system, where a rename is never half
// done.
package memfs

import (
	"bytes"
	"cmp"
	"io"
	"io/fs"
	"maps"
	"math"
	"math/rand/v2"
	"path"
	"slices"
	"sync"
	"syscall"
	"time"

	"clonecast/internal/vfs"
)

// blockSize is the unit in which unsynced bytes of a file are kept or lost.
const blockSize = 512

// FS is the file system. The zero value is not usable; New makes one.
type FS struct {
	mu       sync.Mutex
	root     *node
	locks    map[*node]int // number of shared holders, or alone
	capacity int64         // bytes of all files; 0 means no limit
	clock    int64         // counts changes and serves as modification time
}

// node is a file or a directory.
type node struct {
	perm     fs.FileMode
	modified int64

	data, synced []byte
	// forgotten is data as it was when a sync failed: blocks that are still like it count as
	// written, although the medium has what synced says. nil: no sync failed.
	forgotten []byte

	entries, syncedEntries map[string]*node // nil for a file
}

// New makes an empty file system.
func New() *FS {
	return &FS{root: newDir(0o755), locks: map[*node]int{}}
}

// SetCapacity limits the sum of all file lengths; a write past it is cut short and
// ends in ENOSPC. Zero means no limit.
func (f *FS) SetCapacity(bytes int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.capacity = bytes
}

func newDir(perm fs.FileMode) *node {
	return &node{perm: perm | fs.ModeDir, entries: map[string]*node{}, syncedEntries: map[string]*node{}}
}

// find walks to the node of name; parent is the directory that holds it.
func (f *FS) find(op, name string) (parent, n *node, err error) {
	if !fs.ValidPath(name) {
		return nil, nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	n = f.root
	if name == "." {
		return nil, n, nil
	}
	for part := range splitPath(name) {
		if n == nil {
			return nil, nil, &fs.PathError{Op: op, Path: name, Err: syscall.ENOENT}
		}
		if n.entries == nil {
			return nil, nil, &fs.PathError{Op: op, Path: name, Err: syscall.ENOTDIR}
		}
		parent, n = n, n.entries[part]
	}
	return parent, n, nil
}

func splitPath(name string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for part := range bytes.SplitSeq([]byte(name), []byte("/")) {
			if !yield(string(part)) {
				return
			}
		}
	}
}

// get is find for a node that must exist.
func (f *FS) get(op, name string) (*node, error) {
	_, n, err := f.find(op, name)
	if err == nil && n == nil {
		err = &fs.PathError{Op: op, Path: name, Err: syscall.ENOENT}
	}
	return n, err
}

func (f *FS) touch(n *node) {
	f.clock++
	n.modified = f.clock
}

// put makes a new entry, which must not exist.
func (f *FS) put(op, name string, n *node) error {
	parent, old, err := f.find(op, name)
	if err != nil {
		return err
	}
	if old != nil {
		return &fs.PathError{Op: op, Path: name, Err: syscall.EEXIST}
	}
	parent.entries[path.Base(name)] = n
	f.touch(parent)
	f.touch(n)
	return nil
}

func (f *FS) Create(name string, perm fs.FileMode) (vfs.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := &node{perm: perm}
	if err := f.put("create", name, n); err != nil {
		return nil, err
	}
	return &file{fs: f, node: n, name: name, write: true}, nil
}

func (f *FS) Open(name string) (vfs.File, error)       { return f.open(name, false) }
func (f *FS) OpenAppend(name string) (vfs.File, error) { return f.open(name, true) }

func (f *FS) open(name string, write bool) (vfs.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.get("open", name)
	if err != nil {
		return nil, err
	}
	if n.entries != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: syscall.EISDIR}
	}
	return &file{fs: f, node: n, name: name, write: write}, nil
}

func (f *FS) ReadDir(name string) ([]fs.DirEntry, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.get("readdir", name)
	if err != nil {
		return nil, err
	}
	if n.entries == nil {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: syscall.ENOTDIR}
	}
	var list []fs.DirEntry
	for entry, child := range n.entries {
		list = append(list, fs.FileInfoToDirEntry(child.info(entry)))
	}
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return cmp.Compare(a.Name(), b.Name()) })
	return list, nil
}

func (f *FS) Stat(name string) (fs.FileInfo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.get("stat", name)
	if err != nil {
		return nil, err
	}
	return n.info(path.Base(name)), nil
}

func (f *FS) Rename(oldName, newName string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	from, n, err := f.find("rename", oldName)
	if err == nil && n == nil {
		err = &fs.PathError{Op: "rename", Path: oldName, Err: syscall.ENOENT}
	}
	if err != nil {
		return err
	}
	to, _, err := f.find("rename", newName)
	if err != nil {
		return err
	}
	delete(from.entries, path.Base(oldName))
	to.entries[path.Base(newName)] = n
	f.touch(from)
	f.touch(to)
	return nil
}

func (f *FS) Remove(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	parent, n, err := f.find("remove", name)
	switch {
	case err != nil:
		return err
	case n == nil:
		return &fs.PathError{Op: "remove", Path: name, Err: syscall.ENOENT}
	case len(n.entries) > 0:
		return &fs.PathError{Op: "remove", Path: name, Err: syscall.ENOTEMPTY}
	}
	delete(parent.entries, path.Base(name))
	f.touch(parent)
	return nil
}

func (f *FS) Mkdir(name string, perm fs.FileMode) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.put("mkdir", name, newDir(perm))
}

func (f *FS) SyncDir(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.get("sync", name)
	if err != nil {
		return err
	}
	n.syncedEntries = maps.Clone(n.entries)
	return nil
}

func (f *FS) Lock(name string) (io.Closer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, n, err := f.find("lock", name)
	if err != nil {
		return nil, err
	}
	if n == nil {
		n = &node{perm: 0o600}
		if err := f.put("lock", name, n); err != nil {
			return nil, err
		}
	}
	if f.locks[n] != 0 {
		return nil, &fs.PathError{Op: "lock", Path: name, Err: vfs.ErrLocked}
	}
	f.locks[n] = alone
	return &lock{fs: f, node: n}, nil
}

func (f *FS) LockShared(name string) (io.Closer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.get("lock", name)
	if err != nil {
		return nil, err
	}
	if f.locks[n] == alone {
		return nil, &fs.PathError{Op: "lock", Path: name, Err: vfs.ErrLocked}
	}
	f.locks[n]++
	return &lock{fs: f, node: n}, nil
}

// alone stands in FS.locks for the one holder of a lock that is not shared.
const alone = -1

type lock struct {
	fs     *FS
	node   *node
	closed bool
}

func (l *lock) Close() error {
	l.fs.mu.Lock()
	defer l.fs.mu.Unlock()
	if l.closed {
		return fs.ErrClosed
	}
	l.closed = true
	if l.fs.locks[l.node]--; l.fs.locks[l.node] <= 0 {
		delete(l.fs.locks, l.node)
	}
	return nil
}

func (f *FS) Free() (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.capacity == 0 {
		return math.MaxInt64, nil
	}
	return max(0, f.capacity-f.root.used()), nil
}

func (f *FS) Close() error { return nil }

func (n *node) used() int64 {
	sum := int64(len(n.data))
	for _, child := range n.entries {
		sum += child.used()
	}
	return sum
}

// CrashClone copies the tree as a machine could find it after a power cut now: all that
// was synced, and each unsynced piece with a probability of percent / 100. The copy is
// independent and holds no locks. The same rnd gives the same copy.
func (f *FS) CrashClone(percent int, rnd *rand.Rand) *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	clone := New()
	clone.clock = f.clock
	c := &crash{percent, rnd, map[*node]*node{}}
	clone.root = c.node(f.root)
	return clone
}

type crash struct {
	percent int
	rnd     *rand.Rand
	copies  map[*node]*node // one file may stand in two directories after half a rename
}

func (c *crash) keep() bool { return c.rnd.IntN(100) < c.percent }

func (c *crash) node(n *node) *node {
	if done := c.copies[n]; done != nil {
		return done
	}
	out := &node{perm: n.perm, modified: n.modified}
	c.copies[n] = out
	if n.entries == nil {
		out.data = c.content(n)
		out.synced = bytes.Clone(out.data)
		return out
	}
	out.entries = map[string]*node{}
	names := slices.Collect(maps.Keys(n.entries))
	for name := range n.syncedEntries {
		if _, ok := n.entries[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		child := n.entries[name]
		if synced := n.syncedEntries[name]; synced != child && !c.keep() {
			child = synced
		}
		if child != nil {
			out.entries[name] = c.node(child)
		}
	}
	out.syncedEntries = maps.Clone(out.entries)
	return out
}

// content mixes the synced and the current bytes of a file.
func (c *crash) content(n *node) []byte {
	size := len(n.synced)
	if len(n.data) != size {
		switch {
		case c.percent == 100 || c.percent > 0 && c.keep():
			size = len(n.data)
		case c.percent > 0 && len(n.data) > size: // the length too may be torn
			size += c.rnd.IntN(len(n.data) - size)
		}
	}
	out := make([]byte, size)
	copy(out, n.synced)
	for at := 0; at < size; at += blockSize {
		end := min(at+blockSize, size)
		if at < len(n.data) && !bytes.Equal(out[at:end], n.data[at:min(end, len(n.data))]) && !n.clean(at) && c.keep() {
			copy(out[at:end], n.data[at:])
		}
	}
	return out
}

// Corrupt changes the bytes of a file behind everybody's back, as a bad disk would.
func (f *FS) Corrupt(name string, change func([]byte) []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.get("corrupt", name)
	if err != nil {
		return err
	}
	n.data = change(bytes.Clone(n.data))
	n.synced = bytes.Clone(n.data)
	f.touch(n)
	return nil
}

func (n *node) info(name string) fs.FileInfo {
	return info{name, int64(len(n.data)), n.perm, n.modified}
}

type info struct {
	name     string
	size     int64
	mode     fs.FileMode
	modified int64
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) Mode() fs.FileMode  { return i.mode }
func (i info) ModTime() time.Time { return time.Unix(0, i.modified) }
func (i info) IsDir() bool        { return i.mode.IsDir() }
func (i info) Sys() any           { return nil }
