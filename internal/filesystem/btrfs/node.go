package btrfs

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

// maxLevel is the number of levels that a tree can have.
const maxLevel = 8

const (
	headerSize     = 101
	itemSize       = 25 // of a leaf: key, place and length of the data
	keyPointerSize = 33 // of an inner node: key, address and generation
	keySize        = 17
)

// header is struct btrfs_header, the start of every node.
type header struct {
	Checksum   [checksumSize]byte `offset:"0x0"`
	FSID       [16]byte           `offset:"0x20"`
	Bytenr     uint64             `offset:"0x30"`
	_          [24]byte           `offset:"0x38"`
	Generation uint64             `offset:"0x50"`
	Owner      uint64             `offset:"0x58"`
	NrItems    uint32             `offset:"0x60"`
	Level      uint8              `offset:"0x64"`
}

// key is struct btrfs_disk_key; its fields mean what the item's type says.
type key struct {
	objectid uint64
	kind     uint8
	offset   uint64
}

// lastKey is the greatest key there can be.
var lastKey = key{math.MaxUint64, math.MaxUint8, math.MaxUint64}

// parseKey decodes the key at the start of b.
func parseKey(b []byte) key {
	return key{
		objectid: binary.LittleEndian.Uint64(b),
		kind:     b[8],
		offset:   binary.LittleEndian.Uint64(b[9:]),
	}
}

func compareKeys(a, b key) int {
	return cmp.Or(cmp.Compare(a.objectid, b.objectid), cmp.Compare(a.kind, b.kind), cmp.Compare(a.offset, b.offset))
}

// pointer is what is known of a node before it is read.
type pointer struct {
	tree       uint64
	logical    uint64
	generation uint64
	level      uint8
	isRoot     bool // first is not known
	shared     bool // snapshots share nodes: the node may be of another tree
	first      key  // the node's first key
	last       key  // no key in the node is greater
}

// node is a node that has been checked.
type node struct {
	header
	data   []byte
	offset quantity.Bytes // of the copy that was read
}

// key gives key i of the node.
func (n *node) key(i int) key {
	if n.Level == 0 {
		return parseKey(n.data[headerSize+i*itemSize:])
	}
	return parseKey(n.data[headerSize+i*keyPointerSize:])
}

// item gives the data of item i of a leaf.
func (n *node) item(i int) []byte {
	start, end := n.itemPlace(i)
	return n.data[start:end]
}

func (n *node) itemPlace(i int) (start, end uint64) {
	b := n.data[headerSize+i*itemSize+keySize:]
	start = headerSize + uint64(binary.LittleEndian.Uint32(b))
	return start, start + uint64(binary.LittleEndian.Uint32(b[4:]))
}

// child gives what an inner node, read through p, says of child i.
func (n *node) child(p pointer, i int) pointer {
	b := n.data[headerSize+i*keyPointerSize+keySize:]
	c := pointer{
		tree:       p.tree,
		shared:     p.shared,
		logical:    binary.LittleEndian.Uint64(b),
		generation: binary.LittleEndian.Uint64(b[8:]),
		level:      n.Level - 1,
		first:      n.key(i),
		last:       p.last,
	}
	if i+1 < int(n.NrItems) {
		c.last = before(n.key(i + 1))
	}
	return c
}

// before is the greatest key smaller than k, which is not the smallest key.
func before(k key) key {
	switch {
	case k.offset > 0:
		return key{k.objectid, k.kind, k.offset - 1}
	case k.kind > 0:
		return key{k.objectid, k.kind - 1, math.MaxUint64}
	}
	return key{k.objectid - 1, math.MaxUint8, math.MaxUint64}
}

