package f2fs

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"clonecast/internal/disktest"
	"clonecast/internal/filesystem"
	"clonecast/internal/layouttest"
	"clonecast/internal/quantity"
)

func TestLayouts(t *testing.T) {
	layouttest.Check[superblock](t, superblockSize)
	layouttest.Check[checkpointBlock](t, bitmapsAt)
}

// TestLarge reads a file system whose SIT bitmap does not fit into a checkpoint's first block.
func TestLarge(t *testing.T) {
	d := disktest.Open(t, makeImage(t, 4*quantity.TiB, ""))
	v, err := Read(d, 4*quantity.TiB)
	if err != nil || v.Doubt != nil || len(v.Allocated) < 4 {
		t.Errorf("Read = %+v, doubt %+v, %v", v, v.Doubt, err)
	}
	b := make([]byte, 4)
	if _, err := d.ReadAt(b, superblockOffset+0x680); err != nil || binary.LittleEndian.Uint32(b) == 0 {
		t.Errorf("checkpoint payload % x, %v: the test shows nothing", b, err)
	}
}

// disk is an image of which single blocks have been replaced.
type disk struct {
	base   []byte
	blocks map[int64][]byte // by place
	read   map[int64]int    // how many bytes were read at a place
}

func (d *disk) ReadAt(p []byte, off int64) (int, error) {
	d.read[off] = len(p)
	if b, ok := d.blocks[off]; ok {
		return copy(p, b), nil
	}
	return bytes.NewReader(d.base).ReadAt(p, off)
}

func (d *disk) Read() (filesystem.Volume, error) {
	clear(d.read)
	return Read(d, quantity.Bytes(len(d.base)))
}

// edit replaces the n bytes at off by an edited copy.
func (d *disk) edit(off int64, n int, f func(b []byte)) {
	b := bytes.Clone(d.base[off:][:n])
	f(b)
	d.blocks[off] = b
}

// editCheckpoints edits the blocks at both ends of both packs and makes the checksum fit.
func (d *disk) editCheckpoints(t *testing.T, f func(b []byte)) {
	t.Helper()
	count := 0
	for off := range d.read {
		if isCheckpoint(d.base[off:][:d.read[off]]) {
			d.edit(off, blockSize, func(b []byte) {
				f(b)
				fix(b)
			})
			count++
		}
	}
	if count != 4 {
		t.Fatalf("%d blocks of checkpoints", count)
	}
}

func isCheckpoint(b []byte) bool {
	if len(b) != blockSize {
		return false
	}
	_, problem, err := parseCheckpoint(b)
	return problem == "" && err == nil
}

// fix makes the checksum of a checkpoint fit that has it at its end.
func fix(b []byte) { binary.LittleEndian.PutUint32(b[blockSize-4:], checksum(b[:blockSize-4])) }

func newDisk(t testing.TB) *disk {
	t.Helper()
	path := makeImage(t, 120*quantity.MiB, "")
	dir := t.TempDir()
	disktest.Fill(t, dir, 60, 40*quantity.KiB)
	disktest.Command(t, "sload.f2fs -f DIR DEV", "DIR", dir, "DEV", path)
	return load(t, path)
}

func load(t testing.TB, path string) *disk {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	d := &disk{base: b, blocks: map[int64][]byte{}, read: map[int64]int{}}
	if v, err := d.Read(); err != nil || v.Doubt != nil || len(v.Allocated) < 5 {
		t.Fatalf("Read = %+v, %v", v, err)
	}
	return d
}

