package vfs

import (
	"crypto/rand"
	"io"
	"io/fs"
	"path/filepath"
)

// ReplaceFile is Replace for a path of the machine. It is how the whole project makes a file
// appear at once: google/renameio, a library for that, does not sync the directory, so that a
// power cut may bring the old file back, or none.
func ReplaceFile(path string, perm fs.FileMode, write func(io.Writer) error) error {
	dir, err := Dir(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	name := filepath.Base(path)
	return Replace(dir, "."+name+".part-"+rand.Text()[:8], name, perm, write)
}

// WriteFile is os.WriteFile by way of ReplaceFile.
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	return ReplaceFile(path, perm, func(w io.Writer) error { return WriteAll(w, data) })
}
