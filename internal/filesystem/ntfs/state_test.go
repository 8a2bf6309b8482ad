package ntfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"clonecast/internal/disktest"
	"clonecast/internal/filesystem"
	"clonecast/internal/layouttest"
	"clonecast/internal/quantity"
)

func TestLayout(t *testing.T) {
	layouttest.Check[bootSector](t, bootSectorSize)
	layouttest.Check[recordHeader](t, 0x28)
	layouttest.Check[attributeHeader](t, attributeHeaderSize)
	layouttest.Check[residentHeader](t, residentHeaderSize)
	layouttest.Check[nonResidentHeader](t, nonResidentHeaderSize)
	layouttest.Check[listEntry](t, listEntrySize)
	layouttest.Check[restartPage](t, 0x1e)
	layouttest.Check[restartArea](t, 0x10)
	layouttest.Check[indexRoot](t, indexRootSize)
	layouttest.Check[indexBlock](t, indexBlockSize)
	layouttest.Check[indexHeader](t, 8)
	layouttest.Check[indexEntry](t, indexEntrySize)
}

// TestStates edits a clean volume into the states in which Windows leaves one.
// ntfs-3g gives a second opinion.
func TestStates(t *testing.T) {
	hiberfil := func(head string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			b := make([]byte, 64<<10)
			copy(b, head)
			write(t, filepath.Join(dir, "hiberfil.sys"), b)
		}
	}
	type logPage func(logSize quantity.Bytes) []byte
	log := func(pages ...logPage) func(*testing.T, string) {
		return func(t *testing.T, image string) {
			v := open(t, image)
			for i, p := range pages {
				off, size := v.streamPlace(t, recordLogFile)
				overwrite(t, image, off+quantity.Bytes(i)*4096, p(size))
			}
		}
	}
	restart := func(lsn uint64, major uint16, clean bool) logPage {
		return func(logSize quantity.Bytes) []byte { return restartPageOf(logSize, lsn, major, clean) }
	}
	torn := func(logSize quantity.Bytes) []byte {
		p := restartPageOf(logSize, 110, 1, true)
		p[1022]++
		return p
	}
	zero := func(quantity.Bytes) []byte { return make([]byte, 4096) }
	tests := map[string]struct {
		files  func(t *testing.T, dir string)
		edit   func(t *testing.T, image string)
		reason string // empty: no doubt
		refuse bool
		// exit code of ntfs-3g.probe: 14 hibernated, 15 unclean; it takes dirty volumes
		probe int
	}{
		"clean":            {},
		"dirty flag":       {edit: volumeFlags(volumeDirty), reason: "marked dirty"},
		"chkdsk under way": {edit: volumeFlags(volumeChkdskUnderWay), reason: "chkdsk has not finished"},
		"other flags":      {edit: volumeFlags(0x8000)},
		"hibernated":       {files: hiberfil("hibr"), reason: "hibernated", refuse: true, probe: 14},
		"fast start-up":    {files: hiberfil("HIBR"), reason: "hibernated", refuse: true, probe: 14},
		"resumed":          {files: hiberfil("wake")},
		"hiberfil zero":    {files: hiberfil("")},
		"hiberfil unknown": {files: hiberfil("what"), reason: "unknown bytes"},
		"data volume": {files: func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "hiberfil.sys"), []byte("x"))
		}, reason: "hibernated", refuse: true, probe: 14},
		"hibernated, dirty": {files: hiberfil("HIBR"), edit: volumeFlags(volumeDirty),
			reason: "hibernated", refuse: true, probe: 14},
		"log clean":   {edit: log(restart(100, 1, true), restart(90, 1, false))},
		"log unclean": {edit: log(restart(100, 1, true), restart(110, 1, false)), reason: "$LogFile", probe: 15},
		"log of Windows 8": {edit: log(restart(100, 1, true), restart(110, 2, true)),
			reason: "cache", refuse: true, probe: 14},
		"log torn": {edit: log(restart(100, 1, true), torn), reason: "$LogFile", probe: 15},
		"log zero": {edit: log(zero), reason: "$LogFile", probe: 15},
		"large root directory": {files: func(t *testing.T, dir string) {
			for i := range 900 {
				write(t, filepath.Join(dir, fmt.Sprintf("a rather long file name %d.txt", i)), nil)
			}
			hiberfil("HIBR")(t, dir)
		}, reason: "hibernated", refuse: true, probe: 14},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			image := makeVolume(t, 24*quantity.MiB)
			if tt.files != nil {
				mounted(t, image, func(dir string) { tt.files(t, dir) })
			}
			if tt.edit != nil {
				tt.edit(t, image)
			}
			if got := ntfs3gProbe(t, image); got != tt.probe {
				t.Errorf("ntfs-3g.probe exits with %d, want %d", got, tt.probe)
			}
			v := disktest.Volume(t, image, Read)
			if tt.reason == "" {
				if v.Doubt != nil || v.Allocated == nil {
					t.Errorf("Doubt = %+v, want none", v.Doubt)
				}
				return
			}
			if v.Doubt == nil || !strings.Contains(v.Doubt.Reason, tt.reason) || v.Doubt.Refuse != tt.refuse {
				t.Fatalf("Doubt = %+v, want %q, refuse %v", v.Doubt, tt.reason, tt.refuse)
			}
			if !strings.Contains(v.Doubt.Remedy, "shutdown /s /f /t 0") || v.Allocated != nil {
				t.Errorf("remedy %q, map %v", v.Doubt.Remedy, v.Allocated)
			}
			if tt.refuse && !strings.Contains(v.Doubt.Remedy, "powercfg /h off") {
				t.Errorf("remedy %q does not say how to turn fast start-up off", v.Doubt.Remedy)
			}
		})
	}
}

