package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// askYes lets a person on a terminal type the word yes. Everything else is a refusal, which
// says what did not happen.
func askYes(w io.Writer, in io.Reader, nothing, hint string) error {
	if f, ok := in.(*os.File); ok && !term.IsTerminal(int(f.Fd())) {
		return withCode(exitRefused, fmt.Errorf("there is no terminal to ask: %s", nothing), hint)
	}
	fmt.Fprint(w, "Type yes to go on: ")
	line, err := bufio.NewReader(in).ReadString('\n')
	if err != nil || strings.TrimSpace(line) != "yes" {
		return withCode(exitRefused, errors.New("declined; "+nothing), "")
	}
	return nil
}

// askable refuses where nobody can answer.
func askable(in io.Reader, what, hint string) error {
	if f, ok := in.(*os.File); !ok || !term.IsTerminal(int(f.Fd())) {
		return withCode(exitRefused, fmt.Errorf("%s, and there is no terminal to ask", what), hint)
	}
	return nil
}

func ask(out io.Writer, in io.Reader, what string) error {
	fmt.Fprintf(out, "%s Type yes to go on: ", what)
	line, err := bufio.NewReader(in).ReadString('\n')
	if err != nil || strings.TrimSpace(line) != "yes" {
		return withCode(exitRefused, errors.New("declined; nothing was written"), "")
	}
	return nil
}
