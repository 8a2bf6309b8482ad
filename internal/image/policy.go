package image

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Policies are the modes that an operator wants for partitions: by disk, counted from 0,
// and partition number.
type Policies map[int]map[int]Mode

// policyModes are the modes that can be asked for.
var policyModes = []Mode{ModeClone, ModeRaw, ModeFormat, ModeSkip}

// ParsePolicies reads policies as people write them: "3=skip", "3=skip,5=raw", or with the
// disk in front, counted from 1: "2:3=skip". A partition can be named once.
func ParsePolicies(list []string) (Policies, error) {
	out := Policies{}
	for _, text := range list {
		for _, word := range strings.Split(text, ",") {
			if err := out.add(strings.TrimSpace(word)); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

func (p Policies) add(word string) error {
	place, mode, _ := strings.Cut(word, "=")
	first, number, several := strings.Cut(place, ":")
	if !several {
		first, number = "1", place
	}
	disk, errDisk := strconv.Atoi(first)
	partition, errPartition := strconv.Atoi(number)
	if errDisk != nil || errPartition != nil || disk < 1 || disk > maxDisks || partition < 0 ||
		!slices.Contains(policyModes, Mode(mode)) {
		return fmt.Errorf("policy %q is not of the form 3=skip or 2:3=skip; there are clone, raw, format and skip", word)
	}
	if p[disk-1] == nil {
		p[disk-1] = map[int]Mode{}
	}
	if _, twice := p[disk-1][partition]; twice {
		return fmt.Errorf("policy %q: partition %s has one already", word, place)
	}
	p[disk-1][partition] = Mode(mode)
	return nil
}
