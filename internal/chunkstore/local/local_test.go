package local_test

import (
	"testing"

	"clonecast/internal/chunkstore"
	"clonecast/internal/chunkstore/local"
	"clonecast/internal/chunkstore/storetest"
	"clonecast/internal/vfs"
	"clonecast/internal/vfs/memfs"
)

// small makes packs of a few frames, so that a capture of a sample fills several.
var small = local.Options{PackSize: 4000}

func createFS(t testing.TB, fsys vfs.FS, opts local.Options) *local.Store {
	t.Helper()
	s, err := local.CreateFS(fsys, opts)
	if err != nil {
		t.Fatalf("Create = %v", err)
	}
	return s
}

func TestStore(t *testing.T) {
	t.Run("directory", func(t *testing.T) {
		storetest.Run(t, func(t *testing.T) chunkstore.Store {
			s, err := local.Create(t.TempDir(), local.Options{})
			if err != nil {
				t.Fatal(err)
			}
			return s
		})
	})
	t.Run("memory", func(t *testing.T) {
		storetest.Run(t, func(t *testing.T) chunkstore.Store { return createFS(t, memfs.New(), small) })
	})
}
