package diff

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"clonecast/internal/chunk"
	"clonecast/internal/chunkstore"
	"clonecast/internal/filesystem"
	"clonecast/internal/filesystem/ext4"
	"clonecast/internal/filesystem/fat"
	"clonecast/internal/filesystem/ntfs"
	"clonecast/internal/image"
	"clonecast/internal/quantity"
)

// FileChange is a file that differs between two versions of a partition.
type FileChange struct {
	Path string
	Kind FileKind
	Size quantity.Bytes // in the second version; of a removed file in the first
}

// FileKind says what became of a file.
type FileKind string

const (
	FileChanged FileKind = "changed" // it reads differently
	FileAdded   FileKind = "added"
	FileRemoved FileKind = "removed"
)

// lister lists the files of a file system.
type lister func(r io.ReaderAt, size quantity.Bytes) ([]filesystem.File, error)

func listerOf(format string) lister {
	switch format {
	case "ext2", "ext3", "ext4":
		return ext4.Files
	case "ntfs":
		return ntfs.Files
	case "fat12", "fat16", "fat32":
		return fat.Files
	}
	return nil
}

// compareFiles adds the files of a region that differ, or why they cannot be told.
func (c *comparer) compareFiles(p *pair) error {
	if p.from == nil || p.to == nil || len(p.Ranges) == 0 {
		return nil
	}
	list := listerOf(p.to.Filesystem.Type)
	if list == nil || p.from.Filesystem.Type != p.to.Filesystem.Type {
		p.FilesUnknown = fmt.Sprintf("the files of %q cannot be listed", p.to.Filesystem.Type)
		return nil
	}
	if p.from.Mode != image.ModeClone || p.to.Mode != image.ModeClone {
		p.FilesUnknown = "its file system was not clean, or not read"
		return nil
	}
	x := fileComparer{
		comparer: c,
		old:      newPartitionReader(c.ctx, c.store, &p.a),
		new:      newPartitionReader(c.ctx, c.store, &p.b),
	}
	for _, r := range p.Ranges {
		if r.Kind == Changed {
			x.changed = append(x.changed, quantity.Extent{Start: r.Start, Length: r.Length})
		}
	}
	changes, err := x.compare(list, p.a.Length, p.b.Length)
	var corrupt *filesystem.CorruptError
	if errors.As(err, &corrupt) || errors.Is(err, errors.ErrUnsupported) {
		p.FilesUnknown = err.Error()
		return nil
	}
	p.Files = changes
	return err
}

type fileComparer struct {
	*comparer
	old, new *partitionReader
	changed  []quantity.Extent // bytes that differ
}

func (x *fileComparer) compare(list lister, oldSize, newSize quantity.Bytes) (changes []FileChange, err error) {
	olds, err := list(x.old, oldSize)
	if err != nil {
		return nil, fmt.Errorf("list the files of the first version: %w", err)
	}
	news, err := list(x.new, newSize)
	if err != nil {
		return nil, fmt.Errorf("list the files of the second version: %w", err)
	}
	before := make(map[string]*filesystem.File, len(olds))
	for i := range olds {
		before[olds[i].Path] = &olds[i]
	}
	for i := range news {
		f := &news[i]
		old := before[f.Path]
		delete(before, f.Path)
		switch same, err := x.same(old, f); {
		case err != nil:
			return nil, err
		case old == nil:
			changes = append(changes, FileChange{f.Path, FileAdded, f.Size})
		case !same:
			changes = append(changes, FileChange{f.Path, FileChanged, f.Size})
		}
	}
	for path, f := range before {
		changes = append(changes, FileChange{path, FileRemoved, f.Size})
	}
	slices.SortFunc(changes, func(a, b FileChange) int { return cmp.Compare(a.Path, b.Path) })
	return changes, nil
}

// same tells whether a file reads as before. It reads only files that moved or that lie on
// bytes that differ.
func (x *fileComparer) same(a, b *filesystem.File) (bool, error) {
	if a == nil || a.Size != b.Size {
		return false, nil
	}
	if a.Inline != nil && b.Inline != nil {
		return bytes.Equal(a.Inline, b.Inline), nil
	}
	changed := func(e filesystem.FileExtent) bool { return quantity.Overlaps(x.changed, e.Extent) }
	if a.Inline == nil && b.Inline == nil && slices.Equal(a.Extents, b.Extents) &&
		!slices.ContainsFunc(b.Extents, changed) {
		return true, nil
	}
	from, to := a.NewReader(x.old), b.NewReader(x.new)
	bufA, bufB := make([]byte, 256<<10), make([]byte, 256<<10)
	for {
		n, errA := io.ReadFull(from, bufA)
		m, errB := io.ReadFull(to, bufB)
		if !bytes.Equal(bufA[:n], bufB[:m]) {
			return false, nil
		}
		for _, err := range []error{errA, errB} {
			if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
				return false, err
			}
		}
		if errA != nil || errB != nil {
			return true, nil // both have a.Size bytes
		}
	}
}

// readerCache is how many chunks a partitionReader keeps.
const readerCache = 256

// partitionReader reads a partition of a version; what is free reads as zero.
type partitionReader struct {
	ctx    context.Context
	store  chunkstore.Reader
	length quantity.Bytes
	ids    map[quantity.Bytes]chunk.ID // by where they begin
	plain  map[chunk.ID][]byte
	order  []chunk.ID // of plain, the oldest first
}

func newPartitionReader(ctx context.Context, store chunkstore.Reader, c *image.Content) *partitionReader {
	return &partitionReader{ctx: ctx, store: store, length: c.Length, ids: chunksAt(c), plain: map[chunk.ID][]byte{}}
}

// ReadAt implements io.ReaderAt.
func (r *partitionReader) ReadAt(p []byte, off int64) (n int, err error) {
	for n < len(p) {
		at := quantity.Bytes(off) + quantity.Bytes(n)
		if at < 0 || at >= r.length {
			return n, io.EOF
		}
		start := at / chunk.Size * chunk.Size
		part := p[n:][:min(quantity.Bytes(len(p)-n), min(start+chunk.Size, r.length)-at)]
		id, stored := r.ids[start]
		if !stored {
			clear(part)
		} else if b, err := r.chunk(id); err != nil {
			return n, err
		} else if int(at-start)+len(part) > len(b) {
			return n, &chunk.InvalidError{ID: id, Problem: "it is shorter than its place"}
		} else {
			copy(part, b[at-start:])
		}
		n += len(part)
	}
	return n, nil
}

func (r *partitionReader) chunk(id chunk.ID) ([]byte, error) {
	if b, ok := r.plain[id]; ok {
		return b, nil
	}
	d, err := chunk.NewDecoder()
	if err != nil {
		return nil, err
	}
	defer d.Close()
	err = r.store.Frames(r.ctx, []chunk.ID{id}, func(frame []byte) error {
		h, b, err := d.Decode(frame, nil)
		if err != nil {
			return err
		}
		for _, e := range h.Entries {
			if r.plain[e.ID] == nil {
				r.plain[e.ID], r.order = b[:e.Length:e.Length], append(r.order, e.ID)
			}
			b = b[e.Length:]
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	b, ok := r.plain[id]
	if !ok {
		return nil, &chunk.MissingError{ID: id}
	}
	for len(r.order) > readerCache {
		if r.order[0] != id {
			delete(r.plain, r.order[0])
		}
		r.order = r.order[1:]
	}
	return b, nil
}
