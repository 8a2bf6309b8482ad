package tftp

import "encoding/binary"

// window is the sending side of a transfer: which blocks the client has, which
// may be sent. It knows neither sockets nor time.
//
// Blocks count from 1. Their number on the wire is 16 bits wide and starts again
// at 0 after 65535, so a file may be longer than 65535 blocks; the window is far
// smaller than that, so the meaning of a number is never in doubt.
type window struct {
	data   []byte
	block  int
	size   int
	blocks uint64 // of the whole file; the last one is shorter than the others, maybe empty
	acked  uint64 // all blocks up to this one have arrived

	repeated bool // the present window was sent again for a repeated acknowledgement
}

func newWindow(data []byte, s settings) *window {
	return &window{data: data, block: s.block, size: s.window, blocks: uint64(len(data)/s.block) + 1}
}

// done tells whether the client has everything.
func (w *window) done() bool { return w.acked == w.blocks }

// last gives the last block of the present window.
func (w *window) last() uint64 { return min(w.acked+uint64(w.size), w.blocks) }

// packet writes data block n into buf.
func (w *window) packet(buf []byte, n uint64) []byte {
	from := int(n-1) * w.block
	to := min(from+w.block, len(w.data))
	buf = binary.BigEndian.AppendUint16(buf[:0], opData)
	buf = binary.BigEndian.AppendUint16(buf, uint16(n))
	return append(buf, w.data[from:to]...)
}

// ack takes an acknowledgement and tells whether the window is to be sent now.
//
// An acknowledgement inside the window moves it on; RFC 7440 lets a client that
// missed a block acknowledge the one before. Repeating the last acknowledgement
// says that the first block of the window was lost. With a window of one block
// that must not be answered, or every delayed packet doubles all later ones
// (RFC 1123 §4.2.3.1); with larger ones it is answered once per window.
func (w *window) ack(number uint16) bool {
	ahead := uint64(number - uint16(w.acked))
	switch {
	case ahead == 0:
		if w.size == 1 || w.acked == 0 || w.repeated {
			return false
		}
		w.repeated = true
		return true
	case ahead <= w.last()-w.acked:
		w.acked += ahead
		w.repeated = false
		return true
	}
	return false // from the past
}
