package probe

import (
	"encoding/binary"
	"hash/crc32"

	"clonecast/internal/quantity"
)

// The functions below make superblocks that blkid takes for good, checksums and all.

func md090(order binary.ByteOrder) []byte {
	b := make([]byte, 4096)
	for i, v := range []uint32{0xa92b4efc, 0, 90, 3, 0, 0x11111111, 0, 1, 100_000, 2, 2} {
		order.PutUint32(b[4*i:], v)
	}
	return b
}

// md1 is version 1; its checksum adds up the words of 256 bytes.
func md1(superOffset uint64) []byte {
	b := blk(256, field{0, raidMagic}, field{4, le(4, 1)}, field{16, "0123456789abcdef"}, field{0x90, le(8, superOffset)})
	var sum uint64
	for i := 0; i < len(b); i += 4 {
		sum += uint64(binary.LittleEndian.Uint32(b[i:]))
	}
	binary.LittleEndian.PutUint32(b[0xd8:], uint32(sum)+uint32(sum>>32))
	return b
}

func ddf(size quantity.Bytes) sample {
	const primary = 100
	return sample{blkid: "ddf_raid_member", fill: func(put func(quantity.Bytes, []byte)) {
		b := blk(512, field{0, "\xde\x11\xde\x11"}, field{4, "\xff\xff\xff\xff"}, field{8, "LSI     an array's guid "},
			field{32, "01.02.00"}, field{96, be(8, uint64(size/512-primary))})
		// The checksum is taken with its own bytes set to ones, from zero and without inversions.
		binary.BigEndian.PutUint32(b[4:], rawCRC32(0, b))
		put(size-512, b)
		put(size-primary*512, b)
	}}
}

// sum8 sets the last byte to the sum of those in front of it.
func sum8(b []byte) []byte {
	for _, c := range b[:len(b)-1] {
		b[len(b)-1] += c
	}
	return b
}

func siliconBlock() []byte {
	b := blk(512, field{siliconMagic, "\x00\x00\x00\x2f"}, field{0x10a, le(2, 2)})
	var sum uint16
	for i := 0; i < 0x13e; i += 2 {
		sum += binary.LittleEndian.Uint16(b[i:])
	}
	binary.LittleEndian.PutUint16(b[0x13e:], -sum)
	return b
}

func nvidiaBlock() []byte {
	b := blk(120, field{0, "NVIDIA  "}, field{8, le(4, 30)}, field{16, le(2, 100)})
	var sum uint32
	for i := 0; i < len(b); i += 4 {
		sum += binary.LittleEndian.Uint32(b[i:])
	}
	binary.LittleEndian.PutUint32(b[12:], -sum)
	return b
}

func jmicronBlock() []byte {
	b := blk(0x80, field{0, "JM"}, field{2, le(2, 0x102)}, field{0x30, "\x01"})
	var sum uint16
	for i := 0; i < len(b); i += 2 {
		sum += binary.LittleEndian.Uint16(b[i:])
	}
	binary.LittleEndian.PutUint16(b[4:], -sum)
	return b
}

func stratisBlock() []byte {
	b := blk(512, field{4, stratisMagic}, field{20, le(8, 1000)})
	binary.LittleEndian.PutUint32(b, ^castagnoli(b[4:]))
	return b
}

func ubiBlock() []byte {
	b := blk(64, field{0, "UBI#\x01"}, field{16, be(4, 64)})
	binary.BigEndian.PutUint32(b[60:], ieee(b[:60]))
	return b
}

// zfsMember has uberblocks, which older blkids go by, or a list, as newer ones do, or both.
func zfsMember(size quantity.Bytes, uberblocks, list bool) sample {
	return sample{blkid: "zfs_member", fill: func(put func(quantity.Bytes, []byte)) {
		for i := range quantity.Bytes(4) {
			if uberblocks {
				put(size-256<<10+128<<10+i<<10, blk(40, field{0, le(8, 0xbab10c)}, field{8, le(8, 5000)}, field{16, le(8, 100)}))
			}
		}
		if list {
			b := "\x01\x01\x00\x00" + be(4, 0) + be(4, 1)
			for _, pair := range []struct {
				name  string
				value uint64
			}{{"version", 5000}, {"state", 0}, {"txg", 42}, {"guid", 0x1234567}, {"pool_guid", 0x7654321}} {
				name := pair.name + "\x00\x00\x00"
				name = name[:(len(pair.name)+3)/4*4]
				b += be(4, uint64(12+len(name)+16)) + be(4, 48) + be(4, uint64(len(pair.name))) + name +
					be(4, 8) + be(4, 1) + be(8, pair.value)
			}
			put(size-256<<10+16<<10, append([]byte(b), make([]byte, 8)...))
		}
	}}
}

