package lvm

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

// maxLogicals is more logical volumes than a disk of a PC has.
const maxLogicals = 1024

// group is a volume group with one physical volume.
type group struct {
	name string
	*section
	at     quantity.Bytes // place of the text, for errors
	pvName string         // what segments call the physical volume
	pv     *section
	start  quantity.Bytes // of the first extent
	extent quantity.Bytes // size of an extent
	count  uint64         // of extents
}

// parseGroup reads the text of a volume group; only the first physical volume is looked at.
func parseGroup(text []byte, at quantity.Bytes) (*group, error) {
	root, err := parse(text)
	if err != nil {
		return nil, corrupt("metadata", at, err.Error())
	}
	if len(root.order) != 1 {
		return nil, corrupt("metadata", at, fmt.Sprintf("%d volume groups", len(root.order)))
	}
	g := &group{name: root.order[0], section: root.sections[root.order[0]], at: at}
	pvs := g.sections["physical_volumes"]
	if pvs == nil || len(pvs.order) == 0 {
		return nil, corrupt("metadata", at, "no physical volume")
	}
	g.pvName = pvs.order[0]
	g.pv = pvs.sections[g.pvName]
	extent, err := g.number("extent_size")
	start, err2 := g.pv.number("pe_start")
	count, err3 := g.pv.number("pe_count")
	if err := errors.Join(err, err2, err3); err != nil {
		return nil, corrupt("metadata", at, err.Error())
	}
	const most = math.MaxInt64 / sectorSize
	if extent == 0 || extent > most || start > most || count > (most-start)/extent {
		return nil, corrupt("metadata", at, fmt.Sprintf("%d extents of %d sectors from sector %d", count, extent,
			start))
	}
	g.start, g.extent, g.count = quantity.Bytes(start)*sectorSize, quantity.Bytes(extent)*sectorSize, count
	return g, nil
}

// States that change nothing in what the text says of places.
var (
	groupStates = []string{"RESIZEABLE", "READ", "WRITE"}
	pvStates    = []string{"ALLOCATABLE"}
	lvStates    = []string{"READ", "WRITE", "VISIBLE", "FIXED_MINOR"}
)

// doubt is what the text says against using the map; nil: nothing. uuid is the one of the
// physical volume that the text was read from.
func (g *group) doubt(uuid string) *filesystem.Doubt {
	if n := len(g.sections["physical_volumes"].order); n != 1 {
		return &filesystem.Doubt{Reason: fmt.Sprintf("one of %d physical volumes of volume group %s", n, g.name)}
	}
	if g.pv.str("id") != uuid {
		return &filesystem.Doubt{Reason: fmt.Sprintf("volume group %s has another physical volume", g.name)}
	}
	if t := g.str("lock_type"); t != "" && t != "none" {
		return &filesystem.Doubt{Reason: fmt.Sprintf("volume group %s is shared (%q)", g.name, t)}
	}
	for _, s := range []struct {
		what  string
		in    *section
		known []string
	}{{"volume group " + g.name, g.section, groupStates}, {"physical volume", g.pv, pvStates}} {
		if state := unknownState(s.in, s.known); state != "" {
			return &filesystem.Doubt{Reason: fmt.Sprintf("%s is %q", s.what, state)}
		}
	}
	return g.volumeDoubt()
}

// volumeDoubt looks for logical volumes that are more than rows of extents.
func (g *group) volumeDoubt() *filesystem.Doubt {
	lvs := g.sections["logical_volumes"]
	if lvs == nil {
		return nil
	}
	if len(lvs.order) > maxLogicals {
		return &filesystem.Doubt{Reason: fmt.Sprintf("%d logical volumes", len(lvs.order))}
	}
	for _, name := range lvs.order {
		lv := lvs.sections[name]
		if state := unknownState(lv, lvStates); state != "" {
			return &filesystem.Doubt{Reason: fmt.Sprintf("logical volume %s is %q", name, state)}
		}
		for _, segment := range lv.order {
			if t := lv.sections[segment].str("type"); t != "striped" && t != "linear" {
				return &filesystem.Doubt{Reason: fmt.Sprintf("logical volume %s is of type %q", name, t)}
			}
		}
	}
	return nil
}

