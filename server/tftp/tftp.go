// Package tftp serves a fixed set of files, held in memory, to firmware that
// loads its boot program.
//
// It reads no file system: a name is a key of a map, so there is no path to
// escape from. Names that firmware spells oddly are understood (find). Writing is
// refused. Supported are octet mode and the options blksize, tsize, timeout and
// windowsize (RFC 1350, 2347, 2348, 2349, 7440).
//
// A request comes in on the server's port; each transfer then has a socket and a
// goroutine of its own:
//
//	send OACK, or the first window when no option was accepted
//	for each acknowledgement in the window: move the window, send it
//	on silence: send the window again, with growing patience, then give up
//
// Requests are easily forged, so one packet brings at most three small ones until
// the client has acknowledged something, and a repeated request one more, a few
// times; transfers are bounded in all and per address, and a request above the
// bounds is dropped: the client asks again. Another request from the port of a
// transfer ends that one: the PC was reset.
package tftp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
)

// Operation codes.
const (
	opRRQ   = 1
	opWRQ   = 2
	opData  = 3
	opAck   = 4
	opError = 5
	opOACK  = 6
)

// Error codes.
const (
	errUndefined = 0
	errNotFound  = 1
	errAccess    = 2
	errIllegal   = 4
)

// Limits of requests and options.
const (
	maxRequest    = 512 // RFC 2347: a request is at most 512 octets
	maxOptions    = 16  // further ones are ignored
	defaultBlock  = 512
	minBlock      = 8    // RFC 2348
	maxBlock      = 1468 // one Ethernet frame: fragments lose whole blocks
	maxWindow     = 64
	maxTimeoutSec = 30
)

// request is a parsed read or write request.
type request struct {
	op      uint16
	name    string
	mode    string
	options []option
}

type option struct{ name, value string }

// parseRequest reads RRQ and WRQ.
func parseRequest(b []byte) (request, error) {
	if len(b) < 2 || len(b) > maxRequest {
		return request{}, fmt.Errorf("request of %d bytes", len(b))
	}
	r := request{op: binary.BigEndian.Uint16(b)}
	if r.op != opRRQ && r.op != opWRQ {
		return request{}, fmt.Errorf("operation %d is no request", r.op)
	}
	var words []string
	for b = b[2:]; len(b) > 0 && len(words) < 2+2*maxOptions; {
		word, rest, ended := bytes.Cut(b, []byte{0})
		if !ended && len(words) != 1 { // some forget the NUL after the mode, none that after the name
			break
		}
		words = append(words, string(word))
		b = rest
	}
	if len(words) < 2 || words[0] == "" {
		return request{}, errors.New("name or mode is missing")
	}
	r.name, r.mode = words[0], lower(words[1])
	for i := 2; i+1 < len(words) && len(r.options) < maxOptions; i += 2 {
		r.options = append(r.options, option{lower(words[i]), words[i+1]})
	}
	return r, nil
}

// settings is what was agreed on for a transfer.
type settings struct {
	block   int
	window  int
	timeout int      // seconds, 0: the server's own
	accept  []option // for the OACK, in the client's order
}

// negotiate accepts the options that make sense, made smaller where the limits
// ask for it, and ignores the others; of an option given twice the first counts.
func negotiate(options []option, size int) settings {
	s := settings{block: defaultBlock, window: 1}
	seen := map[string]bool{}
	for _, o := range options {
		n, err := strconv.ParseUint(o.value, 10, 32)
		if err != nil || seen[o.name] {
			continue
		}
		value := 0
		switch {
		case o.name == "blksize" && n >= minBlock && n <= 65464:
			s.block = min(int(n), maxBlock)
			value = s.block
		case o.name == "windowsize" && n >= 1 && n <= 65535:
			s.window = min(int(n), maxWindow)
			value = s.window
		case o.name == "timeout" && n >= 1 && n <= maxTimeoutSec:
			s.timeout = int(n)
			value = s.timeout
		case o.name == "tsize":
			value = size
		default:
			continue
		}
		seen[o.name] = true
		s.accept = append(s.accept, option{o.name, strconv.Itoa(value)})
	}
	return s
}

// oack is the packet that names the accepted options.
func oack(options []option) []byte {
	b := []byte{0, opOACK}
	for _, o := range options {
		b = append(b, o.name...)
		b = append(b, 0)
		b = append(b, o.value...)
		b = append(b, 0)
	}
	return b
}

// errorPacket is what ends a transfer.
func errorPacket(code uint16, text string) []byte {
	b := binary.BigEndian.AppendUint16([]byte{0, opError}, code)
	return append(append(b, text...), 0)
}

// ipxe tells whether a request is of the form that iPXE sends: the size of a block, then the size of the file. Firmware
// asks in the other order or for one of them (EDK2, Intel), and tools for more.
func ipxe(options []option) bool {
	return len(options) >= 2 && options[0].name == "blksize" && options[1] == option{"tsize", "0"} &&
		(len(options) == 2 || len(options) == 3 && options[2].name == "multicast")
}

// lower is strings.ToLower for ASCII: names of options and modes are nothing else.
func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}
