// Package packet is the wire format of multicast sessions.
//
// Every packet is a header in clear, a sealed body, and the seal's tag of 16 bytes. All
// integers are little-endian.
//
//	offset  size  header
//	0       1     version, 2
//	1       1     kind; bit 7: sealed with ChaCha20-Poly1305 instead of AES-128-GCM
//	2       2     symbol: 0..254 in data packets, otherwise 0
//	4       4     block: of data and digests; in reports and orders the receiver's number
//	8       8     session, random
//	16      8     counter of the key's packets, from 1
//	24      ...   body
//
//	kind  from      to        key       body
//	1     sender    group     group     data: one symbol
//	2     sender    group     group     digests: BLAKE3 of up to MaxDigests blocks, from Block on; signature
//	3     sender    group     group     status (Status); signature
//	4     sender    group     announce  where the session is to be had (Announce); signature
//	5     receiver  sender    up        report (Report)
//	6     sender    receiver  down      order (Order)
//	7     sender    see Probe probe     shows that a way for packets is open (Probe); signature
//
// The header is authenticated with the body. The nonce is the counter behind four zero bytes:
// each key seals with one counter that never repeats, and a key lives for one session, so a
// packet of an older session opens under no key, and Window drops what comes a second time.
// Whoever has the group key could make data packets. Digests, status and probes are therefore signed
// (Ed25519) by the sender over the header and the body, and a block counts only if its
// bytes have the signed digest. Up and down keys belong to one receiver each. The probe key comes of the
// same secret as the group's; its packets go other ways and must not count as lost data.
//
// A packet of another version is dropped. Bytes behind a known body are ignored where the
// kind has a fixed size, so that later versions can add fields.
package packet

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Version is the only version of the wire format.
const Version = 2

// Sizes of a packet, in bytes.
const (
	HeaderSize    = 24
	TagSize       = 16
	MaxSize       = 1472                                // the UDP payload of an Ethernet frame of 1500
	SymbolSize    = MaxSize - HeaderSize - TagSize      // of every data packet
	MaxBody       = MaxSize - HeaderSize - TagSize      // of any packet
	DigestSize    = 32                                  // of a block
	SignatureSize = 64                                  // Ed25519
	MaxDigests    = (MaxBody - SignatureSize) / 256 * 8 // whole groups of eight
)

// Kind says what a packet is.
type Kind uint8

// The kinds of packets.
const (
	KindData Kind = iota + 1
	KindDigest
	KindStatus
	KindAnnounce
	KindReport
	KindOrder
	KindProbe
)

func (k Kind) String() string {
	names := [...]string{
		KindData: "data", KindDigest: "digest", KindStatus: "status", KindAnnounce: "announce",
		KindReport: "report", KindOrder: "order", KindProbe: "probe",
	}
	if int(k) < len(names) && k != 0 {
		return names[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// ErrMalformed is wrapped by every complaint about a packet's form.
var ErrMalformed = errors.New("malformed multicast packet")

const chachaBit = 0x80

// wireHeader is the header as it stands on the wire.
type wireHeader struct {
	Version uint8  `offset:"0x0"`
	Kind    uint8  `offset:"0x1"`
	Symbol  uint16 `offset:"0x2"`
	Block   uint32 `offset:"0x4"`
	Session uint64 `offset:"0x8"`
	Counter uint64 `offset:"0x10"`
}

// Header is what stands in clear before the body. Seal fills in the counter.
type Header struct {
	Kind    Kind
	ChaCha  bool
	Symbol  uint16
	Block   uint32
	Session uint64
	Counter uint64
}

// Append appends the header's 24 bytes.
func (h Header) Append(b []byte) []byte {
	kind := byte(h.Kind)
	if h.ChaCha {
		kind |= chachaBit
	}
	b = append(b, Version, kind)
	b = binary.LittleEndian.AppendUint16(b, h.Symbol)
	b = binary.LittleEndian.AppendUint32(b, h.Block)
	b = binary.LittleEndian.AppendUint64(b, h.Session)
	return binary.LittleEndian.AppendUint64(b, h.Counter)
}

// ParseHeader reads the header of a packet and checks that a tag can follow.
func ParseHeader(b []byte) (Header, error) {
	if len(b) < HeaderSize+TagSize || len(b) > MaxSize {
		return Header{}, fmt.Errorf("%w: %d bytes", ErrMalformed, len(b))
	}
	if b[0] != Version {
		return Header{}, fmt.Errorf("%w: version %d", ErrMalformed, b[0])
	}
	h := Header{
		Kind:    Kind(b[1] &^ chachaBit),
		ChaCha:  b[1]&chachaBit != 0,
		Symbol:  binary.LittleEndian.Uint16(b[2:]),
		Block:   binary.LittleEndian.Uint32(b[4:]),
		Session: binary.LittleEndian.Uint64(b[8:]),
		Counter: binary.LittleEndian.Uint64(b[16:]),
	}
	switch {
	case h.Kind < KindData || h.Kind > KindProbe:
		return Header{}, fmt.Errorf("%w: %v", ErrMalformed, h.Kind)
	case h.Counter == 0:
		return Header{}, fmt.Errorf("%w: counter 0", ErrMalformed)
	case h.Kind == KindData && len(b) != MaxSize:
		return Header{}, fmt.Errorf("%w: %v packet of %d bytes", ErrMalformed, h.Kind, len(b))
	case h.Kind != KindData && h.Symbol != 0:
		return Header{}, fmt.Errorf("%w: %v packet with symbol %d", ErrMalformed, h.Kind, h.Symbol)
	}
	return h, nil
}
