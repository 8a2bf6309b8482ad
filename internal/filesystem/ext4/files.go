package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

const (
	flagInlineData = 0x10000000
	modeDirectory  = 0x4000
	rootInode      = 2

	direntHeader  = 8
	maxExtentLen  = 1 << 15 // more: allocated, but never written
	maxDepth      = 1024    // of directories
	maxMapEntries = 64 << 20
)

// Files lists the regular files of a file system, each name of a file with several. A file system
// with features that are not understood, or with data in inodes, has no list but an error.
func Files(r io.ReaderAt, size quantity.Bytes) ([]filesystem.File, error) {
	if size < superblockOffset+superblockSize {
		return nil, filesystem.ErrNotFound
	}
	raw := make([]byte, superblockSize)
	if err := filesystem.ReadFull(r, raw, superblockOffset); err != nil {
		return nil, fmt.Errorf("read ext superblock: %w", err)
	}
	sb, problem, err := parseSuperblock(raw)
	if err != nil {
		return nil, fmt.Errorf("decode ext superblock: %w", err)
	}
	if sb.Magic != magic {
		return nil, filesystem.ErrNotFound
	}
	if problem != "" {
		return nil, corrupt(sb.fsType(), "superblock", superblockOffset, problem)
	}
	if doubt := superblockDoubt(&sb); doubt != nil {
		return nil, fmt.Errorf("%s: %w", doubt.Reason, errors.ErrUnsupported)
	}
	g, problem := newGeometry(&sb, size)
	if problem != "" {
		return nil, corrupt(sb.fsType(), "superblock", superblockOffset, problem)
	}
	w := walker{reader: reader{r: r, geometry: g, fsType: sb.fsType()}, seen: map[uint32]bool{}}
	if err := w.directory(rootInode, "", 0); err != nil {
		return nil, err
	}
	return w.files, nil
}

// walker walks the tree of directories.
type walker struct {
	reader
	seen  map[uint32]bool // directories: in a sound tree each is in one place
	files []filesystem.File
	paths int // bytes
	nodes uint64
	parts uint64 // entries of all maps
}

func (w *walker) corrupt(number uint32, format string, args ...any) error {
	return corrupt(w.fsType, fmt.Sprintf("inode %d", number), 0, fmt.Sprintf(format, args...))
}

func (w *walker) directory(number uint32, path string, depth int) error {
	if w.seen[number] || depth > maxDepth {
		return w.corrupt(number, "a directory in two places, or %d deep", depth)
	}
	w.seen[number] = true
	in, err := w.inode(number)
	if err != nil {
		return err
	}
	f, err := w.file(number, in)
	if err != nil {
		return err
	}
	if in.Mode&modeType != modeDirectory || f.Size%w.blockSize != 0 || f.Size > w.offset(w.blocks) {
		return w.corrupt(number, "mode %o, %d bytes: not a directory", in.Mode, int64(f.Size))
	}
	from := f.NewReader(w.r)
	block := make([]byte, w.blockSize)
	for range f.Size / w.blockSize {
		if _, err := io.ReadFull(from, block); err != nil {
			return fmt.Errorf("read directory %q: %w", path, err)
		}
		if err := w.block(number, block, path, depth); err != nil {
			return err
		}
	}
	return nil
}

