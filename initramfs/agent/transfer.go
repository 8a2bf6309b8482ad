package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"clonecast/internal/blockdev"
	"clonecast/internal/chunk"
	"clonecast/internal/chunkstore"
	"clonecast/internal/image"
	"clonecast/internal/partition/saved"
	"clonecast/internal/protocol"
)

// Timing and limits of data calls.
const (
	dataTimeout    = 2 * time.Minute
	publishTimeout = 15 * time.Minute          // the server makes everything durable first
	maxEnvelope    = image.MaxManifest + 1<<20 // of a signed manifest, compressed; chunk ids do not compress
	maxParent      = 1 << 21                   // chunks of a version, 512 GiB, beside which another one is held in memory
	octets         = "application/octet-stream"
)

// transfer moves chunks between this machine and the server. It is the clone engine's Sink
// and Source.
type transfer struct{ *client }

// Missing asks which chunks the server lacks.
func (t transfer) Missing(ctx context.Context, ids []chunk.ID) ([]bool, error) {
	missing := make([]bool, 0, len(ids))
	for len(ids) > 0 {
		n := min(len(ids), protocol.MaxIDs)
		answer, err := t.do(ctx, t.data(protocol.PathMissing, joinIDs(ids[:n]), int64(n)))
		if err != nil {
			return nil, fmt.Errorf("ask for missing chunks: %w", err)
		}
		if len(answer) != n {
			return nil, fmt.Errorf("ask for missing chunks: %d answers to %d chunks", len(answer), n)
		}
		for _, b := range answer {
			missing = append(missing, b != 0)
		}
		ids = ids[n:]
	}
	return missing, nil
}

// PutFrame sends a frame. Sent twice it is stored once.
func (t transfer) PutFrame(ctx context.Context, frame []byte) (int64, error) {
	answer, err := t.do(ctx, t.data(protocol.PathFrame, frame, protocol.MaxBody))
	if err != nil {
		return 0, fmt.Errorf("send chunks: %w", err)
	}
	var r struct {
		Stored int64 `json:"stored"`
	}
	if err := json.Unmarshal(answer, &r); err != nil || r.Stored < 0 {
		return 0, fmt.Errorf("send chunks: the server's answer is not understood: %.100q", answer)
	}
	return r.Stored, nil
}

// Publish makes the manifest a version. The server returns no envelope.
func (t transfer) Publish(ctx context.Context, m *image.Manifest) ([]byte, image.Version, error) {
	body, err := m.Segments()
	if err != nil {
		return nil, image.Version{}, err
	}
	k := t.data(protocol.PathPublish, nil, protocol.MaxBody)
	k.body = body // without a copy of it in one piece
	k.timeout = publishTimeout
	answer, err := t.do(ctx, k)
	if err != nil {
		return nil, image.Version{}, incomplete(err)
	}
	var r protocol.PublishResponse
	if err := json.Unmarshal(answer, &r); err != nil {
		return nil, image.Version{}, fmt.Errorf("the server's answer: %w", err)
	}
	id, err := image.ParseVersionID(r.Version)
	if err != nil {
		return nil, image.Version{}, fmt.Errorf("the server's answer: %w", err)
	}
	version := m.Summary(id)
	version.Sequence = r.Sequence
	return nil, version, nil
}

// incomplete turns the server's complaint about missing chunks into the engine's error.
func incomplete(err error) error {
	var p *protocol.Problem
	if !errors.As(err, &p) || p.Code != protocol.CodeIncomplete {
		return err
	}
	e := &chunkstore.IncompleteError{}
	for _, s := range p.Missing {
		id, parseErr := chunk.ParseID(s)
		if parseErr != nil {
			return fmt.Errorf("the server's list of missing chunks: %w", parseErr)
		}
		e.Missing = append(e.Missing, id)
	}
	if len(e.Missing) == 0 {
		return err
	}
	return e
}

// manifest fetches and verifies the version that the operation names.
func (t transfer) manifest(ctx context.Context, want image.VersionID, config Config) (*image.Manifest, error) {
	return t.open(ctx, protocol.PathManifest, want, config)
}

