package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const root = "../.."

// message is a format of what the demo says, in the order of the source.
type message struct {
	format string
	line   *regexp.Regexp
}

var verb = regexp.MustCompile(`%[\\.\d]*[a-z]|%%`) // in a format whose points are quoted

// messages reads the formats from the calls of say in the source: there is no second list that could be older.
func messages(t *testing.T) (all []message) {
	t.Helper()
	files, err := filepath.Glob("../story/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(files, "main.go") {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) == 0 {
				return true
			}
			name := ""
			switch f := call.Fun.(type) {
			case *ast.Ident:
				name = f.Name
			case *ast.SelectorExpr:
				name = f.Sel.Name
			}
			if literal, ok := call.Args[0].(*ast.BasicLit); ok && strings.EqualFold(name, "say") {
				format, err := strconv.Unquote(literal.Value)
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, message{format, pattern(format)})
			}
			return true
		})
	}
	return all
}

// pattern matches what a format can give.
func pattern(format string) *regexp.Regexp {
	text := verb.ReplaceAllStringFunc(regexp.QuoteMeta(format), func(verb string) string {
		return map[byte]string{'d': `\d+`, 's': `.+`, 'v': `.+`, 'f': `\d+\.\d+`, '%': `%`}[verb[len(verb)-1]]
	})
	return regexp.MustCompile(`^\[ *\d+\.\d s\] ` + text + `$`)
}

// transcript is what README shows of make demo: commands of make, then what the demo says.
func transcript(t *testing.T) (commands, said []string) {
	t.Helper()
	readme, err := os.ReadFile(root + "/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut(string(readme), "\n$ make demo\n")
	text, _, closed := strings.Cut(text, "\n```\n")
	if !found || !closed {
		t.Fatal("README has no transcript of make demo")
	}
	for _, line := range strings.Split(text, "\n") {
		if strings.HasPrefix(line, "[") {
			said = append(said, line)
		} else {
			commands = append(commands, line)
		}
	}
	return commands, said
}

// README shows what make demo prints: every line is one that the demo can say today, and it leaves none out.
func TestReadmeShowsTheDemo(t *testing.T) {
	_, said := transcript(t)
	all := messages(t)
	if len(all) < 10 {
		t.Fatalf("%d messages found in the source: the test no longer sees them", len(all))
	}
	shown := make([]bool, len(all))
	for _, line := range said {
		known := false
		for i, m := range all {
			if m.line.MatchString(line) {
				known, shown[i] = true, true
			}
		}
		if !known {
			t.Errorf("README shows a line that the demo does not say: %s", line)
		}
	}
	for i, m := range all {
		if !shown[i] {
			t.Errorf("README does not show what the demo says: %s", m.format)
		}
	}
}

// The commands that README shows are those of make.
func TestReadmeShowsMake(t *testing.T) {
	commands, _ := transcript(t)
	version := regexp.MustCompile(`main\.version=([^ ']*)`).FindStringSubmatch(strings.Join(commands, "\n"))
	if version == nil {
		t.Fatalf("README shows no build: %q", commands)
	}
	// The test may itself be run by make.
	make := exec.Command("env", "-u", "MAKEFLAGS", "-u", "MAKELEVEL", "make", "-s", "-n", "demo", "VERSION="+version[1])
	make.Dir = root
	out, err := make.CombinedOutput()
	if err != nil {
		t.Fatalf("make -n demo: %v\n%s", err, out)
	}
	does := strings.Split(strings.TrimSpace(string(out)), "\n")
	does = slices.DeleteFunc(does, func(line string) bool { return line == "./.ci/deps" })
	if !slices.Equal(does, commands) {
		t.Errorf("README shows the commands\n%s\nmake demo does\n%s", strings.Join(commands, "\n"), strings.Join(does, "\n"))
	}
}
