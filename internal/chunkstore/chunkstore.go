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

	"clonecast/internal/chunk"
	"clonecast/internal/image"
)

// ErrNotFound reports an image or version that the store does not have.
var ErrNotFound = errors.New("no such image or version")

// ErrFull reports that there is no room for more. What was stored before is sound.
var ErrFull = errors.New("the store is full")

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

	// TrustedKeys are the public keys that sign this store's manifests.
	TrustedKeys() []ed25519.PublicKey
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
	// When chunks are missing it returns a *IncompleteError and stores nothing.
	Publish(ctx context.Context, m *image.Manifest) (envelope []byte, version image.Version, err error)

	// Close ends the session. Chunks of a session that did not publish stay in the
	// store, so that a later capture need not send them again.
	Close() error
}

// IncompleteError reports that a manifest names chunks that the store lacks.
type IncompleteError struct{ Missing []chunk.ID }

func (e *IncompleteError) Error() string {
	return (&chunk.MissingError{ID: e.Missing[0]}).Error() + ": the capture is not complete"
}

// Store is a place for chunks and manifests.
type Store interface {
	Reader
	// Begin starts a capture.
	Begin(ctx context.Context) (Session, error)
	// Check verifies the store: structure, and with ReadData every byte.
	Check(ctx context.Context, opts CheckOptions) (CheckReport, error)
	Close() error
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
