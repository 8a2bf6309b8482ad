// Package probe finds out which file system a partition holds.
//
// Algorithm: every signature of the table in kinds.go is looked for, and every
// reader of readers() is tried. One hit is the answer. FAT is tried only when
// nothing else was found: it has no magic number, and BitLocker To Go and others
// put a FAT boot sector in front of their own data.
//
// What is found but has no reader of its allocation map is named and returned
// with a Doubt, as is a partition without any file system known here, a damaged
// one, and one that carries the marks of several: which of them is stale cannot
// be told, so every block is copied.
//
// Not guaranteed: a hit says what a partition claims to be, not that it is sound;
// only the readers look further. The answer has no part that depends on the order
// of the table but the name given to an ambiguous partition: the first hit's.
//
// The places are libblkid's (util-linux, libblkid/src/superblocks).
package probe

import (
	"errors"
	"fmt"
	"io"
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

func read(r io.ReaderAt, size quantity.Bytes, readers []reader) (filesystem.Volume, error) {
	found, err := findKinds(r, size)
	if err != nil {
		return filesystem.Volume{}, err
	}
	for _, read := range readers {
		if found, err = try(found, read, r, size); err != nil {
			return filesystem.Volume{}, err
		}
	}
	if len(found) == 0 {
		if found, err = try(found, fat.Read, r, size); err != nil {
			return filesystem.Volume{}, err
		}
	}
	switch len(found) {
	case 0:
		return filesystem.Volume{Doubt: &filesystem.Doubt{Reason: "no known file system"}}, nil
	case 1:
		return found[0], nil
	}
	return ambiguous(found), nil
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
			out.Doubt.Remedy = v.Doubt.Remedy
		}
	}
	out.Doubt.Reason = fmt.Sprintf("ambiguous: the partition looks like %s", strings.Join(names, " and "))
	return out
}
