package probe

import (
	"encoding/binary"

	"clonecast/internal/quantity"
)

const (
	btrfsMagic = "_BHRfS_M"
	f2fsMagic  = "\x10\x20\xf5\xf2"
)

func fileSystems() []kind {
	return []kind{
		{name: "ReFS", doubt: noMap("ReFS"), places: []place{{magic: "\x00\x00\x00ReFS\x00"}}},
		{
			name: "hfsplus", doubt: noMap("hfsplus"),
			places: []place{{offset: 0x400, magic: "H+\x00\x04"}, {offset: 0x400, magic: "HX\x00\x05"}},
		},
		{name: "hfs", doubt: noMap("hfs"), places: []place{{offset: 0x400, magic: "BD", check: hfs}}},
		{name: "apfs", doubt: noMap("apfs"), places: []place{{offset: 32, magic: "NXSB"}}},
		{
			name: "bcachefs", doubt: noMap("bcachefs"),
			places: []place{{offset: 0x1018, magic: "\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef"}},
		},
		{name: "squashfs", doubt: noMap("squashfs"), places: []place{{magic: "hsqs"}}},
		{name: "iso9660", doubt: noMap("iso9660"), places: []place{{offset: 0x8001, magic: "CD001"}}},
		{name: "udf", doubt: noMap("udf"), places: []place{{offset: 0x8001, magic: "BEA01"}}},
		{name: "jfs", doubt: noMap("jfs"), places: []place{{offset: 0x8000, magic: "JFS1"}}},
		{name: "reiserfs", doubt: noMap("reiserfs"), places: []place{
			{offset: 0x10034, magic: "ReIsErFs"}, {offset: 0x10034, magic: "ReIsEr2Fs"}, {offset: 0x10034, magic: "ReIsEr3Fs"},
		}},
	}
}

// hfs tells whether the allocation block size is one that HFS has: its mark of
// two letters alone is too common.
func hfs(at func(off, n quantity.Bytes) []byte) bool {
	size := binary.BigEndian.Uint32(at(0x14, 4))
	return size != 0 && size%512 == 0
}

// markers lists marks that do not name a format in Read (a reader looks closer,
// or they are copies, or a partition table's), but that another program's probe
// may take for one.
func markers(size quantity.Bytes) []kind {
	var swap []place
	for page := quantity.Bytes(4096); page <= 65536; page *= 2 {
		for _, magic := range []string{"SWAPSPACE2", "SWAP-SPACE", "S1SUSPEND\x00", "S2SUSPEND\x00", "ULSUSPEND\x00", "LINHIB0001"} {
			swap = append(swap, place{offset: page - 10, magic: magic})
		}
	}
	return []kind{
		{name: "ext4", places: []place{{offset: 0x438, magic: "\x53\xef"}}},
		{name: "xfs", places: []place{{magic: "XFSB"}}},
		{name: "ntfs", places: []place{{offset: 3, magic: "NTFS    "}}},
		{name: "exfat", places: []place{{offset: 3, magic: "EXFAT   "}}},
		{name: "vfat", places: []place{
			{offset: 0x52, magic: "FAT32   "}, {offset: 0x52, magic: "MSWIN"}, {offset: 0x36, magic: "MSDOS"},
			{offset: 0x36, magic: "FAT16   "}, {offset: 0x36, magic: "FAT12   "}, {offset: 0x36, magic: "FAT     "},
		}},
		{name: "swap", places: append(swap, place{magic: "\xed\xc3\x02\xe9\x98\x56\xe5\x0c"})},
		{name: "btrfs", places: []place{
			{offset: 0x10040, magic: btrfsMagic},
			{offset: 64*quantity.MiB + 0x40, magic: btrfsMagic}, {offset: 256*quantity.GiB + 0x40, magic: btrfsMagic},
		}},
		{name: "f2fs", places: []place{{offset: 0x400, magic: f2fsMagic}, {offset: 0x1400, magic: f2fsMagic}}},
		{name: "LVM2_member", places: []place{
			{magic: "LABELONE"}, {offset: 512, magic: "LABELONE"}, {offset: 1024, magic: "LABELONE"}, {offset: 1536, magic: "LABELONE"},
		}},
		{name: "gpt", places: []place{
			{offset: 512, magic: "EFI PART"}, {offset: 4096, magic: "EFI PART"},
			{offset: size - 512, magic: "EFI PART"}, {offset: size - 4096, magic: "EFI PART"},
		}},
	}
}
