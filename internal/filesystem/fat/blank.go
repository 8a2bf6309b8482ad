package fat

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

// Places in the boot sector and in FAT32's information sector that a blank volume changes.
const (
	stateOffset16   = bpbSize + 1
	stateOffset32   = bpbSize + fat32Size + 1
	flagsOffset     = bpbSize + 0x04
	rootOffset      = bpbSize + 0x08
	infoSignature   = 0x41615252 // at 0
	infoSignature2  = 0x61417272 // at 484
	infoFreeOffset  = 488
	rootClusterHere = 2 // of a blank FAT32 volume
)

// Blank gives the FAT volume on r as it would be if it were made anew: same boot code,
// geometry, serial number and label, and no files. It does not matter whether the volume
// was left clean.
func Blank(r io.ReaderAt, size quantity.Bytes) (filesystem.Blank, error) {
	boot := make([]byte, bootSectorSize)
	if size < bootSectorSize {
		return filesystem.Blank{}, filesystem.ErrNotFound
	}
	if err := filesystem.ReadFull(r, boot, 0); err != nil {
		return filesystem.Blank{}, err
	}
	g, err := parseBoot(boot, size)
	if err != nil {
		return filesystem.Blank{}, err
	}
	v := &volume{r: r, geometry: g}
	label, err := v.rootLabel()
	if err != nil {
		return filesystem.Blank{}, fmt.Errorf("read the root directory: %w", err)
	}
	var p bpb
	if _, err := binary.Decode(boot, binary.LittleEndian, &p); err != nil {
		return filesystem.Blank{}, fmt.Errorf("decode the boot sector: %w", err)
	}
	fats := quantity.Bytes(p.Reserved) * g.sectorSize
	end := g.data
	if g.width == 32 {
		end += g.clusterSize // the root directory
	}
	b := filesystem.Blank{
		Extents: []quantity.Extent{{Start: 0, Length: end}},
		Zero:    []quantity.Extent{{Start: fats, Length: end - fats}},
		Writes:  v.blankReserved(boot, p),
	}
	length := (g.rootDir - fats) / quantity.Bytes(p.FATs)
	for i := range quantity.Bytes(p.FATs) {
		b.Writes = append(b.Writes, filesystem.Write{Offset: fats + i*length, Data: firstEntries(g.width, p.Media)})
	}
	if label != nil {
		b.Writes = append(b.Writes, filesystem.Write{Offset: end - v.rootLength(), Data: labelEntry(label)})
	}
	return b, nil
}

// rootLength is the length of a blank volume's root directory.
func (v *volume) rootLength() quantity.Bytes {
	if v.width == 32 {
		return v.clusterSize
	}
	return v.data - v.rootDir
}

// blankReserved gives the sectors in front of the FATs that change: the boot sector, and
// on FAT32 its backup and both information sectors.
func (v *volume) blankReserved(boot []byte, p bpb) []filesystem.Write {
	boot = bytes.Clone(boot)
	if v.width != 32 {
		boot[stateOffset16] = 0
		return []filesystem.Write{{Offset: 0, Data: boot}}
	}
	var ext fat32
	_, _ = binary.Decode(boot[bpbSize:], binary.LittleEndian, &ext) // boot has the size of a sector
	boot[stateOffset32] = 0
	binary.LittleEndian.PutUint16(boot[flagsOffset:], 0) // all FATs are in use
	binary.LittleEndian.PutUint32(boot[rootOffset:], rootClusterHere)
	out := []filesystem.Write{{Offset: 0, Data: boot}}
	add := func(sector uint16, data []byte) {
		if sector > 0 && sector < p.Reserved {
			out = append(out, filesystem.Write{Offset: quantity.Bytes(sector) * v.sectorSize, Data: data})
		}
	}
	info := v.infoSector()
	add(ext.InfoSector, info)
	if ext.BackupBoot > 0 && ext.BackupBoot < p.Reserved {
		add(ext.BackupBoot, boot)
		if ext.InfoSector < p.Reserved {
			add(ext.BackupBoot+ext.InfoSector, info)
		}
	}
	return out
}

// infoSector says that all clusters but the root directory's are free.
func (v *volume) infoSector() []byte {
	b := make([]byte, bootSectorSize)
	binary.LittleEndian.PutUint32(b, infoSignature)
	binary.LittleEndian.PutUint32(b[infoFreeOffset-4:], infoSignature2)
	binary.LittleEndian.PutUint32(b[infoFreeOffset:], uint32(v.clusters-1))
	binary.LittleEndian.PutUint32(b[infoFreeOffset+4:], rootClusterHere)
	binary.LittleEndian.PutUint16(b[signatureOffset:], 0xAA55)
	return b
}

// firstEntries is the start of an empty FAT: the media byte, the clean marks, and on FAT32
// the end of the root directory's chain.
func firstEntries(width int, media byte) []byte {
	switch width {
	case 12:
		return []byte{media, 0xFF, 0xFF}
	case 16:
		return []byte{media, 0xFF, 0xFF, 0xFF}
	}
	return []byte{media, 0xFF, 0xFF, 0x0F, 0xFF, 0xFF, 0xFF, 0x0F, 0xFF, 0xFF, 0xFF, 0x0F}
}

// labelEntry is the directory entry of a label, made on 1980-01-01, the first day that FAT
// knows.
func labelEntry(raw []byte) []byte {
	const modifiedDate, firstDay = 24, 1<<5 | 1
	e := make([]byte, rootEntrySize)
	copy(e, raw)
	if e[0] == deleted {
		e[0] = 0x05
	}
	e[attributeOffset] = attributeLabel
	binary.LittleEndian.PutUint16(e[modifiedDate:], firstDay)
	return e
}
