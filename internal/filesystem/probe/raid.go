package probe

import "clonecast/internal/quantity"

// raids lists members of RAID arrays. The metadata of most stands in a disk's last sectors; blkid
// looks for those on whole disks only, here they count on partitions, too.
func raids(size quantity.Bytes) []kind {
	last := func(n quantity.Bytes) quantity.Bytes { return fromEnd(size, n) }
	md := holds("linux_raid_member", "Linux RAID member", raid0(size), raid1(0), raid1(4096), raid1(size&^0xfff-0x2000))
	md.uuid = raidUUID
	return []kind{
		md,
		holds("ddf_raid_member", "DDF RAID member", at(last(1), "\xde\x11\xde\x11"), at(last(257), "\xde\x11\xde\x11")),
		holds("isw_raid_member", "Intel RAID member",
			at(last(2), intelMagic), at((size/4096-2)*4096, intelMagic)),
		holds("lsi_mega_raid_member", "LSI RAID member", at(last(1), "$XIDE$")),
		holds("via_raid_member", "VIA RAID member", checked(last(1), via, "\x55\xaa")),
		holds("silicon_medley_raid_member", "Silicon Image RAID member",
			checked(last(1)+siliconMagic, silicon, "\x00\x00\x00\x2f")),
		holds("nvidia_raid_member", "NVIDIA RAID member", at(last(2), "NVIDIA  ")),
		holds("promise_fasttrack_raid_member", "Promise RAID member", promise(size)),
		holds("hpt45x_raid_member", "HighPoint RAID member", at(last(11), "\xf3\x16\x78\x5a", "\xfd\x16\x78\x5a")),
		holds("hpt37x_raid_member", "HighPoint RAID member", at(4640, "\xf0\x16\x78\x5a", "\xfd\x16\x78\x5a")),
		holds("adaptec_raid_member", "Adaptec RAID member", at(last(1), "\x37\xfc\x4d\x1e")),
		holds("jmicron_raid_member", "JMicron RAID member", at(last(1), "JM")),
	}
}

const intelMagic = "Intel Raid ISM Cfg Sig. "

// raidMagic is that of the Linux RAID superblock (kernel: md_p.h), little-endian.
const raidMagic = "\xfc\x4e\x2b\xa9"

// raid0 is the place of superblock version 0.90, in the byte order of the machine that wrote it.
func raid0(size quantity.Bytes) []place {
	return at(size&^0xffff-0x10000, raidMagic, "\xa9\x2b\x4e\xfc")
}

// raid1 is a place of superblock version 1, which says where it stands.
func raid1(offset quantity.Bytes) []place {
	return checked(offset, func(m mark) bool {
		return m.le32(4) == 1 && m.le64(0x90) == uint64(m.at/sector)
	}, raidMagic)
}

// raidUUID is the array's; version 0.90 keeps it in four words.
func raidUUID(m mark) string {
	if m.le32(4) != 1 {
		return ""
	}
	return uuid(m.bytes(16, 16))
}

func via(m mark) bool { return m.byte(2) <= 2 && m.sum8(0, 50) == m.byte(50) }

// siliconMagic is where the magic stands in the metadata.
const siliconMagic = 0x60

func silicon(m mark) bool {
	const diskNumber, checksum = 0x116, 0x13e
	m = m.move(-siliconMagic)
	return m.byte(diskNumber) < 8 && m.sum16(0, checksum)+m.le16(checksum) == 0
}

func promise(size quantity.Bytes) []place {
	var out []place
	for _, n := range []quantity.Bytes{16, 63, 255, 256, 399, 591, 675, 735, 911, 951, 974, 991, 3087} {
		out = append(out, at(fromEnd(size, n), "Promise Technology, Inc.")...)
	}
	return out
}
