package probe

import (
	"math/bits"

	"clonecast/internal/quantity"
)

// readable lists the marks of the formats that have a reader. The readers look for them in Read;
// here they tell what lies behind a volume, and what a deploy wipes.
func readable(size quantity.Bytes) []kind {
	btrfs := named("btrfs", at(0x10040, btrfsMagic))
	btrfs.copies = append(at(64*quantity.MiB+0x40, btrfsMagic), at(256*quantity.GiB+0x40, btrfsMagic)...)
	f2fs := named("f2fs", at(0x400, f2fsMagic))
	f2fs.copies = at(0x1400, f2fsMagic)
	lvm := named("LVM2_member")
	for n := range quantity.Bytes(4) {
		lvm.places = append(lvm.places, at(n*sector, "LABELONE")...)
	}
	return []kind{
		named("ext4", checked(0x438, ext, extMagic)),
		named("xfs", at(0, xfsMagic)),
		named("ntfs", at(3, "NTFS    ")),
		named("exfat", at(3, "EXFAT   ")),
		fatBoot(), swapArea(), btrfs, f2fs, lvm,
	}
}

const (
	extMagic   = "\x53\xef"
	xfsMagic   = "XFSB"
	btrfsMagic = "_BHRfS_M"
	f2fsMagic  = "\x10\x20\xf5\xf2"
)

// ext tells whether the block size is one that can be.
func ext(m mark) bool { return m.le32(0x18-0x38) < 256 }

// swapArea knows swap areas, and the systems that hibernated into one.
func swapArea() kind {
	k := named("swap", at(0, "\xed\xc3\x02\xe9\x98\x56\xe5\x0c")) // TuxOnIce
	for page := quantity.Bytes(4096); page <= 65536; page *= 2 {
		k.places = append(k.places, checked(page-10, func(m mark) bool {
			m = m.move(1024 - m.at)
			return (m.le32(0) == 1 || m.be32(0) == 1) && m.le32(4) != 0
		}, "SWAPSPACE2")...)
		k.places = append(k.places, at(page-10, "SWAP-SPACE", "S1SUSPEND", "S2SUSPEND", "ULSUSPEND", "LINHIB0001")...)
	}
	return k
}

// fatBoot knows a boot sector of FAT as blkid does: by a name or, failing that, by the signature that
// all boot sectors have, and then by its numbers.
func fatBoot() kind {
	byName := func(m mark) bool { return fatNumbers(m.move(-m.at)) }
	bySignature := func(m mark) bool {
		m = m.move(-m.at)
		return !m.has(0x36, "JFS     ") && !m.has(0x36, "HPFS    ") && fatNumbers(m)
	}
	return named("vfat",
		checked(0x52, byName, "MSWIN", "FAT32   "),
		checked(0x36, byName, "MSDOS", "FAT16   ", "FAT12   ", "FAT     "),
		checked(0x1fe, bySignature, "\x55\xaa"),
	)
}

// fatNumbers tells whether a boot sector's numbers fit FAT. Less is asked for than by package fat.
func fatNumbers(m mark) bool {
	sector, cluster, reserved, fats := m.le16(0xb), m.byte(0xd), m.le16(0xe), m.byte(0x10)
	media, short, long := m.byte(0x15), m.le16(0x16), m.le32(0x24)
	if fats == 0 || reserved == 0 || media != 0xf0 && media < 0xf8 || bits.OnesCount8(cluster) != 1 ||
		bits.OnesCount16(sector) != 1 || sector < 512 || sector > 4096 {
		return false
	}
	total := uint32(m.le16(0x13))
	if total == 0 {
		total = m.le32(0x20)
	}
	fat := uint32(short)
	if fat == 0 {
		fat = long
	}
	root := (uint32(m.le16(0x11))*32 + uint32(sector) - 1) / uint32(sector)
	clusters := (total - (uint32(reserved) + fat*uint32(fats) + root)) / uint32(cluster) // wraps, as blkid's
	const most16, most32 = 0xfff4, 0x0ffffff6
	if short == 0 && long != 0 {
		return clusters <= most32 && fatInfo(m.move(quantity.Bytes(m.le16(0x30))*quantity.Bytes(sector)-m.at))
	}
	return clusters <= most16
}

// fatInfo tells whether the sector of FAT32 that counts free clusters has its signatures, or none.
func fatInfo(m mark) bool {
	const second, none = 484, "\x00\x00\x00\x00"
	return m.at == 0 || (m.has(0, "RRaA") || m.has(0, "RRdA") || m.has(0, none)) &&
		(m.has(second, "rrAa") || m.has(second, none))
}
