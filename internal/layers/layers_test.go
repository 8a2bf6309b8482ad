// Package layers holds the tests of the whole tree: imports go down only, and no line is too long.
//
// The table of layers is docs/architecture.md's. The tests read the files themselves, so that they are never answered
// from the test cache after a violation.
package layers

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "clonecast"

// layerOf gives each package's layer by its longest matching prefix.
var layerOf = map[string]int{
	"internal/quantity": 0,
	"internal/text":     0,

	"internal/diskrule":   1,
	"internal/partition":  1,
	"internal/filesystem": 1,
	"internal/volumes":    1,
	"internal/image":      1,
	"internal/chunk":      1,
	"internal/container":  1,
	"internal/protocol":   1,
	"internal/netboot":    1,
	"internal/bootparam":  1,

	"internal/multicast/packet": 1,
	"internal/multicast/igmp":   1,

	"internal/blockdev": 2,
	"internal/vfs":      2,
	"internal/faultfs":  2,
	"internal/kernelfs": 2,
	"internal/sockopt":  2,

	"configs":             3,
	"internal/clone":      3,
	"internal/chunkstore": 3,
	"internal/multicast":  3,

	"builder":   4,
	"server":    4,
	"initramfs": 4,

	"bench":            5,
	"cmd":              5,
	"internal/testrun": 5,
	"qemu-tests":       5,
}

// forbidden are the standard packages that formats (layers 0 and 1) do without:
// bytes in, values out; no files, network, log or clock.
var forbidden = []string{"os", "os/exec", "net", "net/http", "log", "log/slog", "time", "sync"}

// testOnly packages may be imported by any test.
var testOnly = []string{
	"internal/await", "internal/disktest", "internal/layers", "internal/layouttest", "internal/nettest",
}

// root is the top of the project.
var root = filepath.Join("..", "..")

func TestImportsGoDownOnly(t *testing.T) {
	files := 0
	walk(t, func(path string) {
		if strings.HasSuffix(path, ".go") {
			files++
			checkFile(t, path)
		}
	})
	if files < 5 {
		t.Fatalf("walked over %d Go files: the test no longer sees the project", files)
	}
}

// walk calls f with every file that people write and read; what is hidden, built or data of a test is left out.
func walk(t *testing.T, f func(path string)) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		hidden := strings.HasPrefix(d.Name(), ".") && path != root && d.Name() != ".."
		if d.IsDir() && (hidden || slices.Contains([]string{"testdata", "build", "bin"}, d.Name())) {
			return filepath.SkipDir
		}
		if !d.IsDir() {
			f(path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func checkFile(t *testing.T, path string) {
	t.Helper()
	rel, err := filepath.Rel(root, filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	pkg := filepath.ToSlash(rel)
	isTest := strings.HasSuffix(path, "_test.go")
	if slices.Contains(testOnly, pkg) {
		return
	}
	own, ok := layer(pkg)
	if !ok {
		t.Errorf("%s: package %s stands in no layer; add it to layerOf and docs/architecture.md", path, pkg)
		return
	}
	f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	for _, spec := range f.Imports {
		name, _ := strconv.Unquote(spec.Path.Value)
		if own <= 1 && !isTest && slices.Contains(forbidden, name) {
			t.Errorf("%s: layer %d imports %q", path, own, name)
		}
		imported, ours := strings.CutPrefix(name, module+"/")
		if !ours || isTest && slices.Contains(testOnly, imported) {
			continue
		}
		other, ok := layer(imported)
		switch {
		case !ok:
			t.Errorf("%s: imports %s, which stands in no layer", path, imported)
		case other > own && !isTest:
			t.Errorf("%s: layer %d imports %s of layer %d", path, own, imported, other)
		case own == 4 && other == 4 && room(pkg) != room(imported):
			t.Errorf("%s: the programs never import one another: %s", path, imported)
		}
	}
}

// layer finds the longest prefix of pkg that layerOf knows.
func layer(pkg string) (int, bool) {
	for p := pkg; p != "." && p != ""; p = parent(p) {
		if l, ok := layerOf[p]; ok {
			return l, true
		}
	}
	return 0, false
}

func parent(p string) string {
	if i := strings.LastIndexByte(p, '/'); i >= 0 {
		return p[:i]
	}
	return ""
}

func room(pkg string) string { first, _, _ := strings.Cut(pkg, "/"); return first }
