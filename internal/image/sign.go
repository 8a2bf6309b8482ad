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
const (
	envelopeMagic  = "CCSIGN1\n"
	signedFrom     = 8 + ed25519.PublicKeySize + ed25519.SignatureSize
	envelopeHeader = signedFrom + 4
	domain         = "clonecast-manifest-v1\x00"
	envelopeDomain = "clonecast-envelope-v1\x00"
	// MaxManifest bounds a manifest's binary form: room for 64 TiB of chunks.
	MaxManifest = 1 << 30
)

// ErrUntrusted reports an envelope whose signature is not from a trusted key.
var ErrUntrusted = errors.New("manifest is not signed by a trusted key")

// ErrUnknownKey reports an envelope of a key that is not trusted. It is ErrUntrusted, too.
var ErrUnknownKey = fmt.Errorf("%w", ErrUntrusted)

// Signer gives the key that an envelope says it is signed by, or nil. Nothing proves that.
func Signer(envelope []byte) ed25519.PublicKey {
	if len(envelope) < envelopeHeader || string(envelope[:8]) != envelopeMagic {
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
	if len(raw) > MaxManifest {
		return nil, VersionID{}, fmt.Errorf("manifest of %d bytes is longer than %d", len(raw), MaxManifest)
	}
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, VersionID{}, fmt.Errorf("make zstd encoder: %w", err)
	}
	body := z.EncodeAll(raw, binary.LittleEndian.AppendUint32(nil, uint32(len(raw))))
	envelope = append(envelope, envelopeMagic...)
	envelope = append(envelope, key.Public().(ed25519.PublicKey)...)
	envelope = append(envelope, ed25519.Sign(key, signedMessage(body))...)
	return append(envelope, body...), Identify(raw), nil
}

func signedMessage(body []byte) []byte {
	sum := sha256.Sum256(body)
	return append([]byte(envelopeDomain), sum[:]...)
}

// Open verifies an envelope against the trusted keys and parses its manifest. No
// byte of the manifest is unpacked before its signature is proven.
func Open(envelope []byte, trusted []ed25519.PublicKey) (*Manifest, VersionID, error) {
	if len(envelope) < envelopeHeader || string(envelope[:8]) != envelopeMagic {
		return nil, VersionID{}, errors.New("not a signed manifest: magic is absent")
	}
	key := ed25519.PublicKey(envelope[8:40])
	if !isTrusted(key, trusted) {
		return nil, VersionID{}, fmt.Errorf("%w: key %x is unknown here", ErrUnknownKey, []byte(key[:8]))
	}
	if !ed25519.Verify(key, signedMessage(envelope[signedFrom:]), envelope[40:signedFrom]) {
		return nil, VersionID{}, fmt.Errorf("%w: it was altered", ErrUntrusted)
	}
	raw, err := inflate(envelope[envelopeHeader:], binary.LittleEndian.Uint32(envelope[signedFrom:]))
	if err != nil {
		return nil, VersionID{}, err
	}
	m, err := Parse(raw)
	if err != nil {
		return nil, VersionID{}, err
	}
	return m, Identify(raw), nil
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

func inflate(b []byte, size uint32) ([]byte, error) {
	if size > MaxManifest {
		return nil, fmt.Errorf("signed manifest claims %d bytes, more than %d", size, MaxManifest)
	}
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(uint64(max(size, minWindow))), zstd.WithDecoderMaxWindow(16<<20))
	if err != nil {
		return nil, fmt.Errorf("make zstd decoder: %w", err)
	}
	defer z.Close()
	raw, err := z.DecodeAll(b, nil)
	if err != nil {
		return nil, fmt.Errorf("signed manifest does not decode: %w", err)
	}
	if len(raw) != int(size) {
		return nil, fmt.Errorf("signed manifest decodes to %d bytes, want %d", len(raw), size)
	}
	return raw, nil
}
