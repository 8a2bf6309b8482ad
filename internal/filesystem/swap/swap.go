// Package swap reads the header of Linux swap areas, makes it anew and lets it follow a partition
// that grows.
//
// A swap area's content is worth nothing after a shutdown; what must survive cloning is its header
// page, because fstab and the initramfs name the area by UUID or label, boot managers start
// boot sectors in it, and it lists the pages that must not be used:
//
//	page 0:  bytes 0..1023     room for a boot sector
//	         byte 1024         struct header (mm/swapfile.c, union swap_header)
//	         byte 1536         list of bad pages
//	         last 10 bytes     SWAPSPACE2, or the signature of a hibernated system
//
// The page size is the one of the machine that made the area; it is found by where
// the signature stands. Its numbers are in that machine's byte order. Areas of the old
// version 0 ("SWAP-SPACE") have no identity; their page is a map of usable pages.
//
// The text of a label is for people; its bytes are whatever the page holds.
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

// Format is blkid's name for swap areas.
const Format = "swap"

// MaxHeader is the largest size of a header page.
const MaxHeader = maxPage

const (
	infoOffset = 1024
	lastPageAt = 4 // in the header
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

// Read reads the swap area on the partition r. Allocated is its header page. An area that
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
	page, magic := findPage(b)
	switch {
	case page == 0 && tuxOnIce(b):
		return filesystem.Volume{Type: Format, Doubt: hibernated()}, nil
	case page == 0:
		return filesystem.Volume{}, filesystem.ErrNotFound
	case magic == oldMagic:
		return filesystem.Volume{Type: Format, BlockSize: page, Size: size,
			Allocated: []quantity.Extent{{Length: page}}}, nil
	}
	v, err := parse(b[:page], size)
	if err == nil && (isSuspended(magic) || tuxOnIce(b)) {
		v.Doubt, v.Allocated = hibernated(), nil
	}
	return v, err
}

// findPage looks for the end of the header page in the first bytes of an area, and gives the
// signature there; 0: there is none.
func findPage(b []byte) (page quantity.Bytes, magic string) {
	for page := minPage; page <= min(maxPage, quantity.Bytes(len(b))); page *= 2 {
		magic := string(b[page-10 : page])
		switch {
		case magic == signature && !tuxOnIce(b) && !isHeader(b[infoOffset:]):
			// Left over from an area that something else has overwritten.
		case magic == signature || magic == oldMagic || isSuspended(magic):
			return page, magic
		}
	}
	return 0, ""
}

// tuxOnIce tells whether TuxOnIce has put its own header in front of everything else.
func tuxOnIce(b []byte) bool {
	return bytes.HasPrefix(b, []byte{0xed, 0xc3, 0x02, 0xe9, 0x98, 0x56, 0xe5, 0x0c})
}

// IsFileSize tells whether mkswap takes a file of that size: whole pages, and not too few.
func IsFileSize(size uint64) bool { return size >= uint64(minPages*minPage) && size%uint64(minPage) == 0 }

