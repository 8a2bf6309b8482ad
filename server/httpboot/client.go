package httpboot

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"

	"clonecast/internal/text"
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
		return Client{}, fmt.Errorf("%q is not a MAC address", text.Clean(q.Get("mac"), maxText))
	}
	return Client{
		MAC:          mac,
		UUID:         normalUUID(q.Get("uuid")),
		Serial:       text.Clean(q.Get("serial"), maxText),
		Manufacturer: text.Clean(q.Get("manufacturer"), maxText),
		Product:      text.Clean(q.Get("product"), maxText),
		CPU:          text.Clean(q.Get("cpu"), maxText),
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
	bare := strings.ToLower(strings.ReplaceAll(s, "-", ""))
	if strings.Trim(bare, "0") == "" || strings.Trim(bare, "f") == "" {
		return ""
	}
	return strings.ToLower(s)
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}
