package filesystem

import (
	"fmt"
	"io"

	"clonecast/internal/quantity"
)

// File is a file of a file system: where its bytes are. Child packages that can list files
// have a function
//
//	Files(r io.ReaderAt, size quantity.Bytes) ([]File, error)
//
// with the errors of Read, and errors.ErrUnsupported for what it cannot list.
type File struct {
	Path    string         // from the root, slash-separated, without a slash in front
	Size    quantity.Bytes // as it reads
	Inline  []byte         // its bytes, when they are in the file system's own structures
	Extents []FileExtent   // else: by offset, without holes
}

// FileExtent says where a run of a file's bytes is in the partition.
type FileExtent struct {
	Offset quantity.Bytes // in the file
	quantity.Extent
}

// MaxPaths bounds the sum of the lengths of the paths that Files gives: what a damaged tree can
// make of a small disk.
const MaxPaths = 512 << 20

// NewReader reads the content of f, which is on the partition r.
func (f *File) NewReader(r io.ReaderAt) io.Reader { return &fileReader{file: f, r: r} }

type fileReader struct {
	file *File
	r    io.ReaderAt
	at   quantity.Bytes
	next int // extent
}

func (x *fileReader) Read(p []byte) (int, error) {
	f := x.file
	if x.at >= f.Size {
		return 0, io.EOF
	}
	p = p[:min(quantity.Bytes(len(p)), f.Size-x.at)]
	if f.Inline != nil {
		n := copy(p, f.Inline[x.at:])
		x.at += quantity.Bytes(n)
		return n, nil
	}
	for x.next < len(f.Extents) && f.Extents[x.next].Offset+f.Extents[x.next].Length <= x.at {
		x.next++
	}
	if x.next == len(f.Extents) || f.Extents[x.next].Offset > x.at { // a hole
		if x.next < len(f.Extents) {
			p = p[:min(quantity.Bytes(len(p)), f.Extents[x.next].Offset-x.at)]
		}
		clear(p)
		x.at += quantity.Bytes(len(p))
		return len(p), nil
	}
	e := f.Extents[x.next]
	p = p[:min(quantity.Bytes(len(p)), e.Offset+e.Length-x.at)]
	if err := ReadFull(x.r, p, e.Start+x.at-e.Offset); err != nil {
		return 0, fmt.Errorf("read %s: %w", f.Path, err)
	}
	x.at += quantity.Bytes(len(p))
	return len(p), nil
}
