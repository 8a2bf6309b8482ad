package chunk

import (
	"bufio"
	"errors"
	"io"
	"slices"
)

// ReadFrame appends the next frame of a stream to buf[:0]. It gives io.EOF at the end of the
// stream and io.ErrUnexpectedEOF inside a frame. The frame's header was checked, its content
// was not.
func ReadFrame(r *bufio.Reader, buf []byte) (FrameHeader, []byte, error) {
	start, err := r.Peek(frameHeaderSize)
	if err != nil {
		if errors.Is(err, io.EOF) && len(start) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return FrameHeader{}, nil, err
	}
	n, err := FrameHeaderLength(start)
	if err != nil {
		return FrameHeader{}, nil, err
	}
	frame, err := appendFrom(r, buf[:0], n)
	if err != nil {
		return FrameHeader{}, nil, err
	}
	h, err := ParseFrameHeader(frame)
	if err != nil {
		return FrameHeader{}, nil, err
	}
	frame, err = appendFrom(r, frame, h.Payload)
	if err != nil {
		return FrameHeader{}, nil, err
	}
	return h, frame, nil
}

// appendFrom appends n bytes of r, which are within a frame's limits.
func appendFrom(r io.Reader, b []byte, n int) ([]byte, error) {
	at := len(b)
	b = slices.Grow(b, n)[:at+n]
	_, err := io.ReadFull(r, b[at:])
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return b, err
}
