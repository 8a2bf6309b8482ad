package btrfs

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"strings"

	"clonecast/internal/filesystem"
	"clonecast/internal/filesystem/swap"
)

// swapFiles are the paths, from the top of a subvolume, at which swap files are looked for: trees of
// files are too large to look at all. They are what the documentation of btrfs, distributions and
// installers name.
var swapFiles = []string{
	"swapfile", "swap.img", "swap", ".swapfile", "swap/swapfile", "swap/swap", "swap/swap.img",
	"swap/swapfile0", "swap/swapfile1", ".swap/swapfile", "swapspace/swapfile",
	"var/swapfile", "var/swap", "var/swap/swapfile",
	"var/cache/swap/swapfile", "@swap/swapfile",
}

const (
	treeFiles    = 5   // the subvolume that every file system has
	firstFree    = 256 // of object ids: other subvolumes, and the top directory of each
	maxSubvols   = 512
	rootItemRefs = 216 // in struct btrfs_root_item

	itemInode   = 1
	itemDirItem = 84
	itemExtents = 108 // of a file

	// struct btrfs_dir_item: key of what is named, transaction, lengths, kind, name
	dirItemData = 25
	dirItemName = 27
	dirItemSize = 30

	// struct btrfs_file_extent_item
	fileExtentPacked = 16 // compression, encryption and another encoding
	fileExtentKind   = 20
	fileExtentPlace  = 21
	fileExtentOffset = 37
	fileExtentLength = 45
	fileExtentSize   = 53
	fileExtentData   = 1 // kind: neither inline nor only reserved
)

// hibernation looks for a swap file that holds a hibernated system; nil: none is where swap files
// usually are. The system that sleeps there may have had the file system mounted without anything
// in it that says so. The error says why nothing could be found out.
func (rd *reader) hibernation() (*filesystem.Doubt, error) {
	if rd.chunks == nil {
		if err := rd.loadChunks(); err != nil {
			return nil, err
		}
	}
	subvolumes, err := rd.subvolumes()
	if err != nil {
		return nil, err
	}
	var failed error
	for _, tree := range subvolumes {
		for _, path := range swapFiles {
			suspended, err := rd.suspended(tree, path)
			if suspended {
				return swap.Hibernated("the swap file " + path), nil
			}
			failed = cmp.Or(failed, err)
		}
	}
	return nil, failed
}

// subvolumes gives the roots of the trees of files.
func (rd *reader) subvolumes() ([]pointer, error) {
	root := rootPointer(treeRoot, rd.sb.Root, rd.sb.Generation, rd.sb.RootLevel)
	var out []pointer
	first, last := key{treeFiles, itemRoot, 0}, key{math.MaxUint64 - 256, itemRoot, math.MaxUint64}
	err := rd.walk(root, first, last, func(it item) error {
		if it.kind != itemRoot || it.objectid != treeFiles && it.objectid < firstFree || len(out) == maxSubvols {
			return nil
		}
		if len(it.data) < rootItemSize || it.data[rootItemLevel] >= maxLevel {
			return it.corrupt(fmt.Sprintf("root of a subvolume in %d bytes", len(it.data)))
		}
		if binary.LittleEndian.Uint32(it.data[rootItemRefs:]) == 0 {
			return nil // deleted, its nodes are on their way to be free
		}
		p := rootPointer(it.objectid, binary.LittleEndian.Uint64(it.data[rootItemBytenr:]),
			binary.LittleEndian.Uint64(it.data[rootItemGeneration:]), it.data[rootItemLevel])
		p.shared = true
		out = append(out, p)
		return nil
	})
	return out, err
}

// suspended tells whether there is a swap file with a hibernated system at a path of a subvolume.
func (rd *reader) suspended(tree pointer, path string) (bool, error) {
	inode := uint64(firstFree)
	for name := range strings.SplitSeq(path, "/") {
		var err error
		if inode, err = rd.lookup(tree, inode, name); inode == 0 || err != nil {
			return false, err
		}
	}
	var found bool
	start := key{inode, itemExtents, 0}
	err := rd.walk(tree, start, start, func(it item) error {
		b := it.data
		if len(b) < fileExtentSize || b[fileExtentKind] != fileExtentData ||
			binary.LittleEndian.Uint32(b[fileExtentPacked:]) != 0 {
			return nil
		}
		at := binary.LittleEndian.Uint64(b[fileExtentPlace:])
		at += binary.LittleEndian.Uint64(b[fileExtentOffset:])
		length := min(binary.LittleEndian.Uint64(b[fileExtentLength:]), uint64(swap.MaxHeader))
		c, ok := rd.chunk(at, length)
		if !ok || length == 0 {
			return nil // a hole, or nothing that mkswap makes
		}
		head := make([]byte, length)
		if err := filesystem.ReadFull(rd.r, head, c.copies(at)[0]); err != nil {
			return err
		}
		found = swap.HoldsSystem(head)
		return nil
	})
	return found, err
}

// lookup gives the inode of a name in a directory; 0: there is no such file or directory.
func (rd *reader) lookup(tree pointer, dir uint64, name string) (uint64, error) {
	hash := ^crc32.Update(1, crc32.MakeTable(crc32.Castagnoli), []byte(name))
	at := key{dir, itemDirItem, uint64(hash)}
	inode := uint64(0)
	err := rd.walk(tree, at, at, func(it item) error {
		for b := it.data; len(b) >= dirItemSize; {
			n := int(binary.LittleEndian.Uint16(b[dirItemName:]))
			data := int(binary.LittleEndian.Uint16(b[dirItemData:]))
			if n+data > len(b)-dirItemSize {
				return it.corrupt("a name leaves the item")
			}
			if string(b[dirItemSize:][:n]) == name {
				if k := parseKey(b); k.kind == itemInode {
					inode = k.objectid
				}
				return nil
			}
			b = b[dirItemSize+n+data:]
		}
		return nil
	})
	return inode, err
}