// TestCorrupt damages a volume in ways that must not pass for a map.
func TestCorrupt(t *testing.T) {
	image := makeVolume(t, 24*quantity.MiB)
	clean, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	v := open(t, image)
	record := func(n int) quantity.Bytes { return v.clusterOffset(v.mftCluster) + quantity.Bytes(n)*v.recordSize }
	tests := map[string]struct {
		edit func(b []byte)
		want string
	}{
		"boot signature":    {func(b []byte) { b[510] = 0 }, "signature"},
		"cluster size":      {func(b []byte) { b[0x0d] = 3 }, "sectors per cluster"},
		"volume too large":  {func(b []byte) { b[0x2f] = 0x7f }, "larger than its partition"},
		"record size":       {func(b []byte) { b[0x40] = 0x80 }, "clusters per record"},
		"torn record":       {func(b []byte) { b[record(recordBitmap)+510]++ }, "torn write"},
		"record not in use": {func(b []byte) { b[record(recordVolume)+0x16] = 0 }, "not in use"},
		"bitmap calls $MFT free": {func(b []byte) {
			off, _ := v.streamPlace(t, recordBitmap)
			b[int64(off)+v.mftCluster/8] = 0
		}, "of a system file free"},
		"bitmap calls $LogFile free": {func(b []byte) {
			off, _ := v.streamPlace(t, recordBitmap)
			log, _ := v.streamPlace(t, recordLogFile)
			b[off+log/v.clusterSize/8] = 0
		}, "of $LogFile free"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b := bytes.Clone(clean)
			tt.edit(b)
			got, err := Read(bytes.NewReader(b), quantity.Bytes(len(b)))
			var c *filesystem.CorruptError
			if !errors.As(err, &c) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Read = %+v, %v; want a corrupt structure: %q", got, err, tt.want)
			}
		})
	}
}

func TestNotNTFS(t *testing.T) {
	for _, size := range []quantity.Bytes{0, 100, 512, 4096} {
		if _, err := Read(bytes.NewReader(make([]byte, size)), size); !errors.Is(err, filesystem.ErrNotFound) {
			t.Errorf("Read of %d zeros = %v, want ErrNotFound", int64(size), err)
		}
	}
}

