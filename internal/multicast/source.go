package multicast

import (
	"fmt"
	"io"

	"clonecast/internal/multicast/blocks"
	"clonecast/internal/multicast/sender"
)

// FileSource is a payload that stands in a file.
func FileSource(f io.ReaderAt, size int64) sender.Source {
	return fileSource{f, blocks.Geometry{Payload: size}}
}

type fileSource struct {
	file io.ReaderAt
	geo  blocks.Geometry
}

func (f fileSource) Block(b int, buf []byte) error {
	if n, err := f.file.ReadAt(buf, f.geo.Offset(b)); n < len(buf) {
		return fmt.Errorf("the payload ends early: %w", err)
	}
	return nil
}

// readAhead reads the blocks that probably come next in the background, while others are sent.
type readAhead struct {
	source sender.Source
	geo    blocks.Geometry
	last   int
	begun  map[int]*pending
	free   [][]byte
}

// pending is a block that is being read.
type pending struct {
	data []byte
	done chan error
}

// ahead is how many blocks are read before they are asked for.
const ahead = 2 * blocks.GroupSize

func newReadAhead(source sender.Source, geo blocks.Geometry) *readAhead {
	return &readAhead{source: source, geo: geo, last: -1, begun: map[int]*pending{}}
}

// Block implements sender.Source.
func (r *readAhead) Block(b int, buf []byte) error {
	if b <= r.last { // a repair, or another pass
		return r.source.Block(b, buf)
	}
	var err error
	if p := r.begun[b]; p != nil {
		err = <-p.done
		copy(buf, p.data)
		r.recycle(b, p)
	} else {
		err = r.source.Block(b, buf)
	}
	r.last = b
	for other, p := range r.begun {
		if other < b { // nobody needed it
			<-p.done
			r.recycle(other, p)
		}
	}
	for next := b + 1; next <= min(b+ahead, r.geo.Count()-1); next++ {
		if r.begun[next] == nil {
			r.begin(next)
		}
	}
	return err
}

func (r *readAhead) begin(b int) {
	var data []byte
	if n := len(r.free); n > 0 {
		data, r.free = r.free[n-1], r.free[:n-1]
	} else {
		data = make([]byte, blocks.Size)
	}
	p := &pending{data[:r.geo.Length(b)], make(chan error, 1)}
	r.begun[b] = p
	go func() { p.done <- r.source.Block(b, p.data) }()
}

func (r *readAhead) recycle(b int, p *pending) {
	delete(r.begun, b)
	r.free = append(r.free, p.data[:blocks.Size])
}

// close waits for what is being read, so that the source may be closed.
func (r *readAhead) close() {
	for _, p := range r.begun {
		<-p.done
	}
}
