package ntfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

// maxClusters is how many clusters Windows takes at most.
const maxClusters = 1<<32 - 1

// Grow plans how the clean volume on r comes to fill its partition of the given size.
// Nothing is moved. The steps:
//
//	$Volume    the dirty flag is set: Windows checks a volume that is left here
//	$LogFile   emptied (0xFF); it held nothing
//	$Bitmap    bits of the new clusters, its own new clusters among them
//	records    $Bitmap's and $BadClus's, which has a hole as long as the volume
//	boot       sector 0 with the new number of sectors: from here on the volume is larger
//	backup     the boot sector's copy in the partition's last sector
//	$Volume    the dirty flag is cleared
//
// The new part of $Bitmap lies in the new clusters: until the boot sector is written
// nothing that the old volume uses is overwritten, but for the unused bits after the
// last cluster. The sizes in $Bitmap's FILE_NAME attribute and directory entry stay as
// they were, as Windows leaves them for its own files.
//
// A volume that fills the partition already gives a Growth without steps. The error is a
// *filesystem.UnchangedError when the volume must stay as it is.
func Grow(r io.ReaderAt, size quantity.Bytes) (filesystem.Growth, error) {
	found, err := Read(r, size)
	if err != nil {
		return filesystem.Growth{}, err
	}
	if found.Doubt != nil {
		return filesystem.Growth{}, &filesystem.UnchangedError{Reason: found.Doubt.Reason}
	}
	g := &grower{volume: volume{r: r, size: size}}
	if g.geometry, err = readBoot(r, size); err != nil {
		return filesystem.Growth{}, err
	}
	if err := g.loadMFT(); err != nil {
		return filesystem.Growth{}, fmt.Errorf("read $MFT: %w", err)
	}
	out := filesystem.Growth{From: g.clusterOffset(g.clusters), To: g.clusterOffset(g.clusters)}
	g.chooseSize()
	if g.newClusters <= g.clusters {
		return out, nil
	}
	out.To = g.clusterOffset(g.newClusters)
	out.Steps, err = g.steps()
	return out, err
}

// grower is a volume and what it becomes.
type grower struct {
	volume
	newSectors  quantity.Sectors
	newClusters int64

	mirror   stream // $MFTMirr
	newRun   run    // clusters that $Bitmap gets; length 0: none
	bitmap   stream // $Bitmap with newRun
	oldWords []byte // of $Bitmap from the sector on in which the old clusters end
}

// chooseSize leaves the partition's last sector to the backup of the boot sector.
func (g *grower) chooseSize() {
	g.newSectors = quantity.Sectors(g.size/g.sectorSize) - 1
	g.newClusters = int64(quantity.Bytes(g.newSectors) * g.sectorSize / g.clusterSize)
	if g.newClusters > maxClusters {
		g.newClusters = maxClusters
		g.newSectors = quantity.Sectors(g.clusterOffset(maxClusters) / g.sectorSize)
	}
}

func (g *grower) steps() ([][]filesystem.Write, error) {
	var steps [][]filesystem.Write
	mirror, err := g.readRecord(recordMirror)
	if err != nil {
		return nil, fmt.Errorf("read $MFTMirr: %w", err)
	}
	if g.mirror, err = g.open(mirror, typeData, ""); err != nil {
		return nil, fmt.Errorf("read $MFTMirr: %w", required(mirror, "$DATA", err))
	}
	if err := g.noHoles(&g.mirror, mirror); err != nil {
		return nil, fmt.Errorf("read $MFTMirr: %w", err)
	}
	dirty, clean, err := g.dirtyFlag()
	if err != nil {
		return nil, fmt.Errorf("read $Volume: %w", err)
	}
	log, err := g.emptyLog()
	if err != nil {
		return nil, fmt.Errorf("read $LogFile: %w", err)
	}
	bitmap, err := g.growBitmap()
	if err != nil {
		return nil, fmt.Errorf("grow $Bitmap: %w", err)
	}
	bad, err := g.growBadClusters()
	if err != nil {
		return nil, fmt.Errorf("grow $BadClus: %w", err)
	}
	boot, err := g.bootSector()
	if err != nil {
		return nil, fmt.Errorf("read boot sector: %w", err)
	}
	backup := g.size/g.sectorSize*g.sectorSize - g.sectorSize
	steps = append(steps, dirty)
	if len(log) > 0 {
		steps = append(steps, log)
	}
	return append(steps, g.bitmapWrites(), append(bitmap, bad...),
		[]filesystem.Write{{Offset: 0, Data: boot}}, []filesystem.Write{{Offset: backup, Data: boot}}, clean), nil
}

