package disktest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"clonecast/internal/quantity"
)

// Freeze mounts the file system on dev, a loop device of the disk image path, writes n files,
// makes each durable, and copies the image as it is then, as if the power failed, to another
// one that it returns with the files' hashes.
func Freeze(
	t testing.TB, path, dev, command string, n int, longest quantity.Bytes,
) (frozen string, files map[string]string) {
	t.Helper()
	dir := Mount(t, dev, command)
	defer Unmount(t, dir)
	random := rand.NewChaCha8([32]byte{3})
	files = map[string]string{}
	for i := range n {
		b := make([]byte, 1+random.Uint64()%uint64(longest))
		_, _ = random.Read(b)
		name := fmt.Sprintf("/synced %d", i)
		if err := unforked(func() error { return writeDurably(filepath.Join(dir, name), b) }); err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(b)
		files[name] = hex.EncodeToString(sum[:])
	}
	frozen = filepath.Join(t.TempDir(), "frozen.img")
	Run(t, "", "cp", "--sparse=always", path, frozen)
	return frozen, files
}

func writeDurably(name string, b []byte) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(b); err != nil {
		return err
	}
	return f.Sync()
}
