package multicast

import (
	"context"
	"fmt"
	"sync"

	"clonecast/internal/chunk"
	"clonecast/internal/image"
	"clonecast/internal/multicast/blocks"
)

// ImageSource gives a deploy the frames that come by multicast. It is a clone.WholeSource: it joins before
// anything is written, waits for the session to begin, and lets go of what has come when it is asked for it.
type ImageSource struct {
	found     *Found
	table     *frameTable
	reception *Reception // since Prepare
	cancel    context.CancelCauseFunc
	asked     chan struct{}      // closed by Frames
	take      func([]byte) error // its yield

	mu      sync.Mutex // guards what is below
	wanted  map[int]bool
	partial map[int]*partialFrame
	held    int // bytes of these

	yielding sync.Mutex // one frame at a time
}

// partialFrame is a frame of which some blocks have come.
type partialFrame struct {
	bytes []byte
	lacks int
}

// NewImageSource reads the table of an image that was found.
func NewImageSource(found *Found, m *image.Manifest, table []byte) (*ImageSource, error) {
	t, err := parseTable(table, payloadChunks(m))
	if err != nil {
		return nil, err
	}
	if t.payload() != found.Description.Payload {
		return nil, fmt.Errorf("%w: %d bytes of frames in a payload of %d", errTable, t.payload(), found.Description.Payload)
	}
	return &ImageSource{found: found, table: t, asked: make(chan struct{}),
		wanted: map[int]bool{}, partial: map[int]*partialFrame{}}, nil
}

// Prepare joins the session for the blocks that hold the chunks, also if there are none, and waits until it
// begins. It returns as well when the receiver has left the group: blocks then come by unicast.
func (s *ImageSource) Prepare(ctx context.Context, ids []chunk.ID) error {
	geo := s.found.Geometry()
	need := blocks.NewSet(geo.Count())
	for _, id := range ids {
		f, ok := s.table.of[id]
		if !ok {
			return &chunk.MissingError{ID: id}
		}
		s.wanted[f] = true
		need.AddRange(int(s.table.starts[f]/blocks.Size), int((s.table.starts[f+1]-1)/blocks.Size)+1)
	}
	ctx, s.cancel = context.WithCancelCause(ctx)
	var err error
	s.reception, err = s.found.Start(ctx, need, func(b int, plain []byte) error {
		select {
		case <-s.asked:
			return s.put(geo.Offset(b), plain)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}, nil)
	if err != nil {
		s.cancel(err)
		return err
	}
	return s.reception.Begin(ctx)
}

// Frames gives each frame that Prepare was told to get when it is complete.
func (s *ImageSource) Frames(ctx context.Context, ids []chunk.ID, yield func(frame []byte) error) error {
	if s.reception == nil {
		if err := s.Prepare(ctx, ids); err != nil {
			return err
		}
	}
	stop := context.AfterFunc(ctx, func() { s.cancel(context.Cause(ctx)) })
	defer stop()
	s.take = yield
	close(s.asked)
	return s.reception.Wait()
}

// Summary is what was received so far, if the session was joined.
func (s *ImageSource) Summary() (summary ReceiveSummary, joined bool) {
	if s.reception == nil {
		return ReceiveSummary{}, false
	}
	return s.reception.Summary(), true
}

// Close leaves the session if it is not over, and waits until nothing of it is at work.
func (s *ImageSource) Close() {
	if s.reception != nil {
		s.cancel(context.Canceled)
		_ = s.reception.Wait() // whoever wants to know has asked Frames
	}
}

// put puts a block's bytes into their frames and hands out those that are complete now.
func (s *ImageSource) put(start int64, plain []byte) error {
	complete, err := s.fill(start, plain)
	if err != nil {
		return err
	}
	s.yielding.Lock()
	defer s.yielding.Unlock()
	for _, frame := range complete {
		if err := s.take(frame); err != nil {
			return err
		}
	}
	return nil
}

// fill puts a block's bytes into their frames and gives those that are complete now.
func (s *ImageSource) fill(start int64, plain []byte) (complete [][]byte, err error) {
	end := start + int64(len(plain))
	first, last := s.table.overlap(start, end)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held > s.found.room.partial && !s.continues(first, last) {
		return nil, ErrLater
	}
	for f := first; f <= last; f++ {
		if !s.wanted[f] {
			continue
		}
		from, to := s.table.starts[f], s.table.starts[f+1]
		p := s.partial[f]
		if p == nil {
			p = &partialFrame{make([]byte, to-from), int(to - from)}
			s.partial[f] = p
			s.held += len(p.bytes)
		}
		p.lacks -= copy(p.bytes[max(start-from, 0):], plain[max(from-start, 0):min(to, end)-start])
		if p.lacks == 0 {
			complete = append(complete, p.bytes)
			delete(s.partial, f)
			s.held -= len(p.bytes)
		}
	}
	return complete, nil
}

// continues tells whether one of the frames first..last has begun already.
func (s *ImageSource) continues(first, last int) bool {
	for f := first; f <= last; f++ {
		if s.partial[f] != nil {
			return true
		}
	}
	return false
}
