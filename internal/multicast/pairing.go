package multicast

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"clonecast/internal/multicast/packet"
)

// Pairing is what lets receivers find a sender and trust it, without a server.
//
// A code is the fingerprint of the sender's session key, which is never sent in clear. Whoever knows the
// code can open the announcement and tell this sender from everybody else, others who know it included. A key
// file is a secret that all who have it share: they must trust one another.
type Pairing struct {
	secret []byte
	code   string // empty for a key file
}

// codeLength is the length of a code without its dashes: 100 bits, far too many to guess.
const (
	codeLength = 20
	codeGroup  = 5
)

var codeAlphabet = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// NewPairing makes a sender's key and the code that names it.
func NewPairing() (Pairing, ed25519.PrivateKey, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return Pairing{}, nil, err
	}
	code := fingerprint(public)
	return Pairing{secret: []byte(code), code: code}, private, nil
}

func fingerprint(public ed25519.PublicKey) string {
	sum := sha256.Sum256(append([]byte("clonecast multicast pairing\x00"), public...))
	return codeAlphabet.EncodeToString(sum[:])[:codeLength]
}

// Code is the pairing's code as people write it, or empty.
func (p Pairing) Code() string {
	var parts []string
	for rest := p.code; rest != ""; rest = rest[codeGroup:] {
		parts = append(parts, rest[:codeGroup])
	}
	return strings.Join(parts, "-")
}

// ErrCode reports text that is no pairing code.
var ErrCode = errors.New("not a pairing code")

// ParseCode reads a code as people write it: case, dashes and spaces do not matter.
func ParseCode(s string) (Pairing, error) {
	code := strings.NewReplacer("-", "", " ", "").Replace(strings.ToLower(strings.TrimSpace(s)))
	if len(code) != codeLength || strings.Trim(code, "abcdefghijklmnopqrstuvwxyz234567") != "" {
		return Pairing{}, fmt.Errorf("%w: %q; it has %d letters and digits 2 to 7", ErrCode, s, codeLength)
	}
	return Pairing{secret: []byte(code), code: code}, nil
}

// minSecret is the shortest secret of a key file in bytes.
const minSecret = 16

// KeyFile makes a pairing of a key file's content; white space around it does not count.
func KeyFile(content []byte) (Pairing, error) {
	secret := bytes.TrimSpace(content)
	if len(secret) < minSecret {
		return Pairing{}, fmt.Errorf("the key file holds %d bytes, at least %d are needed; "+
			"`openssl rand -hex 32` makes a good one", len(secret), minSecret)
	}
	return Pairing{secret: bytes.Clone(secret)}, nil
}

// trusts tells whether a sender's key may be the right one.
func (p Pairing) trusts(public ed25519.PublicKey) bool {
	return p.code == "" || fingerprint(public) == p.code
}

// token is what a receiver shows to the sender's HTTPS server.
func (p Pairing) token(session uint64) (string, error) {
	b, err := packet.Derive(p.secret, session, "join", 32)
	return hex.EncodeToString(b), err
}

func (p Pairing) announceKey(session uint64) (*packet.Key, error) {
	return packet.NewKey(p.secret, session, packet.PurposeAnnounce, false)
}
