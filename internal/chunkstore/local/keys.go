package local

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"

	"clonecast/internal/vfs"
)

const (
	signingKey  = keysDir + "/signing.key"
	signingPub  = keysDir + "/signing.pub"
	pubSuffix   = ".pub"
	maxKeyFile  = 1 << 10
	maxKeyFiles = 1000
)

func hexLine(b []byte) []byte { return []byte(hex.EncodeToString(b) + "\n") }

// createKeys makes the signing key of a new store, or completes what a crash left of one.
func createKeys(fsys vfs.FS) error {
	b := &base{fs: fsys}
	if err := b.ownKeys(); err != nil {
		return err
	}
	if b.signing == nil {
		if entries, err := fsys.ReadDir(imagesDir); err != nil || len(entries) > 0 {
			return errors.Join(err, errors.New("the signing key is lost, and there are versions"))
		}
		return makeKeys(fsys)
	}
	return writeKeys(fsys, b.signing)
}

// makeKeys makes a new signing key.
func makeKeys(fsys vfs.FS) error {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("make signing key: %w", err)
	}
	return writeKeys(fsys, key)
}

// writeKeys writes both halves of a key twice, the secret one first: the public one can be
// made from it.
func writeKeys(fsys vfs.FS, key ed25519.PrivateKey) error {
	for _, file := range both(signingKey) {
		if err := replaceFile(fsys, publishFile, file, 0o600, hexLine(key.Seed())); err != nil {
			return err
		}
	}
	for _, file := range both(signingPub) {
		if err := replaceFile(fsys, publishFile, file, 0o644, hexLine(key.Public().(ed25519.PublicKey))); err != nil {
			return err
		}
	}
	return nil
}

// newKey replaces a lost signing key. The public half of the old one stays trusted under a name
// of its own, so that the versions that it signed stay good.
func (s *Store) newKey() error {
	for _, old := range s.trusted[:min(1, len(s.trusted))] {
		name := keysDir + "/" + hex.EncodeToString(old[:8]) + pubSuffix
		for _, file := range both(name) {
			if err := replaceFile(s.fs, publishFile, file, 0o644, hexLine(old)); err != nil {
				return err
			}
		}
	}
	for _, file := range both(signingPub) {
		if err := s.fs.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return makeKeys(s.fs)
}

// TrustedKeys are the public keys in keys: this store's own first.
func (s *Store) TrustedKeys() []ed25519.PublicKey {
	return append([]ed25519.PublicKey(nil), s.trusted...)
}
