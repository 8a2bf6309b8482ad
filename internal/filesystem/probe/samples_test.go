package probe

import (
	"encoding/binary"
	"hash/crc32"
	"strings"

	"clonecast/internal/quantity"
)

// sampleSize is the size of all images of the matrix: the smallest that mkfs.xfs takes, rounded up.
const sampleSize = 320 * quantity.MiB

// region is a piece of an image; a negative offset counts from the image's end.
type region struct{ off, n quantity.Bytes }

// sample is a format, and how an image of it is made.
type sample struct {
	blkid   string   // what blkid says of the marks alone; "" where older versions do not know it
	name    string   // as probe names it, where that is not blkid's
	make    string   // the command; IMAGE stands for the image, DIR for a directory of files
	marks   []region // what of the image identifies it
	fill    func(put func(off quantity.Bytes, b []byte))
	ignored bool // blkid's versions differ about the marks alone
}

// formats lists what the tools of Debian make, and what has to be made by hand.
func formats() map[string]sample {
	out := map[string]sample{
		"ext4":  {blkid: "ext4", make: "mke2fs -q -t ext4 IMAGE", marks: []region{{1024, 1024}}},
		"ext3":  {blkid: "ext3", make: "mke2fs -q -t ext3 IMAGE", marks: []region{{1024, 1024}}},
		"ext2":  {blkid: "ext2", make: "mke2fs -q -t ext2 IMAGE", marks: []region{{1024, 1024}}},
		"jbd":   {blkid: "jbd", make: "mke2fs -q -O journal_dev IMAGE", marks: []region{{1024, 1024}}},
		"ntfs":  {blkid: "ntfs", make: "mkntfs -q -F -Q IMAGE", marks: []region{{0, 512}, {16384, 4096}}},
		"fat16": {blkid: "vfat", name: "fat16", make: "mkfs.fat -F 16 -s 16 -R 4 IMAGE", marks: []region{{0, 512}}},
		"fat32": {blkid: "vfat", name: "fat32", make: "mkfs.fat -F 32 IMAGE", marks: []region{{0, 1024}}},
		"exfat": {blkid: "exfat", make: "mkfs.exfat IMAGE", marks: []region{{0, 12 * 512}}},
		"xfs":   {blkid: "xfs", make: "mkfs.xfs -q -f IMAGE", marks: []region{{0, 512}}},
		"btrfs": {blkid: "btrfs", make: "mkfs.btrfs -q -f IMAGE", marks: []region{{65536, 4096}}},
		"f2fs":  {blkid: "f2fs", make: "mkfs.f2fs -q -f IMAGE", marks: []region{{1024, 3072}}},
		"swap":  {blkid: "swap", make: "mkswap -q IMAGE", marks: []region{{1024, 512}, {4086, 10}}},
		"swap 64K": {blkid: "swap", name: "swap", make: "mkswap -q -p 65536 IMAGE",
			marks: []region{{1024, 512}, {65526, 10}}},
		"nilfs2":   {blkid: "nilfs2", make: "mkfs.nilfs2 -q IMAGE", marks: []region{{1024, 1024}, {-4096, 1024}}},
		"gfs2":     {blkid: "gfs2", make: "mkfs.gfs2 -q -O -p lock_nolock -j 1 -J 8 IMAGE", marks: []region{{65536, 512}}},
		"ocfs2":    {blkid: "ocfs2", make: "mkfs.ocfs2 -q -F -x -b 4096 -M local IMAGE", marks: []region{{8192, 512}}},
		"jfs":      {blkid: "jfs", make: "mkfs.jfs -q IMAGE", marks: []region{{0x8000, 512}}},
		"reiserfs": {blkid: "reiserfs", make: "mkfs.reiserfs -q -ff IMAGE", marks: []region{{65536, 512}}},
		"reiser4":  {blkid: "reiser4", make: "mkfs.reiser4 -fy IMAGE", marks: []region{{65536, 512}}},
		"minix 1":  {blkid: "minix", make: "mkfs.minix -1 IMAGE", marks: []region{{1024, 512}}},
		"minix 2":  {blkid: "minix", make: "mkfs.minix -2 IMAGE", marks: []region{{1024, 512}}},
		"minix 3":  {blkid: "minix", make: "mkfs.minix -3 IMAGE", marks: []region{{1024, 512}}},
		"bfs":      {blkid: "bfs", make: "mkfs.bfs IMAGE", marks: []region{{0, 512}}},
		"udf":      {blkid: "udf", make: "mkudffs IMAGE", marks: []region{{0x8000, 6 * 2048}, {48 * 1024, 1 << 17}}},
		"hfs":      {blkid: "hfs", make: "hformat IMAGE", marks: []region{{1024, 512}}},
		"cramfs":   {blkid: "cramfs", make: "mkfs.cramfs DIR IMAGE", marks: []region{{0, 4096}}},
		"romfs":    {blkid: "romfs", make: "genromfs -f IMAGE -d DIR", marks: []region{{0, 512}}},
		"erofs":    {blkid: "erofs", make: "mkfs.erofs IMAGE DIR", marks: []region{{1024, 3072}}},
		"squashfs": {blkid: "squashfs", make: "mksquashfs DIR IMAGE -quiet -no-progress -noappend",
			marks: []region{{0, 512}}},
		"iso9660": {blkid: "iso9660", make: "xorriso -as mkisofs -quiet -o IMAGE DIR", marks: []region{{0x8000, 6 * 2048}}},
		"ufs 1":   {blkid: "ufs", make: "makefs -t ffs -o version=1 -s 320m IMAGE DIR", marks: []region{{8192, 1536}}},
		"ufs 1 big": {blkid: "ufs", make: "makefs -t ffs -B be -o version=1 -s 320m IMAGE DIR",
			marks: []region{{8192, 1536}}},
		"ufs 2": {blkid: "ufs", make: "makefs -t ffs -o version=2 -s 320m IMAGE DIR", marks: []region{{8192, 1536}}},
		"ubifs": {blkid: "ubifs", make: "mkfs.ubifs -r DIR -m 2048 -e 126976 -c 100 -o IMAGE",
			marks: []region{{0, 4096}}},
		"bcache": {blkid: "bcache", make: "make-bcache -B IMAGE", marks: []region{{4096, 4096}}},
		"luks 1": {blkid: "crypto_LUKS",
			make:  "cryptsetup -q luksFormat --type luks1 --pbkdf-force-iterations 1000 IMAGE -",
			marks: []region{{0, 4096}}},
		"luks 2": {blkid: "crypto_LUKS",
			make:  "cryptsetup -q luksFormat --pbkdf pbkdf2 --pbkdf-force-iterations 1000 IMAGE -",
			marks: []region{{0, 4096}}},
		"verity": {blkid: "DM_verity_hash", make: "veritysetup format DIR/a IMAGE", marks: []region{{0, 512}}},
		"drbd 8": {blkid: "drbd", make: "drbdmeta --force 0 v08 LOOP internal create-md", marks: []region{{-4096, 4096}}},
		"drbd 9": {blkid: "drbd", make: "drbdmeta --force 0 v09 LOOP internal create-md 1", marks: []region{{-4096, 4096}}},
	}
	for name, s := range madeByHand() {
		out[name] = s
	}
	return out
}

