package fat

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

// Attributes of a directory entry.
const (
	attributeOffset = 11
	attributeLabel  = 0x08
	attributeDir    = 0x10
	attributeLong   = 0x0F // a piece of a long name
	deleted         = 0xE5
)

// maxRootClusters bounds the walk over FAT32's root directory, which may have
// 65536 entries.
const maxRootClusters = 65536 * rootEntrySize / 512

// label gives the name in the root directory, or else the boot sector's.
func (v *volume) label() (string, error) {
	raw, err := v.rootLabel()
	if err != nil {
		return "", err
	}
	if raw == nil {
		raw = v.bootLabel[:]
	}
	return decodeLabel(raw), nil
}

// rootLabel gives the 11 bytes of the label in the root directory, nil if it has none.
func (v *volume) rootLabel() ([]byte, error) {
	if v.width == 32 {
		return v.rootLabel32()
	}
	b := make([]byte, v.rootEntries*rootEntrySize)
	if err := filesystem.ReadFull(v.r, b, v.rootDir); err != nil {
		return nil, err
	}
	raw, _ := findLabel(b)
	return raw, nil
}

// rootLabel32 follows the chain of FAT32's root directory.
func (v *volume) rootLabel32() ([]byte, error) {
	b := make([]byte, v.clusterSize)
	cluster := v.rootCluster
	for range maxRootClusters {
		if cluster < 2 || cluster >= v.clusters+2 {
			return nil, &filesystem.CorruptError{
				Format: v.format(), Structure: "root directory", Offset: v.fat,
				Problem: fmt.Sprintf("chain leads to cluster %d of %d", cluster, v.clusters),
			}
		}
		if err := filesystem.ReadFull(v.r, b, v.clusterOffset(cluster)); err != nil {
			return nil, err
		}
		if raw, last := findLabel(b); raw != nil || last {
			return raw, nil
		}
		var entry [4]byte
		if err := filesystem.ReadFull(v.r, entry[:], v.fat+quantity.Bytes(cluster)*4); err != nil {
			return nil, err
		}
		next := int64(v.entry(entry[:], 0))
		if next > int64(v.bad()) {
			break // end of the chain
		}
		cluster = next
	}
	return nil, nil
}

// findLabel looks for the volume label among directory entries; last tells that
// no entries follow.
func findLabel(b []byte) (raw []byte, last bool) {
	for ; len(b) >= rootEntrySize; b = b[rootEntrySize:] {
		attributes := b[attributeOffset]
		switch {
		case b[0] == 0:
			return nil, true
		case b[0] == deleted, attributes&attributeLong == attributeLong:
		case attributes&(attributeLabel|attributeDir) == attributeLabel:
			raw := append([]byte(nil), b[:11]...)
			if raw[0] == 0x05 {
				raw[0] = deleted // how a name that begins with that byte is written
			}
			return raw, false
		}
	}
	return nil, false
}

// decodeLabel decodes a label. Its code page is not recorded: bytes that are not
// UTF-8 become U+FFFD.
func decodeLabel(b []byte) string {
	s := strings.TrimRight(string(b), " \x00")
	if s == "NO NAME" {
		return ""
	}
	s = strings.ToValidUTF8(s, string(utf8.RuneError))
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return utf8.RuneError
		}
		return r
	}, s)
}
