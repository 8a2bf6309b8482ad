package fat

import (
	"encoding/binary"

	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
)

// chunk is how much of the FAT is read at once: whole entries of any width.
const chunk = 3 * 256 * quantity.KiB

const remedy = "unmount it properly, or check it with chkdsk /f (Windows) or fsck.fat (Linux)"

// Marks in the entry of cluster 1, which is no cluster.
const (
	clean16   = 0x8000
	noError16 = 0x4000
	clean32   = 0x08000000
	noError32 = 0x04000000
)

// examine tells why the FAT must not be relied on, or nil.
func (v *volume) examine() (*filesystem.Doubt, error) {
	if v.mounted {
		return &filesystem.Doubt{Reason: "the boot sector says that it was not unmounted", Remedy: remedy}, nil
	}
	head := make([]byte, 8)
	if err := filesystem.ReadFull(v.r, head, v.fat); err != nil {
		return nil, err
	}
	clean, noError := true, true
	switch v.width {
	case 16:
		e := binary.LittleEndian.Uint16(head[2:])
		clean, noError = e&clean16 != 0, e&noError16 != 0
	case 32:
		e := binary.LittleEndian.Uint32(head[4:])
		clean, noError = e&clean32 != 0, e&noError32 != 0
	}
	switch {
	case !clean:
		return &filesystem.Doubt{Reason: "the FAT is marked dirty", Remedy: remedy}, nil
	case !noError:
		return &filesystem.Doubt{Reason: "the FAT is marked after disk errors", Remedy: remedy}, nil
	}
	return nil, nil
}

// allocation gives the bytes in use.
func (v *volume) allocation() ([]quantity.Extent, error) {
	var out filesystem.Map
	out.Add(0, v.data)
	entries := v.clusters + 2
	length := quantity.Bytes((entries*int64(v.width) + 7) / 8)
	perChunk := int64(chunk) * 8 / int64(v.width)
	buf := make([]byte, min(length, chunk))
	for first := int64(0); first < entries; first += perChunk {
		off := quantity.Bytes(first * int64(v.width) / 8)
		b := buf[:min(length-off, chunk)]
		if err := filesystem.ReadFull(v.r, b, v.fat+off); err != nil {
			return nil, err
		}
		for n := max(first, 2); n < min(first+perChunk, entries); n++ {
			if v.used(b, n-first) {
				out.Add(v.clusterOffset(n), v.clusterSize)
			}
		}
	}
	last := v.clusterOffset(entries)
	out.Add(last, v.end-last)
	return out.Extents(), nil
}

// used tells whether entry i of the FAT bytes b belongs to a cluster in use.
func (v *volume) used(b []byte, i int64) bool {
	e := v.entry(b, i)
	return e != 0 && e != v.bad()
}

// entry decodes entry i of the FAT bytes b.
func (v *volume) entry(b []byte, i int64) uint32 {
	switch v.width {
	case 12:
		pair := uint32(binary.LittleEndian.Uint16(b[i*3/2:]))
		if i%2 == 1 {
			return pair >> 4
		}
		return pair & 0xFFF
	case 16:
		return uint32(binary.LittleEndian.Uint16(b[i*2:]))
	}
	// The upper four bits are reserved and mean nothing.
	return binary.LittleEndian.Uint32(b[i*4:]) & 0x0FFFFFFF
}

// bad is the entry of a bad cluster; greater ones end a chain.
func (v *volume) bad() uint32 {
	switch v.width {
	case 12:
		return 0xFF7
	case 16:
		return 0xFFF7
	}
	return 0x0FFFFFF7
}

func (v *volume) clusterOffset(n int64) quantity.Bytes {
	return v.data + quantity.Bytes(n-2)*v.clusterSize
}
