package btrfs

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"hash/crc32"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/crypto/blake2b"
)

// checksumSize is the room for a checksum in front of what it covers.
const checksumSize = 32

// Checksum types of the superblock.
const (
	csumCRC32C = iota
	csumXXHash64
	csumSHA256
	csumBLAKE2b
	csumTypes
)

// checksumOK tells whether the checksum at the start of a superblock or node fits
// the rest of it.
func checksumOK(csumType uint16, b []byte) bool {
	sum := checksum(csumType, b[checksumSize:])
	return bytes.Equal(sum, b[:len(sum)])
}

func checksum(csumType uint16, b []byte) []byte {
	switch csumType {
	case csumXXHash64:
		return binary.LittleEndian.AppendUint64(nil, xxhash.Sum64(b))
	case csumSHA256:
		sum := sha256.Sum256(b)
		return sum[:]
	case csumBLAKE2b:
		sum := blake2b.Sum256(b)
		return sum[:]
	}
	return binary.LittleEndian.AppendUint32(nil, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
}