// TestEnds: the backup boot sector is behind the volume or, after ntfsresize, at the partition's
// end. What lies between belongs to nobody here (see probe).
func TestEnds(t *testing.T) {
	v := &volume{size: 10 * quantity.MiB}
	v.clusterSize, v.sectorSize = 4096, 512
	v.clusters, v.totalSectors = 1000, 8005
	got, want := v.ends(), []quantity.Extent{
		{Start: 8005 * 512, Length: 512}, {Start: 10*quantity.MiB - 512, Length: 512},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ends (-want +got):\n%s", diff)
	}
	v.size = 8005*512 + 300
	if got := quantity.Normalize(v.ends()); len(got) != 1 || got[0].End() != v.size {
		t.Errorf("ends of a partition that stops in the backup boot sector = %v", got)
	}
}

func TestSubtract(t *testing.T) {
	e := func(start, end quantity.Bytes) quantity.Extent {
		return quantity.Extent{Start: start, Length: end - start}
	}
	got := subtract(
		[]quantity.Extent{e(0, 10), e(20, 30), e(40, 50)},
		[]quantity.Extent{e(2, 4), e(6, 22), e(29, 41), e(60, 70)})
	want := []quantity.Extent{e(0, 2), e(4, 6), e(22, 29), e(41, 50)}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("subtract = %v, want %v", got, want)
	}
}

// device is a volume of which some bytes are replaced.
type device struct {
	base    []byte
	patches map[int64][]byte
}

func (d device) ReadAt(p []byte, off int64) (int, error) {
	n, err := bytes.NewReader(d.base).ReadAt(p, off)
	for at, b := range d.patches {
		if from, to := max(at, off), min(at+int64(len(b)), off+int64(n)); from < to {
			copy(p[from-off:to-off], b[from-at:])
		}
	}
	return n, err
}

// FuzzRead changes the metadata of a volume: the boot sector and the first
// records of $MFT, whose places are known, with valid fixups.
func FuzzRead(f *testing.F) {
	const size = 3 * quantity.MiB
	image := makeVolume(f, size)
	b, err := os.ReadFile(image)
	if err != nil {
		f.Fatal(err)
	}
	v := open(f, image)
	mft := v.clusterOffset(v.mftCluster)
	const records = 11
	seed := append(bytes.Clone(b[:512]), b[mft:mft+records*v.recordSize]...)
	f.Add(seed)
	f.Fuzz(func(t *testing.T, metadata []byte) {
		if len(metadata) < 512 {
			return
		}
		d := device{b, map[int64][]byte{0: metadata[:512]}}
		rest := metadata[512:]
		for i := int64(0); i < records && len(rest) >= int(v.recordSize); i++ {
			d.patches[int64(mft)+i*int64(v.recordSize)] = protect(rest[:v.recordSize])
			rest = rest[v.recordSize:]
		}
		got, err := Read(d, size)
		if err == nil && (got.Doubt == nil) != (got.Allocated != nil) {
			t.Errorf("Doubt %v with map %v", got.Doubt, got.Allocated)
		}
		if err == nil && got.Doubt == nil && got.Allocated[len(got.Allocated)-1].End() > size {
			t.Errorf("allocated %v lies outside the partition", got.Allocated)
		}
		for _, discard := range got.Discarded {
			for _, e := range discard.Extents {
				if !quantity.Covers(got.Allocated, e) {
					t.Errorf("%s discards %v, which is not allocated", discard.What, e)
				}
			}
		}
		const room = 2 * size
		growth, err := Grow(d, room)
		for _, step := range growth.Steps {
			for _, w := range step {
				if w.Offset < 0 || w.Offset > room-quantity.Bytes(len(w.Data)) {
					t.Errorf("Grow writes %d bytes at %d of %d", len(w.Data), w.Offset, room)
				}
			}
		}
		if err != nil && growth.Steps != nil {
			t.Errorf("Grow gives steps and %v", err)
		}
	})
}

