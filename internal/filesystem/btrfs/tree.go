package btrfs

import (
	"encoding/binary"
	"fmt"
	"math"

	"clonecast/internal/quantity"
)

// Trees, by their object ids.
const (
	treeRoot   = 1
	treeExtent = 2
	treeChunk  = 3
)

// Item types.
const (
	itemRoot           = 132
	itemExtent         = 168
	itemMetadata       = 169
	itemOwnerRef       = 172
	itemTreeBlockRef   = 176
	itemExtentDataRef  = 178
	itemSharedBlockRef = 182
	itemSharedDataRef  = 184
	itemBlockGroup     = 192
	itemDevice         = 216
	itemChunk          = 228
)

// item is one item of a leaf.
type item struct {
	key
	data []byte // valid until the next node is read
	leaf quantity.Bytes
}

func (it item) corrupt(problem string) error {
	return corrupt(fmt.Sprintf("item %v", it.key), it.leaf, problem)
}

// walk calls visit for the items with keys from first to last, in order.
func (rd *reader) walk(p pointer, first, last key, visit func(item) error) error {
	n, err := rd.node(p)
	if err != nil {
		return err
	}
	for i := range int(n.NrItems) {
		if compareKeys(n.key(i), last) > 0 {
			return nil
		}
		if n.Level == 0 {
			if compareKeys(n.key(i), first) < 0 {
				continue
			}
			err = visit(item{key: n.key(i), data: n.item(i), leaf: n.offset})
		} else if c := n.child(p, i); compareKeys(c.last, first) >= 0 {
			err = rd.walk(c, first, last, visit)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// rootPointer points to the root of a tree whose place a superblock or root item
// gives.
func rootPointer(tree, logical, generation uint64, level uint8) pointer {
	return pointer{tree: tree, logical: logical, generation: generation, level: level, isRoot: true, last: lastKey}
}

// Places in struct btrfs_root_item.
const (
	rootItemGeneration = 160
	rootItemBytenr     = 176
	rootItemLevel      = 238
	rootItemSize       = 239 // at least
)

// extentTree finds the root of the extent tree.
func (rd *reader) extentTree() (pointer, error) {
	root := rootPointer(treeRoot, rd.sb.Root, rd.sb.Generation, rd.sb.RootLevel)
	var out pointer
	found := false
	err := rd.walk(root, key{treeExtent, itemRoot, 0}, key{treeExtent, itemRoot, math.MaxUint64}, func(it item) error {
		if found || len(it.data) < rootItemSize || it.data[rootItemLevel] >= maxLevel {
			return it.corrupt(fmt.Sprintf("root of the extent tree in %d bytes", len(it.data)))
		}
		found = true
		out = rootPointer(treeExtent, binary.LittleEndian.Uint64(it.data[rootItemBytenr:]),
			binary.LittleEndian.Uint64(it.data[rootItemGeneration:]), it.data[rootItemLevel])
		return nil
	})
	if err == nil && !found {
		err = corrupt("root tree", 0, "no extent tree")
	}
	return out, err
}