func TestReadRefuses(t *testing.T) {
	d := newDisk(t)
	reads := maps.Clone(d.read)
	le := binary.LittleEndian
	super := func(f func(b []byte)) func() { return func() { d.edit(superblockOffset, superblockSize, f) } }
	checkpoint := func(f func(b []byte)) func() { return func() { d.editCheckpoints(t, f) } }
	sit := int64(0) // the first SIT block that is read
	for _, at := range slices.Sorted(maps.Keys(d.read)) {
		if at >= int64(le.Uint32(d.base[1024+0x50:]))*blockSize {
			sit = at
			break
		}
	}
	entry := func(f func(b []byte)) func() { // the eleventh of the first SIT block
		return func() { d.edit(sit, blockSize, func(b []byte) { f(b[10*sitEntrySize:]) }) }
	}
	journal := func(f func(b []byte)) func() {
		return func() {
			for at, n := range reads {
				if n == blockSize && at < sit && !isCheckpoint(d.base[at:][:n]) {
					d.edit(at, n, f)
				}
			}
		}
	}
	compact := le.Uint32(d.base[int64(le.Uint32(d.base[1024+0x4c:]))*blockSize+0x84:])&flagCompactSum != 0
	place := 512 * 7
	if compact {
		place = journalSize
	}
	for name, tc := range map[string]struct {
		edit func()
		want string
	}{
		"larger than the disk": {super(func(b []byte) { b[0x28] = 1 }), "superblock at byte 1024: 4294998"},
		"SIT elsewhere":        {super(func(b []byte) { b[0x50]++ }), "SIT of"},
		"no NAT":               {super(func(b []byte) { le.PutUint32(b[0x3c:], 0) }), "NAT of 0 segments"},
		"main area too long":   {super(func(b []byte) { le.PutUint32(b[0x44:], 1000) }), "main area ends at"},
		"checkpoint payload":   {super(func(b []byte) { le.PutUint32(b[0x680:], 600) }), "checkpoints of 600 blocks"},
		"wrong checksum": {super(func(b []byte) {
			le.PutUint32(b[0x884:], featureChecksum)
			le.PutUint32(b[0x20:], superblockSize-4)
		}), "superblock at byte 1024: checksum"},

		"no valid checkpoint": {func() {
			d.editCheckpoints(t, func([]byte) {})
			for _, b := range d.blocks {
				b[0] ^= 1
			}
		}, "checkpoints at byte 2097152: checksum does not match"},
		"length of the pack": {checkpoint(func(b []byte) { le.PutUint32(b[0x88:], 1) }), "pack of 1 blocks"},
		"place of the sum": {checkpoint(func(b []byte) {
			le.PutUint32(b[0x8c:], 400)
			b[0x84] |= flagCompactSum
		}), "summaries at block 400"},
		"size of the bitmap":   {checkpoint(func(b []byte) { le.PutUint32(b[0x9c:], 128) }), "SIT bitmap of 128 bytes"},
		"bitmap outside":       {checkpoint(func(b []byte) { le.PutUint32(b[0x9c:], 1<<20) }), "SIT bitmap of 1048576 bytes"},
		"log outside":          {checkpoint(func(b []byte) { le.PutUint32(b[0x24:], 5000) }), "of segment 5000"},
		"log behind a segment": {checkpoint(func(b []byte) { le.PutUint16(b[0x44:], 512) }), "log at block 512"},
		"number of nodes":      {checkpoint(func(b []byte) { b[0x90]++ }), "the checkpoint says"},
		"number of blocks":     {checkpoint(func(b []byte) { le.PutUint64(b[0x10:], 3) }), "the checkpoint says"},

		"entry's counter":     {entry(func(b []byte) { b[0] ^= 1 }), "SIT entry 10 at byte"},
		"entry's bits":        {entry(func(b []byte) { b[5] ^= 4 }), "SIT entry 10 at byte"},
		"entry's type":        {entry(func(b []byte) { b[1] |= 7 << 2 }), "SIT entry 10 at byte"},
		"too many in journal": {journal(func(b []byte) { le.PutUint16(b[place:], 7) }), "SIT journal at byte"},
		"segment of the journal": {journal(func(b []byte) {
			le.PutUint16(b[place:], 1)
			le.PutUint32(b[place+2:], 1000)
		}), "segment 1000 of"},
	} {
		t.Run(name, func(t *testing.T) {
			clear(d.blocks)
			clear(d.read)
			maps.Copy(d.read, reads)
			tc.edit()
			v, err := d.Read()
			var corrupt *filesystem.CorruptError
			if !errors.As(err, &corrupt) || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("Read = %+v, doubt %+v, %v, want a *CorruptError with %q", v, v.Doubt, err, tc.want)
			}
		})
	}
	for name, b := range map[string][]byte{"blank": make([]byte, 128<<10), "tiny": make([]byte, 100)} {
		if _, err := Read(bytes.NewReader(b), quantity.Bytes(len(b))); !errors.Is(err, filesystem.ErrNotFound) {
			t.Errorf("%s: %v, want ErrNotFound", name, err)
		}
	}
	if _, err := Read(bytes.NewReader(d.base[:1<<20]), quantity.Bytes(len(d.base))); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("partition that ends early: %v", err)
	}
}

