// Package chunkstore defines where chunks and manifests live.
//
// A Store keeps chunks in frames (package chunk) and signed manifests (package
// image). Implementations are the child packages; storetest is the suite that every
// one of them passes.
//
// Obligations of every Store:
//
//   - A chunk is verified against its id when it is stored and on every read.
//     Damage is an error that names the chunk; it is never handed out.
//   - A version exists if and only if its manifest does, and a manifest is stored
//     only after every chunk that it names is durable.
//   - After a crash at any point a version is whole or absent.
//   - All methods may be called concurrently.
package chunkstore

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"clonecast/internal/chunk"
	"clonecast/internal/image"
	"clonecast/internal/quantity"
)

// ErrNotFound reports an image or version that the store does not have.
var ErrNotFound = errors.New("no such image or version")

// ErrFull reports that there is no room for more. What was stored before is sound.
var ErrFull = errors.New("the store is full")

// ReserveError is an ErrFull of a disk that has room left, which captures leave alone.
type ReserveError struct {
	Free    quantity.Bytes
	Reserve quantity.Bytes // stays free
	Pack    quantity.Bytes // what the next pack may take beside it
}

func (e *ReserveError) Error() string {
	return fmt.Sprintf("%v: %v are free, the next pack takes up to %v, and a reserve of %v stays free "+
		"for deleting and collecting", ErrFull, e.Free, e.Pack, e.Reserve)
}

// Is makes it an ErrFull.
func (e *ReserveError) Is(target error) bool { return target == ErrFull }

// ErrBusy reports that somebody else does this already.
var ErrBusy = errors.New("it is running already")

// ErrNotStore reports a place that holds no store.
var ErrNotStore = errors.New("not a clonecast store")

// Reader hands out what is stored.
type Reader interface {
	// Frames calls yield with frames that together hold every id, in an order that
	// follows ids. A frame may hold chunks that were not asked for; each frame comes
	// once per call. Every frame has been verified. The bytes are only valid
	// during the call. A chunk that is not there is a *chunk.MissingError; damage is a
	// *chunk.InvalidError.
	Frames(ctx context.Context, ids []chunk.ID, yield func(frame []byte) error) error

	// Images lists the names of all images, sorted.
	Images(ctx context.Context) ([]string, error)

	// Versions lists the versions of an image by sequence, or ErrNotFound. A damaged
	// manifest is left out of the list; Check reports it.
	Versions(ctx context.Context, name string) ([]image.Version, error)

	// Manifest gives the signed envelope of a version: the newest when sequence is 0.
	Manifest(ctx context.Context, name string, sequence uint64) ([]byte, error)

	// Pin keeps everything that the store has now until the result is closed: a deploy
	// that lasts longer than one call to Frames holds one.
	Pin(ctx context.Context) (io.Closer, error)

	// TrustedKeys are the public keys that sign this store's manifests.
	TrustedKeys() []ed25519.PublicKey
}

// Open gives the signed manifest of a version by its id, verified, and what it says.
func Open(ctx context.Context, r Reader, name string, id image.VersionID) (
	envelope []byte, m *image.Manifest, err error,
) {
	list, err := r.Versions(ctx, name)
	if err != nil {
		return nil, nil, fmt.Errorf("versions of %s: %w", name, err)
	}
	i := slices.IndexFunc(list, func(v image.Version) bool { return v.ID == id })
	if i < 0 {
		return nil, nil, fmt.Errorf("version %s of %s: %w", id.Short(), name, ErrNotFound)
	}
	sequence := list[i].Sequence
	if envelope, err = r.Manifest(ctx, name, sequence); err != nil {
		return nil, nil, fmt.Errorf("manifest of %s@%d: %w", name, sequence, err)
	}
	m, got, err := image.Open(envelope, r.TrustedKeys())
	if err != nil {
		return nil, nil, fmt.Errorf("manifest of %s@%d: %w", name, sequence, err)
	}
	if got != id {
		return nil, nil, fmt.Errorf("manifest of %s@%d is version %s, not %s", name, sequence, got.Short(), id.Short())
	}
	return envelope, m, nil
}

// Session is one running capture. Chunks that it stored or asked for stay until Close.
type Session interface {
	// Missing tells for each id whether the store lacks it; what it has is pinned.
	Missing(ctx context.Context, ids []chunk.ID) ([]bool, error)

	// PutFrame verifies a frame and stores the chunks that the store lacks (all of
	// the frame or nothing). It returns how many new bytes the store holds.
	PutFrame(ctx context.Context, frame []byte) (stored int64, err error)

	// Publish makes everything durable, then stores m as the next version of
	// m.Image: it sets Sequence, Parent and Created, signs, and returns the envelope.
	// When chunks are missing it returns a *IncompleteError, when one has another length
	// than the manifest says a *LengthError, and stores nothing.
	Publish(ctx context.Context, m *image.Manifest) (envelope []byte, version image.Version, err error)

	// SignOutline signs what is known of the version before its content is stored, for machines
	// that follow the capture.
	SignOutline(ctx context.Context, o *image.Outline) (envelope []byte, id image.CastID, err error)

	// SignPart makes everything that was put readable for everybody, and signs p. When the store
	// lacks one of its chunks it returns a *IncompleteError and signs nothing.
	SignPart(ctx context.Context, p *image.Part) (envelope []byte, err error)

	// Close ends the session. Chunks of a session that did not publish stay in the
	// store, so that a later capture need not send them again.
	Close() error
}

