// Package probe finds out which file system a partition holds.
//
// Algorithm: every mark of the tables (raid.go, volumes.go, crypto.go, filesystems.go) is looked
// for, every reader of readers() is tried, and FAT, which has no magic, by the numbers of its boot
// sector. One hit is the answer, and what lies behind its volume is judged by one rule (tail.go).
//
// What is found but has no reader of its allocation map is named and returned
// with a Doubt, as is a partition without any file system known here, a damaged
// one, and one that carries the marks of several: which of them is stale cannot
// be told, so every block is copied.
//
// Not guaranteed: a hit says what a partition claims to be, not that it is sound;
// only the readers look further. The answer has no part that depends on the order
// of the tables but the name given to an ambiguous partition: the first hit's.
//
// The places are libblkid's of version 2.41 (util-linux, libblkid/src/superblocks), and so are the
// checks where a magic is so short that chance could make it. Where libblkid verifies more (checksums
// behind long magics), the mark alone counts here: versions of libblkid differ in that, and a doubt
// costs time, not data.
package probe

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"clonecast/internal/filesystem"
	"clonecast/internal/filesystem/btrfs"
	"clonecast/internal/filesystem/exfat"
	"clonecast/internal/filesystem/ext4"
	"clonecast/internal/filesystem/f2fs"
	"clonecast/internal/filesystem/fat"
	"clonecast/internal/filesystem/ntfs"
	"clonecast/internal/filesystem/swap"
	"clonecast/internal/filesystem/xfs"
	"clonecast/internal/quantity"
)

// reader is the Read function of a format.
type reader func(r io.ReaderAt, size quantity.Bytes) (filesystem.Volume, error)

// readers lists the formats whose allocation map can be read, but for FAT.
func readers() []reader {
	return []reader{ext4.Read, ntfs.Read, xfs.Read, btrfs.Read, f2fs.Read, exfat.Read, swap.Read}
}

const checkRemedy = "check the file system with its own tools (chkdsk /f, fsck), then capture again"

// Read tells what the partition r of the given size holds. Its only errors are
// those of reading r.
func Read(r io.ReaderAt, size quantity.Bytes) (filesystem.Volume, error) {
	return read(r, size, append(readers(), readLVM))
}

// Readable tells whether a volume of this type can be read from r by its own reader alone, so that its map
// does not come from bytes that somebody made up in the place of unreadable ones.
func Readable(r io.ReaderAt, size quantity.Bytes, format string) bool {
	for _, read := range append(readers(), readLVM, readFAT) {
		if v, err := read(r, size); err == nil && v.Type == format {
			return v.Doubt == nil
		}
	}
	return false
}

func read(r io.ReaderAt, size quantity.Bytes, readers []reader) (filesystem.Volume, error) {
	found, err := findKinds(r, size, kinds(size))
	if err != nil {
		return filesystem.Volume{}, err
	}
	// BitLocker To Go has a boot sector of FAT by design.
	if !slices.ContainsFunc(found, func(v filesystem.Volume) bool { return v.Type == "BitLocker" }) {
		readers = append(slices.Clip(readers), readFAT)
	}
	for _, read := range readers {
		if found, err = try(found, read, r, size); err != nil {
			return filesystem.Volume{}, err
		}
	}
	switch len(found) {
	case 0:
		return filesystem.Volume{Doubt: &filesystem.Doubt{Reason: "no known file system"}}, nil
	case 1:
		return withTail(found[0], r, size)
	}
	return ambiguous(found), nil
}

// readFAT reads FAT, which has no magic: its map is used only where blkid, too, takes the boot sector
// for FAT's. What only blkid takes for that counts as well: an ext4 beside it is not to be trusted.
func readFAT(r io.ReaderAt, size quantity.Bytes) (filesystem.Volume, error) {
	found, err := findKinds(r, size, []kind{fatBoot()})
	if err != nil {
		return filesystem.Volume{}, err
	}
	v, err := fat.Read(r, size)
	switch {
	case errors.Is(err, filesystem.ErrNotFound) && len(found) > 0:
		found[0].Doubt = &filesystem.Doubt{Reason: "boot sector of FAT, with numbers that do not fit the partition"}
		return found[0], nil
	case err == nil && len(found) == 0 && v.Doubt == nil:
		return filesystem.Volume{Type: v.Type, UUID: v.UUID, Label: v.Label, BlockSize: v.BlockSize,
			Doubt: &filesystem.Doubt{Reason: "FAT by its numbers, but not by its name or signatures", Remedy: checkRemedy}}, nil
	}
	return v, err
}

// try adds what read finds to found.
func try(found []filesystem.Volume, read reader, r io.ReaderAt, size quantity.Bytes) ([]filesystem.Volume, error) {
	v, err := read(r, size)
	var corrupt *filesystem.CorruptError
	switch {
	case errors.Is(err, filesystem.ErrNotFound):
		return found, nil
	case errors.As(err, &corrupt):
		v = filesystem.Volume{
			Type:  corrupt.Format,
			Doubt: &filesystem.Doubt{Reason: err.Error(), Remedy: checkRemedy},
		}
	case err != nil:
		return nil, err
	}
	return append(found, v), nil
}

// ambiguous is a partition that carries the marks of several formats. If one of
// them forbids a capture, so does the whole.
func ambiguous(found []filesystem.Volume) filesystem.Volume {
	var names []string
	out := filesystem.Volume{Type: found[0].Type, Doubt: &filesystem.Doubt{
		Remedy: "erase the marks that are stale (wipefs lists them)",
	}}
	for _, v := range found {
		names = append(names, v.Type)
		if v.Doubt != nil && v.Doubt.Refuse {
			out.Doubt.Refuse = true
			out.Doubt.Hibernated = out.Doubt.Hibernated || v.Doubt.Hibernated
			out.Doubt.Remedy = v.Doubt.Remedy
		}
	}
	out.Doubt.Reason = fmt.Sprintf("ambiguous: the partition looks like %s", strings.Join(names, " and "))
	return out
}
