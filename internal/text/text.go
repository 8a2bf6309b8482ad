// Package text makes texts of strangers harmless: names of files, labels of disks, what machines say of
// themselves. A control character in one of them could move the cursor of a terminal, paint over a warning or
// end a line of a log; a right-to-left mark could show a name as another one.
//
// Escape is for texts that are shown: nothing is lost, what cannot be seen is spelled out. Clean is for texts
// that are kept, as a value in a list: what cannot be printed is left out.
package text

import (
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Escape spells out what is not printable: \n, \t, \x1b for a control character or a byte that is not UTF-8,
// \u202e for other code points. What is escaped already stays as it is.
func Escape(s string) string {
	if isPlain(s) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		b.WriteString(escapeRune(r, s[:n]))
		s = s[n:]
	}
	return b.String()
}

// EscapeASCII is Escape for a screen that has no other characters. It gives limit bytes at most.
func EscapeASCII(s string, limit int) string {
	var b strings.Builder
	for i := 0; i < len(s) && b.Len() < limit; i++ {
		if s[i] >= ' ' && s[i] <= '~' {
			b.WriteByte(s[i])
		} else {
			fmt.Fprintf(&b, `\x%02x`, s[i])
		}
	}
	return b.String()[:min(b.Len(), limit)]
}

// Clean gives what of s is printable, with one blank for each run of everything else, and limit bytes at most.
func Clean(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > limit {
		s = strings.TrimSpace(strings.ToValidUTF8(s[:limit], ""))
	}
	return s
}

func isPlain(s string) bool {
	for _, r := range s {
		if !unicode.IsPrint(r) || r == utf8.RuneError {
			return false
		}
	}
	return true
}

// escapeRune gives a code point, or its bytes if they are none, as text.
func escapeRune(r rune, bytes string) string {
	switch {
	case r == utf8.RuneError && len(bytes) == 1:
		return fmt.Sprintf(`\x%02x`, bytes[0])
	case unicode.IsPrint(r):
		return bytes
	case r == '\n':
		return `\n`
	case r == '\t':
		return `\t`
	case r == '\r':
		return `\r`
	case r < utf8.RuneSelf:
		return fmt.Sprintf(`\x%02x`, r)
	case r > 0xffff:
		return fmt.Sprintf(`\U%08x`, r)
	}
	return fmt.Sprintf(`\u%04x`, r)
}

// Writer escapes what goes to W, except newlines and tabs. It is for output that is made of lines and
// of texts of strangers, as a last line of defence; a text that may hold a newline needs Escape before.
// A write must not end within a character.
type Writer struct{ W io.Writer }

// Write writes the escaped p. It tells of all of p or of an error.
func (w Writer) Write(p []byte) (int, error) {
	var b strings.Builder
	for rest := string(p); rest != ""; {
		at := strings.IndexAny(rest, "\n\t")
		if at < 0 {
			at = len(rest)
		}
		b.WriteString(Escape(rest[:at]))
		if at < len(rest) {
			b.WriteByte(rest[at])
			at++
		}
		rest = rest[at:]
	}
	if _, err := io.WriteString(w.W, b.String()); err != nil {
		return 0, err
	}
	return len(p), nil
}
