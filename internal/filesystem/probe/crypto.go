package probe

import (
	"hash/crc32"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

// crypto lists what is encrypted, and device-mapper's targets that verify.
func crypto() []kind {
	luks := named("crypto_LUKS", at(0, luksMagic))
	luks.doubt = filesystem.Doubt{Reason: "LUKS: encrypted; every clone will have the same volume key"}
	luks.uuid = text(168, 40)
	for off := quantity.Bytes(0x4000); off <= 0x400000; off *= 2 {
		luks.places = append(luks.places, at(off, luksCopyMagic)...)
	}
	bitLocker := named("BitLocker",
		at(0, "\xeb\x58\x90-FVE-FS-", "\xeb\x52\x90-FVE-FS-"),
		checked(0, toGoMetadata, toGoBoot),
		checked(toGoGUID, toGo,
			"\x3b\xd6\x67\x49\x29\x2e\xd8\x4a\x83\x99\xf6\xa3\x39\xe3\xd0\x01",
			"\x3b\x4d\xa8\x92\x80\xdd\x0e\x4d\x9e\x4e\xb1\xe3\x28\x4e\xae\xd8"),
	)
	bitLocker.doubt = filesystem.Doubt{
		Reason: "BitLocker: encrypted; a clone opens on no other machine without the recovery key",
		Remedy: "turn it off with manage-bde -off C: (its drive letter), wait until manage-bde -status says " +
			"\"Fully Decrypted\", and shut down with: shutdown /s /f /t 0",
		Refuse: true,
	}
	return []kind{
		luks, bitLocker,
		holds("cs_fvault2", "FileVault 2", checked(coreStorageMagic, coreStorage, "CS")),
		holds(verityName, "dm-verity", checked(0, verity, verityMagic)),
		holds("DM_integrity", "dm-integrity", at(0, "integrt\x00")),
	}
}

const (
	luksMagic     = "LUKS\xba\xbe"
	luksCopyMagic = "SKUL\xba\xbe"
	verityName    = "DM_verity_hash"
	verityMagic   = "verity\x00\x00"
)

func verity(m mark) bool { return m.le32(8) == 1 }

// BitLocker To Go keeps a boot sector of FAT, with an identifier and the place of its metadata.
const (
	toGoBoot  = "\xeb\x58\x90MSWIN4.1"
	toGoGUID  = 424
	toGoPlace = 440
)

// toGo tells whether an identifier stands in its boot sector.
func toGo(m mark) bool { return m.has(-toGoGUID, toGoBoot) }

// toGoMetadata tells whether metadata are where the boot sector says.
func toGoMetadata(m mark) bool {
	off := quantity.Bytes(m.le64(toGoPlace))
	return off > 0 && off < m.w.size && off%64 == 0 && m.has(off, "-FVE-FS-")
}

// coreStorageMagic is where Apple's Core Storage has its magic.
const coreStorageMagic = 88

// coreStorage tells whether a Core Storage header is one of FileVault 2. Its checksum and the
// checksum's start stand first.
func coreStorage(m mark) bool {
	m = m.move(-coreStorageMagic)
	const version, blockType, algorithm, keySize, cipher = 8, 10, 90, 168, 172
	if m.le16(version) != 1 || m.le16(blockType) != 0x10 || m.le32(algorithm) != 1 ||
		m.le32(keySize) != 16 || m.le32(cipher) != 2 {
		return false
	}
	sum := ^crc32.Update(^m.le32(4), crc32.MakeTable(crc32.Castagnoli), m.bytes(8, 504))
	return sum == m.le32(0)
}