// blk makes a block of n bytes and lets each field be put into it.
func blk(n int, fields ...field) []byte {
	b := make([]byte, n)
	for _, f := range fields {
		copy(b[f.off:], f.bytes)
	}
	return b
}

type field struct {
	off   int
	bytes string
}

func le(n int, v uint64) string {
	return string(binary.LittleEndian.AppendUint64(nil, v)[:n])
}

func be(n int, v uint64) string {
	return string(binary.BigEndian.AppendUint64(nil, v)[8-n:])
}

// castagnoli is CRC-32C without the last inversion, from ones.
func castagnoli(b []byte) uint32 { return ^crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// ieee is CRC-32 without the last inversion, from ones.
func ieee(b []byte) uint32 { return ^crc32.ChecksumIEEE(b) }

// madeByHand lists formats without a tool in Debian, and those whose tool needs a kernel module.
func madeByHand() map[string]sample {
	end := sampleSize
	simple := func(blkid string, off quantity.Bytes, b []byte) sample {
		return sample{blkid: blkid, fill: func(put func(quantity.Bytes, []byte)) { put(off, b) }}
	}
	mark := func(blkid string, off quantity.Bytes, magic string) sample { return simple(blkid, off, []byte(magic)) }
	unknown := func(name string, s sample) sample { // to some versions
		s.name, s.blkid, s.ignored = name, "", true
		return s
	}
	return map[string]sample{
		"md 0.90":        simple("linux_raid_member", end&^0xffff-0x10000, md090(binary.LittleEndian)),
		"md 0.90 big":    simple("linux_raid_member", end&^0xffff-0x10000, md090(binary.BigEndian)),
		"md 1.0":         simple("linux_raid_member", end-0x2000, md1(uint64(end-0x2000)/512)),
		"md 1.1":         simple("linux_raid_member", 0, md1(0)),
		"md 1.2":         simple("linux_raid_member", 4096, md1(8)),
		"ddf":            ddf(end),
		"isw":            mark("isw_raid_member", end-1024, "Intel Raid ISM Cfg Sig. 1.3.00\x00\x00"),
		"lsi":            mark("lsi_mega_raid_member", end-512, "$XIDE$"),
		"via":            simple("via_raid_member", end-512, sum8(blk(51, field{0, "\x55\xaa\x01"}, field{9, "1234"}))),
		"silicon":        simple("silicon_medley_raid_member", end-512, siliconBlock()),
		"nvidia":         simple("nvidia_raid_member", end-1024, nvidiaBlock()),
		"promise":        mark("promise_fasttrack_raid_member", end-63*512, "Promise Technology, Inc."),
		"promise 3087":   mark("promise_fasttrack_raid_member", end-3087*512, "Promise Technology, Inc."),
		"hpt45x":         mark("hpt45x_raid_member", end-11*512, "\xf3\x16\x78\x5a"),
		"hpt37x":         mark("hpt37x_raid_member", 4640, "\xf0\x16\x78\x5a"),
		"adaptec":        simple("adaptec_raid_member", end-512, blk(512, field{0, "\x37\xfc\x4d\x1e"}, field{256, "DPTM"})),
		"jmicron":        simple("jmicron_raid_member", end-512, jmicronBlock()),
		"LVM1":           mark("LVM1_member", 0, "HM\x01\x00"),
		"snapshot":       mark("DM_snapshot_cow", 0, "SnAp"),
		"vdo":            mark("vdo", 0, "dmvdo001"),
		"stratis":        simple("stratis", 512, stratisBlock()),
		"stratis 2":      simple("stratis", 4608, stratisBlock()),
		"VMFS volume":    mark("VMFS_volume_member", 1<<20, "\x0d\xd0\x01\xc0"),
		"VMFS":           mark("VMFS", 2<<20, "\x5e\xf1\xab\x2f"),
		"ubi":            simple("ubi", 0, ubiBlock()),
		"zfs":            zfsMember(end, true, true),
		"zfs uberblocks": unknown("zfs_member", zfsMember(end, true, false)),
		"zfs list":       unknown("zfs_member", zfsMember(end, false, true)),
		"BlueStore":      unknown("ceph_bluestore", mark("", 0, "bluestore block device\n")),
		"Oracle ASM":     mark("oracleasm", 32, "ORCLDISKVOL1"),
		"mpool":          simple("mpool", 0, mpoolBlock()),
		"integrity":      mark("DM_integrity", 0, "integrt\x00\x04"),
		"FileVault":      unknown("cs_fvault2", simple("", 0, coreStorageBlock())),
		"BitLocker":      mark("BitLocker", 0, "\xeb\x52\x90-FVE-FS-"),
		"BitLocker To Go": {blkid: "BitLocker", fill: func(put func(quantity.Bytes, []byte)) {
			put(0, blk(512, field{0, "\xeb\x58\x90MSWIN4.1"}, field{toGoPlace, le(8, 1<<20)}))
			put(1<<20, blk(112, field{0, "-FVE-FS-"}, field{10, le(2, 2)}, field{64, le(4, 48)}))
		}},
		"drbdmanage":   mark("drbdmanage_control_volume", 0, "$DRBDmgr=q:"+strings.Repeat("0a", 16)+"\n"),
		"drbdproxy":    mark("drbdproxy_datalog", 0, "DRBDdlh*"),
		"apfs":         simple("apfs", 0, apfsBlock()),
		"bcachefs":     unknown("bcachefs", bcachefsSample(8)),
		"bcachefs 2":   unknown("bcachefs", bcachefsSample(4096)),
		"hfsplus":      simple("hfsplus", 1024, blk(512, field{0, "H+\x00\x04"}, field{0x28, be(4, 4096)})),
		"hfsx":         simple("hfsplus", 1024, blk(512, field{0, "HX\x00\x05"}, field{0x28, be(4, 4096)})),
		"hfs embedded": embeddedHFSPlus(),
		"reiserfs 3.5": simple("reiserfs", 8192, blk(512, field{12, le(4, 1000)}, field{44, le(2, 4096)},
			field{0x34, "ReIsErFs"})),
		"ufs 2 64K":    mark("ufs", 64<<10+0x55c, "\x19\x01\x54\x19"),
		"ufs 256K":     mark("ufs", 256<<10+0x55c, "\x19\x01\x54\x19"),
		"ufs SEC":      mark("ufs", 8192+0x55c, "\x00\x61\x21\x95"),
		"hpfs":         hpfsSample(),
		"sysv":         mark("sysv", 512+0x1f8, "\x20\x7e\x18\xfd"),
		"sysv big":     mark("sysv", 18*1024+512+0x1f8, "\xfd\x18\x7e\x20"),
		"xenix":        mark("xenix", 0x800, "\x2b\x55\x44"),
		"scoutfs":      unknown("scoutfs_meta", simple("", 65536, scoutfsBlock())),
		"gfs":          simple("gfs", 65536, blk(512, field{0, gfsMagic}, field{24, be(4, 1309)}, field{28, be(4, 1401)})),
		"ocfs":         mark("ocfs", 8192, "OracleCFS"),
		"vxfs":         mark("vxfs", 1024, "\xf5\xfc\x01\xa5\x05\x00\x00\x00"),
		"vxfs big":     unknown("vxfs", mark("", 8192, "\xa5\x01\xfc\xf5")),
		"nss":          mark("nss", 4096, "SPB5"),
		"befs":         unknown("befs", simple("", 512, befsBlock())),
		"exfs":         unknown("exfs", mark("", 0, "EXFS")),
		"zonefs":       simple("zonefs", 0, zonefsBlock()),
		"ReFS":         mark("ReFS", 0, "\x00\x00\x00ReFS\x00"),
		"squashfs 3":   simple("squashfs3", 0, blk(96, field{0, "sqsh"}, field{28, be(2, 3)})),
		"High Sierra":  mark("iso9660", 0x8000, "\x00\x00\x00\x00\x00\x00\x00\x00\x01CDROM\x01"),
		"xfs log":      simple("xfs_external_log", 512, xfsLogBlock()),
		"xfs log late": simple("xfs_external_log", 511*512, xfsLogBlock()),
		"suspended": {blkid: "swsuspend", name: "swap", fill: func(put func(quantity.Bytes, []byte)) {
			put(1024, blk(512, field{0, le(4, 1)}, field{4, le(4, 99)}))
			put(4086, []byte("S1SUSPEND\x00"))
		}},
		"gpt": unknown("gpt", simple("", 512, gptBlock())),
	}
}
