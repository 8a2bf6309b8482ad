package fat

import (
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"unicode/utf16"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

const (
	lowerBase      = 0x08 // in byte 12 of an entry: Windows NT's note that a short name has lower case
	lowerExtension = 0x10

	longUnits     = 13 // UTF-16 units in an entry of a long name
	maxLongPieces = 20
	lastPiece     = 0x40
	maxDepth      = 256
	maxDirectory  = 65536 * rootEntrySize
)

// Files lists the files of a FAT volume, hidden and system files too. Short names that are not UTF-8 get U+FFFD.
func Files(r io.ReaderAt, size quantity.Bytes) ([]filesystem.File, error) {
	if size < bootSectorSize {
		return nil, filesystem.ErrNotFound
	}
	boot := make([]byte, bootSectorSize)
	if err := filesystem.ReadFull(r, boot, 0); err != nil {
		return nil, err
	}
	g, err := parseBoot(boot, size)
	if err != nil {
		return nil, err
	}
	w := walker{volume: volume{r: r, geometry: g}}
	root := filesystem.File{Size: quantity.Bytes(g.rootEntries) * rootEntrySize}
	root.Extents = []filesystem.FileExtent{{Extent: quantity.Extent{Start: g.rootDir, Length: root.Size}}}
	if g.width == 32 {
		if root, err = w.chain(g.rootCluster, "the root directory"); err != nil {
			return nil, err
		}
	}
	if err := w.directory(&root, "", 0); err != nil {
		return nil, err
	}
	return w.files, nil
}

// walker walks the tree of directories. In a sound volume each cluster belongs to one chain,
// so the chains are together no longer than the volume.
type walker struct {
	volume
	files  []filesystem.File
	walked int64 // clusters
	paths  int   // bytes

	window   []byte // of the FAT ...
	windowAt quantity.Bytes
}

func (w *walker) corrupt(structure, format string, args ...any) error {
	return &filesystem.CorruptError{
		Format: w.format(), Structure: structure, Offset: w.fat, Problem: fmt.Sprintf(format, args...),
	}
}

// next gives the entry of a cluster.
func (w *walker) next(cluster int64) (uint32, error) {
	const window = 48 << 10 // whole entries of any width, and pairs of 12 bits
	at := quantity.Bytes(cluster*int64(w.width)/8) / window * window
	if w.window == nil || at != w.windowAt {
		end := quantity.Bytes(((w.clusters+2)*int64(w.width) + 7) / 8)
		b := make([]byte, min(window, end-at))
		if err := filesystem.ReadFull(w.r, b, w.fat+at); err != nil {
			return 0, fmt.Errorf("read the FAT: %w", err)
		}
		w.window, w.windowAt = append(b, 0), at
	}
	return w.entry(w.window, cluster-int64(at)*8/int64(w.width)), nil
}

// chain maps the clusters from one on.
func (w *walker) chain(cluster int64, of string) (f filesystem.File, err error) {
	for {
		if cluster < 2 || cluster >= w.clusters+2 {
			return f, w.corrupt(of, "its chain leads to cluster %d of %d", cluster, w.clusters)
		}
		if w.walked++; w.walked > w.clusters {
			return f, w.corrupt(of, "the chains are longer than the volume")
		}
		at := w.clusterOffset(cluster)
		if n := len(f.Extents); n > 0 && f.Extents[n-1].End() == at {
			f.Extents[n-1].Length += w.clusterSize
		} else {
			f.Extents = append(f.Extents, filesystem.FileExtent{
				Offset: f.Size,
				Extent: quantity.Extent{Start: at, Length: w.clusterSize},
			})
		}
		f.Size += w.clusterSize
		next, err := w.next(cluster)
		if err != nil {
			return f, err
		}
		if next > w.bad() {
			return f, nil
		}
		cluster = int64(next)
	}
}

func (w *walker) directory(d *filesystem.File, path string, depth int) error {
	if depth > maxDepth || d.Size > maxDirectory+w.clusterSize {
		return w.corrupt("directory "+path, "%d bytes, %d deep", int64(d.Size), depth)
	}
	from := d.NewReader(w.r)
	var long longName
	b := make([]byte, rootEntrySize)
	for range d.Size / rootEntrySize {
		if _, err := io.ReadFull(from, b); err != nil {
			return fmt.Errorf("read directory %q: %w", path, err)
		}
		attributes := b[attributeOffset]
		switch {
		case b[0] == 0:
			return nil
		case b[0] == deleted:
			long = longName{}
			continue
		case attributes&attributeLong == attributeLong:
			long.add(b)
			continue
		}
		name := long.name(b)
		long = longName{}
		if attributes&attributeLabel != 0 || name == "." || name == ".." {
			continue
		}
		if err := w.file(b, path+name, depth); err != nil {
			return err
		}
	}
	return nil
}

// file takes up a file, or a directory with what is below it.
func (w *walker) file(entry []byte, path string, depth int) error {
	cluster := int64(binary.LittleEndian.Uint16(entry[26:]))
	if w.width == 32 {
		cluster |= int64(binary.LittleEndian.Uint16(entry[20:])) << 16
	}
	size := quantity.Bytes(binary.LittleEndian.Uint32(entry[28:]))
	isDir := entry[attributeOffset]&attributeDir != 0
	var f filesystem.File
	if size > 0 || isDir {
		var err error
		if f, err = w.chain(cluster, path); err != nil {
			return err
		}
	}
	if isDir {
		return w.directory(&f, path+"/", depth+1)
	}
	if f.Size < size {
		return w.corrupt(path, "%d bytes in clusters of %d", int64(size), int64(f.Size))
	}
	f.Path, f.Size = path, size
	for n := len(f.Extents); n > 0; n-- { // it may have more clusters than it needs
		last := &f.Extents[n-1]
		if last.Length = min(last.Length, size-last.Offset); last.Length > 0 {
			break
		}
		f.Extents = f.Extents[:n-1]
	}
	if w.paths += len(path); w.paths > filesystem.MaxPaths {
		return w.corrupt("directories", "the paths of the files are longer than %d bytes", filesystem.MaxPaths)
	}
	w.files = append(w.files, f)
	return nil
}

// longName collects the entries in front of the one they name, last piece first.
type longName struct {
	units    []uint16
	missing  int // pieces
	checksum byte
}

func (l *longName) add(b []byte) {
	number := int(b[0] &^ lastPiece)
	if b[0]&lastPiece != 0 {
		*l = longName{missing: number, checksum: b[13]}
	}
	if number == 0 || number > maxLongPieces || number != l.missing || b[13] != l.checksum {
		*l = longName{}
		return
	}
	var piece []uint16
	for _, part := range [][]byte{b[1:11], b[14:26], b[28:32]} {
		for ; len(part) > 0; part = part[2:] {
			piece = append(piece, binary.LittleEndian.Uint16(part))
		}
	}
	l.units = append(piece, l.units...)
	l.missing--
}

// name is the long name if it belongs to the entry, else the short one.
func (l *longName) name(entry []byte) string {
	if len(l.units) > 0 && l.missing == 0 && l.checksum == shortChecksum(entry) {
		units := l.units
		for i, u := range units {
			if u == 0 {
				units = units[:i]
				break
			}
		}
		return string(utf16.Decode(units))
	}
	base, extension := decodeShort(entry[:8]), decodeShort(entry[8:11])
	if entry[12]&lowerBase != 0 {
		base = strings.ToLower(base)
	}
	if entry[12]&lowerExtension != 0 {
		extension = strings.ToLower(extension)
	}
	if extension == "" {
		return base
	}
	return base + "." + extension
}

func decodeShort(b []byte) string {
	raw := append([]byte(nil), b...)
	if raw[0] == 0x05 {
		raw[0] = deleted
	}
	return strings.ToValidUTF8(strings.TrimRight(string(raw), " "), "\uFFFD")
}

// shortChecksum is the number that ties a long name to its entry.
func shortChecksum(entry []byte) (sum byte) {
	for _, c := range entry[:11] {
		sum = sum<<7 | sum>>1
		sum += c
	}
	return sum
}
