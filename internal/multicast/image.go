package multicast

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"clonecast/internal/chunk"
	"clonecast/internal/image"
	"clonecast/internal/multicast/blocks"
)

// An image's payload is the frames that hold its chunks, in disk order, one after the other. The
// receiver gets a table with the description, and from it knows which frames and blocks it needs:
//
//	varint                number of frames
//	varint per frame      its bytes
//	varint per chunk      frame that holds it, as a signed difference to the chunk before
//
// The chunks are those of the manifest in order, each once, without those that are all zeros. A frame that holds others
// as well, of other versions that the receivers have no business with, is sent without these and uncompressed: so its
// length is known before it is read.

// FrameStore is where the frames of an image come from.
type FrameStore interface {
	Frames(ctx context.Context, ids []chunk.ID, yield func(frame []byte) error) error
	// Layout gives the frames that Frames would hand out for ids, and for each id its frame.
	Layout(ids []chunk.ID) (frames []chunk.FrameSize, of []int, err error)
}

// payloadChunks lists the chunks of a manifest that a deploy can ask for.
func payloadChunks(m *image.Manifest) []chunk.ID {
	var ids []chunk.ID
	known := map[chunk.ID]bool{chunk.Sum(make([]byte, chunk.Size)): true}
	for id, n := range m.Chunks() {
		if known[id] || n < int(chunk.Size) && id == chunk.Sum(make([]byte, n)) {
			continue
		}
		known[id] = true
		ids = append(ids, id)
	}
	return ids
}

// frameTable says where the frames of a payload lie.
type frameTable struct {
	starts []int64 // of each frame, and the payload's end
	of     map[chunk.ID]int
}

func newFrameTable(ids []chunk.ID, sizes, frames []int) (*frameTable, error) {
	t := &frameTable{starts: make([]int64, 1, len(sizes)+1), of: make(map[chunk.ID]int, len(ids))}
	for _, n := range sizes {
		if n < 1 || n > chunk.MaxFrameSize {
			return nil, fmt.Errorf("table of frames: a frame of %d bytes", n)
		}
		t.starts = append(t.starts, t.starts[len(t.starts)-1]+int64(n))
	}
	for i, id := range ids {
		if frames[i] < 0 || frames[i] >= len(sizes) {
			return nil, fmt.Errorf("table of frames: chunk %v is in frame %d of %d", id, frames[i], len(sizes))
		}
		t.of[id] = frames[i]
	}
	return t, nil
}

func (t *frameTable) payload() int64 { return t.starts[len(t.starts)-1] }

func appendTable(b []byte, sizes, frames []int) []byte {
	b = binary.AppendUvarint(b, uint64(len(sizes)))
	for _, n := range sizes {
		b = binary.AppendUvarint(b, uint64(n))
	}
	last := 0
	for _, f := range frames {
		b = binary.AppendVarint(b, int64(f-last))
		last = f
	}
	return b
}

var errTable = errors.New("malformed table of frames")

// parseTable reads the table of the chunks ids.
func parseTable(b []byte, ids []chunk.ID) (*frameTable, error) {
	n, size := binary.Uvarint(b)
	if size <= 0 || n > uint64(len(b)) {
		return nil, errTable
	}
	b = b[size:]
	var sizes, frames []int
	for range n {
		v, size := binary.Uvarint(b)
		if size <= 0 || v > uint64(chunk.MaxFrameSize) {
			return nil, errTable
		}
		sizes, b = append(sizes, int(v)), b[size:]
	}
	at := int64(0)
	for range ids {
		v, size := binary.Varint(b)
		if size <= 0 || v > int64(n) || v < -int64(n) {
			return nil, errTable
		}
		at += v
		frames, b = append(frames, int(at)), b[size:]
	}
	if len(b) > 0 {
		return nil, errTable
	}
	return newFrameTable(ids, sizes, frames)
}

// overlap gives the frames first..last that the payload bytes start..end-1 touch.
func (t *frameTable) overlap(start, end int64) (first, last int) {
	low, high := 0, len(t.starts)-1 // the last frame that begins at or before start
	for high-low > 1 {
		if mid := (low + high) / 2; t.starts[mid] <= start {
			low = mid
		} else {
			high = mid
		}
	}
	for last = low; t.starts[last+1] < end; last++ {
	}
	return low, last
}

// ImagePayload sends the frames of an image, nearly all as they lie in the store.
type ImagePayload struct {
	store FrameStore
	table *frameTable
	first []chunk.ID   // a chunk of each frame
	mixed map[int]bool // frames of which only some chunks are sent
	raw   []byte

	mu     sync.Mutex
	recent []*readFrame
}

// readFrame is a frame that was read, or is being read.
type readFrame struct {
	number int
	once   sync.Once
	bytes  []byte
	err    error
}

