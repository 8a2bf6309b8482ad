package probe

import "clonecast/internal/quantity"

// fileSystems lists file systems that have no reader here, and the logs of those that have.
func fileSystems(size quantity.Bytes) []kind {
	return []kind{
		named("ReFS", at(0, "\x00\x00\x00ReFS\x00")),
		named("hfsplus", checked(0x400, hfsPlus, "H+", "HX"), checked(0x400, embedsHFSPlus, "BD")),
		named("hfs", checked(0x400, hfs, "BD")),
		named("apfs", at(32, "NXSB")),
		named("bcachefs", bcachefs(size)),
		named("squashfs", checked(0, squashfs4, "hsqs")),
		named("squashfs3", at(0, "sqsh"), checked(0, squashfs3, "hsqs")),
		named("iso9660", at(0x8001, "CD001"), at(0x8009, "CDROM")),
		named("udf", at(0x8001, "BEA01", "BOOT2", "CDW02", "NSR02", "NSR03", "TEA01")),
		named("jfs", at(0x8000, "JFS1")),
		named("reiserfs",
			at(0x10034, "ReIsErFs", "ReIsEr2Fs", "ReIsEr3Fs"), at(0x2034, "ReIsErFs"), at(0x2014, "ReIsErFs")),
		named("reiser4", at(0x10000, "ReIsEr4")),
		named("ufs", ufs()),
		named("hpfs", at(0x2000, "\x49\xe8\x95\xf9")),
		named("sysv", sysv()),
		named("xenix", at(0x800, "\x2b\x55\x44", "\x44\x55\x2b")),
		named("cramfs", at(0, "\x45\x3d\xcd\x28", "\x28\xcd\x3d\x45")),
		named("romfs", at(0, "-rom1fs-")),
		named("scoutfs_meta", checked(0x10004, scoutfsMeta, scoutfsMagic)),
		named("scoutfs_data", checked(0x10004, scoutfsData, scoutfsMagic)),
		named("minix", minix()),
		named("gfs2", checked(0x10000, gfs2, gfsMagic)),
		named("gfs", checked(0x10000, gfs, gfsMagic)),
		named("ocfs", at(0x2000, "OracleCFS"), at(0x2008, "OracleCFS")), // blkid's place, and OCFS's
		named("ocfs2", at(0x400, "OCFSV2"), at(0x800, "OCFSV2"), at(0x1000, "OCFSV2"), at(0x2000, "OCFSV2")),
		named("vxfs", at(0x400, "\xf5\xfc\x01\xa5"), at(0x2000, "\xa5\x01\xfc\xf5")),
		named("nss", at(0x1000, "SPB5")),
		named("ubifs", at(0, "\x31\x18\x10\x06")),
		named("bfs", at(0, "\xce\xfa\xad\x1b")),
		named("befs", at(0x20, "BFS1", "1SFB"), at(0x220, "BFS1", "1SFB")),
		named("VMFS", at(2*quantity.MiB, "\x5e\xf1\xab\x2f")),
		named("nilfs2", checked(0x406, nilfs2, "\x34\x34"), checked(fromEnd(size, 8)+6, nilfs2, "\x34\x34")),
		named("exfs", at(0, "EXFS")),
		named("zonefs", at(0, "SFOZ")),
		named("erofs", at(0x400, "\xe2\xe1\xf5\xe0")),
		named("xfs_external_log", xfsLog()),
	}
}

const (
	scoutfsMagic = "\x8b\x42\x3c\x10"
	gfsMagic     = "\x01\x16\x19\x70"
)

// hfs tells whether the allocation block size is one that HFS has: its mark of
// two letters alone is too common.
func hfs(m mark) bool {
	return m.be32(0x14) != 0 && m.be32(0x14)%512 == 0 && !m.has(0x7c, "H+") && !m.has(0x7c, "HX")
}

// embedsHFSPlus knows an HFS that is a mere wrapper.
func embedsHFSPlus(m mark) bool { return m.has(0x7c, "H+") || m.has(0x7c, "HX") }

func hfsPlus(m mark) bool { return m.be32(0x28) >= 512 } // block size

func bcachefs(size quantity.Bytes) []place {
	const magic = bcacheMagic + "\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef"
	return append(append(at(0x1018, magic), at(2*quantity.MiB+0x18, magic)...), at(size-quantity.MiB+0x18, magic)...)
}

func squashfs4(m mark) bool { return m.le16(28) >= 4 }
func squashfs3(m mark) bool { return m.le16(28) < 4 }

func scoutfsMeta(m mark) bool { return m.le64(48-4)&1 != 0 }
func scoutfsData(m mark) bool { return !scoutfsMeta(m) }

