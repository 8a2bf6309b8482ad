package lvm

import (
	"io"

	"clonecast/internal/filesystem"
	"clonecast/internal/filesystem/swap"
	"clonecast/internal/quantity"
)

// hibernation looks for a hibernated system in the logical volumes of a group of which no map is
// given: in all that begin on this physical volume, whatever they are made of behind their first
// extent. uuid is the physical volume's. What does not fit or cannot be read is passed over.
func (g *group) hibernation(r io.ReaderAt, size quantity.Bytes, uuid string) *filesystem.Doubt {
	lvs := g.sections["logical_volumes"]
	if lvs == nil || len(lvs.order) > maxLogicals {
		return nil
	}
	for _, name := range lvs.order {
		at, ok := g.firstByte(lvs.sections[name], uuid)
		if !ok || at > size-swap.MaxHeader {
			continue
		}
		head := make([]byte, swap.MaxHeader)
		if filesystem.ReadFull(r, head, at) == nil && swap.HoldsSystem(head) {
			return swap.Hibernated("logical volume " + name)
		}
	}
	return nil
}

// firstByte gives where a logical volume begins, if that is on the physical volume of a UUID.
func (g *group) firstByte(lv *section, uuid string) (quantity.Bytes, bool) {
	first := lv.sections["segment1"]
	if first == nil {
		return 0, false
	}
	list := first.values["stripes"].list
	pvs := g.sections["physical_volumes"]
	if start, err := first.number("start_extent"); err != nil || start != 0 || len(list) < 2 {
		return 0, false
	}
	pv := pvs.sections[list[0].text]
	if pv == nil || pv.str("id") != uuid {
		return 0, false
	}
	extent, err := list[1].number()
	start, err2 := pv.number("pe_start")
	most := uint64(maxDevice / g.extent)
	if err != nil || err2 != nil || extent > most || start > maxDevice/sectorSize {
		return 0, false
	}
	return quantity.Bytes(start)*sectorSize + quantity.Bytes(extent)*g.extent, true
}

// maxDevice is more than any device has; it keeps the arithmetic from overflowing.
const maxDevice = 1 << 60