// protect gives record b with fixups that fit, so that the fuzzer gets past them.
func protect(b []byte) []byte {
	b = bytes.Clone(b)
	number := b[min(int(binary.LittleEndian.Uint16(b[4:])), len(b)-2):][:2]
	for end := stride; end <= len(b); end += stride {
		copy(b[end-2:end], number)
	}
	return b
}

// The helpers below edit volumes.

// volumeFlags sets flags in $Volume's record.
func volumeFlags(flags uint16) func(t *testing.T, image string) {
	return func(t *testing.T, image string) {
		v := open(t, image)
		r, err := v.readRecord(recordVolume)
		if err != nil {
			t.Fatal(err)
		}
		info, err := r.find(typeVolumeInfo, "")
		if err != nil {
			t.Fatal(err)
		}
		at := bytes.Index(r.data, info.value)
		mirror, _ := v.streamPlace(t, 1) // $MFTMirr
		for _, mft := range []quantity.Bytes{v.clusterOffset(v.mftCluster), mirror} {
			off := mft + recordVolume*v.recordSize + quantity.Bytes(at+volumeInfoFlagsOffset)
			overwrite(t, image, off, binary.LittleEndian.AppendUint16(nil, flags))
		}
	}
}

// streamPlace is where the unnamed data of a record begins on the volume, and its size.
func (v *volume) streamPlace(t *testing.T, record uint64) (off, size quantity.Bytes) {
	t.Helper()
	r, err := v.readRecord(record)
	if err != nil {
		t.Fatal(err)
	}
	s, err := v.open(r, typeData, "")
	if err != nil || len(s.runs) == 0 {
		t.Fatalf("record %d: %d runs, %v", record, len(s.runs), err)
	}
	return v.clusterOffset(s.runs[0].lcn), s.size
}

// restartPageOf makes a restart page of 4096 bytes with fixups.
func restartPageOf(logSize quantity.Bytes, lsn uint64, major uint16, clean bool) []byte {
	p := make([]byte, 4096)
	le := binary.LittleEndian
	copy(p, "RSTR")
	le.PutUint16(p[4:], 0x1e)
	le.PutUint16(p[6:], 9)
	le.PutUint32(p[0x10:], 4096)
	le.PutUint32(p[0x14:], 4096)
	le.PutUint16(p[0x18:], 0x30)
	le.PutUint16(p[0x1a:], 1-min(1, major-1))
	le.PutUint16(p[0x1c:], major)
	area := p[0x30:]
	le.PutUint64(area, lsn)
	le.PutUint16(area[8:], 1)
	le.PutUint16(area[0xa:], noClient)
	if clean {
		le.PutUint16(area[0xa:], 0)
		le.PutUint16(area[0xc:], noClient)
		le.PutUint16(area[0xe:], restartVolumeIsClean)
	}
	le.PutUint32(area[0x10:], 67-uint32(bits.Len64(uint64(logSize)))) // bits of a sequence number
	le.PutUint16(area[0x14:], 0x30+0xa0)                              // length with one client
	le.PutUint16(area[0x16:], 0x30)                                   // the clients
	le.PutUint64(area[0x18:], uint64(logSize))
	le.PutUint16(area[0x24:], 0x30) // length of a log record's header
	le.PutUint16(area[0x26:], 0x40) // first record of a page
	le.PutUint32(area[0x30+0x10:], noClient<<16|noClient)
	le.PutUint16(p[0x1e:], 7)
	for end := 512; end <= len(p); end += 512 {
		le.PutUint16(p[end-2:], 7)
	}
	return p
}

// ntfs3gProbe gives the exit code of ntfs-3g's check before mounting.
func ntfs3gProbe(t *testing.T, image string) int {
	t.Helper()
	cmd := exec.Command("ntfs-3g.probe", "--readwrite", image)
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatalf("%v (make deps installs the tools)", err)
	}
	return cmd.ProcessState.ExitCode()
}

func write(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(name, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

func overwrite(t *testing.T, image string, off quantity.Bytes, b []byte) {
	t.Helper()
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(b, int64(off)); err != nil {
		t.Fatal(err)
	}
}
