// Package image describes a version: one capture of an image.
//
// A Manifest says what the disks were: table sectors byte for byte, boot areas,
// partitions with their file systems, the allocated extents, and the chunk that
// holds each of them. Its binary form (codec.go) is canonical: one value has one
// encoding, and Parse refuses every other. A version is named by the SHA-256 of that
// form and signed with the server's Ed25519 key (sign.go). docs/image-format.md has
// the layouts.
package image

import (
	"encoding/hex"
	"fmt"

	"clonecast/internal/chunk"
	"clonecast/internal/quantity"
)

// VersionID is the SHA-256 of a manifest's binary form under the domain
// "clonecast-manifest-v1".
type VersionID [32]byte

func (v VersionID) String() string { return hex.EncodeToString(v[:]) }

// Short is the first 12 hex digits, enough for people.
func (v VersionID) Short() string { return v.String()[:12] }

// ParseVersionID reads the 64 hex digits that String writes.
func ParseVersionID(s string) (VersionID, error) {
	var v VersionID
	if len(s) != 2*len(v) {
		return VersionID{}, fmt.Errorf("version id %q: want %d hex digits", s, 2*len(v))
	}
	if _, err := hex.Decode(v[:], []byte(s)); err != nil {
		return VersionID{}, fmt.Errorf("version id %q: %w", s, err)
	}
	return v, nil
}

// Manifest is the description of a version.
type Manifest struct {
	Image    string    // name of the image, see CheckName
	Sequence uint64    // 1 for the image's first version
	Parent   VersionID // the version before it; zero for the first
	Created  int64     // server's clock, seconds since 1970 UTC
	Comment  string    // why this version was made
	Origin   string    // machine or path that was captured
	Creator  string    // person or program that ordered the capture
	Engine   string    // program and version that read the disks
	Disks    []Disk
}

// Disk is one captured disk.
type Disk struct {
	Size           quantity.Bytes
	LogicalSector  quantity.SectorSize
	PhysicalSector quantity.SectorSize
	Model, Serial  string
	TableKind      string      // partition.Kind
	DiskID         string      // MBR signature or disk GUID
	Table          []TableArea // table sectors byte for byte, in disk order
	Boot           []Content   // boot areas, in disk order
	Partitions     []Partition // by start
}

// TableArea holds table sectors as they were on the disk.
type TableArea struct {
	Start quantity.Bytes
	Data  []byte
}

// Mode says how a partition's content was captured.
type Mode string

const (
	ModeClone  Mode = "clone"  // allocated blocks only
	ModeRaw    Mode = "raw"    // every block
	ModeSwap   Mode = "swap"   // UUID and label; the header is made anew
	ModeSkip   Mode = "skip"   // nothing; a deploy leaves the partition's bytes alone
	ModeFormat Mode = "format" // the structures of an empty file system of the same identity
)

// Partition is one partition of a captured disk.
type Partition struct {
	Number     int // as Linux counts; 0 for a disk without a table
	Type       string
	GUID       string
	Name       string
	Mode       Mode
	Reason     string // why it is not cloned, empty for ModeClone
	Filesystem Filesystem
	Content    Content // Start and Length always; Extents and Chunks for clone, raw and format
}

// Filesystem is the identity of what a partition holds.
type Filesystem struct {
	Type      string
	UUID      string
	Label     string
	BlockSize quantity.Bytes
}

// Content is a region of a disk and what is stored of it.
//
// Chunk k of a region covers its bytes [k*chunk.Size, (k+1)*chunk.Size). Chunks lists
// the ids of exactly those chunks that an extent touches, in order.
type Content struct {
	Start   quantity.Bytes // from the start of the disk
	Length  quantity.Bytes
	Extents []quantity.Extent // from the start of the region, normalized
	Chunks  []chunk.ID
}

// Allocated is the number of bytes that the content stores.
func (c Content) Allocated() quantity.Bytes { return quantity.Total(c.Extents) }

// Version is what a list of versions shows of one.
type Version struct {
	ID        VersionID
	Image     string
	Sequence  uint64
	Created   int64
	Comment   string
	Origin    string
	Disks     int
	DiskBytes quantity.Bytes // sum of disk sizes
	Allocated quantity.Bytes // sum of allocated bytes
}

// Summary gives what a list shows of m, whose id is given.
func (m *Manifest) Summary(id VersionID) Version {
	v := Version{
		ID: id, Image: m.Image, Sequence: m.Sequence, Created: m.Created,
		Comment: m.Comment, Origin: m.Origin, Disks: len(m.Disks),
	}
	for _, d := range m.Disks {
		v.DiskBytes += d.Size
		for _, c := range d.Contents() {
			v.Allocated += c.Allocated()
		}
	}
	return v
}

// Contents gives the disk's boot areas and partitions' contents in disk order of
// each kind: boot areas first.
func (d *Disk) Contents() []Content {
	contents := append([]Content(nil), d.Boot...)
	for _, p := range d.Partitions {
		contents = append(contents, p.Content)
	}
	return contents
}

// MaxNameLength bounds an image's name.
const MaxNameLength = 64

// CheckName tells why name cannot name an image: 1 to 64 letters, digits, '-', '_'
// and '.', beginning with a letter or digit. Names become file names.
func CheckName(name string) error {
	if name == "" || len(name) > MaxNameLength {
		return fmt.Errorf("image name %q: want 1 to %d characters", name, MaxNameLength)
	}
	for i, r := range name {
		alnum := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !alnum && (i == 0 || r != '-' && r != '_' && r != '.') {
			return fmt.Errorf("image name %q: %q is not allowed; use letters, digits, '-', '_' and '.'", name, r)
		}
	}
	return nil
}
