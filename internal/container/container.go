// Package container recognises files that hold a disk in another form than byte for byte: images of virtual
// machines, compressed files, archives, images of other programs. To capture one as if it were a disk, or to
// deploy over one, is a mistake that nobody sees before the disk is needed; so they are named, with the
// command that makes a plain file of them.
//
// A file that has a partition table at its start is a disk whatever its boot code looks like. Content that
// belongs on a disk (LUKS, ISO 9660, a bare file system) is no container.
package container

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"path"
	"strings"
)

// Format is a form that a disk can be kept in.
type Format struct {
	Name string

	program string // that makes a plain file: "gunzip", or a command line with FILE and RAW
	suffix  string // that the program wants, or "" if the command line says all
}

// The numbers and magic bytes are those of file(1)'s magic, QEMU's block drivers and the formats' documents;
// each is tried with a file that the format's own tool made (container_test.go).
var (
	qemu = "qemu-img convert -O raw FILE RAW"

	magics = []struct {
		at     int
		magic  string
		check  func(head []byte) bool // nil: the magic is enough
		format Format
	}{
		{0, "QFI\xfb", version(4, 1, 1), Format{"a qcow image", qemu, ""}},
		{0, "QFI\xfb", version(4, 2, 3), Format{"a qcow2 image", qemu, ""}},
		{0, "QED\x00", nil, Format{"a QED image", qemu, ""}},
		{0, "KDMV", nil, Format{"a VMDK image", qemu, ""}},
		{0, "COWD", nil, Format{"a VMDK image", qemu, ""}},
		{0, "# Disk DescriptorFile", nil, Format{"the descriptor of a VMDK image", qemu, ""}},
		{0, "conectix", nil, Format{"a VHD image", "qemu-img convert -f vpc -O raw FILE RAW", ""}},
		{0, "vhdxfile", nil, Format{"a VHDX image", qemu, ""}},
		{0, "<<< ", vdi, Format{"a VDI image", qemu, ""}},
		{0, "WithoutFreeSpace", nil, Format{"a Parallels image", qemu, ""}},
		{0, "WithouFreSpacExt", nil, Format{"a Parallels image", qemu, ""}},
		{0, "Bochs Virtual HD Image", nil, Format{"a Bochs image", qemu, ""}},
		{0, "#!/bin/sh\n#V2.0 Format\nmodprobe cloop", nil, Format{"a cloop image", qemu, ""}},
		{0, "\x1f\x8b\x08", gzip, Format{"compressed with gzip", "gunzip", ".gz"}},
		{0, "\xfd7zXZ\x00", nil, Format{"compressed with xz", "xz -d", ".xz"}},
		{0, "\x28\xb5\x2f\xfd", nil, Format{"compressed with zstd", "zstd -d", ".zst"}},
		{0, "BZh", bzip2, Format{"compressed with bzip2", "bunzip2", ".bz2"}},
		{0, "\x04\x22\x4d\x18", nil, Format{"compressed with lz4", "lz4 -d FILE RAW", ""}},
		{0, "\x02\x21\x4c\x18", nil, Format{"compressed with lz4", "lz4 -d FILE RAW", ""}},
		{0, "LZIP\x01", nil, Format{"compressed with lzip", "lzip -d", ".lz"}},
		{0, "\x89LZO\x00\r\n\x1a\n", nil, Format{"compressed with lzop", "lzop -d", ".lzo"}},
		{0, "PK\x03\x04", nil, Format{"a ZIP archive", "unzip FILE", ""}},
		{0, "PK\x05\x06", nil, Format{"an empty ZIP archive", "unzip FILE", ""}},
		{0, "7z\xbc\xaf\x27\x1c", nil, Format{"a 7z archive", "7z x FILE", ""}},
		{0, "Rar!\x1a\x07", nil, Format{"a RAR archive", "unrar x FILE", ""}},
		{257, "ustar", ova, Format{"an OVA archive",
			"tar -xf FILE, then qemu-img convert -O raw DISK.vmdk RAW for each disk in it", ""}},
		{257, "ustar", tar, Format{"a tar archive", "tar -xf FILE", ""}},
		{0, "partclone-image", nil, Format{"a partclone image",
			"partclone.restore -C -s FILE -O RAW --restore_raw_file", ""}},
		{0, "\x00ntfsclone-image", nil, Format{"an ntfsclone image", "ntfsclone --restore-image --overwrite RAW FILE",
			""}},
		{0, "PaRtImAgE-VoLuMe", nil, Format{"a partimage image", "partimage restore RAW FILE", ""}},
		{0, "FsArCh", nil, Format{"an fsarchiver archive", "fsarchiver restfs FILE id=0,dest=RAW", ""}},
		{0, "MSWIM\x00\x00\x00", nil, Format{"a WIM image", "wimlib-imagex apply FILE 1 DIRECTORY", ""}},
		{0, "EVF\x09\x0d\x0a\xff\x00", nil, Format{"an EWF image", "ewfexport -t RAW FILE", ""}},
		{0, "\x3a\xff\x26\xed", nil, Format{"an Android sparse image", "simg2img FILE RAW", ""}},
		{0, "CCFILE1\n", nil, Format{"a version that clonecast exported", "clonecast image import FILE --store DIR",
			""}},
	}
	vhd = Format{"a VHD image of fixed size", "qemu-img convert -f vpc -O raw FILE RAW", ""}
	dmg = Format{"a DMG image", "qemu-img convert -f dmg -O raw FILE RAW", ""}
)

// headSize is how much of a file's start the formats show themselves in.
const headSize = 4096 + 512

