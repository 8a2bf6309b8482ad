package chunk

import "github.com/klauspost/compress/zstd"

// Sieve makes frames that hold only wanted chunks. It is not safe for concurrent use: one
// per worker.
type Sieve struct {
	dec *Decoder
	enc *Encoder

	plain, kept, out []byte
	entries          []Entry
}

// NewSieve makes a sieve that compresses at the given zstd level.
func NewSieve(level zstd.EncoderLevel) (*Sieve, error) {
	enc, err := NewEncoder(level)
	if err != nil {
		return nil, err
	}
	dec, err := NewDecoder()
	if err != nil {
		return nil, err
	}
	return &Sieve{dec: dec, enc: enc}, nil
}

// Close frees the sieve.
func (s *Sieve) Close() { s.dec.Close() }

// Keep gives a frame with the chunks of frame that keep wants: frame itself, unread but for its
// header, when that is all of them; nil when it is none; else a new one, whose bytes are valid
// until the next call. A frame that must be decoded is verified.
func (s *Sieve) Keep(frame []byte, keep func(ID) bool) ([]byte, error) {
	h, err := ParseFrameHeader(frame)
	if err != nil {
		return nil, err
	}
	wanted := 0
	for _, e := range h.Entries {
		if keep(e.ID) {
			wanted++
		}
	}
	switch wanted {
	case len(h.Entries):
		return frame, nil
	case 0:
		return nil, nil
	}
	h, plain, err := s.dec.Decode(frame, s.plain)
	if err != nil {
		return nil, err
	}
	s.plain, s.kept, s.entries = plain, s.kept[:0], s.entries[:0]
	for _, e := range h.Entries {
		if keep(e.ID) {
			s.kept, s.entries = append(s.kept, plain[:e.Length]...), append(s.entries, e)
		}
		plain = plain[e.Length:]
	}
	s.out = s.enc.AppendFrame(s.out[:0], s.entries, s.kept)
	return s.out, nil
}