// unknownState gives the first state or flag of a section that is not known to be harmless.
func unknownState(s *section, known []string) string {
	for _, state := range append(s.words("status"), s.words("flags")...) {
		if !slices.Contains(known, state) {
			return state
		}
	}
	return ""
}

// logicals gives the logical volumes, which must not share an extent.
func (g *group) logicals(r io.ReaderAt, size quantity.Bytes) ([]Logical, error) {
	if end := g.start + quantity.Bytes(g.count)*g.extent; end > size {
		return nil, corrupt("metadata", g.at, fmt.Sprintf("extents end at byte %d of %d", int64(end), int64(size)))
	}
	lvs := g.sections["logical_volumes"]
	if lvs == nil {
		return nil, nil
	}
	var out []Logical
	var all []quantity.Extent
	for _, name := range lvs.order {
		lv, err := g.logical(name, lvs.sections[name])
		if err != nil {
			return nil, corrupt("metadata", g.at, fmt.Sprintf("logical volume %s: %v", name, err))
		}
		lv.r = r
		out = append(out, lv)
		for _, s := range lv.segments {
			for _, start := range s.stripes {
				all = append(all, quantity.Extent{Start: start, Length: s.length / quantity.Bytes(len(s.stripes))})
			}
		}
	}
	slices.SortFunc(all, func(a, b quantity.Extent) int { return cmp.Compare(a.Start, b.Start) })
	for i := 1; i < len(all); i++ {
		if all[i-1].End() > all[i].Start {
			return nil, corrupt("metadata", g.at, fmt.Sprintf("two segments have byte %d", int64(all[i].Start)))
		}
	}
	return out, nil
}

// logical decodes the segments of a logical volume.
func (g *group) logical(name string, lv *section) (Logical, error) {
	out := Logical{Name: name}
	for n := 1; n <= len(lv.order); n++ {
		s := lv.sections[fmt.Sprintf("segment%d", n)]
		if s == nil {
			return out, fmt.Errorf("no segment%d", n)
		}
		decoded, err := g.segment(s)
		if err != nil {
			return out, fmt.Errorf("segment%d: %w", n, err)
		}
		if decoded.start != out.Size {
			return out, fmt.Errorf("segment%d begins at byte %d, want %d", n, int64(decoded.start), int64(out.Size))
		}
		out.segments = append(out.segments, decoded)
		out.Size += decoded.length
	}
	if out.Size == 0 {
		return out, errors.New("no extents")
	}
	return out, nil
}

func (g *group) segment(s *section) (segment, error) {
	first, err := s.number("start_extent")
	count, err2 := s.number("extent_count")
	stripes, err3 := s.number("stripe_count")
	if err := errors.Join(err, err2, err3); err != nil {
		return segment{}, err
	}
	list := s.values["stripes"].list
	if first > g.count || count == 0 || count > g.count || stripes == 0 || stripes > count || count%stripes != 0 ||
		uint64(len(list)) != 2*stripes {
		return segment{}, fmt.Errorf("%d extents from %d in %d stripes", count, first, stripes)
	}
	out := segment{start: quantity.Bytes(first) * g.extent, length: quantity.Bytes(count) * g.extent}
	if stripes > 1 {
		sectors, err := s.number("stripe_size")
		if err != nil {
			return segment{}, err
		}
		out.stripeSize = quantity.Bytes(min(sectors, uint64(g.extent))) * sectorSize
		if out.stripeSize < minStripe || g.extent%out.stripeSize != 0 {
			return segment{}, fmt.Errorf("stripes of %d sectors", sectors)
		}
	}
	for i := range stripes {
		at, err := list[2*i+1].number()
		if err != nil {
			return segment{}, err
		}
		if list[2*i].text != g.pvName || at > g.count || count/stripes > g.count-at {
			return segment{}, fmt.Errorf("%d extents from %d of %q", count/stripes, at, list[2*i].text)
		}
		out.stripes = append(out.stripes, g.start+quantity.Bytes(at)*g.extent)
	}
	return out, nil
}
