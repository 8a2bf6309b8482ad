package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"

	"clonecast/internal/chunk"
	"clonecast/internal/chunkstore"
	"clonecast/internal/image"
	"clonecast/internal/quantity"

	"github.com/klauspost/compress/zstd"
)

// Sample is a small disk to capture: a manifest and the frames of its chunks, three in each.
type Sample struct {
	Manifest *image.Manifest
	Frames   [][]byte
	IDs      [][]chunk.ID // of each frame
	Chunks   []chunk.ID   // all, in disk order
	Plain    map[chunk.ID][]byte
}

// NewSample makes a disk with the given number of chunks, the same for the same seed. Two
// samples share the chunks whose number is divisible by share; 0 shares none. The first
// partition has two chunks, every other one a short chunk, so that a sample is small and
// quickly hashed.
func NewSample(name string, seed uint64, chunks, share int) (*Sample, error) {
	enc, err := chunk.NewEncoder(zstd.SpeedFastest)
	if err != nil {
		return nil, err
	}
	s := &Sample{Plain: map[chunk.ID][]byte{}}
	disk := image.Disk{
		Model: "Sample", Size: 2 * quantity.MiB, LogicalSector: 512, PhysicalSector: 4096,
		TableKind: "mbr", DiskID: "01020304",
		Table: []image.TableArea{{Start: 0, Data: bytes.Repeat([]byte{0x55}, 512)}},
	}
	var plain []byte
	var entries []chunk.Entry
	for i := range chunks {
		from := seed
		if share > 0 && i%share == 0 {
			from = 0
		}
		b := chunkBytes(from, i, i == 0 && chunks > 1)
		id := chunk.Sum(b)
		s.Plain[id] = b
		s.Chunks = append(s.Chunks, id)
		disk.Partitions = addChunk(disk.Partitions, id, quantity.Bytes(len(b)))
		plain, entries = append(plain, b...), append(entries, chunk.Entry{ID: id, Length: len(b)})
		if len(entries) == 3 || i == chunks-1 {
			s.Frames = append(s.Frames, enc.AppendFrame(nil, entries, plain))
			s.IDs = append(s.IDs, s.Chunks[len(s.Chunks)-len(entries):])
			plain, entries = plain[:0], entries[:0]
		}
	}
	s.Manifest = &image.Manifest{
		Image: name, Comment: fmt.Sprintf("sample %d", seed),
		Origin: "storetest", Creator: "storetest", Engine: "storetest 1",
		Disks: []image.Disk{disk},
	}
	return s, nil
}

// addChunk puts a chunk into the first partition behind its full one, else into a new one.
func addChunk(parts []image.Partition, id chunk.ID, length quantity.Bytes) []image.Partition {
	start := quantity.MiB
	if n := len(parts); n == 1 && len(parts[0].Content.Chunks) == 1 && parts[0].Content.Length == chunk.Size {
		c := &parts[0].Content
		c.Length += length
		c.Extents[0].Length = c.Length
		c.Chunks = append(c.Chunks, id)
		return parts
	} else if n > 0 {
		start = parts[n-1].Content.Start + parts[n-1].Content.Length
	}
	return append(parts, image.Partition{
		Number: len(parts) + 1, Type: "0x83", Mode: image.ModeRaw, Reason: "test",
		Content: image.Content{
			Start: start, Length: length,
			Extents: []quantity.Extent{{Start: 0, Length: length}}, Chunks: []chunk.ID{id},
		},
	})
}

// chunkBytes gives some random bytes and then the same byte over and over.
func chunkBytes(seed uint64, number int, whole bool) []byte {
	rnd := rand.New(rand.NewPCG(seed, uint64(number)))
	length := 500 + rnd.IntN(800)
	if whole {
		length = int(chunk.Size)
	}
	b := bytes.Repeat([]byte{byte(rnd.Uint32())}, length)
	for i := range min(length, 16+rnd.IntN(700)) {
		b[i] = byte(rnd.Uint32())
	}
	return b
}

// Capture stores a sample as a client does: it asks what is missing, sends that, and
// publishes. Close is part of it, and of its error.
func (s *Sample) Capture(ctx context.Context, store chunkstore.Store) (v image.Version, stored int64, err error) {
	session, err := store.Begin(ctx)
	if err != nil {
		return image.Version{}, 0, err
	}
	defer func() { err = errors.Join(err, session.Close()) }()
	for i, frame := range s.Frames {
		missing, err := session.Missing(ctx, s.IDs[i])
		if err != nil {
			return image.Version{}, stored, err
		}
		for _, m := range missing {
			if !m {
				continue
			}
			n, err := session.PutFrame(ctx, frame)
			if err != nil {
				return image.Version{}, stored, err
			}
			stored += n
			break
		}
	}
	envelope, v, err := session.Publish(ctx, s.Manifest)
	if err != nil {
		return image.Version{}, stored, err
	}
	if _, id, err := image.Open(envelope, store.TrustedKeys()); err != nil || id != v.ID {
		return image.Version{}, stored, fmt.Errorf("Publish returns an envelope of %v, %w; want %v", id, err, v.ID)
	}
	return v, stored, nil
}

// decoders are dear to make, and tests verify thousands of versions.
var decoders sync.Pool // of *chunk.Decoder

func newDecoder() (*chunk.Decoder, error) {
	if d, ok := decoders.Get().(*chunk.Decoder); ok {
		return d, nil
	}
	return chunk.NewDecoder()
}

// Verify reads a version back and compares every byte with the sample. A nil error
// means that the version is whole.
func (s *Sample) Verify(ctx context.Context, store chunkstore.Reader, sequence uint64) error {
	envelope, err := store.Manifest(ctx, s.Manifest.Image, sequence)
	if err != nil {
		return err
	}
	m, _, err := image.Open(envelope, store.TrustedKeys())
	if err != nil {
		return err
	}
	if m.Comment != s.Manifest.Comment || m.Image != s.Manifest.Image || sequence != 0 && m.Sequence != sequence {
		return &WrongError{fmt.Sprintf("%s@%d has the manifest of %s@%d, %q",
			s.Manifest.Image, sequence, m.Image, m.Sequence, m.Comment)}
	}
	d, err := newDecoder()
	if err != nil {
		return err
	}
	defer decoders.Put(d)
	var ids []chunk.ID
	for _, c := range m.Disks[0].Contents() {
		ids = append(ids, c.Chunks...)
	}
	found := map[chunk.ID]bool{}
	err = store.Frames(ctx, ids, func(frame []byte) error {
		h, plain, err := d.Decode(frame, nil)
		if err != nil {
			return &WrongError{"Frames hands out a damaged frame: " + err.Error()}
		}
		for _, e := range h.Entries {
			if want, ok := s.Plain[e.ID]; ok && !bytes.Equal(plain[:e.Length], want) {
				return &WrongError{fmt.Sprintf("Frames hands out other bytes for %v", e.ID)}
			}
			found[e.ID] = true
			plain = plain[e.Length:]
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, id := range s.Chunks {
		if !found[id] {
			return &WrongError{fmt.Sprintf("Frames leaves out %v without an error", id)}
		}
	}
	return nil
}

// WrongError reports wrong data that was handed out as if it were right: what a store
// must never do, whatever happened to its medium.
type WrongError struct{ Problem string }

func (e *WrongError) Error() string { return e.Problem }
