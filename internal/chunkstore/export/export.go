// Package export carries a version as one file from store to store.
//
//	offset  size  field
//	0       8     magic "CCFILE1\n"
//	8       4     length n of the envelope, little-endian
//	12      n     the signed manifest, as in the store
//	12+n    ...   frames (package chunk) back to back: each chunk of the version once and no
//	              other one, to the end of the file
//
// A file is whole when every chunk of its manifest was in it. Whoever imports it trusts the
// key that signed the manifest, or says which one he trusts; the importing store gives the
// version a number, signs it with its own key, and so the version gets another id.
package export

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"clonecast/internal/chunk"
	"clonecast/internal/chunkstore"
	"clonecast/internal/image"

	"github.com/klauspost/compress/zstd"
)

const (
	magic       = "CCFILE1\n"
	headerSize  = len(magic) + 4
	maxEnvelope = image.MaxManifest + 1<<20
)

// ErrFormat is wrapped by every complaint about a file's form.
var ErrFormat = errors.New("not a version's file")

// UntrustedError reports a file that a key signed which the store does not trust.
type UntrustedError struct{ Key ed25519.PublicKey }

func (e *UntrustedError) Error() string {
	return fmt.Sprintf("the file is signed by a key that is unknown here: %x", []byte(e.Key))
}

// Write writes a version (the newest when sequence is 0). Progress, which may be nil, hears of
// plain bytes.
func Write(
	ctx context.Context, store chunkstore.Reader, name string, sequence uint64,
	w io.Writer, progress func(done, total int64),
) (v image.Version, err error) {
	pin, err := store.Pin(ctx)
	if err != nil {
		return image.Version{}, err
	}
	defer func() { err = errors.Join(err, pin.Close()) }()
	envelope, err := store.Manifest(ctx, name, sequence)
	if err != nil {
		return image.Version{}, err
	}
	m, id, err := image.Open(envelope, store.TrustedKeys())
	if err != nil {
		return image.Version{}, err
	}
	header := binary.LittleEndian.AppendUint32([]byte(magic), uint32(len(envelope)))
	if _, err := w.Write(append(header, envelope...)); err != nil {
		return image.Version{}, err
	}
	return m.Summary(id), writeChunks(ctx, store, m, w, progress)
}

func writeChunks(
	ctx context.Context, store chunkstore.Reader, m *image.Manifest, w io.Writer, progress func(done, total int64),
) error {
	sieve, err := chunk.NewSieve(zstd.SpeedFastest)
	if err != nil {
		return err
	}
	defer sieve.Close()
	wanted := map[chunk.ID]bool{}
	var ids []chunk.ID
	total, done := int64(0), int64(0)
	for id, length := range m.Chunks() {
		if !wanted[id] {
			wanted[id] = true
			ids = append(ids, id)
			total += int64(length)
		}
	}
	return store.Frames(ctx, ids, func(frame []byte) error {
		kept, err := sieve.Keep(frame, func(id chunk.ID) bool { return wanted[id] })
		if err != nil || kept == nil {
			return err
		}
		h, err := chunk.ParseFrameHeader(kept)
		if err != nil {
			return err
		}
		if _, err := w.Write(kept); err != nil {
			return err
		}
		for _, e := range h.Entries {
			delete(wanted, e.ID)
			done += int64(e.Length)
		}
		if progress != nil {
			progress(done, total)
		}
		return nil
	})
}

// Options say how a file is imported.
type Options struct {
	Trust ed25519.PublicKey // one more key that may have signed the file, or nil
	Name  string            // of the image; "" keeps the file's
}

// Result is what an import did.
type Result struct {
	Version image.Version
	From    image.VersionID // the version's id in the file
	Stored  int64           // new bytes in the store
}

// Read imports a file. Every chunk is verified; nothing is published unless the file is whole.
// A file of another key than the store and o trust is an *UntrustedError.
func Read(ctx context.Context, store chunkstore.Store, file io.Reader, o Options) (result Result, err error) {
	r := bufio.NewReaderSize(file, 1<<20)
	m, id, err := readManifest(r, store, o)
	if err != nil {
		return Result{}, err
	}
	result.From = id
	session, err := store.Begin(ctx)
	if err != nil {
		return Result{}, err
	}
	defer func() { err = errors.Join(err, session.Close()) }()
	if result.Stored, err = readChunks(ctx, r, m, session); err != nil {
		return Result{}, err
	}
	if o.Name != "" {
		m.Image = o.Name
	}
	_, result.Version, err = session.Publish(ctx, m)
	return result, err
}

func readManifest(r io.Reader, store chunkstore.Reader, o Options) (*image.Manifest, image.VersionID, error) {
	header := make([]byte, headerSize)
	if _, err := io.ReadFull(r, header); err != nil {
		return nil, image.VersionID{}, formatError(err)
	}
	length := binary.LittleEndian.Uint32(header[len(magic):])
	if string(header[:len(magic)]) != magic || length > maxEnvelope {
		return nil, image.VersionID{}, fmt.Errorf("%w: its magic is absent", ErrFormat)
	}
	var envelope bytes.Buffer // grows with what is there, not with what the length says
	if _, err := io.CopyN(&envelope, r, int64(length)); err != nil {
		return nil, image.VersionID{}, formatError(err)
	}
	trusted := store.TrustedKeys()
	if o.Trust != nil {
		trusted = append(trusted, o.Trust)
	}
	m, id, err := image.Open(envelope.Bytes(), trusted)
	if key := image.Signer(envelope.Bytes()); errors.Is(err, image.ErrUnknownKey) {
		return nil, image.VersionID{}, &UntrustedError{key}
	}
	return m, id, err
}

// formatError tells a file that is cut from one that cannot be read.
func formatError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it ends early: %w", ErrFormat, io.ErrUnexpectedEOF)
	}
	return err
}

// readChunks stores the frames up to the end of the file, which must hold every chunk of m
// and no other one.
func readChunks(ctx context.Context, r *bufio.Reader, m *image.Manifest, session chunkstore.Session) (
	stored int64, err error,
) {
	lengths := map[chunk.ID]int{} // of chunks that have not come
	for id, length := range m.Chunks() {
		lengths[id] = length
	}
	var frame []byte
	for {
		var h chunk.FrameHeader
		h, frame, err = chunk.ReadFrame(r, frame)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return stored, formatError(err)
		}
		for _, e := range h.Entries {
			if length, wanted := lengths[e.ID]; !wanted || length != e.Length {
				return stored, fmt.Errorf("%w: chunk %v of %d bytes has no place in it", ErrFormat, e.ID, e.Length)
			}
			delete(lengths, e.ID)
		}
		n, err := session.PutFrame(ctx, frame)
		if err != nil {
			return stored, err
		}
		stored += n
	}
	if len(lengths) > 0 {
		return stored, fmt.Errorf("%w: it ends early: %d chunks have not come: %w",
			ErrFormat, len(lengths), io.ErrUnexpectedEOF)
	}
	return stored, nil
}