// node reads the node that p tells of and checks it. It is valid until the next
// node of its level is read.
func (rd *reader) node(p pointer) (*node, error) {
	name := fmt.Sprintf("node %d of tree %d", p.logical, p.tree)
	if rd.nodes == 0 {
		return nil, corrupt(name, 0, "more nodes than the partition has room for")
	}
	rd.nodes--
	c, ok := rd.chunk(p.logical, uint64(rd.sb.NodeSize))
	if !ok {
		return nil, corrupt(name, 0, "lies in no chunk")
	}
	var first error
	for _, place := range c.copies(p.logical) {
		n, problem, err := rd.readNode(p, place)
		if err == nil && problem == "" {
			return n, nil
		}
		if err != nil {
			err = fmt.Errorf("btrfs %s: %w", name, err)
		} else {
			err = corrupt(name, place, problem)
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

// readNode reads one copy of a node; problem says what is wrong with it.
func (rd *reader) readNode(p pointer, at quantity.Bytes) (n *node, problem string, err error) {
	if rd.buffers[p.level] == nil {
		rd.buffers[p.level] = make([]byte, rd.sb.NodeSize)
	}
	n = &node{data: rd.buffers[p.level], offset: at}
	if err := filesystem.ReadFull(rd.r, n.data, at); err != nil {
		return nil, "", err
	}
	if _, err := binary.Decode(n.data, binary.LittleEndian, &n.header); err != nil {
		return nil, "", err
	}
	if !checksumOK(rd.sb.CsumType, n.data) {
		return nil, "checksum does not match", nil
	}
	if problem := n.headerProblem(p, rd.sb.nodeFSID()); problem != "" {
		return nil, problem, nil
	}
	if problem := n.keyProblem(p); problem != "" {
		return nil, problem, nil
	}
	if n.Level == 0 {
		problem = n.leafProblem()
	} else {
		problem = n.innerProblem(uint64(rd.sb.SectorSize))
	}
	return n, problem, nil
}

func (n *node) headerProblem(p pointer, fsid [16]byte) string {
	entry := itemSize
	if p.level > 0 {
		entry = keyPointerSize
	}
	switch {
	case n.Bytenr != p.logical:
		return fmt.Sprintf("says that it is node %d", n.Bytenr)
	case n.FSID != fsid:
		return "belongs to another file system"
	case n.Owner != p.tree && !p.shared:
		return fmt.Sprintf("belongs to tree %d", n.Owner)
	case n.Level != p.level:
		return fmt.Sprintf("level %d, want %d", n.Level, p.level)
	case n.Generation != p.generation:
		return fmt.Sprintf("generation %d, want %d", n.Generation, p.generation)
	case n.NrItems == 0 || uint64(n.NrItems) > uint64((len(n.data)-headerSize)/entry):
		return fmt.Sprintf("%d items", n.NrItems)
	}
	return ""
}

// keyProblem checks the order of the keys and the bounds that the parent gives.
func (n *node) keyProblem(p pointer) string {
	last := n.key(0)
	if !p.isRoot && last != p.first {
		return fmt.Sprintf("first key %v, want %v", last, p.first)
	}
	for i := 1; i < int(n.NrItems); i++ {
		k := n.key(i)
		if compareKeys(last, k) >= 0 {
			return fmt.Sprintf("key %v after %v", k, last)
		}
		last = k
	}
	if compareKeys(last, p.last) > 0 {
		return fmt.Sprintf("key %v belongs to another node", last)
	}
	return ""
}

// leafProblem checks that the items' data, from the leaf's end downwards, touch one
// another and stay behind the items.
func (n *node) leafProblem() string {
	free, limit := uint64(headerSize+int(n.NrItems)*itemSize), uint64(len(n.data))
	for i := range int(n.NrItems) {
		start, end := n.itemPlace(i)
		if end != limit || start < free {
			return fmt.Sprintf("data of item %d from byte %d to %d", i, start, end)
		}
		limit = start
	}
	return ""
}

// innerProblem checks the addresses and generations of the children.
func (n *node) innerProblem(sector uint64) string {
	for i := range int(n.NrItems) {
		c := n.child(pointer{}, i)
		if c.logical%sector != 0 || c.generation > n.Generation {
			return fmt.Sprintf("child at %d of generation %d", c.logical, c.generation)
		}
	}
	return ""
}