// IncompleteError reports that a manifest names chunks that the store lacks.
type IncompleteError struct{ Missing []chunk.ID }

func (e *IncompleteError) Error() string {
	return (&chunk.MissingError{ID: e.Missing[0]}).Error() + ": the capture is not complete"
}

// LengthError reports a manifest for which a chunk has another length than it has: the
// manifest does not describe what was captured.
type LengthError struct {
	ID         chunk.ID
	Have, Want int // plain bytes
}

func (e *LengthError) Error() string {
	return fmt.Sprintf("chunk %v has %d bytes, the manifest has room for %d", e.ID, e.Have, e.Want)
}

// Store is a place for chunks and manifests.
type Store interface {
	Reader
	// Begin starts a capture.
	Begin(ctx context.Context) (Session, error)
	// Delete removes a version: ErrNotFound when there is none. Its number is not used
	// again, and its chunks stay until a collection.
	Delete(ctx context.Context, name string, sequence uint64) error
	// Collect removes chunks that no version needs: ErrBusy while another one runs.
	Collect(ctx context.Context, opts CollectOptions) (CollectReport, error)
	// Stats tells what the versions take. A version that cannot be read is an error.
	Stats(ctx context.Context) (Stats, error)
	// Check verifies the store: structure, and with ReadData every byte.
	Check(ctx context.Context, opts CheckOptions) (CheckReport, error)
	Close() error
}

// DefaultMinAge lets a capture that was cut go on the next day.
const DefaultMinAge = 24 * time.Hour

// CollectOptions say what a collection may do.
//
// A chunk is removed by the second of two collections that found it without a version. Between
// them lies MinAge, and everybody who captured or held a pin at the first one has ended.
// A collection with MinAge 0 is both at once, if nobody holds it up.
type CollectOptions struct {
	MinAge   time.Duration
	DryRun   bool                    // say what there is to do, change nothing
	Progress func(done, total int64) // bytes, may be nil
}

// CollectReport tells what a collection did, and what is left to the next one.
type CollectReport struct {
	Versions int   `json:"versions"` // that need chunks
	Bytes    int64 `json:"bytes"`    // of packs before
	Live     int64 `json:"live"`     // of them what a version needs

	Removed   int   `json:"removed"`   // packs
	Freed     int64 `json:"freed"`     // bytes of them
	Rewritten int64 `json:"rewritten"` // bytes of needed chunks that moved to new packs

	Condemned int       `json:"condemned"`     // packs that a later collection removes; in a dry run: could
	Waiting   int64     `json:"waiting"`       // bytes of them
	Due       time.Time `json:"due,omitzero"`  // when a collection may; zero when no pack is condemned already
	Pinned    bool      `json:"pinned"`        // captures or readers hold it up
	Kept      []string  `json:"kept,omitzero"` // packs that stay after all, and why
}

// Stats is what a store holds. Bytes of one chunk are counted evenly where chunks are
// compressed together.
type Stats struct {
	Versions []VersionStats // by image and sequence

	Logical int64 // allocated bytes of all versions: what they would take one by one
	Unique  int64 // of the different chunks that versions need, plain
	Stored  int64 // of the same, as they are stored
	Packs   int
	Bytes   int64 // of packs; what is not Stored is unneeded, or there twice
	Missing int   // chunks that a version names and the store lacks
}

// VersionStats is what a version takes. Own chunks are in no other version: they are what a
// collection frees after the version's deletion.
type VersionStats struct {
	image.Version
	Chunks                  int // different ones
	Own, Shared             int64
	OwnStored, SharedStored int64
}

// CheckOptions say how thorough a check is.
type CheckOptions struct {
	ReadData bool                    // decode and verify every frame
	Progress func(done, total int64) // bytes, may be nil
}

// CheckReport is the result of a check. Problems empty means sound.
type CheckReport struct {
	Packs, Chunks, Versions int
	Bytes                   int64 // of pack files
	BytesRead               int64
	Problems                []Problem
}

// Problem is one finding of a check.
type Problem struct {
	Object  string   // file or chunk, relative to the store
	Problem string   // what is wrong
	Affects []string // versions that need it, as image@sequence
}