// HoldsSystem tells whether the first bytes of a swap area, or of a file that is used as one, are
// those of a hibernated system. MaxHeader bytes are enough.
func HoldsSystem(b []byte) bool {
	_, magic := findPage(b)
	return isSuspended(magic) || tuxOnIce(b)
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

func hibernated() *filesystem.Doubt { return Hibernated("the swap area") }

// Hibernated is the doubt about what holds a swap area with a hibernated system.
func Hibernated(area string) *filesystem.Doubt {
	return &filesystem.Doubt{
		Reason:     area + " holds a hibernated system",
		Remedy:     "start the system and shut it down instead of hibernating it",
		Refuse:     true,
		Hibernated: true,
	}
}

// Unsure is the doubt about a file system that was not unmounted, and in which swap files cannot be looked for: a
// hibernated system may be there, so its journal must not be replayed.
func Unsure(doubt *filesystem.Doubt, why error) *filesystem.Doubt {
	unsure := *doubt
	unsure.Replay = false
	unsure.Reason += fmt.Sprintf("; whether a swap file holds a hibernated system is not known: %v", why)
	return &unsure
}

// parse reads the identity from page 0 of an area on a partition of the given size.
func parse(page []byte, size quantity.Bytes) (filesystem.Volume, error) {
	v := filesystem.Volume{Type: Format, BlockSize: quantity.Bytes(len(page)), Size: size}
	h, _, err := decode(page)
	if err != nil {
		v.Doubt = &filesystem.Doubt{Reason: err.Error()}
		return v, nil
	}
	v.Size = min((quantity.Bytes(h.LastPage)+1)*v.BlockSize, size)
	v.UUID, v.Label = formatUUID(h.UUID), label(h.Label)
	v.Allocated = []quantity.Extent{{Length: v.BlockSize}}
	return v, nil
}

// decode decodes the header in page 0, in the byte order in which its version is known.
func decode(page []byte) (header, binary.ByteOrder, error) {
	var h header
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		if _, err := binary.Decode(page[infoOffset:], order, &h); err != nil {
			return header{}, nil, fmt.Errorf("decode swap header: %w", err)
		}
		if h.Version == version {
			return h, order, nil
		}
	}
	return header{}, nil, fmt.Errorf("swap header version %#x is unknown",
		binary.LittleEndian.Uint32(page[infoOffset:]))
}

// Grow gives the header page of the swap area r as it must be for a partition of the given size:
// only the number of its last page changes. An area that fills its partition, is larger, or is
// of version 0 stays as it is: nothing is to be written then.
func Grow(r io.ReaderAt, size quantity.Bytes) (filesystem.Growth, error) {
	v, err := Read(r, size)
	if err != nil {
		return filesystem.Growth{}, err
	}
	if v.Doubt != nil {
		return filesystem.Growth{}, &filesystem.UnchangedError{Reason: v.Doubt.Reason}
	}
	page := make([]byte, v.BlockSize)
	if err := filesystem.ReadFull(r, page, 0); err != nil {
		return filesystem.Growth{}, fmt.Errorf("read swap header: %w", err)
	}
	if _, magic := findPage(page); magic == oldMagic {
		return filesystem.Growth{}, &filesystem.UnchangedError{Reason: "swap of version 0 has a map of its pages"}
	}
	h, order, err := decode(page)
	if err != nil {
		return filesystem.Growth{}, err
	}
	pages := quantity.Bytes(h.LastPage) + 1
	g := filesystem.Growth{From: pages * v.BlockSize, To: pages * v.BlockSize}
	last := lastPage(size, v.BlockSize)
	if last <= h.LastPage {
		return g, nil
	}
	order.PutUint32(page[infoOffset+lastPageAt:], last)
	g.To = (quantity.Bytes(last) + 1) * v.BlockSize
	g.Steps = [][]filesystem.Write{{{Data: page}}}
	return g, nil
}

// lastPage is the number of the last whole page of an area.
func lastPage(size, page quantity.Bytes) uint32 {
	return uint32(min(size/page-1, math.MaxUint32))
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

// Header makes page 0 of a swap area anew for a partition of the given size: v names
// the page size (BlockSize), the UUID and the label, as Read returned them. It has no boot sector
// and no list of bad pages, and a label that is no text cannot be made: Header serves versions that
// store no page.
func Header(v filesystem.Volume, size quantity.Bytes) ([]byte, error) {
	page := v.BlockSize
	if page < minPage || page > maxPage || page&(page-1) != 0 {
		return nil, fmt.Errorf("make swap header: page size %d", int64(page))
	}
	pages := size / page
	if pages < minPages {
		return nil, fmt.Errorf("make swap header: a partition of %s holds less than %d pages", size, minPages)
	}
	h := header{Version: version, LastPage: lastPage(size, page)}
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
