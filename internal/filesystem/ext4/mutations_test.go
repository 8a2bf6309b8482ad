package ext4

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"clonecast/internal/disktest"
	"clonecast/internal/quantity"
)

// TestMutations reads thousands of damaged file systems that hold files.
func TestMutations(t *testing.T) {
	for _, args := range []string{
		"-t ext4 -b1024", "-t ext4 -b4096 -O ^metadata_csum", "-t ext4 -b1024 -O ^metadata_csum,uninit_bg", "-t ext3 -b1024",
		"-t ext4 -b1024 -O meta_bg,^resize_inode,^metadata_csum", "-t ext4 -b4096 -C16384 -O bigalloc,^metadata_csum",
		"-t ext2 -b1024 -r0", "-t ext4 -b1024 -O mmp,sparse_super2,^resize_inode,^metadata_csum",
	} {
		path := disktest.Image(t, 24*quantity.MiB)
		dir := t.TempDir()
		disktest.Fill(t, dir, 60, 40*quantity.KiB)
		disktest.Command(t, "mke2fs -q "+args+" -d DIR DEV", "DIR", dir, "DEV", path)
		base := disktest.Load(t, path)
		places := structures(t, base)
		rng := rand.New(rand.NewPCG(3, 4))
		clean := 0
		for range 1200 {
			s := base.Clone()
			for range 1 + rng.IntN(4) {
				p := places[rng.IntN(len(places))]
				s.Edit(int64(p.Start)+rng.Int64N(int64(p.Length)), 1)[0] ^= byte(1 << rng.IntN(8))
			}
			if rng.IntN(4) > 0 {
				b := s.Edit(superblockOffset, superblockSize)
				binary.LittleEndian.PutUint32(b[0x3fc:], crc32c(^uint32(0), b[:0x3fc]))
			}
			v, err := Read(s, s.Size)
			disktest.CheckVolume(t, v, err, s.Size)
			if err == nil && v.Doubt == nil {
				clean++
			}
		}
		if clean == 0 || clean > 900 {
			t.Errorf("mke2fs %s: %d of 1200 damaged file systems pass for clean", args, clean)
		}
	}
}

// structures gives the places that Read looks at.
func structures(t *testing.T, s *disktest.Sparse) []quantity.Extent {
	t.Helper()
	raw := make([]byte, superblockSize)
	if _, err := s.ReadAt(raw, superblockOffset); err != nil {
		t.Fatal(err)
	}
	sb, problem, err := parseSuperblock(raw)
	if err != nil || problem != "" {
		t.Fatal(problem, err)
	}
	rd := reader{r: s, fsType: sb.fsType()}
	if rd.geometry, problem = newGeometry(&sb, s.Size); problem != "" {
		t.Fatal(problem)
	}
	out := []quantity.Extent{{Start: superblockOffset, Length: superblockSize}, {Start: superblockOffset, Length: 0x110}}
	for n := range rd.groups {
		g, err := rd.group(n)
		if err != nil {
			t.Fatal(err)
		}
		block := rd.offset(rd.descriptorBlock(n / rd.descriptorsPerBlock()))
		out = append(out,
			quantity.Extent{
				Start:  block + quantity.Bytes(n%rd.descriptorsPerBlock()*rd.descSize),
				Length: quantity.Bytes(rd.descSize),
			},
			quantity.Extent{Start: rd.offset(g.blockBitmap), Length: rd.blockSize})
		if n == 0 {
			size := quantity.Bytes(rd.inodeSize)
			out = append(out, quantity.Extent{Start: rd.offset(g.inodeTable) + 7*size, Length: size}) // the journal's inode
		}
	}
	if sb.compat(compatHasJournal) {
		if doubt, err := rd.journalDoubt(); doubt != nil || err != nil {
			t.Fatal(doubt, err)
		}
		block := uint64(binary.LittleEndian.Uint32(rd.log.inode.Block[:]))
		if rd.log.inode.extents() {
			if block, err = rd.firstExtent(rd.log.inode.Block[:]); err != nil {
				t.Fatal(err)
			}
		}
		out = append(out, quantity.Extent{Start: rd.offset(block), Length: 0x60})
	}
	return out
}
