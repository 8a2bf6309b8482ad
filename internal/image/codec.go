package image

import (
	"bytes"
	"errors"
	"fmt"
	"unicode/utf8"

	"clonecast/internal/chunk"
	"clonecast/internal/quantity"
)

// The binary form of a manifest: the magic "CCMAN1\n\0", then the fields of Manifest
// in the order of the struct. An integer is a varint in its shortest form; a string or
// byte slice its length and its bytes; a list its length and its items; a mode one
// byte. Extents are pairs (gap since the end of the one before, length). Chunk ids are
// 32 plain bytes, without a count: the extents say how many there are.
const manifestMagic = "CCMAN1\n\x00"

// Limits of what Parse accepts. Lists are also bounded by the bytes that are left,
// so that a short input cannot ask for much memory.
const (
	maxString         = 4096
	maxDisks          = 64
	maxPartitions     = 1024
	maxAreas          = 1024
	maxTableArea      = 1 << 20
	maxDiskSize       = 1 << 56
	maxCreated        = 1 << 62
	maxPhysicalSector = 1 << 20
	maxExtents        = 1 << 22 // of all regions together: 64 MiB of memory
)

// The fewest bytes that items of lists take: a list is not longer than what is left can hold.
const (
	minDisk      = 10
	minArea      = 2
	minContent   = 3
	minPartition = 11 + minContent
	minExtent    = 2
)

var modeCodes = []Mode{ModeClone, ModeRaw, ModeSwap, ModeSkip, ModeFormat}

// MarshalBinary gives m's canonical binary form, or why m is not a valid manifest.
func (m *Manifest) MarshalBinary() ([]byte, error) {
	segments, err := m.Segments()
	if err != nil {
		return nil, err
	}
	return bytes.Join(segments, nil), nil
}

// Segments gives what MarshalBinary gives in pieces that follow one another. The chunk ids,
// which are nearly all of it, are those of m itself: m must not change while they are used.
func (m *Manifest) Segments() ([][]byte, error) {
	if err := m.validate(); err != nil {
		return nil, err
	}
	var w writer
	w.raw([]byte(manifestMagic))
	w.manifest(m)
	return append(w.done, w.b), nil
}

// Parse reads the binary form of a manifest. It accepts exactly what MarshalBinary
// writes: Parse(b) followed by MarshalBinary gives b again. The manifest's chunk ids stay in
// the memory of b, which must not change afterwards.
func Parse(b []byte) (*Manifest, error) {
	r := reader{b: b}
	if string(r.raw(len(manifestMagic))) != manifestMagic {
		return nil, errors.New("not a manifest: magic is absent")
	}
	m := r.manifest()
	if err := r.end("manifest"); err != nil {
		return nil, err
	}
	if err := m.validate(); err != nil {
		return nil, err
	}
	return &m, nil
}

// writer collects fields: the last of them in b, those in front of it in done.
type writer struct {
	b    []byte
	done [][]byte
}

func (w *writer) raw(b []byte) { w.b = append(w.b, b...) }

func (w *writer) uint(v uint64) {
	for v >= 0x80 {
		w.b = append(w.b, byte(v)|0x80)
		v >>= 7
	}
	w.b = append(w.b, byte(v))
}

func (w *writer) string(s string) { w.bytes([]byte(s)) }

func (w *writer) bytes(b []byte) {
	w.uint(uint64(len(b)))
	w.raw(b)
}

func (w *writer) manifest(m *Manifest) {
	w.string(m.Image)
	w.uint(m.Sequence)
	w.raw(m.Parent[:])
	w.uint(uint64(m.Created))
	for _, s := range []string{m.Comment, m.Origin, m.Creator, m.Engine} {
		w.string(s)
	}
	w.uint(uint64(len(m.Disks)))
	for i := range m.Disks {
		w.disk(&m.Disks[i])
	}
}