// Detect names the container that a file of so many bytes is; ok is false if it is none.
func Detect(r io.ReaderAt, size int64) (f Format, ok bool, err error) {
	head, err := readUpTo(r, 0, min(size, headSize))
	if err != nil {
		return Format{}, false, err
	}
	if !hasTable(head, size) {
		for _, m := range magics {
			if at := head[min(m.at, len(head)):]; bytes.HasPrefix(at, []byte(m.magic)) && (m.check == nil ||
				m.check(head)) {
				return m.format, true, nil
			}
		}
	}
	if size < footerSize {
		return Format{}, false, nil
	}
	footer, err := readUpTo(r, size-footerSize, footerSize)
	switch {
	case err != nil:
		return Format{}, false, err
	case isVHDFooter(footer, size):
		return vhd, true, nil
	case isDMGFooter(footer):
		return dmg, true, nil
	}
	return Format{}, false, nil
}

func readUpTo(r io.ReaderAt, at, length int64) ([]byte, error) {
	b := make([]byte, length)
	n, err := r.ReadAt(b, at)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return b[:n], err
}

// Convert gives the command that makes a plain file of FILE.
func (f Format) Convert(file string) string {
	if strings.HasPrefix(file, "-") {
		file = "./" + file
	}
	raw := quote(file + ".raw")
	if f.suffix == "" {
		return strings.NewReplacer("FILE", quote(file), "RAW", raw).Replace(f.program)
	}
	if path.Ext(file) != f.suffix {
		return f.program + " -c < " + quote(file) + " > " + raw
	}
	return f.program + " -k " + quote(file)
}

// quote writes a word as a shell reads it.
func quote(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' ||
			strings.ContainsRune("/._-+:@%,=", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// version checks a big-endian number.
func version(at int, least, most uint32) func([]byte) bool {
	return func(head []byte) bool {
		if len(head) < at+4 {
			return false
		}
		v := binary.BigEndian.Uint32(head[at:])
		return v >= least && v <= most
	}
}

// vdi wants the image signature behind the text.
func vdi(head []byte) bool {
	return len(head) >= 0x44 && binary.LittleEndian.Uint32(head[0x40:]) == 0xbeda107f
}

// gzip wants the reserved flags to be zero (RFC 1952, 2.3.1).
func gzip(head []byte) bool { return len(head) >= 10 && head[3]&0xe0 == 0 }

// bzip2 wants the block size and the magic of the first block or of the end.
func bzip2(head []byte) bool {
	return len(head) >= 10 && head[3] >= '1' && head[3] <= '9' &&
		(string(head[4:10]) == "1AY&SY" || string(head[4:10]) == "\x17\x72\x45\x38\x50\x90")
}

// tar proves the checksum of the first header (POSIX ustar).
func tar(head []byte) bool {
	if len(head) < 512 {
		return false
	}
	want, digits := uint32(0), 0
	for _, c := range bytes.Trim(head[148:156], " \x00") {
		if c < '0' || c > '7' {
			return false
		}
		want, digits = want<<3|uint32(c-'0'), digits+1
	}
	sum := uint32(8 * ' ') // the checksum itself counts as blanks
	for i, c := range head[:512] {
		if i < 148 || i >= 156 {
			sum += uint32(c)
		}
	}
	return digits > 0 && sum == want
}

// ova is a tar archive whose first member is the description of a virtual machine.
func ova(head []byte) bool {
	if !tar(head) {
		return false
	}
	name, _, _ := bytes.Cut(head[:100], []byte{0})
	return strings.EqualFold(path.Ext(string(name)), ".ovf")
}

const footerSize = 512

// isVHDFooter proves the footer of a fixed VHD (Virtual Hard Disk Image Format Specification, "Hard Disk Footer
// Format"): cookie, type 2, the size of the disk before it, the checksum. Behind a raw disk an old one may lie that
// says another size.
func isVHDFooter(b []byte, size int64) bool {
	if len(b) != footerSize || string(b[:8]) != "conectix" || binary.BigEndian.Uint32(b[60:]) != 2 {
		return false
	}
	sum := uint32(0)
	for i, c := range b {
		if i < 64 || i >= 68 {
			sum += uint32(c)
		}
	}
	return ^sum == binary.BigEndian.Uint32(b[64:]) && binary.BigEndian.Uint64(b[48:]) == uint64(size-footerSize)
}

// isDMGFooter knows the trailer of Apple's UDIF: magic, version 4, its own size.
func isDMGFooter(b []byte) bool {
	return len(b) == footerSize && string(b[:4]) == "koly" && binary.BigEndian.Uint32(b[4:]) == 4 &&
		binary.BigEndian.Uint32(b[8:]) == footerSize
}

// hasTable tells whether a file of so many bytes begins with a partition table: an MBR whose entries make sense and
// lie in the file, or a GPT of 512 or 4096 byte sectors.
func hasTable(head []byte, size int64) bool {
	if len(head) < 512 || head[510] != 0x55 || head[511] != 0xaa {
		return false
	}
	for _, sector := range []int{512, 4096} {
		if bytes.HasPrefix(head[min(sector, len(head)):], []byte("EFI PART")) {
			return true
		}
	}
	used := 0
	for e := head[446:510]; len(e) >= 16; e = e[16:] {
		start, length := int64(binary.LittleEndian.Uint32(e[8:])), int64(binary.LittleEndian.Uint32(e[12:]))
		switch {
		case e[0]&0x7f != 0:
			return false
		case e[4] == 0:
			continue
		case start == 0 || length == 0 || start*512 >= size:
			return false
		}
		used++
	}
	return used > 0
}