// block walks the entries of a directory's block. Nodes of an index look like one unused entry.
// Subdirectories are visited at once, with a block of their own.
func (w *walker) block(number uint32, b []byte, path string, depth int) error {
	for len(b) > 0 {
		if len(b) < direntHeader {
			return w.corrupt(number, "directory entry is cut short")
		}
		inode := binary.LittleEndian.Uint32(b)
		length, name := int(binary.LittleEndian.Uint16(b[4:])), int(b[6])
		if w.blockSize == 64*quantity.KiB && (length == 0 || length == 65535) {
			length = 64 << 10
		}
		if length < direntHeader || length%4 != 0 || length > len(b) || direntHeader+name > length {
			return w.corrupt(number, "directory entry of %d bytes with a name of %d", length, name)
		}
		text := string(b[direntHeader:][:name])
		b = b[length:]
		if inode == 0 || text == "." || text == ".." {
			continue
		}
		if err := w.entry(inode, path+text, depth); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) entry(number uint32, path string, depth int) error {
	in, err := w.inode(number)
	if err != nil {
		return err
	}
	switch in.Mode & modeType {
	case modeDirectory:
		return w.directory(number, path+"/", depth+1)
	case modeRegular:
	default:
		return nil
	}
	if w.paths += len(path); w.paths > filesystem.MaxPaths {
		return w.corrupt(number, "the paths of the files are longer than %d bytes", filesystem.MaxPaths)
	}
	f, err := w.file(number, in)
	if err != nil {
		return err
	}
	f.Path = path
	w.files = append(w.files, f)
	return nil
}

func (w *walker) inode(number uint32) (inode, error) {
	var out inode
	group := uint64(number-1) / uint64(w.sb.InodesPerGroup)
	if number == 0 || number > w.sb.InodesCount || group >= w.groups {
		return out, w.corrupt(number, "the file system has %d inodes", w.sb.InodesCount)
	}
	g, err := w.group(group)
	if err != nil {
		return out, err
	}
	at := w.offset(g.inodeTable) + quantity.Bytes(uint64(number-1)%uint64(w.sb.InodesPerGroup)*w.inodeSize)
	b := make([]byte, binary.Size(out))
	if err := filesystem.ReadFull(w.r, b, at); err != nil {
		return out, fmt.Errorf("read inode %d: %w", number, err)
	}
	_, err = binary.Decode(b, binary.LittleEndian, &out)
	return out, err
}

// file maps the content of a file or directory.
func (w *walker) file(number uint32, in inode) (filesystem.File, error) {
	f := filesystem.File{Size: quantity.Bytes(in.size())}
	if in.Mode&modeType == modeDirectory {
		f.Size = quantity.Bytes(in.SizeLo)
	}
	switch {
	case f.Size < 0 || f.Size > 1<<60:
		return f, w.corrupt(number, "%d bytes", in.size())
	case in.Flags&flagInlineData != 0:
		return f, fmt.Errorf("inode %d holds its data itself (inline_data): %w", number, errors.ErrUnsupported)
	}
	m := fileMap{walker: w, number: number, length: (uint64(f.Size) + uint64(w.blockSize) - 1) / uint64(w.blockSize)}
	var err error
	if in.extents() {
		err = m.extents(in.Block[:], extentMaxDepth+1)
	} else {
		err = m.indirect(in.Block[:])
	}
	f.Extents = m.out
	return f, err
}

// fileMap collects where a file's blocks are.
type fileMap struct {
	*walker
	number uint32
	length uint64 // of the file, in blocks
	next   uint64 // the logical block behind the last one
	out    []filesystem.FileExtent
}

// add appends count blocks of the file.
func (m *fileMap) add(logical, block, count uint64) error {
	if logical < m.next || count == 0 || block == 0 || block >= m.blocks || count > m.blocks-block {
		return m.corrupt(m.number, "blocks %d+%d at block %d of %d", logical, count, block, m.blocks)
	}
	m.next = logical + count
	count = min(count, max(m.length, logical)-logical) // more may be allocated than is read
	if count == 0 {
		return nil
	}
	if m.parts++; m.parts > maxMapEntries {
		return m.corrupt(m.number, "the files have more than %d pieces", maxMapEntries)
	}
	e := filesystem.FileExtent{
		Offset: m.offset(logical),
		Extent: quantity.Extent{Start: m.offset(block), Length: m.offset(count)},
	}
	if n := len(m.out); n > 0 && m.out[n-1].End() == e.Start && m.out[n-1].Offset+m.out[n-1].Length == e.Offset {
		m.out[n-1].Length += e.Length
		return nil
	}
	m.out = append(m.out, e)
	return nil
}

// extents walks a node of the extent tree (Documentation/filesystems/ext4/ifork.rst), whose depth must
// be below the given one.
func (m *fileMap) extents(node []byte, above uint16) error {
	const header, entry = 12, 12
	le := binary.LittleEndian
	entries, depth := int(le.Uint16(node[2:])), le.Uint16(node[6:])
	if m.nodes++; m.nodes > m.blocks+uint64(m.sb.InodesCount) || le.Uint16(node) != extentMagic ||
		depth >= above || entries > (len(node)-header)/entry {
		return m.corrupt(m.number, "extent node of depth %d with %d entries", depth, entries)
	}
	for i := range entries {
		e := node[header+i*entry:][:entry]
		if depth > 0 {
			child, err := m.mapBlock(uint64(le.Uint16(e[8:]))<<32 | uint64(le.Uint32(e[4:])))
			if err != nil {
				return err
			}
			if err := m.extents(child, depth); err != nil {
				return err
			}
			continue
		}
		count := uint64(le.Uint16(e[4:]))
		if count > maxExtentLen { // reads as zero
			continue
		}
		if err := m.add(uint64(le.Uint32(e)), uint64(le.Uint16(e[6:]))<<32|uint64(le.Uint32(e[8:])), count); err != nil {
			return err
		}
	}
	return nil
}

// indirect walks the block map of ext2 and ext3: 12 blocks, then blocks that list blocks, one
// to three levels deep.
func (m *fileMap) indirect(list []byte) error {
	const direct = 12
	if err := m.listed(list[:4*direct], 0, 0); err != nil {
		return err
	}
	logical, span := uint64(direct), uint64(1)
	for level := 1; level <= 3; level++ {
		span *= uint64(m.blockSize / 4)
		at := 4 * (direct + level - 1)
		if err := m.listed(list[at:at+4], level, logical); err != nil {
			return err
		}
		logical += span
	}
	return nil
}

// listed walks a list of block numbers for the file's blocks from logical on; level is how many
// lists lie between them and data. A number of zero is a hole.
func (m *fileMap) listed(list []byte, level int, logical uint64) error {
	span := uint64(1) // blocks below one number
	for range level {
		span *= uint64(m.blockSize / 4)
	}
	for ; len(list) > 0 && logical < m.length; list, logical = list[4:], logical+span {
		number := uint64(binary.LittleEndian.Uint32(list))
		if number == 0 {
			continue
		}
		if level == 0 {
			if err := m.add(logical, number, 1); err != nil {
				return err
			}
			continue
		}
		if m.nodes++; m.nodes > m.blocks {
			return m.corrupt(m.number, "the maps of the files have more blocks than the file system")
		}
		below, err := m.mapBlock(number)
		if err != nil {
			return err
		}
		if err := m.listed(below, level-1, logical); err != nil {
			return err
		}
	}
	return nil
}

// mapBlock reads a block of a file's map.
func (m *fileMap) mapBlock(number uint64) ([]byte, error) {
	if number <= uint64(m.sb.FirstDataBlock) || number >= m.blocks {
		return nil, m.corrupt(m.number, "its map is at block %d of %d", number, m.blocks)
	}
	b := make([]byte, m.blockSize)
	if err := filesystem.ReadFull(m.r, b, m.reader.offset(number)); err != nil {
		return nil, fmt.Errorf("block %d: %w", number, err)
	}
	return b, nil
}
