package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// These tests read README, CONTRIBUTING and docs as the program, make and a person would: what they tell people to type
// works, and the files that they name are there. Whether the words are true they cannot know.

const root = "../.."

// notCommands are texts in backticks that begin as a command does.
var notCommands = []string{"clonecast store 1", "clonecast condemned 1"} // first lines of files: docs/image-format.md

// document is a text of the project, taken apart.
type document struct {
	name  string
	lines []string // of code blocks, continuation lines joined
	spans []string // in backticks
	links []string // to files
}

var (
	codeBlock = regexp.MustCompile("(?ms)^```.*?^```|(?:\\A|\n\n)(?: {4}[^\n]*\n+)+")
	codeSpan  = regexp.MustCompile("`([^`]+)`")
	fileLink  = regexp.MustCompile(`\]\(([^():#]+)\)`)
)

func documents(t *testing.T) []document {
	t.Helper()
	files, err := filepath.Glob(root + "/docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	var all []document
	for _, file := range append(files, root+"/README.md", root+"/CONTRIBUTING.md") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		d := document{name: file}
		for _, block := range codeBlock.FindAllString(string(text), -1) {
			block = strings.ReplaceAll(block, "\\\n", " ")
			for line := range strings.Lines(block) {
				line = strings.TrimPrefix(strings.TrimSuffix(line, "\n"), "    ")
				d.lines = append(d.lines, strings.TrimPrefix(line, "$ "))
			}
		}
		prose := codeBlock.ReplaceAllString(string(text), "\n\n")
		for _, m := range codeSpan.FindAllStringSubmatch(prose, -1) {
			d.spans = append(d.spans, strings.Join(strings.Fields(m[1]), " "))
		}
		for _, m := range fileLink.FindAllStringSubmatch(prose, -1) {
			d.links = append(d.links, m[1])
		}
		all = append(all, d)
	}
	return all
}

// TestCommandsInDocuments types every command line of the documents and of the help: the command exists, and so do its
// flags and the number of its arguments.
func TestCommandsInDocuments(t *testing.T) {
	found := 0
	check := func(where, line string) {
		if command, ok := ours(line); ok {
			found++
			if err := typed(command); err != nil {
				t.Errorf("%s: %s: %v", where, line, err)
			}
		}
	}
	for _, d := range documents(t) {
		for _, line := range d.lines {
			check(d.name, line)
		}
	}
	inDocuments := found
	for _, c := range everyCommand(newRootCmd()) {
		for line := range strings.Lines(c.Long + "\n" + c.Example) {
			if strings.HasPrefix(line, "  ") {
				check("help of "+c.CommandPath(), strings.TrimSpace(line))
			}
		}
	}
	if inDocuments < 20 {
		t.Errorf("%d commands found in the documents: the test no longer sees them", inDocuments)
	}
}

