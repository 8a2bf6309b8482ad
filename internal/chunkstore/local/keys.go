package local

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"clonecast/internal/vfs"
)

const (
	signingKey  = keysDir + "/signing.key"
	signingPub  = keysDir + "/signing.pub"
	pubSuffix   = ".pub"
	maxKeyFile  = 1 << 10
	maxKeyFiles = 1000
)

// createKeys makes the signing key, or completes what a crash left of one.
func createKeys(fsys vfs.FS) error {
	key, err := readSigningKey(fsys)
	switch {
	case errors.Is(err, fs.ErrNotExist) || isDamage(err):
		if _, key, err = ed25519.GenerateKey(rand.Reader); err != nil {
			return fmt.Errorf("make signing key: %w", err)
		}
		if err := writeFile(fsys, stagingDir+"/key", signingKey, 0o600, hexLine(key.Seed())); err != nil {
			return err
		}
	case err != nil:
		return err
	}
	return writeFile(fsys, stagingDir+"/pub", signingPub, 0o644, hexLine(key.Public().(ed25519.PublicKey)))
}

func hexLine(b []byte) []byte { return []byte(hex.EncodeToString(b) + "\n") }

func readSigningKey(fsys vfs.FS) (ed25519.PrivateKey, error) {
	seed, err := readHex(fsys, signingKey, ed25519.SeedSize)
	if err != nil {
		return nil, err
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

// readHex reads a key file. Its error never shows the content.
func readHex(fsys vfs.FS, name string, size int) ([]byte, error) {
	text, err := readFile(fsys, name, maxKeyFile)
	if err != nil {
		return nil, fmt.Errorf("read key %s: %w", name, err)
	}
	b, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(b) != size {
		return nil, &damage{fmt.Errorf("read key %s: want %d hex digits", name, 2*size)}
	}
	return b, nil
}

// loadKeys reads the trusted keys, this store's own first, and the signing key.
func (s *Store) loadKeys() error {
	own, err := readHex(s.fs, signingPub, ed25519.PublicKeySize)
	if err != nil {
		return err
	}
	s.trusted = []ed25519.PublicKey{own}
	entries, err := s.fs.ReadDir(keysDir)
	if err != nil {
		return fmt.Errorf("list keys: %w", err)
	}
	for _, e := range entries {
		name := keysDir + "/" + e.Name()
		if !strings.HasSuffix(name, pubSuffix) || name == signingPub || len(s.trusted) > maxKeyFiles {
			continue
		}
		key, err := readHex(s.fs, name, ed25519.PublicKeySize)
		if err != nil {
			return err
		}
		s.trusted = append(s.trusted, key)
	}
	if s.opts.ReadOnly {
		return nil
	}
	if s.signing, err = readSigningKey(s.fs); err != nil {
		return err
	}
	if !s.trusted[0].Equal(s.signing.Public()) {
		return &damage{fmt.Errorf("%s does not belong to %s", signingPub, signingKey)}
	}
	return nil
}

// TrustedKeys are the public keys in keys: this store's own first.
func (s *Store) TrustedKeys() []ed25519.PublicKey {
	return append([]ed25519.PublicKey(nil), s.trusted...)
}
