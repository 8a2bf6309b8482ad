// Package chunk defines the unit of storage, verification and transfer.
//
// A chunk is up to Size bytes of a partition or boot area, at a multiple of Size
// from its start; the last one may be shorter. Bytes outside the allocated extents
// count as zero. A chunk is named by the BLAKE3 hash of its plain bytes, so the
// same content is the same chunk in every version and on every disk.
//
// Chunks are stored and sent in frames; frame.go has their layout.
package chunk

import (
	"encoding/hex"
	"errors"
	"fmt"

	"clonecast/internal/quantity"

	"github.com/zeebo/blake3"
)

// Size is the length of every chunk but the last one of a region.
const Size = 256 * quantity.KiB

// ID is the BLAKE3-256 hash of a chunk's plain bytes.
type ID [32]byte

// Sum computes the ID of plain bytes.
func Sum(plain []byte) ID { return blake3.Sum256(plain) }

func (id ID) String() string { return hex.EncodeToString(id[:]) }

// ParseID reads the 64 hex digits that String writes.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 2*len(id) {
		return ID{}, fmt.Errorf("chunk id %q: want %d hex digits", s, 2*len(id))
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return ID{}, fmt.Errorf("chunk id %q: %w", s, err)
	}
	return id, nil
}

// MissingError reports a chunk that a store does not have.
type MissingError struct{ ID ID }

func (e *MissingError) Error() string { return fmt.Sprintf("chunk %v is missing", e.ID) }

// InvalidError reports bytes that are not the chunk they claim to be.
type InvalidError struct {
	ID      ID
	Problem string
}

// Damaged says that a chunk cannot be had because its frame is not sound, and why.
func Damaged(id ID, frame error) *InvalidError {
	var invalid *InvalidError
	switch {
	case !errors.As(frame, &invalid):
		return &InvalidError{ID: id, Problem: frame.Error()}
	case invalid.ID == id:
		return invalid
	}
	return &InvalidError{ID: id, Problem: fmt.Sprintf("chunk %v of the same frame: %s", invalid.ID, invalid.Problem)}
}

func (e *InvalidError) Error() string { return fmt.Sprintf("chunk %v is damaged: %s", e.ID, e.Problem) }
