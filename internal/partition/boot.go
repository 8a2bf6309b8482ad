package partition

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"slices"

	"clonecast/internal/quantity"
)

// How much of a gap boot code can use. Bytes of deleted partitions may lie there as well, and those
// are nobody's business.
const (
	// BootUsual: the first MiB of the disk, where partitions begin by custom. In it lies all that
	// PCs boot from: GRUB's core image (458752 bytes at most, GRUB's util/setup.c), LILO, SYSLINUX,
	// disk encryption and disk managers (the first 63 sectors).
	BootUsual = quantity.MiB

	// BootBoards: where the boot loaders of boards with ARM and RISC-V processors end, which
	// their ROM looks for at fixed places of the disk: Allwinner's at 8 or 128 KiB, i.MX' at 1,
	// 32 or 33 KiB, Rockchip's at 32 KiB with U-Boot at 8 MiB and the secure world at 12 MiB.
	BootBoards = 16 * quantity.MiB

	// bootImages: where kernels for U-Boot still stand outside of partitions (Layerscape).
	bootImages = 64 * quantity.MiB

	// bootTrack is what boot code behind an EBR can use at least, even where the first MiB ends.
	bootTrack = 64 * quantity.KiB

	// bootStep is how far apart images of U-Boot are looked for.
	bootStep = 64 * quantity.KiB
	// maxTree is more than a tree has whose images stand behind it.
	maxTree = quantity.MiB
	// bootBlock is what their lengths are rounded up to.
	bootBlock = 4 * quantity.KiB
	// maxBootImages bounds the areas that they become.
	maxBootImages = 64
)

// LimitBoot cuts the boot areas, which are whole gaps before, down to what boot code can use:
//
//	the first MiB of the disk, and of each gap behind an EBR
//	the first 16 MiB, of a gap that ends there, or that holds a board's boot loader
//	images of U-Boot up to 64 MiB, if their headers are sound
//	the first asked bytes of the disk, whatever they are
//
// A note says what is left out.
func (t *Table) LimitBoot(r io.ReaderAt, asked quantity.Bytes) {
	var gaps []quantity.Extent
	for _, a := range t.Areas {
		if a.Kind == AreaBoot {
			gaps = append(gaps, quantity.Extent{Start: a.Start, Length: a.Length})
		}
	}
	far := slices.ContainsFunc(gaps, func(g quantity.Extent) bool {
		return g.Start < BootBoards && g.End() > BootBoards
	})
	board := far && slices.ContainsFunc(gaps, func(g quantity.Extent) bool { return hasBoardLoader(r, g) })
	var areas []Area
	for _, a := range t.Areas {
		if a.Kind != AreaBoot {
			areas = append(areas, a)
			continue
		}
		gap := quantity.Extent{Start: a.Start, Length: a.Length}
		used := bootUse(r, gap, board, asked)
		for _, e := range used {
			areas = append(areas, Area{Kind: AreaBoot, Start: e.Start, Length: e.Length})
		}
		if left := gap.Length - quantity.Total(used); left > 0 {
			t.Notes = append(t.Notes, fmt.Sprintf(
				"%v between byte %d and %d are no partition's and no boot loader's that is known: they are left out",
				left, int64(used[0].End()), int64(gap.End())))
		}
	}
	t.Areas = areas
}

// bootUse gives what of a gap is stored, normalized.
func bootUse(r io.ReaderAt, gap quantity.Extent, board bool, asked quantity.Bytes) []quantity.Extent {
	end := gap.Start + BootUsual
	if gap.Start < BootUsual {
		end = max(BootUsual, gap.Start+bootTrack)
	}
	if gap.End() <= BootBoards || board {
		end = max(end, BootBoards)
	}
	end = min(max(end, asked), gap.End())
	used := []quantity.Extent{{Start: gap.Start, Length: end - gap.Start}}
	limit := min(gap.End(), bootImages)
	for at := (end + bootStep - 1) / bootStep * bootStep; at < limit && len(used) < maxBootImages; at += bootStep {
		if n := bootImage(r, at); n > 0 {
			n = (n + bootBlock - 1) / bootBlock * bootBlock
			used = append(used, quantity.Extent{Start: at, Length: min(n, limit-at)})
		}
	}
	return quantity.Normalize(used)
}

