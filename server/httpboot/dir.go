package httpboot

import (
	"fmt"
	"io/fs"
	"os"
)

// Dir is a Files in a folder: <class>/vmlinuz and <class>/initramfs. The root
// keeps links and odd names from leading out of the folder.
type Dir struct{ Root *os.Root }

// OpenBootFile opens a file of a class.
func (d Dir) OpenBootFile(class, name string) (File, error) {
	if !validName(class) || !validName(name) {
		return File{}, fmt.Errorf("open boot file of class %q: %w", class, fs.ErrNotExist)
	}
	f, err := d.Root.Open(class + "/" + name)
	if err != nil {
		return File{}, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s/%s is not a file: %w", class, name, fs.ErrNotExist)
	}
	if err != nil {
		_ = f.Close()
		return File{}, err
	}
	return File{ReadSeekCloser: f, ModTime: info.ModTime()}, nil
}
