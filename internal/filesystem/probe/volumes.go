package probe

import (
	"hash/crc32"

	"clonecast/internal/quantity"
)

// volumes lists parts of volume managers, caches and stores that are no file system.
func volumes(size quantity.Bytes) []kind {
	drbd := []string{"\x83\x74\x02\x6b", "\x83\x74\x02\x6c", "\x83\x74\x02\x6d"} // 8, 8.4 not shut down, 9
	const drbdBlock, drbdMagic = 4096, 0x3c
	return []kind{
		holds("drbd", "DRBD", at(size-drbdBlock+drbdMagic, drbd...), at(size&^(drbdBlock-1)-drbdBlock+drbdMagic, drbd...)),
		holds("drbdmanage_control_volume", "DRBD Manage", at(0, "$DRBDmgr=q")),
		holds("drbdproxy_datalog", "DRBD Proxy", at(0, "DRBDdlh*")),
		holds("bcache", "bcache", at(0x1018, bcacheMagic+"\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81")),
		holds("LVM1_member", "LVM1 physical volume", checked(0, lvm1, "HM")),
		holds("DM_snapshot_cow", "device-mapper snapshot", at(0, "SnAp")),
		holds("vdo", "VDO", at(0, "dmvdo001")),
		holds("stratis", "Stratis", at(512+4, stratisMagic), at(4608+4, stratisMagic)),
		holds("VMFS_volume_member", "VMFS volume member", at(quantity.MiB, "\x0d\xd0\x01\xc0")),
		holds("ubi", "UBI", at(0, "UBI#")),
		zfsLabel(size), zfsUberblocks(size),
		holds("ceph_bluestore", "Ceph BlueStore", at(0, "bluestore block device")),
		holds("oracleasm", "Oracle ASM", at(32, "ORCLDISK")),
		holds("mpool", "mpool", at(0, "mpoolDev")),
		gpt(size),
	}
}

const (
	bcacheMagic  = "\xc6\x85\x73\xf6" // how those of bcache and bcachefs begin
	stratisMagic = "!Stra0tis\x86\xff\x02^\x41rh"
)

func lvm1(m mark) bool { return m.le16(2) == 1 || m.le16(2) == 2 }

// The four labels of a ZFS pool's member, two at each end, hold a list of names and values and an
// array of uberblocks.
const (
	zfsLabelSize   = 256 * quantity.KiB
	zfsListAt      = 16 * quantity.KiB
	zfsUberblockAt = 128 * quantity.KiB
	zfsUberblock   = quantity.KiB
)

func zfsLabels(size quantity.Bytes) []quantity.Bytes {
	end := size &^ (zfsLabelSize - 1)
	return []quantity.Bytes{0, zfsLabelSize, end - 2*zfsLabelSize, end - zfsLabelSize}
}

// zfsLabel goes by the list, as newer blkids do.
func zfsLabel(size quantity.Bytes) kind {
	k := holds("zfs_member", "ZFS pool member")
	for _, start := range zfsLabels(size) {
		// Encoding XDR, byte order of the machine, and the list's version.
		k.places = append(k.places, checked(start+zfsListAt, zfsList,
			"\x01\x01\x00\x00\x00\x00\x00\x00", "\x01\x00\x00\x00\x00\x00\x00\x00")...)
	}
	return k
}

// zfsList tells whether a list's first pair has a size and a name.
func zfsList(m mark) bool {
	const pairSize, nameLength, name, longest = 12, 20, 24, 64
	n := m.be32(nameLength)
	if m.be32(pairSize) == 0 || n == 0 || n > longest {
		return false
	}
	for _, c := range m.bytes(name, quantity.Bytes(n)) {
		if (c < 'a' || c > 'z') && c != '_' {
			return false
		}
	}
	return true
}

// zfsUberblocks goes by the uberblocks, of which blkid wants four.
func zfsUberblocks(size quantity.Bytes) kind {
	k := holds("zfs_member", "ZFS pool member")
	k.most = 4
	for _, start := range zfsLabels(size) {
		for off := start + zfsUberblockAt; off < start+zfsLabelSize; off += zfsUberblock {
			k.places = append(k.places,
				at(off, "\x0c\xb1\xba\x00\x00\x00\x00\x00", "\x00\x00\x00\x00\x00\xba\xb1\x0c")...)
		}
	}
	return k
}

// gpt is a partition table inside of a partition, as an image of a whole disk brings it.
func gpt(size quantity.Bytes) kind {
	const magic = "EFI PART"
	k := holds("gpt", "partition table", checked(512, gptHeader, magic), checked(4096, gptHeader, magic))
	k.copies = append(at(size-512, magic), at(size-4096, magic)...)
	return k
}

func gptHeader(m mark) bool {
	const length, checksum, lba = 12, 16, 24
	n := m.le32(length)
	if n < 92 || n > 512 || m.le64(lba) != 1 {
		return false
	}
	b := m.bytes(0, quantity.Bytes(n))
	clear(b[checksum : checksum+4])
	return crc32.ChecksumIEEE(b) == m.le32(checksum)
}
