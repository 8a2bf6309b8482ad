package igmp

import (
	"encoding/hex"
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var everything = netip.IPv4Unspecified()

// TestQueries compares with messages whose checksums are worked out by hand; package querier
// reads those of a Linux bridge.
func TestQueries(t *testing.T) {
	for _, tc := range []struct {
		hex   string
		query Query
	}{
		{"1100eeff00000000", Query{Version: 1, MaxResponse: 100, Group: everything}},
		{"1164ee9b00000000", Query{Version: 2, MaxResponse: 100, Group: everything}},
		{"110afdf4efff0101", Query{Version: 2, MaxResponse: 10, Group: netip.MustParseAddr("239.255.1.1")}},
		{"1164ec1e00000000027d0000", Query{Version: 3, MaxResponse: 100, Group: everything, Robustness: 2, Interval: 125}},
		{"11ffde33000000000fcd0000", Query{
			Version: 3, MaxResponse: 31744, Group: everything, Suppress: true, Robustness: 7, Interval: 3712,
		}},
	} {
		raw, err := hex.DecodeString(tc.hex)
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(tc.query.Append(nil)); got != tc.hex {
			t.Errorf("%+v becomes %s, want %s", tc.query, got, tc.hex)
		}
		got, err := Parse(raw)
		if diff := cmp.Diff(tc.query, got, cmpopts.EquateComparable(netip.Addr{})); err != nil || diff != "" {
			t.Errorf("Parse(%s): %v %s", tc.hex, err, diff)
		}
		if got.General() != (tc.query.Group == everything) {
			t.Errorf("%+v: general is %v", got, got.General())
		}
	}
}

func TestRefused(t *testing.T) {
	sum := func(b ...byte) []byte {
		c := checksum(b)
		b[2], b[3] = byte(c>>8), byte(c)
		return b
	}
	for name, tc := range map[string]struct {
		b    []byte
		want error
	}{
		"nothing":                 {nil, ErrMalformed},
		"short":                   {make([]byte, 7), ErrMalformed},
		"a report":                {sum(0x16, 0, 0, 0, 239, 255, 1, 1), ErrNotQuery},
		"wrong checksum":          {[]byte{0x11, 100, 0xee, 0x9a, 0, 0, 0, 0}, ErrMalformed},
		"neither version 2 nor 3": {sum(0x11, 100, 0, 0, 0, 0, 0, 0, 0, 0), ErrMalformed},
		"a group that is none":    {sum(0x11, 100, 0, 0, 10, 0, 0, 1), ErrMalformed},
		"sources that are cut":    {sum(0x11, 100, 0, 0, 239, 1, 1, 1, 2, 125, 0, 2, 10, 0, 0, 1), ErrMalformed},
		"far too long":            {sum(append([]byte{0x11, 100, 0, 0}, make([]byte, 2000)...)...), ErrMalformed},
	} {
		if got, err := Parse(tc.b); !errors.Is(err, tc.want) || got != (Query{}) {
			t.Errorf("%s: %+v, %v, want %v", name, got, err, tc.want)
		}
	}
}

// TestCodes goes through all codes: what they stand for comes back as the same code.
func TestCodes(t *testing.T) {
	last := -1
	for code := range 256 {
		n := decode(byte(code))
		if n <= last {
			t.Errorf("code %d is %d, the one before %d", code, n, last)
		}
		if encode(n) != byte(code) || encode(n+1) != byte(code) && decode(encode(n+1)) != n+1 {
			t.Errorf("%d has code %d, want %d", n, encode(n), code)
		}
		last = n
	}
	if last != 31744 || encode(1<<30) != 255 || encode(-1) != 0 {
		t.Errorf("the largest code is %d", last)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(Query{Version: 2, MaxResponse: 100, Group: everything}.Append(nil))
	f.Add(Query{Version: 3, MaxResponse: 100, Group: everything, Robustness: 2, Interval: 125}.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := Parse(b)
		if err != nil {
			if q != (Query{}) {
				t.Fatalf("%v, and %+v", err, q)
			}
			return
		}
		if q.Sources > 0 {
			return // Append makes none
		}
		again, err := Parse(q.Append(nil))
		if err != nil || again != q {
			t.Fatalf("%+v becomes %+v, %v", q, again, err)
		}
	})
}
