package disktest

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"testing"

	"clonecast/internal/quantity"
)

const page = 4096

// Sparse is an image in memory without its zeroes, so that thousands of damaged ones
// can be made of it. What is read outside of it is an error, not its end.
type Sparse struct {
	Size   quantity.Bytes
	pages  map[int64][]byte // by offset
	shared map[int64]bool   // pages that belong to the image this one was made of
}

// Load reads an image.
func Load(t testing.TB, path string) *Sparse {
	t.Helper()
	f := Open(t, path)
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	s := &Sparse{Size: quantity.Bytes(info.Size()), pages: map[int64][]byte{}}
	zeroes := make([]byte, page)
	for at := int64(0); at < info.Size(); at += page {
		b := make([]byte, page)
		if _, err := f.ReadAt(b, at); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		if !bytes.Equal(b, zeroes) {
			s.pages[at] = b
		}
	}
	return s
}

// Clone gives an image with the same content, for Edit.
func (s *Sparse) Clone() *Sparse {
	out := &Sparse{Size: s.Size, pages: maps.Clone(s.pages), shared: make(map[int64]bool, len(s.pages))}
	for at := range out.pages {
		out.shared[at] = true
	}
	return out
}

// Edit gives n bytes at off to change. They must lie in one block of 4 KiB, and s must
// not have been cloned.
func (s *Sparse) Edit(off int64, n int) []byte {
	at := off &^ (page - 1)
	switch {
	case s.pages[at] == nil:
		s.pages[at] = make([]byte, page)
	case s.shared[at]:
		s.pages[at] = bytes.Clone(s.pages[at])
		s.shared[at] = false
	}
	return s.pages[at][off-at:][:n]
}

// ReadAt reads bytes of the image.
func (s *Sparse) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 || int64(len(b)) > int64(s.Size)-off {
		return 0, errors.New("read outside the image")
	}
	clear(b)
	for at := off &^ (page - 1); at < off+int64(len(b)); at += page {
		if p := s.pages[at]; p != nil {
			from := max(at, off)
			copy(b[from-off:], p[from-at:])
		}
	}
	return len(b), nil
}
