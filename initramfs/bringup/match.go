package bringup

// matchPattern tells whether s matches a pattern of modules.alias: '*' is any run of
// bytes, '?' any byte, '[a-f0-9]' one of a set, a backslash takes the next byte as it
// is (fnmatch(3) without flags). It takes at most len(pattern)*len(s) steps: after a
// mismatch only the last '*' needs to be tried further on.
func matchPattern(pattern, s string) bool {
	p, i := 0, 0
	star, mark := -1, 0
	for i < len(s) {
		if p < len(pattern) && pattern[p] == '*' {
			star, mark = p, i
			p++
			continue
		}
		if width, ok := matchByte(pattern[p:], s[i]); ok {
			p += width
			i++
			continue
		}
		if star < 0 {
			return false
		}
		mark++
		p, i = star+1, mark
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

// matchByte matches c against the first element of a pattern and gives its width.
func matchByte(pattern string, c byte) (width int, ok bool) {
	if pattern == "" {
		return 0, false
	}
	switch pattern[0] {
	case '?':
		return 1, true
	case '[':
		return matchSet(pattern, c)
	case '\\':
		if len(pattern) > 1 {
			return 2, pattern[1] == c
		}
	}
	return 1, pattern[0] == c
}

// matchSet matches "[a-f0-9]" or "[!x]". A set that never ends is a plain bracket.
func matchSet(pattern string, c byte) (width int, ok bool) {
	i, negate, found := 1, false, false
	if i < len(pattern) && (pattern[i] == '!' || pattern[i] == '^') {
		negate = true
		i++
	}
	for first := true; i < len(pattern); first = false {
		lo := pattern[i]
		if lo == ']' && !first {
			return i + 1, found != negate
		}
		hi := lo
		if i+2 < len(pattern) && pattern[i+1] == '-' && pattern[i+2] != ']' {
			hi = pattern[i+2]
			i += 2
		}
		found = found || lo <= c && c <= hi
		i++
	}
	return 1, c == '['
}
