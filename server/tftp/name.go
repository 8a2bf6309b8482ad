package tftp

import (
	"path"
	"slices"
	"strings"
)

// find gives the file that a client means by a name.
//
// ROMs write names as their makers like: with back slashes, with "./" or "//" before them, in capitals. Old ones read
// the boot file of DHCP option 67 as a C string: what stands behind the option is then a part of the name, at least the
// end mark 0xff. A name that is known up to its first strange byte is meant.
func (s *Server) find(raw string) (name string, data []byte, ok bool) {
	name, rest := plain(raw)
	for _, n := range []string{name, lower(name)} {
		if data, ok = s.files[n]; ok {
			return n, data, true
		}
	}
	if rest == "" {
		return name, nil, false
	}
	best := ""
	for n := range s.files {
		if strings.HasPrefix(name, n) && len(n) > len(best) {
			best = n
		}
	}
	data, ok = s.files[best]
	return best, data, ok && best != ""
}

// plain gives the path up to the first byte that no name has, and what follows there.
func plain(raw string) (name, rest string) {
	for i := range len(raw) {
		if raw[i] < ' ' || raw[i] > '~' {
			raw, rest = raw[:i], raw[i:]
			break
		}
	}
	raw = strings.TrimSpace(strings.ReplaceAll(raw, `\`, "/"))
	if slices.Contains(strings.Split(raw, "/"), "..") {
		return "", "" // no firmware wants to go up
	}
	return strings.TrimPrefix(path.Clean("/"+raw), "/"), rest
}
