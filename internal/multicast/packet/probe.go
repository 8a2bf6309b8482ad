package packet

import (
	"encoding/binary"
	"fmt"
)

// Paths are ways by which packets come from the sender to a receiver.
type Paths uint8

// The ways.
const (
	PathGroup   Paths = 1 << iota // the session's group, packets of any size
	PathFull                      // the session's group, packets that fill a frame
	PathLink                      // 224.0.0.1, which every host hears and every switch floods
	PathUnicast                   // answers to reports
)

// Names lists the ways for people and programs.
func (p Paths) Names() []string {
	names := []string{}
	for i, name := range [...]string{"group", "full-packets", "link-local", "unicast"} {
		if p>>i&1 == 1 {
			names = append(names, name)
		}
	}
	return names
}

// Probe shows that a way is open: it is PathFull, sent to the group, or PathLink, sent to 224.0.0.1. Size 8; zeros fill
// a probe of PathFull up to MaxSize.
type Probe struct {
	Path Paths   `offset:"0x0"`
	_    [7]byte `offset:"0x1"`
}

const probeSize = 8

// Append appends the body that SealSigned signs.
func (p Probe) Append(b []byte) []byte {
	b, _ = binary.Append(b, binary.LittleEndian, p)
	if p.Path == PathFull {
		b = append(b, make([]byte, MaxBody-SignatureSize-probeSize)...)
	}
	return b
}

// ParseProbe reads a probe whose signature Verify took off.
func ParseProbe(b []byte) (Probe, error) {
	var p Probe
	if len(b) < probeSize {
		return p, fmt.Errorf("%w: probe of %d bytes", ErrMalformed, len(b))
	}
	if _, err := binary.Decode(b, binary.LittleEndian, &p); err != nil {
		return Probe{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if p.Path != PathLink && (p.Path != PathFull || len(b) != MaxBody-SignatureSize) {
		return Probe{}, fmt.Errorf("%w: probe of way %d with %d bytes", ErrMalformed, p.Path, len(b))
	}
	return p, nil
}
