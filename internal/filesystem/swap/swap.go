// Package swap reads and makes the header of Linux swap areas.
//
// A swap area's content is worth nothing after a shutdown; what must survive
// cloning is its identity, because fstab and the initramfs name it by UUID or label:
//
//	page 0:  bytes 0..1023     room for a boot sector
//	         byte 1024         struct header (mm/swapfile.c, union swap_header)
//	         last 10 bytes     SWAPSPACE2, or the signature of a hibernated system
//
// The page size is the one of the machine that made the area; it is found by where
// the signature stands. Areas of the old version 0 ("SWAP-SPACE") have no identity.
//
// A header written by Header has no list of bad pages.
package swap

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"math"
	"math/bits"
	"strings"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

const (
	infoOffset = 1024
	version    = 1
	minPage    = 4 * quantity.KiB
	maxPage    = 64 * quantity.KiB
	minPages   = 10 // what mkswap insists on
	signature  = "SWAPSPACE2"
	oldMagic   = "SWAP-SPACE"
)

// header is union swap_header's info, at byte 1024, without the bad pages.
type header struct {
	Version  uint32   `offset:"0x0"`
	LastPage uint32   `offset:"0x4"`
	BadPages uint32   `offset:"0x8"`
	UUID     [16]byte `offset:"0xc"`
	Label    [16]byte `offset:"0x1c"`
}

// Read reads the swap area on the partition r. Allocated stays nil. An area that
// holds a hibernated system has a Doubt that refuses the capture.
func Read(r io.ReaderAt, size quantity.Bytes) (filesystem.Volume, error) {
	length := min(size, maxPage)
	if length < minPage {
		return filesystem.Volume{}, filesystem.ErrNotFound
	}
	b := make([]byte, length)
	n, err := r.ReadAt(b, 0)
	if n < len(b) {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return filesystem.Volume{}, fmt.Errorf("read swap header: %w", err)
	}
	// TuxOnIce writes its own header in front of everything else.
	tuxOnIce := bytes.HasPrefix(b, []byte{0xed, 0xc3, 0x02, 0xe9, 0x98, 0x56, 0xe5, 0x0c})
	for page := minPage; page <= length; page *= 2 {
		magic := string(b[page-10 : page])
		switch suspended := isSuspended(magic); {
		case magic == signature && !tuxOnIce && !isHeader(b[infoOffset:]):
			// Left over from an area that something else has overwritten.
		case suspended || magic == signature:
			v, err := parse(b[:page], size)
			if err == nil && (suspended || tuxOnIce) {
				v.Doubt = hibernated()
			}
			return v, err
		case magic == oldMagic:
			return filesystem.Volume{Type: "swap", BlockSize: page, Size: size}, nil
		}
	}
	if tuxOnIce {
		return filesystem.Volume{Type: "swap", Doubt: hibernated()}, nil
	}
	return filesystem.Volume{}, filesystem.ErrNotFound
}

// isHeader tells whether info can be a header's: its version is 1 in either byte order, and it
// names a last page. That is what blkid asks for, too.
func isHeader(info []byte) bool {
	v, last := binary.LittleEndian.Uint32(info), binary.LittleEndian.Uint32(info[4:])
	return (v == version || bits.ReverseBytes32(v) == version) && last != 0
}

// isSuspended knows the signatures that replace SWAPSPACE2 while the system is on
// disk; swsusp's are nine bytes and a zero.
func isSuspended(magic string) bool {
	switch magic {
	case "S1SUSPEND\x00", "S2SUSPEND\x00", "ULSUSPEND\x00", "LINHIB0001":
		return true
	}
	return false
}

func hibernated() *filesystem.Doubt {
	return &filesystem.Doubt{
		Reason: "the swap area holds a hibernated system",
		Remedy: "start the system and shut it down instead of hibernating it",
		Refuse: true,
	}
}

// parse reads the identity from page 0 of an area on a partition of the given size.
func parse(page []byte, size quantity.Bytes) (filesystem.Volume, error) {
	var h header
	if _, err := binary.Decode(page[infoOffset:], binary.LittleEndian, &h); err != nil {
		return filesystem.Volume{}, fmt.Errorf("decode swap header: %w", err)
	}
	v := filesystem.Volume{Type: "swap", UUID: formatUUID(h.UUID), Label: label(h.Label), BlockSize: quantity.Bytes(len(page))}
	v.Size = min((quantity.Bytes(h.LastPage)+1)*v.BlockSize, size)
	if h.Version != version {
		v.UUID, v.Label = "", ""
		v.Doubt = &filesystem.Doubt{Reason: fmt.Sprintf("swap header version %#x is unknown (made by a big-endian machine?)", h.Version)}
	}
	return v, nil
}

func formatUUID(u [16]byte) string {
	if u == [16]byte{} {
		return ""
	}
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:16])
}

func label(b [16]byte) string {
	name, _, _ := strings.Cut(string(b[:]), "\x00")
	return strings.ToValidUTF8(name, "\ufffd")
}

// Header makes page 0 of a swap area for a partition of the given size: v names
// the page size (BlockSize), the UUID and the label, as Read returned them.
func Header(v filesystem.Volume, size quantity.Bytes) ([]byte, error) {
	page := v.BlockSize
	if page < minPage || page > maxPage || page&(page-1) != 0 {
		return nil, fmt.Errorf("make swap header: page size %d", int64(page))
	}
	pages := size / page
	if pages < minPages {
		return nil, fmt.Errorf("make swap header: a partition of %s holds less than %d pages", size, minPages)
	}
	h := header{Version: version, LastPage: uint32(min(pages-1, math.MaxUint32))}
	if v.UUID != "" {
		raw, err := hex.DecodeString(strings.ReplaceAll(v.UUID, "-", ""))
		if err != nil || len(raw) != len(h.UUID) {
			return nil, fmt.Errorf("make swap header: UUID %q", v.UUID)
		}
		copy(h.UUID[:], raw)
	}
	if len(v.Label) > len(h.Label) || strings.ContainsRune(v.Label, 0) {
		return nil, fmt.Errorf("make swap header: label %q", v.Label)
	}
	copy(h.Label[:], v.Label)
	out := make([]byte, page)
	if _, err := binary.Encode(out[infoOffset:], binary.LittleEndian, h); err != nil {
		return nil, fmt.Errorf("make swap header: %w", err)
	}
	copy(out[page-quantity.Bytes(len(signature)):], signature)
	return out, nil
}
