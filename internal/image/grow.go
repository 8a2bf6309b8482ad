package image

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Grow names partitions that take the free room behind them on the target: by disk,
// counted from 0.
type Grow map[int]GrowDisk

// GrowDisk names partitions of one disk.
type GrowDisk struct {
	Last    bool // the last one that is neither swap nor Windows' recovery
	Numbers []int
}

// ParseGrow reads what people write: "last", "3", "2,3", or with the disk in front, counted
// from 1: "1:last,2:3". The empty string names nothing. A partition can be named once.
func ParseGrow(text string) (Grow, error) {
	out := Grow{}
	if text == "" {
		return out, nil
	}
	for _, word := range strings.Split(text, ",") {
		if err := out.add(strings.TrimSpace(word)); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (g Grow) add(word string) error {
	first, partition, several := strings.Cut(word, ":")
	if !several {
		first, partition = "1", word
	}
	disk, err := strconv.Atoi(first)
	if err != nil || disk < 1 || disk > maxDisks {
		return fmt.Errorf("grow %q: the disk is not a number from 1 to %d", word, maxDisks)
	}
	d := g[disk-1]
	number, err := strconv.Atoi(partition)
	switch {
	case d.Last || partition == "last" && len(d.Numbers) > 0 || slices.Contains(d.Numbers, number) && err == nil:
		return fmt.Errorf("grow %q: the disk has something to grow already", word)
	case partition == "last":
		d.Last = true
	case err != nil || number < 0 || number > 1<<20:
		return fmt.Errorf("grow %q is neither \"last\" nor a partition's number", word)
	default:
		d.Numbers = append(d.Numbers, number)
	}
	g[disk-1] = d
	return nil
}
