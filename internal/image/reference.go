package image

import (
	"fmt"
	"strconv"
	"strings"
)

// ParseReference reads IMAGE or IMAGE@VERSION, VERSION being the sequence number. The
// sequence is 0, the newest, when none is given.
func ParseReference(ref string) (name string, sequence uint64, err error) {
	name, number, given := strings.Cut(ref, "@")
	if err := CheckName(name); err != nil {
		return "", 0, err
	}
	if !given {
		return name, 0, nil
	}
	sequence, err = strconv.ParseUint(number, 10, 64)
	if err != nil || sequence == 0 {
		return "", 0, fmt.Errorf("version %q of image %s: want a number from 1 on", number, name)
	}
	return name, sequence, nil
}