func (w *writer) disk(d *Disk) {
	w.uint(uint64(d.Size))
	w.uint(uint64(d.LogicalSector))
	w.uint(uint64(d.PhysicalSector))
	for _, s := range []string{d.Model, d.Serial, d.TableKind, d.DiskID} {
		w.string(s)
	}
	w.uint(uint64(len(d.Table)))
	for _, a := range d.Table {
		w.uint(uint64(a.Start))
		w.bytes(a.Data)
	}
	w.uint(uint64(len(d.Boot)))
	for i := range d.Boot {
		w.content(&d.Boot[i])
	}
	w.uint(uint64(len(d.Partitions)))
	for i := range d.Partitions {
		w.partition(&d.Partitions[i])
	}
}

func (w *writer) partition(p *Partition) {
	w.uint(uint64(p.Number))
	for _, s := range []string{p.Type, p.GUID, p.Name} {
		w.string(s)
	}
	for code, mode := range modeCodes {
		if p.Mode == mode {
			w.raw([]byte{byte(code)})
		}
	}
	for _, s := range []string{p.Reason, p.Filesystem.Type, p.Filesystem.UUID, p.Filesystem.Label} {
		w.string(s)
	}
	w.uint(uint64(p.Filesystem.BlockSize))
	w.content(&p.Content)
}

func (w *writer) content(c *Content) {
	w.uint(uint64(c.Start))
	w.uint(uint64(c.Length))
	w.uint(uint64(len(c.Extents)))
	var end quantity.Bytes
	for _, e := range c.Extents {
		w.uint(uint64(e.Start - end))
		w.uint(uint64(e.Length))
		end = e.End()
	}
	if len(c.Chunks) > 0 {
		w.done, w.b = append(w.done, w.b, chunk.Bytes(c.Chunks)), nil
	}
}

// reader reads field after field; the first problem sticks.
type reader struct {
	b   []byte
	at  int
	err error

	outline bool // contents have no chunk ids
	extents int  // so far
}

// end tells what was wrong with the input: a field, or bytes after the last one.
func (r *reader) end(what string) error {
	if r.err != nil {
		return fmt.Errorf("%s at byte %d: %w", what, r.at, r.err)
	}
	if r.at != len(r.b) {
		return fmt.Errorf("%s has %d bytes after its end", what, len(r.b)-r.at)
	}
	return nil
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
}

func (r *reader) raw(n int) []byte {
	if r.err == nil && n > len(r.b)-r.at {
		r.fail("ends in the middle of a field")
	}
	if r.err != nil {
		return nil
	}
	r.at += n
	return r.b[r.at-n : r.at]
}

func (r *reader) uint() uint64 {
	var v uint64
	for shift := 0; ; shift += 7 {
		b := r.raw(1)
		if r.err != nil {
			return 0
		}
		if shift == 63 && b[0] > 1 || b[0] == 0 && shift > 0 {
			r.fail("integer is not in its shortest form")
			return 0
		}
		v |= uint64(b[0]&0x7f) << shift
		if b[0] < 0x80 {
			return v
		}
	}
}

func (r *reader) bounded(limit uint64) uint64 {
	v := r.uint()
	if v > limit {
		r.fail("%d is more than %d", v, limit)
		return 0
	}
	return v
}

// count reads the length of a byte string: at most limit, and no more than bytes are left.
func (r *reader) count(limit int) int { return r.list(limit, 1) }

// list reads the length of a list whose items take so many bytes at least. Its result may be allocated: what
// a manifest or an outline allocates is at most 32 times its length (TestParseMemory).
func (r *reader) list(limit, least int) int {
	return int(r.bounded(uint64(min(limit, (len(r.b)-r.at)/least))))
}

// grow makes room for the items of a list that was counted, nil for none.
func grow[T any](n int) []T {
	if n == 0 {
		return nil
	}
	return make([]T, 0, n)
}

func (r *reader) size() quantity.Bytes { return quantity.Bytes(r.bounded(maxDiskSize)) }

func (r *reader) string() string { return string(r.raw(r.count(maxString))) }

