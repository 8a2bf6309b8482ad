package ntfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

const (
	typeFileName = 0x30

	nameDOS       = 2  // namespace of a name that only repeats another one
	firstUser     = 24 // records below belong to the file system
	recordExtend  = 11 // $Extend, a directory of system files
	maxPathLength = 32767
	maxPathDepth  = 1024
)

// Files lists the files of a volume: every record in use with a name below the root, each name
// of a file with several. Directories and alternate streams are left out.
func Files(r io.ReaderAt, size quantity.Bytes) ([]filesystem.File, error) {
	v := &volume{r: r, size: size}
	var err error
	if v.geometry, err = readBoot(r, size); err != nil {
		return nil, err
	}
	if err := v.loadMFT(); err != nil {
		return nil, fmt.Errorf("read $MFT: %w", err)
	}
	l := lister{volume: v, names: map[uint64][]fileName{}, content: map[uint64]filesystem.File{}}
	if err := l.scan(); err != nil {
		return nil, err
	}
	return l.files()
}

// fileName is a name of a file in a directory.
type fileName struct {
	parent reference
	name   string
}

// lister collects what records say; paths are known only when all have been read.
type lister struct {
	*volume
	names    map[uint64][]fileName // of files and directories
	sequence map[uint64]uint16
	content  map[uint64]filesystem.File // without paths
	order    []uint64
	paths    int // bytes
}

// scan reads all records, some at a time.
func (l *lister) scan() error {
	l.sequence = map[uint64]uint16{}
	const batch = 256
	total := uint64(l.mft.size / l.recordSize)
	b := make([]byte, batch*l.recordSize)
	for first := uint64(0); first < total; first += batch {
		n := min(batch, total-first)
		b := b[:quantity.Bytes(n)*l.recordSize]
		if err := l.readStream(&l.mft, b, quantity.Bytes(first)*l.recordSize); err != nil {
			return fmt.Errorf("read $MFT: %w", err)
		}
		for i := range n {
			raw := b[quantity.Bytes(i)*l.recordSize:][:l.recordSize]
			if string(raw[:4]) != "FILE" || binary.LittleEndian.Uint16(raw[0x16:])&recordInUse == 0 {
				continue
			}
			r, err := parseRecord(raw, first+i)
			if err != nil {
				return err
			}
			if err := l.record(r); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *lister) record(r record) error {
	if r.Base != 0 || r.number < firstUser && r.number != recordRoot {
		return nil // a part of another one; a system file
	}
	l.sequence[r.number] = r.SequenceNumber
	names, err := l.fileNames(r)
	if err != nil {
		return err
	}
	l.names[r.number] = names
	s, err := l.open(r, typeData, "")
	if errors.Is(err, errNoAttribute) {
		return nil // a directory
	}
	if err != nil {
		return err
	}
	f := filesystem.File{Size: s.size}
	if s.resident != nil {
		f.Inline = append([]byte{}, s.resident...)
	}
	for _, x := range s.runs {
		if x.lcn == sparse {
			continue
		}
		e := filesystem.FileExtent{Offset: quantity.Bytes(x.vcn) * l.clusterSize}
		e.Start = l.clusterOffset(x.lcn)
		e.Length = min(quantity.Bytes(x.length)*l.clusterSize, s.initialized-e.Offset)
		if e.Length > 0 {
			f.Extents = append(f.Extents, e)
		}
	}
	l.content[r.number] = f
	l.order = append(l.order, r.number)
	return nil
}

// fileNames gives the names of a record, which may be in the records that its attribute
// list names.
func (l *lister) fileNames(r record) ([]fileName, error) {
	holders := []record{r}
	list, err := r.find(typeList, "")
	switch {
	case errors.Is(err, errNoAttribute):
	case err != nil:
		return nil, err
	default:
		if holders, err = l.holders(r, list); err != nil {
			return nil, err
		}
	}
	var names []fileName
	for _, h := range holders {
		all, err := h.attributes()
		if err != nil {
			return nil, err
		}
		for _, a := range all {
			if a.Type != typeFileName || a.NonResident != 0 {
				continue
			}
			if len(a.value) < fileNameStart {
				return nil, h.corrupt("file name of %d bytes", len(a.value))
			}
			name, ok := cut(a.value, fileNameStart, 2*uint32(a.value[fileNameLength]))
			if !ok {
				return nil, h.corrupt("file name lies outside its attribute")
			}
			if a.value[fileNameLength+1] != nameDOS {
				names = append(names, fileName{reference(binary.LittleEndian.Uint64(a.value)), decodeName(name)})
			}
		}
	}
	return names, nil
}

// holders are the records that hold the names of r.
func (l *lister) holders(r record, list attribute) ([]record, error) {
	entries, err := l.readList(r, list)
	if err != nil {
		return nil, err
	}
	holders, seen := []record{r}, map[uint64]bool{r.number: true}
	for len(entries) > 0 {
		e, _, err := r.parseListEntry(entries)
		if err != nil {
			return nil, err
		}
		entries = entries[e.Length:]
		number := e.Record.number()
		if e.Type != typeFileName || seen[number] {
			continue
		}
		seen[number] = true
		h, err := l.readRecord(number)
		if err != nil {
			return nil, err
		}
		if h.Base.number() != r.number || h.SequenceNumber != e.Record.sequence() {
			return nil, h.corrupt("is not an extension of %s", r.name())
		}
		holders = append(holders, h)
	}
	return holders, nil
}

// files gives each file its paths.
func (l *lister) files() ([]filesystem.File, error) {
	var out []filesystem.File
	for _, number := range l.order {
		for _, n := range l.names[number] {
			path, ok, err := l.path(number, n)
			if err != nil {
				return nil, err
			}
			if !ok {
				continue
			}
			f := l.content[number]
			f.Path = path
			out = append(out, f)
		}
	}
	return out, nil
}

// path walks up to the root. A file that is not below it, or is a system file, has none.
func (l *lister) path(number uint64, n fileName) (string, bool, error) {
	path := n.name
	for range maxPathDepth {
		parent := n.parent.number()
		if parent == recordRoot {
			if l.paths += len(path); l.paths > filesystem.MaxPaths {
				return "", false, corrupt("$MFT", 0, "the paths of its files are longer than %d bytes", filesystem.MaxPaths)
			}
			return path, true, nil
		}
		names := l.names[parent]
		if len(names) == 0 || l.sequence[parent] != n.parent.sequence() || parent == recordExtend {
			return "", false, nil
		}
		n = names[0]
		if path = n.name + "/" + path; len(path) > 4*maxPathLength {
			break
		}
	}
	return "", false, corrupt(fmt.Sprintf("MFT record %d", number), 0, "its path does not end")
}
