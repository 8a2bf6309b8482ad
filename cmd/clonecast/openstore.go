package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"clonecast/internal/chunkstore"
	"clonecast/internal/chunkstore/local"
	"clonecast/internal/image"
)

// openStore opens a store for reading.
func openStore(dir string) (*local.Store, error) {
	store, err := local.Open(dir, local.Options{ReadOnly: true})
	return store, storeError(err)
}

// openStoreForWriting opens a store that must be there.
func openStoreForWriting(dir string) (*local.Store, error) {
	store, err := local.Open(dir, local.Options{})
	return store, storeError(err)
}

// openOrCreateStore opens a store for captures; a directory that is absent or empty
// becomes one.
func openOrCreateStore(dir string) (*local.Store, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		store, err := local.Create(dir, local.Options{})
		if err != nil {
			return nil, fmt.Errorf("create store %s: %w", dir, err)
		}
		return store, nil
	}
	return openStoreForWriting(dir)
}

func storeError(err error) error {
	if errors.Is(err, chunkstore.ErrNotStore) {
		return withCode(exitNotFound, err,
			"a store is a directory that holds a file \"format\"; `clonecast disk capture` makes one in an empty directory")
	}
	return err
}

// findVersion resolves IMAGE[@VERSION] and verifies its manifest.
func findVersion(ctx context.Context, store chunkstore.Reader, ref string) (*image.Manifest, image.VersionID, error) {
	name, sequence, err := image.ParseReference(ref)
	if err != nil {
		return nil, image.VersionID{}, withCode(exitUsage, err, "")
	}
	envelope, err := store.Manifest(ctx, name, sequence)
	if errors.Is(err, chunkstore.ErrNotFound) {
		return nil, image.VersionID{}, noVersion(versionsIn(ctx, store), ref)
	}
	if err != nil {
		return nil, image.VersionID{}, fmt.Errorf("image %s: %w", ref, err)
	}
	m, id, err := image.Open(envelope, store.TrustedKeys())
	if err != nil {
		return nil, image.VersionID{}, fmt.Errorf("image %s: %w", ref, err)
	}
	return m, id, nil
}

// versionsIn lists what a store has as far as it can be read: it is for hints.
func versionsIn(ctx context.Context, store chunkstore.Reader) (list []shelved) {
	names, _ := store.Images(ctx)
	for _, name := range names {
		versions, _ := store.Versions(ctx, name)
		for _, v := range versions {
			list = append(list, shelvedHere(v, nil))
		}
	}
	return list
}