// parent fetches and verifies the version before m; nil when the server has none, or when both
// would take too much memory.
func (t transfer) parent(ctx context.Context, m *image.Manifest, config Config) (*image.Manifest, error) {
	if m.Parent == (image.VersionID{}) || chunksOf(m) > maxParent {
		return nil, nil
	}
	parent, err := t.open(ctx, protocol.PathParent, m.Parent, config)
	var p *protocol.Problem
	if errors.As(err, &p) && p.Code == protocol.CodeNotFound {
		return nil, nil
	}
	return parent, err
}

func chunksOf(m *image.Manifest) int {
	n := 0
	for c := range m.Regions() {
		n += len(c.Chunks)
	}
	return n
}

func (t transfer) open(ctx context.Context, path string, want image.VersionID, config Config) (*image.Manifest, error) {
	envelope, err := t.do(ctx, call{
		method: http.MethodGet, path: path, limit: maxEnvelope, timeout: dataTimeout, giveUp: t.giveUp,
	})
	if err != nil {
		return nil, fmt.Errorf("get the manifest: %w", err)
	}
	m, id, err := image.Open(envelope, config.Keys)
	if err != nil {
		return nil, fmt.Errorf("check the manifest: %w", err)
	}
	if id != want {
		return nil, &manifestError{want, id}
	}
	return m, nil
}

// saveTable gives the server the old table of an operation's disk.
func (t transfer) saveTable(ctx context.Context, disk int, c saved.Copy) error {
	body, err := c.Marshal()
	if err != nil {
		return err
	}
	k := t.data(fmt.Sprintf("%s%d", protocol.PathTable, disk), body, protocol.MaxBody)
	k.kind = "application/json"
	if _, err := t.do(ctx, k); err != nil {
		return fmt.Errorf("send the old partition table: %w", err)
	}
	return nil
}

// tableSaver gives the server the old tables of an operation's disks, and notes that it has them.
func (t transfer) tableSaver(
	op *protocol.Operation, facts []blockdev.Facts, notes *[]string,
) func(context.Context, int, saved.Copy) error {
	return func(ctx context.Context, disk int, c saved.Copy) error {
		if err := t.saveTable(ctx, disk, c); err != nil {
			return err
		}
		*notes = append(*notes, fmt.Sprintf("the old partition table of %s is saved: clonecast task tables %s",
			diskText(facts[disk]), op.TaskID))
		return nil
	}
}

type manifestError struct{ want, got image.VersionID }

func (e *manifestError) Error() string {
	return fmt.Sprintf("check the manifest: the task names version %s, the server sent %s", e.want.Short(), e.got.Short())
}

// Frames fetches the frames that hold the chunks. When the stream breaks off it asks again
// for what did not come; as long as something comes that goes on.
func (t transfer) Frames(ctx context.Context, ids []chunk.ID, yield func([]byte) error) error {
	for len(ids) > 0 {
		n := min(len(ids), protocol.MaxIDs)
		if err := t.frames(ctx, ids[:n], yield); err != nil {
			return fmt.Errorf("fetch chunks: %w", err)
		}
		ids = ids[n:]
	}
	return nil
}

func (t transfer) frames(ctx context.Context, ids []chunk.ID, yield func([]byte) error) error {
	wants := make([]chunk.Want, len(ids))
	for i, id := range ids {
		wants[i].ID = id
	}
	return t.stream(ctx, wants, protocol.PathChunks, func(rest []chunk.Want) []byte {
		b := make([]byte, 0, len(rest)*len(chunk.ID{}))
		for _, w := range rest {
			b = append(b, w.ID[:]...)
		}
		return b
	}, frameKind, yield)
}

