package debian

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// arMagic begins every archive; see ar(5), the variant that deb(5) uses: short
// names, no symbol table.
const (
	arMagic      = "!<arch>\n"
	arHeaderSize = 60
	arHeaderEnd  = "`\n"
)

// arReader reads the members of an archive one after the other.
type arReader struct {
	r    io.Reader
	left io.Reader // rest of the member before, and its padding
}

// Check finds out whether a file can be read and begins as a package does.
func Check(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("open package: %w", err)
	}
	defer f.Close()
	if _, err := newAr(f); err != nil {
		return fmt.Errorf("package %s: %w", file, err)
	}
	return nil
}

func newAr(r io.Reader) (*arReader, error) {
	magic := make([]byte, len(arMagic))
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != arMagic {
		return nil, ErrNotPackage
	}
	return &arReader{r: r, left: strings.NewReader("")}, nil
}

// next gives the next member's name and content; io.EOF after the last.
func (a *arReader) next() (string, io.Reader, error) {
	if _, err := io.Copy(io.Discard, a.left); err != nil {
		return "", nil, err
	}
	header := make([]byte, arHeaderSize)
	if _, err := io.ReadFull(a.r, header); err != nil {
		if errors.Is(err, io.EOF) {
			return "", nil, io.EOF
		}
		return "", nil, fmt.Errorf("%w: archive is cut in a header", ErrNotPackage)
	}
	if string(header[58:]) != arHeaderEnd {
		return "", nil, fmt.Errorf("%w: damaged archive header", ErrNotPackage)
	}
	name := strings.TrimSuffix(strings.TrimRight(string(header[:16]), " "), "/")
	size, err := strconv.ParseUint(strings.TrimRight(string(header[48:58]), " "), 10, 40)
	if err != nil {
		return "", nil, fmt.Errorf("%w: archive member %q has size %q", ErrNotPackage, name, header[48:58])
	}
	content := io.LimitReader(a.r, int64(size))
	padding := io.LimitReader(a.r, int64(size%2))
	a.left = io.MultiReader(content, padding)
	return name, content, nil
}
