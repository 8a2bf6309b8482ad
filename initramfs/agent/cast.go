package agent

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"clonecast/internal/chunk"
	"clonecast/internal/clone"
	"clonecast/internal/image"
	"clonecast/internal/protocol"
)

// sink takes what the operation captures.
func (a *Agent) sink(op *protocol.Operation) clone.Sink {
	if !op.Cast {
		return transfer{a.client}
	}
	return &castSink{transfer: transfer{a.client}, say: a.say, length: a.partChunks}
}

// castSink is the sink of a capture that other machines follow. It keeps the ids of all chunks, so
// that a server that has forgotten the cast can be told again.
type castSink struct {
	transfer
	say     func(format string, args ...any)
	outline []byte
	count   int // chunks of the version
	length  int // of parts

	cast image.CastID
	ids  []chunk.ID // of the chunks that are stored
	told int        // how many of them the server knows as parts
	over bool       // followers get the rest with the version
}

// partChunks is the length of a part: 64 MiB, so that followers are not far behind and the server
// does not seal small packs.
const partChunks = 256

// Outline implements clone.LiveSink.
func (s *castSink) Outline(ctx context.Context, m *image.Manifest) error {
	o := image.Outline{Manifest: *m}
	var err error
	if s.outline, err = o.MarshalBinary(); err != nil {
		return err
	}
	s.count = int(o.Count())
	return s.begin(ctx)
}

// begin makes the server begin a cast.
func (s *castSink) begin(ctx context.Context) error {
	answer, err := s.do(ctx, s.data(protocol.PathOutline, s.outline, protocol.MaxBody))
	if err != nil {
		return fmt.Errorf("send the outline: %w", err)
	}
	var r protocol.OutlineResponse
	if err := json.Unmarshal(answer, &r); err != nil {
		return fmt.Errorf("send the outline: the server's answer: %w", err)
	}
	s.told = 0
	if s.cast, err = image.ParseCastID(r.Cast); err != nil {
		return fmt.Errorf("send the outline: the server's answer: %w", err)
	}
	return nil
}

// Stored implements clone.LiveSink.
func (s *castSink) Stored(ctx context.Context, ids []chunk.ID) error {
	s.ids = append(s.ids, ids...)
	anew := 0
	for n := s.ready(); n > 0; n = s.ready() {
		err := s.part(ctx, s.ids[s.told:s.told+n])
		var p *protocol.Problem
		switch {
		case err == nil:
			s.told += n
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
func (s *castSink) ready() int {
	left := len(s.ids) - s.told
	if s.over || left < s.length && len(s.ids) < s.count {
		return 0
	}
	return min(left, s.length)
}

func (s *castSink) part(ctx context.Context, ids []chunk.ID) error {
	body := binary.LittleEndian.AppendUint64(append([]byte(nil), s.cast[:]...), uint64(s.told))
	_, err := s.do(ctx, s.data(protocol.PathPart, append(body, joinIDs(ids)...), protocol.MaxBody))
	return err
}
