package httpboot

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of a query.
const (
	maxQuery = 2048
	maxText  = 128
)

// parseClient reads the query of a boot script.
func parseClient(raw string, from netip.Addr) (Client, error) {
	if len(raw) > maxQuery {
		return Client{}, fmt.Errorf("query of %d bytes", len(raw))
	}
	// iPXE leaves a plus sign as it is and writes blanks as %20.
	q, err := url.ParseQuery(strings.ReplaceAll(raw, "+", "%2B"))
	if err != nil {
		return Client{}, fmt.Errorf("parse query: %w", err)
	}
	mac, ok := normalMAC(q.Get("mac"))
	if !ok {
		return Client{}, fmt.Errorf("%q is not a MAC address", clean(q.Get("mac")))
	}
	return Client{
		MAC:          mac,
		UUID:         normalUUID(q.Get("uuid")),
		Serial:       clean(q.Get("serial")),
		Manufacturer: clean(q.Get("manufacturer")),
		Product:      clean(q.Get("product")),
		CPU:          clean(q.Get("cpu")),
		UEFI:         q.Get("platform") == "efi",
		Addr:         from,
	}, nil
}

// normalMAC gives six octets with colons in lower case.
func normalMAC(s string) (string, bool) {
	if len(s) != len("aa:bb:cc:dd:ee:ff") {
		return "", false
	}
	for i := range len(s) {
		switch {
		case i%3 == 2 && s[i] != ':' && s[i] != '-':
			return "", false
		case i%3 != 2 && !isHex(s[i]):
			return "", false
		}
	}
	return strings.ToLower(strings.ReplaceAll(s, "-", ":")), true
}

// normalUUID gives a UUID in lower case, nothing for anything else and for the
// two values of boards that have none (SMBIOS specification, system UUID).
func normalUUID(s string) string {
	if len(s) != 36 {
		return ""
	}
	for i := range len(s) {
		dash := i == 8 || i == 13 || i == 18 || i == 23
		if dash != (s[i] == '-') || !dash && !isHex(s[i]) {
			return ""
		}
	}
	if bare := strings.ToLower(strings.ReplaceAll(s, "-", "")); strings.Trim(bare, "0") == "" || strings.Trim(bare, "f") == "" {
		return ""
	}
	return strings.ToLower(s)
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

// clean makes a text of the PC fit to be stored: valid UTF-8, printable, trimmed,
// at most maxText bytes.
func clean(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			r = ' '
		}
		if b.Len()+utf8.RuneLen(r) > maxText {
			break
		}
		b.WriteRune(r)
	}
	return strings.TrimSpace(b.String())
}