// TestTornCheckpoint makes the older checkpoint one that is not of an unmount, and damages one
// end of either: without the newer one the older counts.
func TestTornCheckpoint(t *testing.T) {
	d := load(t, disktest.Unpack(t, "testdata/unmounted.img.zst"))
	want, err := d.Read()
	if err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	version := func(at int64) uint64 { return le.Uint64(d.base[at:]) }
	noCheckpoint := func(at int64) bool { return !isCheckpoint(d.base[at:][:d.read[at]]) }
	ends := slices.DeleteFunc(slices.Collect(maps.Keys(d.read)), noCheckpoint)
	slices.SortFunc(ends, func(a, b int64) int { return cmp.Compare(version(a), version(b)) })
	if len(ends) != 4 || version(ends[1]) == version(ends[2]) {
		t.Fatalf("checkpoints at %v", ends)
	}
	for i, damaged := range append(ends, -1) {
		clear(d.blocks)
		for _, at := range ends[:2] {
			d.edit(at, blockSize, func(b []byte) {
				le.PutUint32(b[0x84:], le.Uint32(b[0x84:])&^flagUmount)
				fix(b)
			})
		}
		if damaged >= 0 {
			d.edit(damaged, blockSize, func(b []byte) { b[0] ^= 1 })
		}
		got, err := d.Read()
		if err != nil {
			t.Fatal(err)
		}
		newerIsGone := i == 2 || i == 3
		if unclean := got.Doubt != nil && got.Doubt.Reason == "not unmounted cleanly"; unclean != newerIsGone {
			t.Errorf("block at %d damaged: doubt %+v", damaged, got.Doubt)
		}
		if diff := gocmp.Diff(want, got); diff != "" && !newerIsGone {
			t.Errorf("block at %d damaged: %s", damaged, diff)
		}
	}
}

func TestDoubts(t *testing.T) {
	d := newDisk(t)
	le := binary.LittleEndian
	reads := maps.Clone(d.read)
	super := func(f func(b []byte)) func() { return func() { d.edit(superblockOffset, superblockSize, f) } }
	flags := func(flags uint32) func() {
		return func() { d.editCheckpoints(t, func(b []byte) { le.PutUint32(b[0x84:], flags) }) }
	}
	for _, tc := range []struct {
		name   string
		edit   func()
		reason string
	}{
		{"several devices", super(func(b []byte) { copy(b[0x899:], "/dev/sdb") }), "several devices"},
		{"zoned", super(func(b []byte) { b[0x884] = 2 }), "zoned"},
		{"read-only", super(func(b []byte) { b[0x885] = 0x40 }), "reading only"},
		{"unknown feature", super(func(b []byte) { b[0x887] = 0x10 }), "unknown features 0x10000000"},
		{"large blocks", super(func(b []byte) { b[0x10] = 14 }), "blocks of 2^14 bytes"},
		{"not unmounted", flags(flagCompactSum), "not unmounted cleanly"},
		{"orphans", flags(flagUmount | flagOrphans), "deleted files"},
		{"errors", flags(flagUmount | flagError), "has errors"},
		{"check asked for", flags(flagUmount | flagFsck), "has errors"},
		{"checkpoints off", flags(flagUmount | 0x1000), "state 0x1000"},
		{"being resized", flags(flagUmount | 0x4000), "state 0x4000"},
		{"unknown flag", flags(flagUmount | 1<<31), "state 0x80000000"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			clear(d.blocks)
			clear(d.read)
			maps.Copy(d.read, reads)
			tc.edit()
			v, err := d.Read()
			if err != nil || v.Doubt == nil || !strings.Contains(v.Doubt.Reason, tc.reason) ||
				v.Allocated != nil || v.UUID == "" {
				t.Fatalf("Read = %+v, doubt %+v, %v, want doubt %q", v, v.Doubt, err, tc.reason)
			}
		})
	}
}