func (r *reader) id() (id chunk.ID) {
	copy(id[:], r.raw(len(id)))
	return id
}

func (r *reader) manifest() Manifest {
	m := Manifest{Image: r.string(), Sequence: r.uint()}
	copy(m.Parent[:], r.raw(len(m.Parent)))
	m.Created = int64(r.bounded(maxCreated))
	m.Comment, m.Origin, m.Creator, m.Engine = r.string(), r.string(), r.string(), r.string()
	disks := r.list(maxDisks, minDisk)
	m.Disks = grow[Disk](disks)
	for range disks {
		m.Disks = append(m.Disks, r.disk())
	}
	return m
}

func (r *reader) disk() Disk {
	d := Disk{Size: r.size()}
	d.LogicalSector = quantity.SectorSize(r.bounded(1 << 16))
	d.PhysicalSector = quantity.SectorSize(r.bounded(maxPhysicalSector))
	d.Model, d.Serial, d.TableKind, d.DiskID = r.string(), r.string(), r.string(), r.string()
	areas := r.list(maxAreas, minArea)
	d.Table = grow[TableArea](areas)
	for range areas {
		d.Table = append(d.Table, TableArea{r.size(), bytes.Clone(r.raw(r.count(maxTableArea)))})
	}
	boot := r.list(maxAreas, minContent)
	d.Boot = grow[Content](boot)
	for range boot {
		d.Boot = append(d.Boot, r.content())
	}
	partitions := r.list(maxPartitions, minPartition)
	d.Partitions = grow[Partition](partitions)
	for range partitions {
		d.Partitions = append(d.Partitions, r.partition())
	}
	return d
}

func (r *reader) partition() Partition {
	p := Partition{Number: int(r.bounded(1 << 20)), Type: r.string(), GUID: r.string(), Name: r.string()}
	if code := r.raw(1); r.err == nil && int(code[0]) < len(modeCodes) {
		p.Mode = modeCodes[code[0]]
	} else {
		r.fail("unknown mode")
	}
	p.Reason = r.string()
	p.Filesystem = Filesystem{Type: r.string(), UUID: r.string(), Label: r.string(), BlockSize: r.size()}
	p.Content = r.content()
	return p
}

func (r *reader) content() Content {
	c := Content{Start: r.size(), Length: r.size()}
	var end quantity.Bytes
	extents := r.list(maxExtents-r.extents, minExtent)
	r.extents += extents
	c.Extents = grow[quantity.Extent](extents)
	for range extents {
		e := quantity.Extent{Start: end + r.size(), Length: r.size()}
		end = e.End()
		if r.err == nil && (e.Length == 0 || end > c.Length) {
			r.fail("extent of %d bytes at %d leaves its region of %d", e.Length, e.Start, c.Length)
		}
		if r.err != nil {
			return Content{}
		}
		c.Extents = append(c.Extents, e)
	}
	if r.outline {
		return c
	}
	n := ChunkCount(c.Extents)
	if n > (len(r.b)-r.at)/len(chunk.ID{}) {
		r.fail("ends in the middle of a region's %d chunk ids", n)
		return Content{}
	}
	if n > 0 {
		c.Chunks = chunk.IDs(r.raw(n * len(chunk.ID{})))
	}
	return c
}

// MaxText bounds the texts of a manifest, in bytes.
const MaxText = maxString

// CheckText tells why s cannot be a text of a manifest: it is too long or not UTF-8.
func CheckText(what, s string) error {
	switch {
	case len(s) > MaxText:
		return fmt.Errorf("%s is %d bytes long, %d is the most", what, len(s), MaxText)
	case !utf8.ValidString(s):
		return fmt.Errorf("%s is not UTF-8", what)
	}
	return nil
}

func checkString(what, s string) error {
	if len(s) > maxString || !utf8.ValidString(s) {
		return fmt.Errorf("manifest: %s is longer than %d bytes or not UTF-8", what, maxString)
	}
	return nil
}
