package diskrule

import (
	"strings"
	"unicode"
)

// pattern is a value to compare with: literal runes in lower case, and wildcards.
type pattern []rune

// Wildcards, outside of what Unicode can hold.
const (
	anyRun  rune = -1 // *
	anyRune rune = -2 // ?
)

// parsePattern reads a value; * and ? are wildcards if wild is set. Case and the number
// of blanks do not matter.
func parsePattern(s string, wild bool) pattern {
	var p pattern
	escaped := false
	for _, r := range fold(s) {
		switch {
		case escaped:
			escaped = false
			p = append(p, r)
		case r == '\\':
			escaped = true
		case wild && r == '*':
			p = append(p, anyRun)
		case wild && r == '?':
			p = append(p, anyRune)
		default:
			p = append(p, r)
		}
	}
	if escaped {
		p = append(p, '\\')
	}
	return p
}

// fold makes texts comparable that people would call equal.
func fold(s string) string {
	return strings.Map(unicode.ToLower, strings.Join(strings.Fields(s), " "))
}

// match compares a text. On a mismatch behind a *, the * takes one rune more: linear in
// text times pattern.
func (p pattern) match(s string) bool {
	text := []rune(fold(s))
	i, star, resume := 0, -1, 0
	for at := 0; at < len(text); {
		switch {
		case i < len(p) && p[i] == anyRun:
			star, resume = i, at
			i++
		case i < len(p) && (p[i] == anyRune || p[i] == text[at]):
			i++
			at++
		case star >= 0:
			resume++
			i, at = star+1, resume
		default:
			return false
		}
	}
	for i < len(p) && p[i] == anyRun {
		i++
	}
	return i == len(p)
}
