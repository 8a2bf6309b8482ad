package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var docCommand = regexp.MustCompile(`(?m)^ {4}(?:\$ )?(?:sudo )?(?:bin/)?clonecast (.*)$`)

// redirection is what a shell does with the rest of a line.
var redirection = regexp.MustCompile(` [|<>] .*$`)

// TestCommandsInDocuments reads every command line of the documents as the program would: the command exists, and so do its
// flags and the number of its arguments.
func TestCommandsInDocuments(t *testing.T) {
	files, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, file := range append(files, "../../README.md") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range docCommand.FindAllStringSubmatch(string(text), -1) {
			found++
			line, _, _ := strings.Cut(m[1], " #")
			line = redirection.ReplaceAllString(line, "")
			cmd, rest, err := newRootCmd().Find(strings.Fields(line))
			if err == nil {
				err = cmd.ParseFlags(rest)
			}
			if err == nil {
				err = cmd.ValidateArgs(cmd.Flags().Args())
			}
			if err == nil {
				err = cmd.ValidateRequiredFlags()
			}
			if err != nil {
				t.Errorf("%s: clonecast %s: %v", filepath.Base(file), line, err)
			}
		}
	}
	if found < 8 {
		t.Errorf("%d commands found in the documents: the test no longer sees them", found)
	}
}