// Commands and flags that are mentioned in the documents, and in what the programs say, exist.
func TestCommandsMentioned(t *testing.T) {
	found := 0
	check := func(where, text string) {
		command, ok := ours(text)
		if !ok && strings.HasPrefix(text, "--") {
			command, ok = text, true
		}
		if !ok || slices.Contains(notCommands, text) {
			return
		}
		found++
		if err := mentioned(command); err != nil {
			t.Errorf("%s: %q: %v", where, text, err)
		}
	}
	for _, d := range documents(t) {
		for _, span := range d.spans {
			check(d.name, span)
		}
	}
	said := regexp.MustCompile(`'(clonecast [^'"\n]*)`) // as in the hint "'clonecast task show " + id + "' says more"
	for _, dir := range []string{"cmd", "server", "initramfs", "internal", "builder"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			for _, m := range said.FindAllStringSubmatch(string(text), -1) {
				check(path, strings.TrimSpace(m[1]))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if found < 60 {
		t.Errorf("%d commands and flags found: the test no longer sees them", found)
	}
}

// Targets of make and files that the documents name exist.
func TestFilesInDocuments(t *testing.T) {
	makefile, err := os.ReadFile(root + "/Makefile")
	if err != nil {
		t.Fatal(err)
	}
	file := regexp.MustCompile(`^\.?/?(\.ci|bench|builder|cmd|configs|docs|initramfs|internal|qemu-tests|server)/`)
	targets, files := 0, 0
	for _, d := range documents(t) {
		for _, text := range slices.Concat(d.lines, d.spans) {
			words := strings.Fields(text)
			if len(words) > 1 && words[0] == "make" && !strings.Contains(words[1], "=") {
				targets++
				if !regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(words[1]) + `:`).Match(makefile) {
					t.Errorf("%s: make has no target %s", d.name, words[1])
				}
			}
			if strings.Contains(text, "{") {
				words = []string{text}
			}
			for _, word := range words {
				word = strings.TrimRight(identifier.ReplaceAllString(word, ""), ",:")
				if !file.MatchString(word) {
					continue
				}
				files++
				for _, path := range braces(strings.TrimSuffix(word, "/...")) {
					missing(t, d.name, filepath.Join(root, placeholder.ReplaceAllString(path, "*")))
				}
			}
		}
		for _, link := range d.links {
			missing(t, d.name, filepath.Join(filepath.Dir(d.name), link))
		}
	}
	if targets < 10 || files < 40 {
		t.Errorf("%d targets and %d files found: the test no longer sees them", targets, files)
	}
}

var (
	placeholder = regexp.MustCompile(`<[a-z]+>`)       // as in internal/filesystem/<name>
	identifier  = regexp.MustCompile(`\.[A-Z][\w.]*$`) // as in internal/clone.Deploy
)

func missing(t *testing.T, where, pattern string) {
	t.Helper()
	if found, err := filepath.Glob(pattern); err != nil || len(found) == 0 {
		t.Errorf("%s: there is no %s", where, strings.TrimPrefix(pattern, root+"/"))
	}
}

// braces writes a/{b, c/{d, e}} out: a/b, a/c/d, a/c/e.
func braces(text string) (all []string) {
	open := strings.IndexByte(text, '{')
	if open < 0 {
		return []string{text}
	}
	depth, from := 0, open+1
	var parts []string
	for i := open; i < len(text); i++ {
		switch c := text[i]; {
		case c == '{':
			depth++
		case depth == 1 && (c == ',' || c == '}'):
			parts = append(parts, strings.TrimSpace(text[from:i]))
			from = i + 1
			if c == '}' {
				for _, part := range parts {
					all = append(all, braces(text[:open]+part+text[from:])...)
				}
				return all
			}
		case c == '}':
			depth--
		}
	}
	return []string{text}
}

var programName = regexp.MustCompile(`^(?:sudo )?(?:\./)?(?:bin/)?clonecast `)

// ours gives what follows the program's name, if a line begins with that.
func ours(line string) (command string, ok bool) {
	name := programName.FindString(line)
	return line[len(name):], name != ""
}

// typed takes a line as the program would get it from a shell, until its work begins.
func typed(line string) error {
	words, err := shellWords(line)
	if err != nil {
		return err
	}
	cmd, rest, err := newRootCmd().Find(words)
	if err != nil {
		return err
	}
	if err := cmd.ParseFlags(rest); err != nil {
		return err
	}
	if !cmd.Runnable() {
		return errors.New("names no command")
	}
	return errors.Join(cmd.ValidateArgs(cmd.Flags().Args()), cmd.ValidateRequiredFlags())
}

// shellWords splits a line as a shell would, up to a comment or a pipe. What a shell would take for something else must
// stand in quotes.
func shellWords(line string) (words []string, err error) {
	word, quote, begun, special := "", rune(0), false, false
	for _, c := range line + " " {
		switch {
		case c == quote:
			quote = 0
		case quote != 0:
			word += string(c)
		case c == '\'' || c == '"':
			quote, begun = c, true
		case c == ' ':
			if word == "|" || word == ">" || word == "<" {
				return words, nil
			}
			if special {
				return nil, fmt.Errorf("a shell would not take %s as it is", word)
			}
			if begun {
				words = append(words, word)
			}
			word, begun = "", false
		case c == '#' && !begun:
			return words, nil
		default:
			word, begun = word+string(c), true
			special = special || strings.ContainsRune("|&;<>()$*?", c)
		}
	}
	if quote != 0 {
		return nil, errors.New("a quote has no end")
	}
	return words, nil
}

// mentioned looks for a command, which may be named without its arguments, and for flags, of it or of any.
func mentioned(text string) error {
	cmd := newRootCmd()
	var args []string
	for _, word := range strings.Fields(text) {
		name, _, _ := strings.Cut(word, "=")
		next := slices.IndexFunc(cmd.Commands(), func(c *cobra.Command) bool { return c.Name() == word })
		switch {
		case strings.HasPrefix(word, "--"):
			if !slices.ContainsFunc(everyCommand(cmd), func(c *cobra.Command) bool {
				c.InitDefaultHelpFlag()
				return c.Flag(strings.TrimPrefix(name, "--")) != nil
			}) {
				return fmt.Errorf("%q has no flag %s", cmd.CommandPath(), name)
			}
		case len(args) == 0 && next >= 0:
			cmd = cmd.Commands()[next]
		default:
			args = append(args, word)
		}
	}
	if cmd.HasSubCommands() && len(args) > 0 && args[0] != "…" && !strings.HasPrefix(text, "--") {
		return fmt.Errorf("%q has no command %s", cmd.CommandPath(), args[0])
	}
	return nil
}

// everyCommand gives a command and all below it.
func everyCommand(c *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{c}
	for _, sub := range c.Commands() {
		all = append(all, everyCommand(sub)...)
	}
	return all
}