// Deltas is Frames for differences.
func (t transfer) Deltas(ctx context.Context, wants []chunk.Want, yield func([]byte) error) error {
	for part := range slices.Chunk(wants, protocol.MaxIDs/2) {
		err := t.stream(ctx, part, protocol.PathDeltas, func(rest []chunk.Want) []byte {
			b := make([]byte, 0, 2*len(rest)*len(chunk.ID{}))
			for _, w := range rest {
				b = append(append(b, w.ID[:]...), w.Base[:]...)
			}
			return b
		}, deltaKind, yield)
		if err != nil {
			return fmt.Errorf("fetch differences: %w", err)
		}
	}
	return nil
}

// stream asks for chunks until all have come.
func (t transfer) stream(
	ctx context.Context, wants []chunk.Want, path string, body func([]chunk.Want) []byte,
	kind frames, yield func([]byte) error,
) error {
	wanted := make(map[chunk.ID]bool, len(wants))
	for _, w := range wants {
		wanted[w.ID] = true
	}
	for len(wanted) > 0 {
		var rest []chunk.Want
		for _, w := range wants {
			if wanted[w.ID] {
				rest = append(rest, w)
			}
		}
		before := len(wanted)
		k := t.data(path, body(rest), 0)
		k.read = func(r io.Reader) error {
			err := kind.read(r, func(h chunk.FrameHeader, frame []byte) error {
				if err := yield(frame); err != nil {
					return err
				}
				for _, e := range h.Entries {
					delete(wanted, e.ID)
				}
				return nil
			})
			if errors.Is(err, errStream) && len(wanted) < before {
				return nil // ask for the rest only, with fresh patience
			}
			return err
		}
		if _, err := t.do(ctx, k); err != nil {
			return err
		}
		if len(wanted) == before {
			return &chunk.MissingError{ID: rest[0].ID}
		}
	}
	return nil
}

// frames knows how a stream of frames, or of differences, is cut.
type frames struct {
	length func(start []byte) (int, error) // of header and chunk table
	parse  func(header []byte) (chunk.FrameHeader, error)
}

var (
	frameKind = frames{chunk.FrameHeaderLength, chunk.ParseFrameHeader}
	deltaKind = frames{chunk.DeltaHeaderLength, func(b []byte) (chunk.FrameHeader, error) {
		h, err := chunk.ParseDeltaHeader(b)
		return h.FrameHeader, err
	}}
)

// read cuts a stream into frames. A stream that ends inside a frame is errStream.
// The frame's bytes are valid during the call only.
func (f frames) read(r io.Reader, take func(chunk.FrameHeader, []byte) error) error {
	in := bufio.NewReaderSize(r, 64<<10)
	var frame []byte
	for {
		start, err := in.Peek(frameStart)
		if len(start) == 0 && err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: %w", errStream, err)
		}
		size, err := f.length(start)
		if err != nil {
			return err
		}
		if frame, err = readInto(in, frame[:0], size); err != nil {
			return err
		}
		h, err := f.parse(frame)
		if err != nil {
			return err
		}
		if frame, err = readInto(in, frame, h.Payload); err != nil {
			return err
		}
		if err := take(h, frame); err != nil {
			return err
		}
	}
}

// frameStart is how many bytes tell the length of a frame's header.
const frameStart = 16

// readInto appends n bytes to b; n is within a frame's limits.
func readInto(r io.Reader, b []byte, n int) ([]byte, error) {
	at := len(b)
	if cap(b) < at+n {
		b = append(make([]byte, 0, max(at+n, 2*cap(b))), b...)
	}
	b = b[:at+n]
	if _, err := io.ReadFull(r, b[at:]); err != nil {
		return b[:at], fmt.Errorf("%w: %w", errStream, err)
	}
	return b, nil
}

func (t transfer) data(path string, body []byte, limit int64) call {
	return call{
		method: http.MethodPost, path: path, body: [][]byte{body}, kind: octets,
		limit: limit, timeout: dataTimeout, giveUp: t.giveUp,
	}
}

func joinIDs(ids []chunk.ID) []byte {
	b := make([]byte, 0, len(ids)*len(chunk.ID{}))
	for _, id := range ids {
		b = append(b, id[:]...)
	}
	return b
}
