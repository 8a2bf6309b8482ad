// Package diskrule is the language in which people name a disk without its kernel name:
//
//	serial=S4EVNX0M123456
//	model~samsung*,size>=400G
//	bus=nvme|sata,size<=2T,removable=no
//	only-internal
//
// A rule is a list of terms joined by commas; a disk fits when every term holds. A rule
// that no disk fits, or more than one, names no disk: Choose refuses, it never guesses.
//
//	serial, wwn, model   =  equal, or ~ a pattern with * and ?; case does not matter
//	bus                  =  nvme, sata, usb, virtio, scsi or mmc
//	removable            =  yes or no
//	size                 >= <= > < =  with B, K, M, G, T (powers of 1000) or KiB, MiB, GiB,
//	                     TiB; with G and T a disk counts as what it is sold as: 2T also
//	                     means a disk that has up to a thousandth more
//	only-internal        not removable, not on USB, not write-protected
//
// Values may be alternatives joined by |. A backslash takes the meaning from the
// character behind it.
//
// An empty rule means only-internal. A rule does not reach a stick by accident: disks on
// USB count only if it says serial, wwn or bus; removable ones only if it says serial,
// wwn, bus or removable; write-protected ones only if it says serial or wwn.
package diskrule

import (
	"fmt"
	"strings"

	"clonecast/internal/quantity"
)

// MaxLength bounds the text of a rule in bytes.
const MaxLength = 1024

// Disk is what a rule can tell disks apart by.
type Disk struct {
	Name      string // kernel name; only shown, no rule can ask for it
	Model     string
	Serial    string
	WWN       string
	Bus       string // nvme, sata, usb, virtio, scsi, mmc or empty
	Size      quantity.Bytes
	Removable bool
	ReadOnly  bool
}

// String describes a disk by what is printed on it; the kernel's name comes last.
func (d Disk) String() string {
	model, serial := d.Model, d.Serial
	if model == "" {
		model = "disk without model"
	}
	if serial == "" {
		serial = "unknown"
	}
	text := fmt.Sprintf("%s, serial %s, %v", model, serial, d.Size)
	if d.Name != "" {
		text += " (" + d.Name + ")"
	}
	return text
}

// Rule names disks. The zero Rule is "only-internal".
type Rule struct {
	text  string
	terms []term
}

// String gives the rule as it was written.
func (r Rule) String() string {
	if r.text == "" {
		return onlyInternal
	}
	return r.text
}

// Mismatch tells why a disk does not fit, or is empty.
func (r Rule) Mismatch(d Disk) string {
	for _, t := range r.terms {
		if why := t.mismatch(d); why != "" {
			return why
		}
	}
	switch {
	case d.Bus == "usb" && !r.has(fieldSerial, fieldWWN, fieldBus):
		return "it is on USB, and the rule has no serial, wwn or bus"
	case d.Removable && !r.has(fieldSerial, fieldWWN, fieldBus, fieldRemovable):
		return "it is removable, and the rule has no serial, wwn, bus or removable"
	case d.ReadOnly && !r.has(fieldSerial, fieldWWN):
		return "it is write-protected, and the rule has no serial or wwn"
	}
	return ""
}

func (r Rule) has(fields ...field) bool {
	for _, t := range r.terms {
		for _, f := range fields {
			if t.field == f {
				return true
			}
		}
	}
	return false
}

// Choose gives the index of the one disk that fits the rule, or an *Error.
func (r Rule) Choose(disks []Disk) (int, error) {
	e := &Error{Rule: r}
	found := -1
	for i, d := range disks {
		why := r.Mismatch(d)
		if why == "" {
			e.Matches++
			found = i
		}
		e.Verdicts = append(e.Verdicts, Verdict{d, why})
	}
	if e.Matches != 1 {
		return -1, e
	}
	return found, nil
}

// Verdict is what a rule says of one disk.
type Verdict struct {
	Disk     Disk
	Mismatch string // empty: it fits
}

func (v Verdict) String() string {
	if v.Mismatch == "" {
		return v.Disk.String() + ": fits"
	}
	return v.Disk.String() + ": " + v.Mismatch
}

// Error reports a rule that does not name exactly one disk.
type Error struct {
	Rule     Rule
	Matches  int
	Verdicts []Verdict // of every disk
}

func (e *Error) Error() string {
	if len(e.Verdicts) == 0 {
		return "there is no disk"
	}
	var lines []string
	for _, v := range e.Verdicts {
		lines = append(lines, v.String())
	}
	count := "no disk fits"
	switch {
	case e.Matches == 1:
		count = "1 disk fits"
	case e.Matches > 1:
		count = fmt.Sprintf("%d disks fit", e.Matches)
	}
	return fmt.Sprintf("%s the rule %q: %s", count, e.Rule, strings.Join(lines, "; "))
}

// Hint says what to do.
func (e *Error) Hint() string {
	if len(e.Verdicts) == 0 {
		return "check the disk's cable and that the firmware shows it; " +
			"if it does, its controller's driver is missing in the hardware class"
	}
	return "name the disk by its serial number: serial=…"
}