func mpoolBlock() []byte {
	b := blk(66, field{0, "mpoolDev"}, field{8, "pool"}, field{40, "0123456789abcdef"})
	binary.LittleEndian.PutUint32(b[62:], ^castagnoli(b[:62]))
	return b
}

func coreStorageBlock() []byte {
	b := blk(512, field{4, le(4, 0xffffffff)}, field{8, le(2, 1)}, field{10, le(2, 0x10)}, field{88, "CS"},
		field{90, le(4, 1)}, field{168, le(4, 16)}, field{172, le(4, 2)})
	binary.LittleEndian.PutUint32(b, castagnoli(b[8:]))
	return b
}

// apfsBlock has Fletcher's checksum of 64 bits.
func apfsBlock() []byte {
	b := blk(4096, field{8, le(8, 1)}, field{24, le(2, 1)}, field{32, "NXSB"}, field{36, le(4, 4096)},
		field{40, le(8, 1000)})
	var lo, hi uint64
	for i := 8; i < len(b); i += 4 {
		lo += uint64(binary.LittleEndian.Uint32(b[i:]))
		hi += lo
	}
	const most = 1<<32 - 1
	low := uint64(^uint32((lo + hi) % most))
	high := uint64(^uint32((lo + low) % most))
	binary.LittleEndian.PutUint64(b, high<<32|low)
	return b
}

// bcachefsSample has no checksum: type 0.
func bcachefsSample(sector uint64) sample {
	return sample{fill: func(put func(quantity.Bytes, []byte)) {
		put(quantity.Bytes(sector*512), blk(752, field{24, bcacheMagic + "\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef"},
			field{104, le(8, sector)}, field{123, "\x01"}))
	}}
}

func embeddedHFSPlus() sample {
	return sample{blkid: "hfsplus", fill: func(put func(quantity.Bytes, []byte)) {
		put(1024, blk(512, field{0, "BD"}, field{0x14, be(4, 4096)}, field{0x1c, be(2, 16)},
			field{0x7c, "H+"}, field{0x7e, be(2, 1)}))
		put(16*512+4096+1024, blk(512, field{0, "H+\x00\x04"}, field{0x28, be(4, 4096)}))
	}}
}

func hpfsSample() sample {
	return sample{blkid: "hpfs", fill: func(put func(quantity.Bytes, []byte)) {
		put(0x2000, []byte("\x49\xe8\x95\xf9"))
		put(0x2200, []byte("\x49\x18\x91\xf9"))
	}}
}

func scoutfsBlock() []byte {
	b := blk(4096, field{4, scoutfsMagic}, field{40, le(8, 1)}, field{48, le(8, 1)})
	binary.LittleEndian.PutUint32(b, castagnoli(b[4:]))
	return b
}

func befsBlock() []byte {
	return blk(512, field{0, "haiku"}, field{32, "1SFB"}, field{36, "EGIB"}, field{40, le(4, 2048)}, field{44, le(4, 11)},
		field{68, le(4, 0xdd121031)}, field{76, le(4, 12)}, field{112, le(4, 0x15b6830e)})
}

func zonefsBlock() []byte {
	b := blk(4096, field{0, "SFOZ"}, field{8, "zones"})
	binary.LittleEndian.PutUint32(b[4:], ieee(b))
	return b
}

func xfsLogBlock() []byte {
	return blk(512, field{0, "\xfe\xed\xba\xbe"}, field{8, be(4, 2)}, field{12, be(4, 512)}, field{300, be(4, 1)})
}

func gptBlock() []byte {
	b := blk(92, field{0, "EFI PART"}, field{8, le(4, 0x10000)}, field{12, le(4, 92)}, field{24, le(8, 1)})
	binary.LittleEndian.PutUint32(b[16:], crc32.ChecksumIEEE(b))
	return b
}
