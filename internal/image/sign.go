package image

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// A signed manifest is an envelope around the manifest's binary form:
//
//	offset  size  field
//	0       8     magic "CCSIGN1\n"
//	8       32    Ed25519 public key that signed
//	40      64    Ed25519 signature over "clonecast-envelope-v1\0" || SHA-256 of bytes 104..end
//	104     4     length of the manifest's binary form, little-endian
//	108     ...   the manifest's binary form, one zstd frame
//
// The signature covers the compressed bytes, so that nothing is unpacked before it is
// proven. The version id names the plain ones, however they were compressed.
//
// Outlines and parts (outline.go) have envelopes of the same form with a magic and a domain of
// their own: none of them can pass for a manifest.
const (
	signedFrom     = 8 + ed25519.PublicKeySize + ed25519.SignatureSize
	envelopeHeader = signedFrom + 4
	domain         = "clonecast-manifest-v1\x00"
	// MaxManifest bounds a manifest's binary form: room for 64 TiB of chunks.
	MaxManifest = 1 << 30
)

// sealKind is what can be in an envelope.
type sealKind struct{ name, magic, domain string }

var (
	manifestSeal = sealKind{"manifest", "CCSIGN1\n", "clonecast-envelope-v1\x00"}
	outlineSeal  = sealKind{"outline", "CCSIGO1\n", "clonecast-outline-envelope-v1\x00"}
	partSeal     = sealKind{"part", "CCSIGP1\n", "clonecast-part-envelope-v1\x00"}
)

// ErrUntrusted reports an envelope whose signature is not from a trusted key.
var ErrUntrusted = errors.New("manifest is not signed by a trusted key")

// ErrUnknownKey reports an envelope of a key that is not trusted. It is ErrUntrusted, too.
var ErrUnknownKey = fmt.Errorf("%w", ErrUntrusted)

// Signer gives the key that an envelope says it is signed by, or nil. Nothing proves that.
func Signer(envelope []byte) ed25519.PublicKey {
	if len(envelope) < envelopeHeader || string(envelope[:8]) != manifestSeal.magic {
		return nil
	}
	return ed25519.PublicKey(bytes.Clone(envelope[8:40]))
}

// Identify computes the version id of a manifest's binary form.
func Identify(manifest []byte) VersionID {
	h := sha256.New()
	h.Write([]byte(domain))
	h.Write(manifest)
	return VersionID(h.Sum(nil))
}

// Seal encodes and signs m.
func Seal(m *Manifest, key ed25519.PrivateKey) (envelope []byte, id VersionID, err error) {
	raw, err := m.MarshalBinary()
	if err != nil {
		return nil, VersionID{}, err
	}
	if envelope, err = manifestSeal.seal(raw, key); err != nil {
		return nil, VersionID{}, err
	}
	return envelope, Identify(raw), nil
}

func (k sealKind) seal(raw []byte, key ed25519.PrivateKey) ([]byte, error) {
	if len(raw) > MaxManifest {
		return nil, fmt.Errorf("%s of %d bytes is longer than %d", k.name, len(raw), MaxManifest)
	}
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, fmt.Errorf("make zstd encoder: %w", err)
	}
	body := z.EncodeAll(raw, binary.LittleEndian.AppendUint32(nil, uint32(len(raw))))
	envelope := append([]byte(k.magic), key.Public().(ed25519.PublicKey)...)
	envelope = append(envelope, ed25519.Sign(key, k.message(body))...)
	return append(envelope, body...), nil
}

// message is what is signed of an envelope's body.
func (k sealKind) message(body []byte) []byte {
	sum := sha256.Sum256(body)
	return append([]byte(k.domain), sum[:]...)
}

// Open verifies an envelope against the trusted keys and parses its manifest. No
// byte of the manifest is unpacked before its signature is proven.
func Open(envelope []byte, trusted []ed25519.PublicKey) (*Manifest, VersionID, error) {
	raw, err := manifestSeal.open(envelope, trusted)
	if err != nil {
		return nil, VersionID{}, err
	}
	m, err := Parse(raw)
	if err != nil {
		return nil, VersionID{}, err
	}
	return m, Identify(raw), nil
}

func (k sealKind) open(envelope []byte, trusted []ed25519.PublicKey) ([]byte, error) {
	if len(envelope) < envelopeHeader || string(envelope[:8]) != k.magic {
		return nil, fmt.Errorf("not a signed %s: magic is absent", k.name)
	}
	key := ed25519.PublicKey(envelope[8:40])
	if !isTrusted(key, trusted) {
		return nil, fmt.Errorf("%w: key %x is unknown here", ErrUnknownKey, []byte(key[:8]))
	}
	if !ed25519.Verify(key, k.message(envelope[signedFrom:]), envelope[40:signedFrom]) {
		return nil, fmt.Errorf("%w: it was altered", ErrUntrusted)
	}
	return k.inflate(envelope[envelopeHeader:], binary.LittleEndian.Uint32(envelope[signedFrom:]))
}

func isTrusted(key ed25519.PublicKey, trusted []ed25519.PublicKey) bool {
	for _, t := range trusted {
		if key.Equal(t) {
			return true
		}
	}
	return false
}

// minWindow is the smallest window of a zstd frame, whatever it holds.
const minWindow = 1 << 10

func (k sealKind) inflate(b []byte, size uint32) ([]byte, error) {
	if size > MaxManifest {
		return nil, fmt.Errorf("signed %s claims %d bytes, more than %d", k.name, size, MaxManifest)
	}
	z, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderMaxMemory(uint64(max(size, minWindow))),
		zstd.WithDecoderMaxWindow(16<<20))
	if err != nil {
		return nil, fmt.Errorf("make zstd decoder: %w", err)
	}
	defer z.Close()
	raw, err := z.DecodeAll(b, nil)
	if err != nil {
		return nil, fmt.Errorf("signed %s does not decode: %w", k.name, err)
	}
	if len(raw) != int(size) {
		return nil, fmt.Errorf("signed %s decodes to %d bytes, want %d", k.name, len(raw), size)
	}
	return raw, nil
}
