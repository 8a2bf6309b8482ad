package bootparam

import (
	"errors"
	"fmt"
	"strings"
)

// safe are the bytes besides letters and digits that stand for themselves: the
// kernel, iPXE, GRUB and the firmware give none of them a meaning inside a word.
const safe = "-._~:/[]"

// escape writes every byte outside the safe set as %XX.
func escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; alphanumeric(c) || strings.IndexByte(safe, c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// unescape undoes escape. It takes bytes outside the safe set as they are: an
// operator may have typed them.
func unescape(s string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '%' {
			if i+2 >= len(s) || !isHex(s[i+1]) || !isHex(s[i+2]) {
				return "", fmt.Errorf("bad %%-escape at byte %d", i)
			}
			c = hexDigit(s[i+1])<<4 | hexDigit(s[i+2])
			i += 2
		}
		b.WriteByte(c)
	}
	if b.Len() > maxValue {
		return "", fmt.Errorf("value of %d bytes, at most %d are accepted", b.Len(), maxValue)
	}
	for _, c := range []byte(b.String()) {
		if c < ' ' || c == 0x7f {
			return "", errors.New("control character in the value")
		}
	}
	return b.String(), nil
}

func alphanumeric(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

func hexDigit(c byte) byte {
	switch {
	case c >= 'a':
		return c - 'a' + 10
	case c >= 'A':
		return c - 'A' + 10
	default:
		return c - '0'
	}
}
