package layers

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// width is what fits two files side by side on a screen, and a review.
const width = 120

// written are the kinds of files that the limit holds for.
var written = []string{".go", ".md", ".sh", ".py", ".yaml"}

// TestWidth counts columns: a character, and a tab, is one.
func TestWidth(t *testing.T) {
	files := 0
	walk(t, func(path string) {
		if !slices.Contains(written, filepath.Ext(path)) {
			return
		}
		files++
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		number := 0
		for line := range strings.Lines(string(content)) {
			number++
			if n := utf8.RuneCountInString(strings.TrimRight(line, "\r\n")); n > width {
				rel, _ := filepath.Rel(root, path)
				t.Errorf("%s:%d: %d columns, want at most %d", rel, number, n, width)
			}
		}
	})
	if files < 5 {
		t.Fatalf("walked over %d files: the test no longer sees the project", files)
	}
}
