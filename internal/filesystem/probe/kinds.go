package probe

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

// kind is a format that is named, but whose allocation map is not read.
type kind struct {
	name   string
	places []place
	doubt  filesystem.Doubt
	uuid   func(w *window, at quantity.Bytes) string // at is where the mark was found
	label  func(w *window, at quantity.Bytes) string
}

func (k kind) volume(w *window, at quantity.Bytes) filesystem.Volume {
	doubt := k.doubt
	v := filesystem.Volume{Type: k.name, Doubt: &doubt}
	if k.uuid != nil {
		v.UUID = k.uuid(w, at)
	}
	if k.label != nil {
		v.Label = k.label(w, at)
	}
	return v
}

// noMap is the doubt of file systems whose reader does not exist.
func noMap(name string) filesystem.Doubt {
	return filesystem.Doubt{Reason: name + ": allocation map not supported yet"}
}

// container is the doubt of what holds other things.
func container(what string) filesystem.Doubt {
	return filesystem.Doubt{Reason: what + ": what it holds is not looked into"}
}

// kinds lists the formats for a partition of the given size.
func kinds(size quantity.Bytes) []kind {
	out := append(encrypted(), containers(size)...)
	return append(out, fileSystems()...)
}

func encrypted() []kind {
	luks := []place{{offset: 0, magic: "LUKS\xba\xbe"}}
	for off := quantity.Bytes(0x4000); off <= 0x400000; off *= 2 {
		luks = append(luks, place{offset: off, magic: "SKUL\xba\xbe", check: func(at func(off, n quantity.Bytes) []byte) bool {
			return binary.BigEndian.Uint64(at(0x100, 8)) == uint64(off)
		}})
	}
	return []kind{
		{
			name:   "crypto_LUKS",
			places: luks,
			doubt:  filesystem.Doubt{Reason: "LUKS: encrypted; every clone will have the same volume key"},
			uuid:   text(168, 40),
		},
		{
			name: "BitLocker",
			places: []place{
				{offset: 0, magic: "\xeb\x58\x90-FVE-FS-"},
				{offset: 0, magic: "\xeb\x52\x90-FVE-FS-"},
				{offset: 424, magic: "\x3b\xd6\x67\x49\x29\x2e\xd8\x4a\x83\x99\xf6\xa3\x39\xe3\xd0\x01", check: toGo},
				{offset: 424, magic: "\x3b\x4d\xa8\x92\x80\xdd\x0e\x4d\x9e\x4e\xb1\xe3\x28\x4e\xae\xd8", check: toGo},
			},
			doubt: filesystem.Doubt{
				Reason: "BitLocker: encrypted; a clone opens on no other machine without the recovery key",
				Remedy: "turn it off with manage-bde -off C: (its drive letter), wait until manage-bde -status says \"Fully Decrypted\", and shut down with: shutdown /s /f /t 0",
				Refuse: true,
			},
		},
	}
}

// toGo tells whether a BitLocker To Go identifier stands in its boot sector.
func toGo(at func(off, n quantity.Bytes) []byte) bool {
	return string(at(-424, 11)) == "\xeb\x58\x90MSWIN4.1"
}

func containers(size quantity.Bytes) []kind {
	return []kind{
		{name: "linux_raid_member", places: raid(size), doubt: container("Linux RAID member"), uuid: raidUUID},
		{name: "zfs_member", places: zfs(size), doubt: container("ZFS pool member")},
		{name: "bcache", places: []place{{offset: 0x1018, magic: "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"}}, doubt: container("bcache")},
		{name: "DM_verity_hash", places: []place{{magic: "verity\x00\x00"}}, doubt: container("dm-verity")},
		{name: "DM_integrity", places: []place{{magic: "integrt\x00"}}, doubt: container("dm-integrity")},
		{name: "vdo", places: []place{{magic: "dmvdo001"}}, doubt: container("VDO")},
		{name: "stratis", places: []place{
			{offset: 512 + 4, magic: "!Stra0tis\x86\xff\x02^\x41rh"},
			{offset: 4608 + 4, magic: "!Stra0tis\x86\xff\x02^\x41rh"},
		}, doubt: container("Stratis")},
	}
}

// raid gives the places of the Linux RAID superblock (kernel: md_p.h).
func raid(size quantity.Bytes) []place {
	const magic = "\xfc\x4e\x2b\xa9"
	v1 := func(offset quantity.Bytes) place {
		return place{offset: offset, magic: magic, check: func(at func(off, n quantity.Bytes) []byte) bool {
			return binary.LittleEndian.Uint32(at(4, 4)) == 1 &&
				binary.LittleEndian.Uint64(at(0x90, 8)) == uint64(offset/512)
		}}
	}
	old := size&^0xffff - 0x10000
	return []place{
		v1(0), v1(0x1000), v1(size&^0xfff - 0x2000),
		{offset: old, magic: magic + "\x00\x00\x00\x00"},
		{offset: old, magic: "\xa9\x2b\x4e\xfc\x00\x00\x00\x00"}, // big-endian
	}
}

// raidUUID is the array's; version 0.90 keeps it in four words.
func raidUUID(w *window, at quantity.Bytes) string {
	if binary.LittleEndian.Uint32(w.bytes(at+4, 4)) != 1 {
		return ""
	}
	return uuid(w.bytes(at+16, 16))
}

// zfs gives the places of the uberblocks in the four labels of a pool member.
func zfs(size quantity.Bytes) []place {
	const label, uberblocks, slot = 256 * quantity.KiB, 128 * quantity.KiB, quantity.KiB
	end := size &^ (label - 1)
	var out []place
	for _, start := range []quantity.Bytes{0, label, end - 2*label, end - label} {
		for off := start + uberblocks; off < start+label; off += slot {
			out = append(out,
				place{offset: off, magic: "\x0c\xb1\xba\x00\x00\x00\x00\x00"},
				place{offset: off, magic: "\x00\x00\x00\x00\x00\xba\xb1\x0c"})
		}
	}
	return out
}

// text reads a string of up to n bytes at off from the mark.
func text(off, n quantity.Bytes) func(*window, quantity.Bytes) string {
	return func(w *window, at quantity.Bytes) string {
		s, _, _ := strings.Cut(string(w.bytes(at+off, n)), "\x00")
		return strings.ToValidUTF8(strings.TrimRight(s, " "), "\uFFFD")
	}
}

// binaryUUID reads a UUID at off from the mark.
func binaryUUID(off quantity.Bytes) func(*window, quantity.Bytes) string {
	return func(w *window, at quantity.Bytes) string { return uuid(w.bytes(at+off, 16)) }
}

func uuid(b []byte) string {
	s := hex.EncodeToString(b)
	return fmt.Sprintf("%s-%s-%s-%s-%s", s[:8], s[8:12], s[12:16], s[16:20], s[20:])
}
