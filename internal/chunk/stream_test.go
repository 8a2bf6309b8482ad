package chunk

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"testing"
)

func TestReadFrame(t *testing.T) {
	one, _ := testFrame(t, []byte("hello"))
	two, _ := testFrame(t, random(5000), bytes.Repeat([]byte("x"), 3000))
	stream := append(bytes.Clone(one), two...)
	for end := range len(stream) + 1 {
		r := bufio.NewReader(bytes.NewReader(stream[:end]))
		var buf []byte
		var got [][]byte
		var err error
		for err == nil {
			var h FrameHeader
			if h, buf, err = ReadFrame(r, buf); err == nil {
				got = append(got, bytes.Clone(buf))
				if h.Size() != len(buf) {
					t.Fatalf("header of %d bytes for %d", h.Size(), len(buf))
				}
			}
		}
		whole := end == 0 || end == len(one) || end == len(stream)
		if whole != (err == io.EOF) || !whole && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("stream cut to %d bytes: %v", end, err)
		}
		if end == len(stream) && (len(got) != 2 || !bytes.Equal(got[0], one) || !bytes.Equal(got[1], two)) {
			t.Errorf("%d frames, want 2", len(got))
		}
	}
	r := bufio.NewReader(bytes.NewReader([]byte("no frame, but long enough")))
	if _, _, err := ReadFrame(r, nil); !errors.Is(err, ErrFrame) {
		t.Errorf("ReadFrame of something else = %v", err)
	}
}
