package packet

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"
)

// ErrSeal reports a packet that its key does not open: forged, damaged or of another session.
var ErrSeal = errors.New("the packet's seal is broken")

// ErrCounter reports a key that has sealed all the packets it may.
var ErrCounter = errors.New("the key's counter is used up")

// maxCounter is how many packets a key seals: at 10 Gbit/s it lasts for ten years.
const maxCounter = 1 << 48

// Purposes of keys. Each derives another key from the same secret.
const (
	PurposeGroup    = "group"
	PurposeProbe    = "probe"
	PurposeAnnounce = "announce"
	PurposeUp       = "report"
	PurposeDown     = "order"
)

// Derive makes n bytes of key for a purpose from a secret. HKDF-SHA256 with the session as salt.
func Derive(secret []byte, session uint64, purpose string, n int) ([]byte, error) {
	salt := binary.LittleEndian.AppendUint64(nil, session)
	key, err := hkdf.Key(sha256.New, secret, salt, "clonecast multicast 1 "+purpose, n)
	if err != nil {
		return nil, fmt.Errorf("derive %s key: %w", purpose, err)
	}
	return key, nil
}

// Key opens the packets of one purpose of one session.
type Key struct {
	session     uint64
	aes, chacha cipher.AEAD
	nonce       [12]byte
	sealed      uint64 // counter of the last packet
	sealsChaCha bool
}

// NewKey derives the key of a purpose. Packets are sealed with ChaCha20-Poly1305 if chacha,
// otherwise with AES-128-GCM; both are opened.
func NewKey(secret []byte, session uint64, purpose string, chacha bool) (*Key, error) {
	k := &Key{session: session, sealsChaCha: chacha}
	raw, err := Derive(secret, session, purpose+" aes-128-gcm", 16)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(raw)
	if err != nil {
		return nil, err
	}
	if k.aes, err = cipher.NewGCM(block); err != nil {
		return nil, err
	}
	if raw, err = Derive(secret, session, purpose+" chacha20-poly1305", chacha20poly1305.KeySize); err != nil {
		return nil, err
	}
	if k.chacha, err = chacha20poly1305.New(raw); err != nil {
		return nil, err
	}
	return k, nil
}

// UseChaCha seals the packets from now on with ChaCha20-Poly1305. Each cipher has a key of its own, and the counter
// goes on: no nonce comes again.
func (k *Key) UseChaCha() { k.sealsChaCha = true }

// Sealed is the counter of the last packet sealed.
func (k *Key) Sealed() uint64 { return k.sealed }

func (k *Key) setNonce(counter uint64) { binary.LittleEndian.PutUint64(k.nonce[4:], counter) }

func (k *Key) aead(chacha bool) cipher.AEAD {
	if chacha {
		return k.chacha
	}
	return k.aes
}

// begin gives h its session, cipher and the next counter.
func (k *Key) begin(h Header) (Header, error) {
	if k.sealed >= maxCounter {
		return Header{}, ErrCounter
	}
	k.sealed++
	h.Session, h.Counter, h.ChaCha = k.session, k.sealed, k.sealsChaCha
	return h, nil
}

// Seal appends the packet of h and body to dst. It sets the header's session and counter.
func (k *Key) Seal(dst []byte, h Header, body []byte) ([]byte, error) {
	h, err := k.begin(h)
	if err != nil {
		return dst, err
	}
	return k.seal(dst, h, body), nil
}

func (k *Key) seal(dst []byte, h Header, body []byte) []byte {
	start := len(dst)
	dst = h.Append(dst)
	k.setNonce(h.Counter)
	return k.aead(h.ChaCha).Seal(dst, k.nonce[:], body, dst[start:start+HeaderSize])
}

// SealSigned is Seal with the sender's signature behind the body.
func (k *Key) SealSigned(dst []byte, h Header, body []byte, signer ed25519.PrivateKey) ([]byte, error) {
	h, err := k.begin(h)
	if err != nil {
		return dst, err
	}
	signature := ed25519.Sign(signer, signedBytes(h, body))
	return k.seal(dst, h, append(body[:len(body):len(body)], signature...)), nil
}

// signedBytes is what a signature covers.
func signedBytes(h Header, body []byte) []byte {
	b := append([]byte("clonecast multicast 1 signed\x00"), make([]byte, 0, HeaderSize+len(body))...)
	return append(h.Append(b), body...)
}

// Open checks the seal of a packet whose header is h and appends the body to dst. dst may be
// the place where the body belongs; its room is overwritten even if the seal is broken.
func (k *Key) Open(dst []byte, h Header, b []byte) ([]byte, error) {
	if h.Session != k.session {
		return nil, ErrSeal
	}
	k.setNonce(h.Counter)
	body, err := k.aead(h.ChaCha).Open(dst, k.nonce[:], b[HeaderSize:], b[:HeaderSize])
	if err != nil {
		return nil, ErrSeal
	}
	return body, nil
}

// Verify splits the signature off an opened body and checks it.
func Verify(h Header, body []byte, public ed25519.PublicKey) ([]byte, error) {
	n := len(body) - SignatureSize
	if n < 0 {
		return nil, fmt.Errorf("%w: %v of %d bytes has no signature", ErrMalformed, h.Kind, len(body))
	}
	if len(public) != ed25519.PublicKeySize || !ed25519.Verify(public, signedBytes(h, body[:n]), body[n:]) {
		return nil, fmt.Errorf("%w: the signature of a %v packet is not the sender's", ErrSeal, h.Kind)
	}
	return body[:n], nil
}

// Window remembers which counters were seen, so that a packet counts once.
type Window struct {
	highest uint64
	seen    [windowSize/64 + 1]uint64 // one word more: the window begins and ends inside words
}

// windowSize is how far a packet may come late: 0.1 s at 1 Gbit/s and full frames.
const windowSize = 8192

// Highest is the highest counter seen.
func (w *Window) Highest() uint64 { return w.highest }

// Fresh tells whether a counter is new and not too old. It changes nothing, so it may be asked
// before the packet is known to be genuine.
func (w *Window) Fresh(counter uint64) bool {
	switch {
	case counter > w.highest:
		return true
	case w.highest-counter >= windowSize:
		return false
	}
	return w.seen[counter/64%uint64(len(w.seen))]>>(counter%64)&1 == 0
}

// Note takes the counter of a genuine packet.
func (w *Window) Note(counter uint64) {
	if counter > w.highest {
		w.advance(counter)
	}
	w.seen[counter/64%uint64(len(w.seen))] |= 1 << (counter % 64)
}

// advance forgets the words of counters that leave the window.
func (w *Window) advance(counter uint64) {
	from, to := w.highest/64+1, counter/64
	if to >= from+uint64(len(w.seen)) {
		clear(w.seen[:])
	} else {
		for word := from; word <= to; word++ {
			w.seen[word%uint64(len(w.seen))] = 0
		}
	}
	w.highest = counter
}