// ufs gives the places of the magic in the superblock of UFS1 and UFS2 and their kin, in both byte
// orders.
func ufs() []place {
	const inSuperblock = 0x55c
	var out []place
	for _, superblock := range []quantity.Bytes{0, 8 << 10, 64 << 10, 256 << 10} {
		for _, m := range []string{
			"\x19\x54\x01\x19", "\x00\x01\x19\x54", "\x00\x19\x56\x12",
			"\x00\x09\x50\x14", "\x00\x61\x21\x95", "\x05\x23\x19\x94",
		} {
			out = append(out, at(superblock+inSuperblock, m, string([]byte{m[3], m[2], m[1], m[0]}))...)
		}
	}
	return out
}

func sysv() []place {
	const inSuperblock = 0x1f8
	var out []place
	for _, block := range []quantity.Bytes{0, 9, 15, 18} {
		out = append(out, at(block*1024+512+inSuperblock, "\x20\x7e\x18\xfd", "\xfd\x18\x7e\x20")...)
	}
	return out
}

// minix gives the marks of versions 1 and 2, with names of 14 and 30 letters, and of 3.
func minix() []place {
	little := minix12(mark.le16, mark.le32, "\x7f\x13", "\x8f\x13")
	big := minix12(mark.be16, mark.be32, "\x13\x7f", "\x13\x8f")
	out := checked(0x410, little, "\x7f\x13", "\x8f\x13", "\x68\x24", "\x78\x24")
	out = append(out, checked(0x410, big, "\x13\x7f", "\x13\x8f", "\x24\x68", "\x24\x78")...)
	out = append(out, checked(0x418, minix3(mark.le16, mark.le32), "\x5a\x4d")...)
	return append(out, checked(0x418, minix3(mark.be16, mark.be32), "\x4d\x5a")...)
}

type (
	u16 func(m mark, off quantity.Bytes) uint16
	u32 func(m mark, off quantity.Bytes) uint32
)

// minix12 checks a superblock of version 1 or 2: its magic stands at byte 16 of it.
func minix12(u16 u16, u32 u32, version1 ...string) func(m mark) bool {
	return func(m mark) bool {
		m = m.move(-0x10)
		zones := uint64(u32(m, 0x14))
		if m.has(0x10, version1[0]) || m.has(0x10, version1[1]) {
			zones = uint64(u16(m, 2))
		}
		return u16(m, 0x12)&^3 == 0 && minixSizes(m, uint64(u16(m, 0)), zones, u16(m, 4), u16(m, 6), u16(m, 8), u16(m, 0xa))
	}
}

// minix3 checks a superblock of version 3: its magic stands at byte 24 of it.
func minix3(u16 u16, u32 u32) func(m mark) bool {
	return func(m mark) bool {
		m = m.move(-0x18)
		return minixSizes(m, uint64(u32(m, 0)), uint64(u32(m, 0x14)), u16(m, 6), u16(m, 8), u16(m, 0xa), u16(m, 0xc))
	}
}

// minixSizes tells whether the bitmaps, counted in blocks, have room for inodes and zones. The
// superblocks of ext and EROFS can look so, too.
func minixSizes(m mark, inodes, zones uint64, inodeMap, zoneMap, firstZone, logZone uint16) bool {
	const bits = 8 * 1024
	return logZone == 0 && inodes != 0 && uint64(inodeMap)*bits >= inodes+1 &&
		uint64(firstZone) <= zones && uint64(zoneMap)*bits >= zones-uint64(firstZone)+1 &&
		!m.has(0x38, extMagic) && !m.has(0, "\xe2\xe1\xf5\xe0")
}

func gfs2(m mark) bool {
	return m.be32(24)/100 == 18 && m.be32(28)/100 == 19
}

func gfs(m mark) bool { return m.be32(24) == 1309 && m.be32(28) == 1401 }

// nilfs2 verifies a superblock's checksum; the magic stands at byte 6 of it.
func nilfs2(m mark) bool {
	m = m.move(-6)
	const length, seed, checksum, behind, longest = 8, 12, 16, 20, 1024
	n := quantity.Bytes(m.le16(length))
	if n < behind || n > longest {
		return false
	}
	b := m.bytes(0, n)
	clear(b[checksum:behind])
	return rawCRC32(m.le32(seed), b) == m.le32(checksum)
}

// xfsLog gives the places of the records of a log that XFS keeps on a device of its own: each
// sector of the first 256 KiB.
func xfsLog() []place {
	var out []place
	for off := quantity.Bytes(0); off < 256*quantity.KiB; off += sector {
		out = append(out, checked(off, xfsLogRecord, "\xfe\xed\xba\xbe")...)
	}
	return out
}

// xfsLogRecord tells whether a record's header has a known version and format and a length, and is
// not part of an XFS with its log inside.
func xfsLogRecord(m mark) bool {
	const version, length, format = 8, 12, 300
	v, n, f := m.be32(version), int32(m.be32(length)), m.be32(format)
	if v == 0 || v > 3 || n <= 0 || f == 0 || f > 3 {
		return false
	}
	for off := -m.at; off <= 0; off += sector {
		if m.has(off, xfsMagic) {
			return false
		}
	}
	return true
}
