package machines

import (
	"cmp"
	"slices"
	"strings"

	"clonecast/internal/protocol"
)

// Kinds of evidence.
const (
	kindUUID   = "uuid"
	kindSerial = "serial"
	kindMAC    = "mac"
	kindDisk   = "disk"
)

// Evidence is what a PC says that tells it from others.
type Evidence struct {
	UUID, Serial string
	MACs, Disks  []string // disks by serial
}

// EvidenceOf takes the evidence out of facts.
func EvidenceOf(f protocol.Facts) Evidence {
	e := Evidence{UUID: f.UUID, Serial: f.Serial}
	for _, n := range f.NICs {
		e.MACs = append(e.MACs, n.MAC)
	}
	for _, d := range f.Disks {
		if !d.Removable {
			e.Disks = append(e.Disks, d.Serial)
		}
	}
	return e
}

// item is one piece of evidence in the form in which pieces are compared.
type item struct{ kind, value string }

// placeholders are what firmware says when nobody entered a serial number or UUID.
var placeholders = []string{
	"", "0", "none", "n/a", "na", "unknown", "default", "default string", "not specified", "not applicable",
	"to be filled by o.e.m.", "to be filled by oem", "system serial number", "chassis serial number",
	"serial number", "invalid", "empty", "oem", "o.e.m.", "0123456789", "123456789", "1234567890",
	"03000200-0400-0500-0006-000700080009", "12345678-1234-5678-90ab-cddeefaabbcc",
}

// normalize gives the form of a value that is compared, and whether it says anything.
func normalize(value string) (string, bool) {
	v := strings.ToLower(strings.Join(strings.Fields(value), " "))
	if slices.Contains(placeholders, v) ||
		strings.Trim(v, "0-:. ") == "" || strings.Trim(v, "f-:. ") == "" || strings.Trim(v, "x-:. ") == "" {
		return "", false
	}
	return v, true
}

// items lists the evidence, sorted, each piece once.
func (e Evidence) items() []item {
	var list []item
	add := func(kind string, values ...string) {
		for _, value := range values {
			if v, ok := normalize(value); ok {
				list = append(list, item{kind, v})
			}
		}
	}
	add(kindUUID, e.UUID)
	add(kindSerial, e.Serial)
	add(kindMAC, e.MACs...)
	add(kindDisk, e.Disks...)
	slices.SortFunc(list, func(a, b item) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.value, b.value))
	})
	return slices.Compact(list)
}

// weights say how much a kind of evidence counts when it agrees, each further time
// that it agrees, and when both sides have it and nothing agrees.
//
// They are chosen so that the cases in score_test.go come out right: one board serves
// as the anchor; a replaced disk or network card leaves a machine what it is; a MAC
// alone (a dock that wanders through the room) loses against any contradiction; and
// two PCs with the same firmware data stay two when their cards and disks differ.
var weights = map[string]struct{ agree, more, contradict int }{
	kindUUID:   {4, 0, -4},
	kindSerial: {3, 0, -3},
	kindMAC:    {3, 1, -3},
	kindDisk:   {2, 1, -2},
}

// enough is the score from which on a claim is taken to be a known machine; a
// machine that scores within lead of the best one makes the claim ambiguous.
const (
	enough = 3
	lead   = 2
)

// score compares a claim with what is known of a machine.
func score(claim, known []item) int {
	sum := 0
	for kind, w := range weights {
		var ours, theirs, common int
		for _, c := range claim {
			if c.kind == kind {
				ours++
				if slices.Contains(known, c) {
					common++
				}
			}
		}
		for _, k := range known {
			if k.kind == kind {
				theirs++
			}
		}
		switch {
		case common > 0:
			sum += w.agree + w.more*min(common-1, 2)
		case ours > 0 && theirs > 0:
			sum += w.contradict
		}
	}
	return sum
}

// candidate is a known machine with its evidence.
type candidate struct {
	id    string
	items []item
}

// choose finds the machine that made a claim. No id and no rivals: nobody is like it.
// rivals are machines that share evidence with the claim but are not it.
func choose(claim []item, known []candidate) (id string, rivals []string) {
	type scored struct {
		candidate
		score int
		exact bool
	}
	var list []scored
	for _, k := range known {
		list = append(list, scored{k, score(claim, k.items), slices.Equal(claim, k.items)})
		rivals = append(rivals, k.id)
	}
	slices.SortStableFunc(list, func(a, b scored) int {
		if a.exact != b.exact { // a machine that is exactly this claim ends every dispute
			if a.exact {
				return -1
			}
			return 1
		}
		return cmp.Compare(b.score, a.score)
	})
	if len(list) == 0 || list[0].score < enough {
		return "", rivals
	}
	if len(list) > 1 && !list[0].exact && list[0].score-list[1].score < lead {
		return "", rivals
	}
	id = list[0].id
	return id, slices.DeleteFunc(rivals, func(r string) bool { return r == id })
}
