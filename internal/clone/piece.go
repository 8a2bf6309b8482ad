package clone

import (
	"iter"

	"clonecast/internal/chunk"
	"clonecast/internal/image"
	"clonecast/internal/quantity"
)

// Piece is one chunk's place on a disk.
type Piece struct {
	Region  int            // index of the content that it belongs to
	Number  int            // position in the content's list of chunks
	Start   quantity.Bytes // from the start of the disk
	Length  int
	Extents []quantity.Extent // allocated bytes, from the piece's start
}

// Allocated is how many bytes of the piece are stored.
func (p Piece) Allocated() quantity.Bytes { return quantity.Total(p.Extents) }

// Pieces gives the places of a content's chunks, in order.
func Pieces(region int, c *image.Content) iter.Seq[Piece] {
	return func(yield func(Piece) bool) {
		for place := range c.Places() {
			p := Piece{Region: region, Number: place.Number, Start: c.Start + place.Start, Length: int(place.Length),
				Extents: make([]quantity.Extent, len(place.Allocated))}
			for i, e := range place.Allocated {
				p.Extents[i] = quantity.Extent{Start: e.Start - place.Start, Length: e.Length}
			}
			if !yield(p) {
				return
			}
		}
	}
}

// Batches groups the pieces of contents: up to limit neighbours of one content.
func Batches(contents []*image.Content, limit int) iter.Seq[[]Piece] {
	return func(yield func([]Piece) bool) {
		for i, c := range contents {
			var group []Piece
			for p := range Pieces(i, c) {
				if len(group) == limit || len(group) > 0 && p.Start != group[len(group)-1].Start+chunk.Size {
					if !yield(group) {
						return
					}
					group = nil
				}
				group = append(group, p)
			}
			if group != nil && !yield(group) {
				return
			}
		}
	}
}

// Contents gives pointers to the regions of a disk: its boot areas, then its partitions' contents.
// The place in this list is a Piece's Region.
func Contents(d *image.Disk) []*image.Content {
	var contents []*image.Content
	for i := range d.Boot {
		contents = append(contents, &d.Boot[i])
	}
	for i := range d.Partitions {
		contents = append(contents, &d.Partitions[i].Content)
	}
	return contents
}

const blockSize = 4096

var (
	zeroBytes  = make([]byte, chunk.Size)
	zeroBlock  = string(zeroBytes[:blockSize])
	fullZeroID = chunk.Sum(zeroBytes)
)

// AllZero tells whether b has no other byte than zero.
func AllZero(b []byte) bool {
	for len(b) >= blockSize {
		if string(b[:blockSize]) != zeroBlock {
			return false
		}
		b = b[blockSize:]
	}
	return string(b) == zeroBlock[:len(b)]
}

// ZeroID is the id of a chunk of n zero bytes.
func ZeroID(n int) chunk.ID {
	if n == int(chunk.Size) {
		return fullZeroID
	}
	return chunk.Sum(zeroBytes[:n])
}

// Matches tells whether b is the chunk id. A blank disk is the common case, and a look
// at a few bytes is cheaper than a hash: zeroes are only the chunk of zeroes.
func Matches(id chunk.ID, b []byte) bool {
	if AllZero(b) {
		return id == ZeroID(len(b))
	}
	return chunk.Sum(b) == id
}
