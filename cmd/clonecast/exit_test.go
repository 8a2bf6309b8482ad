package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	cause := errors.New("disk is gone")
	for _, c := range []struct {
		name string
		err  error
		code int
		text string
	}{
		{"success", nil, 0, ""},
		{"plain", cause, 1, "clonecast: error: disk is gone\n"},
		{"hint", withCode(exitRefused, cause, "plug it in"), 3,
			"clonecast: error: disk is gone\nclonecast: hint: plug it in\n"},
		{"wrapped", fmt.Errorf("read: %w", withCode(exitNotFound, cause, "")), 6, "clonecast: error: read: disk is gone\n"},
	} {
		var out strings.Builder
		if code := report(&out, c.err); code != c.code || out.String() != c.text {
			t.Errorf("%s: report = %d, %q; want %d, %q", c.name, code, out.String(), c.code, c.text)
		}
	}
}

func TestCommandsAreThereOnce(t *testing.T) {
	seen := map[string]bool{}
	for _, cmd := range newRootCmd().Commands() {
		if seen[cmd.Name()] {
			t.Errorf("command %s is there twice", cmd.Name())
		}
		seen[cmd.Name()] = true
	}
}