// bootMark is what the ROM of a processor looks for at a place of the disk.
type bootMark struct {
	at   quantity.Bytes
	mark string
}

// bootMarks lists the marks of boot loaders (U-Boot's tools/*image.h and doc/board).
var bootMarks = []bootMark{
	{8*quantity.KiB + 4, "eGON.BT0"}, {128*quantity.KiB + 4, "eGON.BT0"}, // Allwinner
	{8 * quantity.KiB, "TOC0.GLH"}, {128 * quantity.KiB, "TOC0.GLH"}, // the same, signed
	{32 * quantity.KiB, "\x3b\x8c\xdc\xfc"}, {32 * quantity.KiB, "RKNS"}, {32 * quantity.KiB, "RKSS"}, // Rockchip
	{quantity.KiB, "\xd1\x00\x20\x40"}, {quantity.KiB, "\xd1\x00\x20\x41"}, // i.MX 6 and 7
	{32 * quantity.KiB, "\xd1\x00\x20\x41"}, {33 * quantity.KiB, "\xd1\x00\x20\x41"}, // i.MX 8M
	{512 + 16, "@AML"},                                                             // Amlogic
	{4 * quantity.KiB, "\xaa\x55\xaa\x55"}, {4 * quantity.KiB, "\x55\xaa\x55\xaa"}, // Layerscape
	{128*quantity.KiB + 20, "CHSETTINGS"}, {256*quantity.KiB + 20, "CHSETTINGS"}, // OMAP
}

// hasBoardLoader tells whether a board's boot loader lies in a gap. What cannot be read is none:
// the board would not start from it.
func hasBoardLoader(r io.ReaderAt, gap quantity.Extent) bool {
	inGap := func(at, n quantity.Bytes) bool { return at >= gap.Start && at+n <= gap.End() }
	if slices.ContainsFunc(bootMarks, func(m bootMark) bool {
		n := quantity.Bytes(len(m.mark))
		b, err := ReadFull(r, m.at, len(m.mark))
		return inGap(m.at, n) && err == nil && string(b) == m.mark
	}) {
		return true
	}
	for at := quantity.Bytes(0); at < BootBoards; at += bootStep {
		if inGap(at, bootStep) && bootImage(r, at) > 0 {
			return true
		}
	}
	return false
}

// bootImage gives the length of the U-Boot image at a place; 0: there is none. Known are its old
// format (U-Boot's include/image.h, struct legacy_img_hdr), with a checksum, and the device tree
// that newer ones begin with (Devicetree Specification, "Header"). Where a tree says that its images
// stand behind it, all the room for them counts.
func bootImage(r io.ReaderAt, at quantity.Bytes) quantity.Bytes {
	const header, legacy, tree = 64, 0x27051956, 0xd00dfeed
	b, err := ReadFull(r, at, header)
	if err != nil {
		return 0
	}
	word := func(i int) uint32 { return binary.BigEndian.Uint32(b[4*i:]) }
	switch word(0) {
	case legacy:
		sum := word(1)
		clear(b[4:8])
		if crc32.ChecksumIEEE(b) == sum {
			return header + quantity.Bytes(word(3))
		}
	case tree:
		size, structure, strings, version, oldest := word(1), word(2), word(3), word(5), word(6)
		if structure >= size || strings >= size || version < oldest || oldest < 16 || version > 255 {
			return 0
		}
		if quantity.Bytes(size) > maxTree { // it holds the images itself
			return quantity.Bytes(size)
		}
		b, err := ReadFull(r, at, int(size))
		if err != nil || bytes.Contains(b, []byte("data-size\x00")) {
			return max(quantity.Bytes(size), bootImages-at)
		}
		return quantity.Bytes(size)
	}
	return 0
}
