package chunkstore

import (
	"context"
	"errors"
	"runtime"
	"sync"

	"clonecast/internal/chunk"
)

// deltaWindow is how many chunks, and as many bases, are in memory at a time to make
// differences of them.
const deltaWindow = 4 * chunk.MaxDeltaChunks

// deltaCache is how many bytes of differences a Differ remembers: the machines of a room
// that are deployed together ask for the same ones.
const deltaCache = 32 << 20

// Differ makes differences of a store's chunks. Its methods may be called concurrently; as many
// differences are made at a time as there are cores, so that the memory stays bounded.
type Differ struct {
	makers chan *deltaMaker

	mu    sync.Mutex
	made  map[chunk.ID][][]byte // by the hash of what was wanted
	order []chunk.ID            // the oldest first
	bytes int
}

// FrameSource is the part of a Reader that a Differ needs.
type FrameSource interface {
	Frames(ctx context.Context, ids []chunk.ID, yield func(frame []byte) error) error
}

// NewDiffer makes a Differ.
func NewDiffer(r FrameSource) (*Differ, error) {
	f := &Differ{makers: make(chan *deltaMaker, runtime.GOMAXPROCS(0)), made: map[chunk.ID][][]byte{}}
	for range cap(f.makers) {
		enc, err := chunk.NewDeltaEncoder()
		if err != nil {
			return nil, err
		}
		d, err := chunk.NewDecoder()
		if err != nil {
			return nil, err
		}
		f.makers <- &deltaMaker{reader: r, encoder: enc, decoder: d}
	}
	return f, nil
}

// Deltas calls yield with differences that together hold what is wanted, in this order and
// nothing else. A base that the store does not have, or not sound, is done without. The
// bytes are only valid during the call and must not be changed.
func (f *Differ) Deltas(ctx context.Context, wants []chunk.Want, yield func(delta []byte) error) error {
	for len(wants) > 0 {
		n := min(len(wants), deltaWindow)
		deltas, err := f.window(ctx, wants[:n])
		if err != nil {
			return err
		}
		for _, d := range deltas {
			if err := yield(d); err != nil {
				return err
			}
		}
		wants = wants[n:]
	}
	return nil
}

// window makes the differences of up to deltaWindow wants, or remembers them.
func (f *Differ) window(ctx context.Context, wants []chunk.Want) ([][]byte, error) {
	var name []byte
	for _, w := range wants {
		name = append(append(name, w.ID[:]...), w.Base[:]...)
	}
	key := chunk.Sum(name)
	var m *deltaMaker
	select {
	case m = <-f.makers:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { f.makers <- m }()
	f.mu.Lock()
	deltas, ok := f.made[key]
	f.mu.Unlock()
	if ok {
		return deltas, nil
	}
	deltas, err := m.window(ctx, wants)
	if err == nil {
		f.remember(key, deltas)
	}
	return deltas, err
}

func (f *Differ) remember(key chunk.ID, deltas [][]byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.made[key] != nil {
		return
	}
	f.made[key], f.order = deltas, append(f.order, key)
	f.bytes += size(deltas)
	for f.bytes > deltaCache {
		f.bytes -= size(f.made[f.order[0]])
		delete(f.made, f.order[0])
		f.order = f.order[1:]
	}
}

func size(deltas [][]byte) int {
	sum := 0
	for _, d := range deltas {
		sum += len(d)
	}
	return sum
}

// deltaMaker makes differences of chunks that it loaded.
type deltaMaker struct {
	reader  FrameSource
	encoder *chunk.DeltaEncoder
	decoder *chunk.Decoder

	plain map[chunk.ID][]byte // in arena
	arena []byte
	frame []byte // decoded

	chunks, bases []byte // of a difference, joined
}

// window makes the differences of up to deltaWindow wants.
func (m *deltaMaker) window(ctx context.Context, wants []chunk.Want) ([][]byte, error) {
	defer func() { m.plain = nil }()
	if err := m.load(ctx, wants); err != nil {
		return nil, err
	}
	var deltas [][]byte
	for len(wants) > 0 {
		n := min(len(wants), chunk.MaxDeltaChunks)
		d, err := m.make(wants[:n])
		if err != nil {
			return nil, err
		}
		deltas = append(deltas, d)
		wants = wants[n:]
	}
	return deltas, nil
}

// load gets the plain bytes of a window's chunks and bases.
func (m *deltaMaker) load(ctx context.Context, window []chunk.Want) error {
	m.plain, m.arena = make(map[chunk.ID][]byte, 2*len(window)), m.arena[:0]
	var ids, bases []chunk.ID
	for _, w := range window {
		ids = append(ids, w.ID)
		if w.Base != (chunk.ID{}) {
			bases = append(bases, w.Base)
		}
	}
	if err := m.get(ctx, ids); err != nil {
		return err
	}
	if err := m.get(ctx, bases); !isLost(err) {
		return err
	}
	for _, id := range bases { // one at a time: one that is lost must not hide the others
		if m.plain[id] != nil {
			continue
		}
		if err := m.get(ctx, []chunk.ID{id}); err != nil && !isLost(err) {
			return err
		}
	}
	return nil
}

// isLost tells whether an error is that of a chunk which the store does not have, or not sound.
func isLost(err error) bool {
	var missing *chunk.MissingError
	var invalid *chunk.InvalidError
	return errors.As(err, &missing) || errors.As(err, &invalid)
}

func (m *deltaMaker) get(ctx context.Context, ids []chunk.ID) error {
	var wanted []chunk.ID
	for _, id := range ids {
		if m.plain[id] == nil {
			m.plain[id] = nil // wanted
			wanted = append(wanted, id)
		}
	}
	return m.reader.Frames(ctx, wanted, func(frame []byte) error {
		h, plain, err := m.decoder.Decode(frame, m.frame)
		if err != nil {
			return err
		}
		m.frame = plain
		at := 0
		for _, e := range h.Entries {
			if b, ok := m.plain[e.ID]; ok && b == nil {
				m.plain[e.ID] = m.keep(plain[at : at+e.Length])
			}
			at += e.Length
		}
		return nil
	})
}

// keep copies a chunk into the arena, which has room for all that a window can want.
func (m *deltaMaker) keep(b []byte) []byte {
	if m.arena == nil {
		m.arena = make([]byte, 0, 2*deltaWindow*int(chunk.Size))
	}
	start := len(m.arena)
	m.arena = append(m.arena, b...)
	return m.arena[start:len(m.arena):len(m.arena)]
}

func (m *deltaMaker) make(wants []chunk.Want) ([]byte, error) {
	var entries []chunk.Entry
	var bases []chunk.ID
	m.chunks, m.bases = m.chunks[:0], m.bases[:0]
	for _, w := range wants {
		b := m.plain[w.ID]
		if b == nil {
			return nil, &chunk.MissingError{ID: w.ID}
		}
		entries = append(entries, chunk.Entry{ID: w.ID, Length: len(b)})
		m.chunks = append(m.chunks, b...)
		known := m.plain[w.Base]
		if known == nil {
			w.Base = chunk.ID{}
		}
		bases = append(bases, w.Base)
		m.bases = append(m.bases, known...)
	}
	return m.encoder.Append(nil, entries, bases, m.chunks, m.bases)
}