// editable gives a record of a system file all of whose attributes are in it.
func (g *grower) editable(number uint64) (record, error) {
	r, err := g.readRecord(number)
	if err != nil {
		return record{}, err
	}
	if _, err := r.find(typeList, ""); err == nil {
		return record{}, &filesystem.UnchangedError{
			Reason: fmt.Sprintf("%s is spread over several records: the volume is too fragmented", r.name()),
		}
	} else if !errors.Is(err, errNoAttribute) {
		return record{}, err
	}
	return r, nil
}

// dirtyFlag gives the writes of $Volume's record with the dirty flag and, later, without.
func (g *grower) dirtyFlag() (dirty, clean []filesystem.Write, err error) {
	r, err := g.editable(recordVolume)
	if err != nil {
		return nil, nil, err
	}
	info, err := r.find(typeVolumeInfo, "")
	if err != nil {
		return nil, nil, required(r, "$VOLUME_INFORMATION", err)
	}
	// info.value is a part of r.data, and was long enough for Read.
	flags := binary.LittleEndian.Uint16(info.value[volumeInfoFlagsOffset:])
	binary.LittleEndian.PutUint16(info.value[volumeInfoFlagsOffset:], flags|volumeDirty)
	dirty = g.recordWrites(r, &g.mirror)
	number := int(r.FixupOffset)
	copy(r.whole[number:], dirty[0].Data[number:number+2]) // clean comes one write later
	binary.LittleEndian.PutUint16(info.value[volumeInfoFlagsOffset:], flags)
	return dirty, g.recordWrites(r, &g.mirror), nil
}

// emptyLog gives the writes that empty $LogFile, none if it is empty.
func (g *grower) emptyLog() ([]filesystem.Write, error) {
	_, s, err := g.openLog()
	if err != nil {
		return nil, err
	}
	full := bytes.Repeat([]byte{logFill}, int(quantity.MiB))
	now := make([]byte, len(full))
	var out []filesystem.Write
	for off := quantity.Bytes(0); off < s.size; off += quantity.MiB {
		n := min(s.size-off, quantity.MiB)
		if err := g.readStream(&s, now[:n], off); err != nil {
			return nil, err
		}
		if !emptied(now[:n]) {
			out = append(out, g.streamWrites(&s, full[:n], off)...)
		}
	}
	return out, nil
}

// growBitmap maps $Bitmap with the clusters it needs, and gives the writes of its record.
func (g *grower) growBitmap() ([]filesystem.Write, error) {
	r, err := g.editable(recordBitmap)
	if err != nil {
		return nil, err
	}
	a, err := r.find(typeData, "")
	if err != nil {
		return nil, required(r, "$DATA", err)
	}
	if a.NonResident == 0 {
		return nil, r.corrupt("$Bitmap is resident")
	}
	if g.bitmap, err = g.open(r, typeData, ""); err != nil {
		return nil, err
	}
	size := (g.newClusters + 63) / 64 * 8
	need := (size + int64(g.clusterSize) - 1) / int64(g.clusterSize)
	if more := need - g.bitmap.mapped(); more > 0 {
		// One cluster behind the old end: its backup boot sector stays until the new one is there.
		g.newRun = run{vcn: g.bitmap.mapped(), lcn: g.clusters + 1, length: more}
		if g.newRun.lcn+more > g.newClusters {
			return nil, &filesystem.UnchangedError{Reason: "the new room is too small for the volume's own bookkeeping"}
		}
		g.bitmap.add(g.newRun)
	}
	if err := g.readOldWords(); err != nil {
		return nil, err
	}
	g.bitmap.size, g.bitmap.initialized = quantity.Bytes(size), quantity.Bytes(size)
	h := a.nonResidentHeader
	h.LastVCN = uint64(g.bitmap.mapped()) - 1
	h.AllocatedSize = uint64(g.bitmap.mapped()) * uint64(g.clusterSize)
	h.DataSize, h.InitializedSize = uint64(size), uint64(size)
	if err := g.setRuns(&r, a, g.bitmap.runs, h); err != nil {
		return nil, err
	}
	return g.recordWrites(r, &g.mirror), nil
}