// recentFrames is how many frames are kept: blocks are smaller than frames, and a handful are read at once.
const recentFrames = 16

// NewImagePayload prepares to send the chunks of a manifest.
func NewImagePayload(store FrameStore, m *image.Manifest) (*ImagePayload, error) {
	ids := payloadChunks(m)
	frames, of, err := store.Layout(ids)
	if err != nil {
		return nil, err
	}
	p := &ImagePayload{store: store, first: make([]chunk.ID, len(frames)), mixed: mixed(frames, of)}
	for i := len(ids) - 1; i >= 0; i-- {
		p.first[of[i]] = ids[i]
	}
	sizes := p.sizes(m, frames, ids, of)
	p.raw = appendTable(nil, sizes, of)
	p.table, err = newFrameTable(ids, sizes, of)
	return p, err
}

// mixed finds the frames that hold more chunks than those that lie in them by of.
func mixed(frames []chunk.FrameSize, of []int) map[int]bool {
	wanted := make([]int, len(frames))
	for _, f := range of {
		wanted[f]++
	}
	out := map[int]bool{}
	for f, n := range wanted {
		if n < frames[f].Chunks {
			out[f] = true
		}
	}
	return out
}

// sizes are the lengths of the frames as they are sent.
func (p *ImagePayload) sizes(m *image.Manifest, frames []chunk.FrameSize, ids []chunk.ID, of []int) []int {
	sizes := make([]int, len(frames))
	for f, frame := range frames {
		if !p.mixed[f] {
			sizes[f] = frame.Bytes
		}
	}
	if len(p.mixed) == 0 {
		return sizes
	}
	in := map[chunk.ID]int{} // chunks of mixed frames
	for i, id := range ids {
		if p.mixed[of[i]] {
			in[id] = of[i]
		}
	}
	plain, chunks := map[int]int{}, map[int]int{}
	for id, n := range m.Chunks() {
		if f, ok := in[id]; ok {
			plain[f] += n
			chunks[f]++
			delete(in, id)
		}
	}
	for f := range p.mixed {
		sizes[f] = chunk.StoredSize(chunks[f], plain[f])
	}
	return sizes
}

// Size is the payload's length in bytes.
func (p *ImagePayload) Size() int64 { return p.table.payload() }

// Table is what receivers need to find frames in the payload.
func (p *ImagePayload) Table() []byte { return p.raw }

// Block implements sender.Source.
func (p *ImagePayload) Block(b int, buf []byte) error {
	start := blocks.Geometry{Payload: p.Size()}.Offset(b)
	first, last := p.table.overlap(start, start+int64(len(buf)))
	for f := first; f <= last; f++ {
		frame, err := p.frame(f)
		if err != nil {
			return err
		}
		if at := p.table.starts[f] - start; at >= 0 {
			copy(buf[at:], frame)
		} else {
			copy(buf, frame[-at:])
		}
	}
	return nil
}

// frame reads a frame once, however many ask for it at the same time.
func (p *ImagePayload) frame(number int) ([]byte, error) {
	p.mu.Lock()
	var f *readFrame
	for _, r := range p.recent {
		if r.number == number {
			f = r
		}
	}
	if f == nil {
		f = &readFrame{number: number}
		if len(p.recent) == recentFrames {
			p.recent = append(p.recent[:0], p.recent[1:]...)
		}
		p.recent = append(p.recent, f)
	}
	p.mu.Unlock()
	f.once.Do(func() {
		want := p.table.starts[number+1] - p.table.starts[number]
		f.err = p.store.Frames(context.Background(), []chunk.ID{p.first[number]}, func(frame []byte) (err error) {
			if p.mixed[number] {
				f.bytes, err = p.sift(number, frame)
			} else {
				f.bytes = append([]byte(nil), frame...)
			}
			return err
		})
		if f.err == nil && int64(len(f.bytes)) != want {
			f.err = fmt.Errorf("the frame of chunk %v has %d bytes, %d when the session began",
				p.first[number], len(f.bytes), want)
		}
	})
	return f.bytes, f.err
}

// sift gives a frame without the chunks that are not sent in it.
func (p *ImagePayload) sift(number int, frame []byte) ([]byte, error) {
	d, err := chunk.NewDecoder()
	if err != nil {
		return nil, err
	}
	defer d.Close()
	h, plain, err := d.Decode(frame, nil)
	if err != nil {
		return nil, err
	}
	var entries []chunk.Entry
	kept := plain[:0]
	for _, e := range h.Entries {
		again := slices.ContainsFunc(entries, func(o chunk.Entry) bool { return o.ID == e.ID })
		if f, ok := p.table.of[e.ID]; ok && f == number && !again {
			entries, kept = append(entries, e), append(kept, plain[:e.Length]...)
		}
		plain = plain[e.Length:]
	}
	return chunk.AppendStored(nil, entries, kept), nil
}
