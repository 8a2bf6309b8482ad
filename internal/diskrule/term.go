package diskrule

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"clonecast/internal/quantity"
)

// field is what a term looks at.
type field string

const (
	fieldSerial    field = "serial"
	fieldWWN       field = "wwn"
	fieldModel     field = "model"
	fieldBus       field = "bus"
	fieldRemovable field = "removable"
	fieldSize      field = "size"
	fieldInternal  field = onlyInternal

	onlyInternal = "only-internal"
)

// buses are the values of bus.
var buses = []string{"nvme", "sata", "usb", "virtio", "scsi", "mmc"}

// operators by field; longer ones first, as they are looked for in this order.
var operators = map[field][]string{
	fieldSerial: {"=", "~"}, fieldWWN: {"=", "~"}, fieldModel: {"=", "~"},
	fieldBus: {"="}, fieldRemovable: {"="}, fieldSize: {">=", "<=", ">", "<", "="},
}

// term is one condition.
type term struct {
	field    field
	operator string
	values   []pattern // of texts, buses and removable: any of them
	sizes    []sizeRange
	text     string // as written
}

// Parse reads a rule. The empty text is the zero Rule.
func Parse(s string) (Rule, error) {
	s = strings.TrimSpace(s)
	if s == "" {
		return Rule{}, nil
	}
	if len(s) > MaxLength {
		return Rule{}, fmt.Errorf("disk rule of %d bytes, at most %d are allowed", len(s), MaxLength)
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\uFFFD' }) {
		return Rule{}, fmt.Errorf("disk rule %q has characters that no disk has", s)
	}
	r := Rule{text: s}
	for _, word := range split(s, ',') {
		t, err := parseTerm(strings.TrimSpace(word))
		if err != nil {
			return Rule{}, fmt.Errorf("disk rule %q: %w", s, err)
		}
		r.terms = append(r.terms, t)
	}
	return r, nil
}

func parseTerm(word string) (term, error) {
	if word == onlyInternal {
		return term{field: fieldInternal, text: word}, nil
	}
	at := strings.IndexAny(word, "=~<>")
	if at < 0 {
		return term{}, fmt.Errorf("%q is no condition; one is %s, serial=…, wwn=…, model~…, size>=…, bus=… or removable=no",
			word, onlyInternal)
	}
	t := term{field: field(strings.TrimSpace(word[:at])), text: word}
	known := operators[t.field]
	if known == nil {
		return term{}, fmt.Errorf("unknown name %q; there are serial, wwn, model, size, bus and removable", t.field)
	}
	i := slices.IndexFunc(known, func(o string) bool { return strings.HasPrefix(word[at:], o) })
	if i < 0 {
		return term{}, fmt.Errorf("%s is compared with %s", t.field, strings.Join(known, " or "))
	}
	t.operator = known[i]
	for _, value := range split(word[at+len(t.operator):], '|') {
		if err := t.add(strings.TrimSpace(value)); err != nil {
			return term{}, err
		}
	}
	return t, nil
}

// add takes one alternative.
func (t *term) add(value string) error {
	p := parsePattern(value, t.operator == "~")
	if len(p) == 0 {
		return fmt.Errorf("%s%s has no value", t.field, t.operator)
	}
	switch t.field {
	case fieldSize:
		size, err := parseSize(value)
		if err != nil {
			return err
		}
		if len(t.sizes) > 0 && t.operator != "=" {
			return fmt.Errorf("%s: only size= takes alternatives", t.text)
		}
		t.sizes = append(t.sizes, size)
		return nil
	case fieldBus:
		if value == "ata" {
			p = parsePattern("sata", false) // the kernel's word
		}
		if !slices.ContainsFunc(buses, p.match) {
			return fmt.Errorf("unknown bus %q; there are %s", value, strings.Join(buses, ", "))
		}
	case fieldRemovable:
		if !p.match("yes") && !p.match("no") {
			return fmt.Errorf("removable is yes or no, not %q", value)
		}
	case fieldWWN:
		p = parsePattern(plainWWN(value), t.operator == "~")
	}
	t.values = append(t.values, p)
	return nil
}

// mismatch tells why d does not meet the term.
func (t term) mismatch(d Disk) string {
	text := map[field]string{fieldSerial: d.Serial, fieldModel: d.Model, fieldBus: d.Bus}[t.field]
	switch t.field {
	case fieldInternal:
		switch {
		case d.Bus == "usb":
			return "it is on USB"
		case d.Removable:
			return "it is removable"
		case d.ReadOnly:
			return "it is write-protected"
		}
		return ""
	case fieldSize:
		if !slices.ContainsFunc(t.sizes, func(r sizeRange) bool { return r.holds(d.Size, t.operator) }) {
			return fmt.Sprintf("its size of %d bytes is not %s", int64(d.Size), strings.TrimPrefix(t.text, "size"))
		}
		return ""
	case fieldRemovable:
		text = "no"
		if d.Removable {
			text = "yes"
		}
	case fieldWWN:
		text = plainWWN(d.WWN)
	}
	if slices.ContainsFunc(t.values, func(p pattern) bool { return p.match(text) }) {
		return ""
	}
	if text == "" {
		return fmt.Sprintf("it shows no %s", t.field)
	}
	return fmt.Sprintf("its %s is %s", t.field, text)
}

// sizeRange is a size as people say it: a disk sold as 2 TB has up to a thousandth more.
type sizeRange struct{ low, high quantity.Bytes }

func (r sizeRange) holds(size quantity.Bytes, operator string) bool {
	switch operator {
	case ">=":
		return size >= r.low
	case "<=":
		return size <= r.high
	case ">":
		return size > r.high
	case "<":
		return size < r.low
	}
	return size >= r.low && size <= r.high
}

// units of sizes. Only those in which disks are sold are ranges.
var units = map[string]struct {
	bytes float64
	sold  bool
}{
	"": {1, false}, "b": {1, false}, "k": {1e3, false}, "kb": {1e3, false}, "m": {1e6, false}, "mb": {1e6, false},
	"g": {1e9, true}, "gb": {1e9, true}, "t": {1e12, true}, "tb": {1e12, true},
	"kib": {1 << 10, false}, "mib": {1 << 20, false}, "gib": {1 << 30, false}, "tib": {1 << 40, false},
}

func parseSize(s string) (sizeRange, error) {
	at := strings.IndexFunc(s, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	if at < 0 {
		at = len(s)
	}
	unit, known := units[strings.ToLower(strings.TrimSpace(s[at:]))]
	number, err := strconv.ParseFloat(s[:at], 64)
	if !known || err != nil || number*unit.bytes > maxSize {
		return sizeRange{}, fmt.Errorf("size %q is no number with B, K, M, G, T, KiB, MiB, GiB or TiB", s)
	}
	n := quantity.Bytes(math.Round(number * unit.bytes))
	if unit.sold {
		return sizeRange{n, n + n/1000}, nil
	}
	return sizeRange{n, n}, nil
}

// maxSize is far beyond every disk, and far from an overflow.
const maxSize = 1 << 60

// plainWWN drops the prefixes that the kernel, udev and labels put before the number.
func plainWWN(s string) string {
	s = strings.ToLower(s)
	for _, prefix := range []string{"wwn-", "naa.", "eui.", "0x"} {
		s = strings.TrimPrefix(s, prefix)
	}
	return s
}

// split cuts s at separators that have no backslash before them; the backslashes stay.
func split(s string, separator byte) []string {
	var out []string
	start := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case separator:
			out = append(out, s[start:i])
			start = i + 1
		}
	}
	return append(out, s[start:])
}
