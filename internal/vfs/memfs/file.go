package memfs

import (
	"bytes"
	"io"
	"io/fs"
	"path"
	"syscall"
)

// file is an open file.
type file struct {
	fs     *FS
	node   *node
	name   string
	write  bool
	closed bool
}

func (f *file) use(op string, write bool) error {
	switch {
	case f.closed:
		return &fs.PathError{Op: op, Path: f.name, Err: fs.ErrClosed}
	case write && !f.write:
		return &fs.PathError{Op: op, Path: f.name, Err: syscall.EBADF}
	}
	return nil
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.use("read", false); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, &fs.PathError{Op: "read", Path: f.name, Err: syscall.EINVAL}
	}
	if off >= int64(len(f.node.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.node.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *file) Write(p []byte) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.use("write", true); err != nil {
		return 0, err
	}
	n := len(p)
	if c := f.fs.capacity; c > 0 {
		n = int(min(int64(n), max(0, c-f.fs.root.used())))
	}
	f.node.data = append(f.node.data, p[:n]...)
	f.fs.touch(f.node)
	if n < len(p) {
		return n, &fs.PathError{Op: "write", Path: f.name, Err: syscall.ENOSPC}
	}
	return n, nil
}

func (f *file) Truncate(size int64) error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.use("truncate", true); err != nil {
		return err
	}
	if size < 0 {
		return &fs.PathError{Op: "truncate", Path: f.name, Err: syscall.EINVAL}
	}
	if grow := size - int64(len(f.node.data)); grow > 0 {
		f.node.data = append(f.node.data, make([]byte, grow)...)
	}
	f.node.data = f.node.data[:size:size]
	f.fs.touch(f.node)
	return nil
}

func (f *file) Sync() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.use("sync", false); err != nil {
		return err
	}
	f.node.synced = f.node.durable()
	return nil
}

// FailSync is a Sync that fails as Linux lets it: nothing is written, and what was to be
// written counts as clean from now on. It can still be read until DropCache.
func (f *file) FailSync() {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	f.node.forgotten = bytes.Clone(f.node.data)
}

// DropCache implements vfs.File: blocks that a failed sync forgot read as the medium has them.
func (f *file) DropCache() {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if f.node.forgotten == nil {
		return
	}
	f.node.data, f.node.forgotten = f.node.durable(), nil
}

// clean tells whether the block at a byte will not be written by a sync: a failed one forgot it.
func (n *node) clean(at int) bool {
	end := min(at+blockSize, len(n.data))
	return end <= len(n.forgotten) && bytes.Equal(n.data[at:end], n.forgotten[at:end])
}

// durable is what a sync leaves on the medium.
func (n *node) durable() []byte {
	out := bytes.Clone(n.data)
	for at := 0; at < len(out) && n.forgotten != nil; at += blockSize {
		if end := min(at+blockSize, len(out)); n.clean(at) {
			clear(out[at:end])
			copy(out[at:end], n.synced[min(at, len(n.synced)):])
		}
	}
	return out
}

func (f *file) Stat() (fs.FileInfo, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.use("stat", false); err != nil {
		return nil, err
	}
	return f.node.info(path.Base(f.name)), nil
}

func (f *file) Close() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	err := f.use("close", false)
	f.closed = true
	return err
}
