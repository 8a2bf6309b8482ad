package layout

import (
	"cmp"
	"fmt"
	"strings"

	"clonecast/internal/image"
	"clonecast/internal/quantity"
)

// Note is what people should know of how a part of a disk is captured, and what they can do about it.
type Note struct {
	Text   string `json:"text"`
	Remedy string `json:"remedy,omitempty"`
}

func (n Note) String() string {
	if n.Remedy == "" {
		return n.Text
	}
	return n.Text + "; " + n.Remedy
}

// Notes tells of every partition that is not cloned by its allocation map why it is not.
func (l *Layout) Notes() []Note {
	var out []Note
	if len(l.Members) > 0 {
		out = append(out, Note{memberText(l.Members), memberRemedy})
	}
	for _, n := range l.Table.Notes {
		out = append(out, Note{Text: "table: " + n})
	}
	for i := range l.Partitions {
		p := &l.Partitions[i]
		switch p.Mode {
		case image.ModeClone:
			out = append(out, p.volumeNotes()...)
			out = append(out, p.wholeNotes()...)
		case image.ModeRaw, image.ModeFormat, image.ModeSkip:
			out = append(out, Note{p.modeText(), p.Remedy})
			out = append(out, p.volumeNotes()...)
		}
	}
	return out
}

func (p *Partition) modeText() string {
	switch {
	case p.Mode == image.ModeSkip:
		return fmt.Sprintf("partition %d is not captured, and a deploy leaves it as it is: %s", p.Number, p.Reason)
	case p.Mode == image.ModeFormat:
		return fmt.Sprintf("partition %d is stored as an empty %s, its files are not: %s", p.Number, p.Volume.Type, p.Reason)
	case p.Refuse:
		return fmt.Sprintf("partition %d is not captured unless forced: %s", p.Number, p.Reason)
	}
	return fmt.Sprintf("partition %d is copied block by block: %s", p.Number, p.Reason)
}

// volumeNotes says what is unusual about what it holds.
func (p *Partition) volumeNotes() []Note {
	var out []Note
	for _, n := range p.Volume.Notes {
		out = append(out, Note{Text: fmt.Sprintf("partition %d: %s", p.Number, n)})
	}
	return out
}

// wholeNotes says which volumes inside of a partition are not cloned, and why.
func (p *Partition) wholeNotes() []Note {
	var out []Note
	for _, part := range p.Volume.Whole {
		out = append(out, Note{fmt.Sprintf("partition %d: %s (%s) is copied block by block: %s", p.Number, part.Name,
			cmp.Or(part.Type, "unknown"), part.Doubt.Reason), Remedy(part.Doubt)})
	}
	return out
}

// DiscardNotes says of each partition what is allocated but not stored.
func (l *Layout) DiscardNotes() []string {
	var out []string
	for i := range l.Partitions {
		p := &l.Partitions[i]
		var what []string
		for _, d := range p.Discards() {
			what = append(what, fmt.Sprintf("%s (%v)", d.What, quantity.Total(d.Extents)))
		}
		if len(what) > 0 {
			out = append(out, fmt.Sprintf("partition %d: allocated, but not stored: %s", p.Number, strings.Join(what, ", ")))
		}
	}
	return out
}
