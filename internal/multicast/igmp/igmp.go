// Package igmp reads and writes the queries by which IPv4 hosts are asked which multicast groups they want
// (IGMP versions 1 to 3: RFC 1112, RFC 2236 section 2, RFC 3376 section 4.1).
//
// A switch with IGMP snooping learns from the answers which port wants which group. It forgets what is not
// said again, so a network with such switches needs somebody who asks.
//
//	offset  size  query
//	0       1     type, 0x11
//	1       1     maximum response code: tenths of a second; from 128 on in version 3 a small float; 0 in version 1
//	2       2     checksum of the message, as of IP headers
//	4       4     group; 0 asks for all groups (a general query)
//	8       1     version 3: bit 3: routers suppress their timers; bits 0..2: robustness of the querier, 0: unsaid
//	9       1     version 3: query interval code: seconds; from 128 on a small float; 0: unsaid
//	10      2     version 3: number of sources
//	12      4·n   version 3: sources
//
// Integers are big-endian. The version shows in the length: 8 bytes are version 1 or 2, 12 or more version 3.
package igmp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// AllSystems is the group to which general queries go. Every host listens to it, and every switch floods it.
var AllSystems = netip.AddrFrom4([4]byte{224, 0, 0, 1})

// RouterAlert is the IP option that queries carry (RFC 2113): whoever forwards packets shall look at them.
var RouterAlert = []byte{0x94, 4, 0, 0}

// ErrMalformed is wrapped by every complaint about a message's form; ErrNotQuery says that it is another message.
var (
	ErrMalformed = errors.New("malformed IGMP query")
	ErrNotQuery  = errors.New("not an IGMP query")
)

const (
	typeQuery  = 0x11
	shortSize  = 8  // versions 1 and 2
	longSize   = 12 // version 3 without sources
	maxMessage = 1500
)

// Query asks hosts for their groups.
type Query struct {
	Version     int        // 1 to 3
	MaxResponse int        // tenths of a second within which to answer; 100 in version 1
	Group       netip.Addr // 0.0.0.0 in a general query
	Suppress    bool       // version 3
	Robustness  int        // version 3: lost packets that the querier reckons with; 0: unsaid
	Interval    int        // version 3: seconds between the querier's general queries; 0: unsaid
	Sources     int        // version 3: sources that are asked for
}

// General tells whether the query asks for all groups.
func (q Query) General() bool { return q.Group.IsUnspecified() && q.Sources == 0 }

// Append appends the message of a query without sources. Times that have no code become the next shorter one.
func (q Query) Append(b []byte) []byte {
	start := len(b)
	group := q.Group.As4()
	code := byte(min(q.MaxResponse, 255))
	switch q.Version {
	case 1:
		code = 0
	case 3:
		code = encode(q.MaxResponse)
	}
	b = append(b, typeQuery, code, 0, 0)
	b = append(b, group[:]...)
	if q.Version == 3 {
		flags := byte(min(q.Robustness, 7))
		if q.Suppress {
			flags |= 8
		}
		b = append(b, flags, encode(q.Interval), 0, 0)
	}
	binary.BigEndian.PutUint16(b[start+2:], checksum(b[start:]))
	return b
}

// Parse reads a message, without its IP header.
func Parse(b []byte) (Query, error) {
	switch {
	case len(b) < shortSize || len(b) > maxMessage:
		return Query{}, fmt.Errorf("%w: %d bytes", ErrMalformed, len(b))
	case b[0] != typeQuery:
		return Query{}, fmt.Errorf("%w: type %#x", ErrNotQuery, b[0])
	case checksum(b) != 0:
		return Query{}, fmt.Errorf("%w: wrong checksum", ErrMalformed)
	}
	q := Query{Version: 2, MaxResponse: int(b[1]), Group: netip.AddrFrom4([4]byte(b[4:8]))}
	switch {
	case !q.Group.IsUnspecified() && !q.Group.IsMulticast():
		return Query{}, fmt.Errorf("%w: asks for group %v", ErrMalformed, q.Group)
	case len(b) == shortSize && b[1] == 0:
		q.Version, q.MaxResponse = 1, 100
		return q, nil
	case len(b) == shortSize:
		return q, nil
	case len(b) < longSize: // RFC 3376 section 7.1: to be ignored
		return Query{}, fmt.Errorf("%w: %d bytes", ErrMalformed, len(b))
	}
	q.Version, q.MaxResponse = 3, decode(b[1])
	q.Suppress, q.Robustness, q.Interval = b[8]&8 != 0, int(b[8]&7), decode(b[9])
	q.Sources = int(binary.BigEndian.Uint16(b[10:]))
	if longSize+4*q.Sources > len(b) {
		return Query{}, fmt.Errorf("%w: %d sources in %d bytes", ErrMalformed, q.Sources, len(b))
	}
	return q, nil
}

// Codes from 128 on are a float: 1eeemmmm stands for 1mmmm << (eee + 3) (RFC 3376 section 4.1.1).

func decode(code byte) int {
	if code < 128 {
		return int(code)
	}
	return (int(code&15) | 16) << (code>>4&7 + 3)
}

func encode(n int) byte {
	if n < 128 {
		return byte(max(n, 0))
	}
	for exponent := range 8 {
		if mantissa := n >> (exponent + 3); mantissa < 32 {
			return byte(128 | exponent<<4 | mantissa&15)
		}
	}
	return 255
}

// checksum is the Internet checksum (RFC 1071): 0 over a message that holds the right one.
func checksum(b []byte) uint16 {
	sum := uint32(0)
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
