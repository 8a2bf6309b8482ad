package agent

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/klauspost/compress/zstd"

	"clonecast/internal/chunk"
	"clonecast/internal/clone/capture"
	"clonecast/internal/image"
	"clonecast/internal/protocol"
)

// means are how the operation is captured: to the server, which also tells the machines that follow a cast.
func (a *Agent) means(op *protocol.Operation, track *tracker) capture.Means {
	m := capture.Means{
		Sink: transfer{a.client}, FillBadSectors: op.Fill, Level: zstd.SpeedDefault, Progress: track.progress,
	}
	if op.Cast {
		m.Followers = &followers{transfer: transfer{a.client}, say: a.say, length: a.partChunks}
	}
	return m
}

// followers tells the machines that follow a capture of it, by the server. It keeps the ids of all chunks, so
// that a server that has forgotten the cast can be told again.
type followers struct {
	transfer
	say     func(format string, args ...any)
	outline []byte
	count   int // chunks of the version
	length  int // of parts

	cast      image.CastID
	ids       []chunk.ID // of the chunks that are stored
	announced int        // how many of them the server knows as parts
	over      bool       // followers get the rest with the version
}

// partChunks is the length of a part: 64 MiB, so that followers are not far behind and the server
// does not seal small packs.
const partChunks = 256

// Outline implements capture.Followers.
func (s *followers) Outline(ctx context.Context, m *image.Manifest) error {
	o := image.Outline{Manifest: *m}
	var err error
	if s.outline, err = o.MarshalBinary(); err != nil {
		return err
	}
	s.count = int(o.Count())
	return s.begin(ctx)
}

// begin makes the server begin a cast.
func (s *followers) begin(ctx context.Context) error {
	answer, err := s.do(ctx, s.data(protocol.PathOutline, s.outline, protocol.MaxBody))
	if err != nil {
		return fmt.Errorf("send the outline: %w", err)
	}
	var r protocol.OutlineResponse
	if err := json.Unmarshal(answer, &r); err != nil {
		return fmt.Errorf("send the outline: the server's answer: %w", err)
	}
	s.announced = 0
	if s.cast, err = image.ParseCastID(r.Cast); err != nil {
		return fmt.Errorf("send the outline: the server's answer: %w", err)
	}
	return nil
}

// Stored implements capture.Followers.
func (s *followers) Stored(ctx context.Context, ids []chunk.ID) error {
	s.ids = append(s.ids, ids...)
	anew := 0
	for n := s.ready(); n > 0; n = s.ready() {
		err := s.part(ctx, s.ids[s.announced:s.announced+n])
		var p *protocol.Problem
		switch {
		case err == nil:
			s.announced += n
		case errors.As(err, &p) && p.Code == protocol.CodeNotFound && anew < internalTries:
			anew++
			s.say("the server has restarted: those that follow begin again")
			if err := s.begin(ctx); err != nil {
				return err
			}
		case errors.As(err, &p) && p.Code == protocol.CodeIncomplete:
			s.over = true
			s.say("the server has lost chunks; they are sent again at the end, and those that follow wait until then")
		default:
			return fmt.Errorf("send a part: %w", err)
		}
	}
	return nil
}

// ready is how many chunks the next part has: none until there are enough.
func (s *followers) ready() int {
	left := len(s.ids) - s.announced
	if s.over || left < s.length && len(s.ids) < s.count {
		return 0
	}
	return min(left, s.length)
}

func (s *followers) part(ctx context.Context, ids []chunk.ID) error {
	body := binary.LittleEndian.AppendUint64(append([]byte(nil), s.cast[:]...), uint64(s.announced))
	_, err := s.do(ctx, s.data(protocol.PathPart, append(body, joinIDs(ids)...), protocol.MaxBody))
	return err
}