// firstChanged is the byte of $Bitmap from which on it is written: the start of the
// sector in which the bit of the first new cluster stands.
func (g *grower) firstChanged() quantity.Bytes {
	return quantity.Bytes(g.clusters/8) / g.sectorSize * g.sectorSize
}

// readOldWords remembers the bits of old clusters that are written once more.
func (g *grower) readOldWords() error {
	from := g.firstChanged()
	g.oldWords = make([]byte, g.bitmapSize()-from)
	return g.readStream(&g.bitmap, g.oldWords, from)
}

// bitmapWrites gives the writes of $Bitmap's changed and new bytes.
func (g *grower) bitmapWrites() []filesystem.Write {
	zero := make([]byte, quantity.MiB)
	end := quantity.Bytes(g.bitmap.mapped()) * g.clusterSize
	var out []filesystem.Write
	for off := g.firstChanged(); off < end; off += quantity.MiB {
		n := min(end-off, quantity.MiB)
		b := g.bitmapBytes(off, n)
		if bytes.Equal(b, zero[:n]) {
			b = zero[:n]
		}
		out = append(out, g.streamWrites(&g.bitmap, b, off)...)
	}
	return out
}

// bitmapBytes makes n bytes of the new $Bitmap from off on, which is not before
// firstChanged. Bits after the last cluster are ones, bytes after those zero.
func (g *grower) bitmapBytes(off, n quantity.Bytes) []byte {
	b := make([]byte, n)
	if skip := off - g.firstChanged(); skip < quantity.Bytes(len(g.oldWords)) {
		copy(b, g.oldWords[skip:])
	}
	first, limit := int64(off)*8, int64(off+n)*8
	set := func(from, to int64, value byte) {
		for bit := max(from, first); bit < min(to, limit); bit++ {
			mask := byte(1) << (bit % 8)
			b[(bit-first)/8] = b[(bit-first)/8]&^mask | value*mask
		}
	}
	set(g.clusters, (g.clusters+7)/8*8, 0)
	set(g.newRun.lcn, g.newRun.lcn+g.newRun.length, 1)
	set(g.newClusters, (g.newClusters+63)/64*64, 1)
	return b
}

// growBadClusters gives the writes of $BadClus's record: $Bad is a hole as long as the
// volume, but for bad clusters.
func (g *grower) growBadClusters() ([]filesystem.Write, error) {
	r, err := g.editable(recordBadClust)
	if err != nil {
		return nil, err
	}
	a, err := r.find(typeData, "$Bad")
	if errors.Is(err, errNoAttribute) || err == nil && a.NonResident == 0 {
		return nil, &filesystem.UnchangedError{Reason: "$BadClus is not as Windows makes it"}
	}
	if err != nil {
		return nil, err
	}
	s, err := g.open(r, typeData, "$Bad")
	if err != nil {
		return nil, err
	}
	if s.mapped() > g.newClusters {
		return nil, r.corrupt("$Bad covers %d clusters of %d", s.mapped(), g.clusters)
	}
	if more := g.newClusters - s.mapped(); more > 0 {
		s.add(run{vcn: s.mapped(), lcn: sparse, length: more})
	}
	h := a.nonResidentHeader
	h.LastVCN = uint64(g.newClusters) - 1
	h.AllocatedSize = uint64(g.newClusters) * uint64(g.clusterSize)
	h.DataSize = h.AllocatedSize
	if err := g.setRuns(&r, a, s.runs, h); err != nil {
		return nil, err
	}
	return g.recordWrites(r, &g.mirror), nil
}

// bootSector gives sector 0 with the new number of sectors.
func (g *grower) bootSector() ([]byte, error) {
	b := make([]byte, g.sectorSize)
	if err := filesystem.ReadFull(g.r, b, 0); err != nil {
		return nil, err
	}
	binary.LittleEndian.PutUint64(b[totalSectorsOffset:], uint64(g.newSectors))
	return b, nil
}

// totalSectorsOffset is where bootSector.TotalSectors stands.
const totalSectorsOffset = 0x28