// TestMutations changes bytes of what the reader reads: the answer must be a typed error, a
// doubt or a map, never more than the disk holds, and the work bounded.
func TestMutations(t *testing.T) {
	for _, d := range []*disk{newDisk(t), load(t, disktest.Unpack(t, "testdata/unmounted.img.zst"))} {
		places, sizes := slices.Sorted(maps.Keys(d.read)), maps.Clone(d.read)
		random := rand.New(rand.NewPCG(1, 2))
		answers := map[string]int{}
		for range 3000 {
			clear(d.blocks)
			for range 1 + random.IntN(3) {
				at := places[random.IntN(len(places))]
				fits := isCheckpoint(d.base[at:][:sizes[at]])
				d.edit(at, sizes[at], func(b []byte) {
					mutate(random, b)
					if fits {
						fix(b)
					}
				})
			}
			v, err := d.Read()
			if len(d.read) > 100 {
				t.Fatalf("%d places were read", len(d.read))
			}
			answers[judge(t, quantity.Bytes(len(d.base)), v, err)]++
		}
		if len(answers) < 3 {
			t.Errorf("answers %v: the mutations do not reach everything", answers)
		}
		t.Log(answers)
	}
}

// mutate changes some bytes of a block; half of the time in its head.
func mutate(random *rand.Rand, b []byte) {
	for range 1 + random.IntN(4) {
		end := len(b)
		if random.IntN(2) == 0 {
			end = 200
		}
		at := random.IntN(end)
		switch random.IntN(3) {
		case 0:
			b[at] ^= 1 << random.IntN(8)
		case 1:
			b[at] = byte(random.Uint32())
		case 2:
			for i := at; i < min(at+8, len(b)); i++ {
				b[i] = 0xff
			}
		}
	}
}

// judge checks an answer and names its kind.
func judge(t *testing.T, size quantity.Bytes, v filesystem.Volume, err error) string {
	t.Helper()
	var corrupt *filesystem.CorruptError
	switch {
	case errors.Is(err, filesystem.ErrNotFound):
		return "not found"
	case errors.As(err, &corrupt):
		if diff := gocmp.Diff(filesystem.Volume{}, v); diff != "" {
			t.Fatalf("a volume comes with the error: %s", diff)
		}
		return "corrupt"
	case err != nil:
		t.Fatalf("Read = %v, which is no *CorruptError", err)
	case v.Doubt != nil:
		if v.Doubt.Reason == "" || v.Allocated != nil {
			t.Fatalf("volume %+v, doubt %+v", v, v.Doubt)
		}
		return "doubt"
	}
	end := quantity.Bytes(-1)
	for _, e := range v.Allocated {
		if e.Length <= 0 || e.Start <= end || e.End() > size {
			t.Fatalf("extent %+v after %d", e, int64(end))
		}
		end = e.End()
	}
	return "map"
}

// sparse is a disk of 4 KiB blocks; what it does not hold is zero.
type sparse map[int64][]byte

func (s sparse) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	for done := 0; done < len(p); {
		at := off + int64(done)
		in := at % blockSize
		n := min(len(p)-done, int(blockSize-in))
		if b := s[at-in]; b != nil {
			copy(p[done:done+n], b[in:])
		}
		done += n
	}
	return len(p), nil
}

// FuzzRead gets the superblock and blocks, each with its number in front; checksums of
// checkpoints are made to fit.
func FuzzRead(f *testing.F) {
	for _, d := range []*disk{newDisk(f), load(f, disktest.Unpack(f, "testdata/unmounted.img.zst"))} {
		var seed []byte
		for _, at := range slices.Sorted(maps.Keys(d.read)) {
			at -= at % blockSize
			seed = binary.LittleEndian.AppendUint32(seed, uint32(at/blockSize))
			seed = append(seed, d.base[at:][:blockSize]...)
		}
		f.Add(seed)
	}
	const size = 120 * quantity.MiB
	f.Fuzz(func(t *testing.T, blocks []byte) {
		s := sparse{}
		for b := range slices.Chunk(blocks, 4+blockSize) {
			if len(b) < 4+blockSize {
				break
			}
			block := bytes.Clone(b[4:])
			if binary.LittleEndian.Uint32(block[0xa4:]) == blockSize-4 {
				fix(block)
			}
			s[int64(binary.LittleEndian.Uint32(b))*blockSize] = block
		}
		v, err := Read(s, size)
		judge(t, size, v, err)
	})
}
