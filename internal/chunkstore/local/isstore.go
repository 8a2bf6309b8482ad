package local

import (
	"os"
	"path/filepath"
	"strings"
)

// IsStore tells whether a directory is a store, of this version or a newer one.
func IsStore(dir string) bool {
	path := filepath.Join(dir, formatFile)
	if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() || info.Size() > 1<<10 {
		return false
	}
	b, err := os.ReadFile(path)
	return err == nil && strings.HasPrefix(string(b), strings.TrimSuffix(formatText, "1\n"))
}
