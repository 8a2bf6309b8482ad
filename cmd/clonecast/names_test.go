package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// jsonNames gives each name that the commands print, with where it stands.
func jsonNames(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]string{}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if spec, ok := n.(*ast.TypeSpec); ok &&
				spec.Name.Name == "sessionDetails" { // goes over the wire, not to the screen
				return false
			}
			if field, ok := n.(*ast.Field); ok && field.Tag != nil {
				if name, _, _ := strings.Cut(reflect.StructTag(strings.Trim(field.Tag.Value, "`")).Get("json"),
					","); name != "" && name != "-" {
					names[name] = file
				}
			}
			return true
		})
	}
	if len(names) < 60 {
		t.Fatalf("%d names: the test no longer sees them", len(names))
	}
	return names
}

// TestJSONNames holds the names of --json to the list of docs/commands.md, and to one name for one value: the same
// words in another order, or a unit said in another way, would be a second one.
func TestJSONNames(t *testing.T) {
	doc, err := os.ReadFile("../../docs/commands.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(doc), "## --json")
	section, _, _ = strings.Cut(section, "\n## ")
	documented := map[string]bool{}
	for _, m := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(section, -1) {
		documented[m[1]] = true
	}
	words := map[string]string{}
	names := jsonNames(t)
	for name, file := range names {
		if !documented[name] {
			t.Errorf("%s: %q is not in docs/commands.md", file, name)
		}
		sorted := strings.Split(name, "_")
		slices.Sort(sorted)
		key := strings.Join(sorted, " ")
		if other, ok := words[key]; ok {
			t.Errorf("%s: %q and %q (%s) name the same", file, name, other, names[other])
		}
		words[key] = name
		if strings.HasSuffix(name, "_bytes") || strings.HasSuffix(name, "_size") || name == "id" || name == "bytes" ||
			name == "length" {
			t.Errorf("%s: %q: byte counts are bytes_…, sizes are size, an id is a version", file, name)
		}
	}
	known := []string{"machine", "task", "session", "summary", "error", "progress", "pairing", "serve", "completion",
		"type"}
	for name := range documented {
		if _, ok := names[name]; !ok && !slices.Contains(known, name) {
			t.Errorf("docs/commands.md: %q is printed by no command", name)
		}
	}
}
