package text

import (
	"errors"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestEscape(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"", ""},
		{"Gerät 1, 日本", "Gerät 1, 日本"},
		{"Ger\xe4t", `Ger\xe4t`},
		{"a\x1b[2Jb", `a\x1b[2Jb`},
		{"a\nb\tc\rd\x00\x7f", `a\nb\tc\rd\x00\x7f`},
		{"\u009b31m", `\u009b31m`},       // CSI in one character
		{"gpj\u202egnp", `gpj\u202egnp`}, // right-to-left override
		{"\U000e0041", `\U000e0041`},     // a tag: invisible
		{"a\ufffdb", "a\ufffdb"},         // the character itself is no damage
		{`already \x1b`, `already \x1b`},
	} {
		if got := Escape(c.in); got != c.want {
			t.Errorf("Escape(%q) = %q, want %q", c.in, got, c.want)
		}
		if got := Escape(Escape(c.in)); got != c.want {
			t.Errorf("Escape(Escape(%q)) = %q, want %q", c.in, got, c.want)
		}
	}
}

func TestEscapeASCII(t *testing.T) {
	for _, c := range []struct {
		in    string
		limit int
		want  string
	}{{"ab\n\x1b", 99, `ab\x0a\x1b`}, {"ä", 99, `\xc3\xa4`}, {"abcdef", 3, "abc"}, {"\n\n", 5, `\x0a\`}} {
		if got := EscapeASCII(c.in, c.limit); got != c.want {
			t.Errorf("EscapeASCII(%q, %d) = %q, want %q", c.in, c.limit, got, c.want)
		}
	}
}

func TestClean(t *testing.T) {
	for _, c := range []struct {
		in    string
		limit int
		want  string
	}{
		{"  QEMU   HARDDISK\x1b\n", 99, "QEMU HARDDISK"},
		{"a\x00b\xe4c\u202ed", 99, "a b c d"},
		{" PF3  XYZ\n", 99, "PF3 XYZ"},
		{"a\x00\x1b[2Jb\xff", 99, "a [2Jb"},
		{"Gerät", 4, "Ger"}, // no half character
		{"ab cd", 3, "ab"},
	} {
		if got := Clean(c.in, c.limit); got != c.want {
			t.Errorf("Clean(%q, %d) = %q, want %q", c.in, c.limit, got, c.want)
		}
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("full") }

func TestWriter(t *testing.T) {
	var b strings.Builder
	if n, err := (Writer{&b}).Write([]byte("a\x1b\nb\tc\r\n")); n != 8 || err != nil ||
		b.String() != "a\\x1b\nb\tc\\r\n" {
		t.Errorf("Write = %d, %v, %q", n, err, b.String())
	}
	if _, err := (Writer{full{}}).Write([]byte("a")); err == nil {
		t.Error("an error of the writer below is lost")
	}
}

func FuzzEscape(f *testing.F) {
	f.Add("Ger\xe4t\x1b[2J\u202e")
	f.Fuzz(func(t *testing.T, s string) {
		got := Escape(s)
		if !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }) ||
			Escape(got) != got {
			t.Errorf("Escape(%q) = %q", s, got)
		}
		if c := Clean(s, 20); len(c) > 20 || !utf8.ValidString(c) || Escape(c) != c {
			t.Errorf("Clean(%q, 20) = %q", s, c)
		}
	})
}
