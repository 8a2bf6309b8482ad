package clone_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"clonecast/internal/chunk"
	"clonecast/internal/clone"
	"clonecast/internal/clone/capture"
	"clonecast/internal/clone/deploy"
	"clonecast/internal/clone/layout"
	"clonecast/internal/filesystem"
	"clonecast/internal/image"
	"clonecast/internal/partition"
	"clonecast/internal/quantity"

	"github.com/google/go-cmp/cmp"
)

// memDisk is a disk in memory that counts what is written and can be cut.
type memDisk struct {
	mu      sync.Mutex
	b       []byte
	written int
	cutAt   int // fail every write after so many, 0 never
	writes  int
}

var errCut = errors.New("power cut")

func (d *memDisk) ReadAt(b []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return bytes.NewReader(d.b).ReadAt(b, off)
}

func (d *memDisk) WriteAt(b []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.writes++; d.cutAt > 0 && d.writes > d.cutAt {
		return 0, errCut
	}
	if off < 0 || off+int64(len(b)) > int64(len(d.b)) {
		return 0, io.ErrShortWrite
	}
	d.written += len(b)
	return copy(d.b[off:], b), nil
}

func (d *memDisk) Sync() error      { return nil }
func (d *memDisk) DropCache() error { return nil }

func (d *memDisk) Trim(_, _ quantity.Bytes) error { return errors.ErrUnsupported }

// How a deploy writes: the grain of what it leaves alone, the start of a partition that it withholds, and where
// a BIOS looks for boot code.
const (
	blockSize      = 4096
	headLength     = 64 << 10
	bootCodeLength = 440
	gptMagic       = "EFI PART"
	recoveryMBR    = "0x27" // type of Windows' recovery partition
)

// noBoot is boot code that sends the BIOS to the next boot device (INT 18h) and else halts.
var noBoot = append([]byte{0xcd, 0x18, 0xf4, 0xeb, 0xfd}, make([]byte, bootCodeLength-5)...)

func randomBytes(seed byte, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

const testDiskSize = 24 << 20

// testDisk makes a disk of random bytes with an MBR-like layout: table, gap, a cloned
// partition with holes of every kind, a raw one of odd length, and a skipped one.
func testDisk(seed byte) (*memDisk, *layout.Layout) {
	disk := &memDisk{b: randomBytes(seed, testDiskSize)}
	g := clone.Geometry{Size: testDiskSize, LogicalSector: 512, PhysicalSector: 512}
	cloned := partition.Partition{Number: 1, Start: 63 * 512, Length: 10 << 20}
	extents := []quantity.Extent{{Start: 0, Length: 4096}, {Start: 8192, Length: 300 << 10}, {Start: 1 << 20, Length: 512},
		{Start: 3<<20 + 1024, Length: 2 << 20}, {Start: 10<<20 - 4096, Length: 4096}}
	raw := partition.Partition{Number: 2, Start: 12 << 20, Length: 3<<20 + 512}
	skipped := partition.Partition{Number: 3, Start: 17 << 20, Length: 1 << 20}
	l := &layout.Layout{Geometry: g, Table: partition.Table{Kind: partition.MBR, Areas: []partition.Area{
		{Kind: partition.AreaTable, Start: 0, Length: 512}, {Kind: partition.AreaBoot, Start: 512, Length: 62 * 512}}}}
	l.Partitions = []layout.Partition{
		layout.NewPartition(cloned, filesystem.Volume{Type: "ext4", Allocated: extents}),
		layout.NewPartition(raw, filesystem.Volume{Doubt: &filesystem.Doubt{Reason: "no known file system"}}),
		{Partition: skipped, Mode: image.ModeSkip},
	}
	return disk, l
}

// memStore is the least that Sink and Source ask for; the real stores are tested with
// the engine in cmd and qemu-tests.
type memStore struct {
	mu       sync.Mutex
	frames   map[chunk.ID][]byte
	manifest *image.Manifest
}

func (s *memStore) Missing(_ context.Context, ids []chunk.ID) ([]bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]bool, len(ids))
	for i, id := range ids {
		out[i] = s.frames[id] == nil
	}
	return out, nil
}

func (s *memStore) PutFrame(_ context.Context, frame []byte) (int64, error) {
	h, err := chunk.ParseFrameHeader(frame)
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.frames == nil {
		s.frames = make(map[chunk.ID][]byte)
	}
	frame = bytes.Clone(frame)
	for _, e := range h.Entries {
		s.frames[e.ID] = frame
	}
	return int64(len(frame)), nil
}

func (s *memStore) Publish(_ context.Context, m *image.Manifest) ([]byte, image.Version, error) {
	raw, err := m.MarshalBinary()
	if err != nil {
		return nil, image.Version{}, err
	}
	s.manifest, err = image.Parse(raw)
	return nil, m.Summary(image.Identify(raw)), err
}

func (s *memStore) Frames(_ context.Context, ids []chunk.ID, yield func([]byte) error) error {
	sent := make(map[*byte]bool)
	for _, id := range ids {
		frame := s.frames[id]
		if frame == nil {
			return &chunk.MissingError{ID: id}
		}
		if sent[&frame[0]] {
			continue
		}
		sent[&frame[0]] = true
		if err := yield(frame); err != nil {
			return err
		}
	}
	return nil
}

func captureTo(t *testing.T, store *memStore, disk *memDisk, l *layout.Layout) capture.Result {
	t.Helper()
	r, err := captureOne(disk, l, store, captureOrder{Image: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// checkDeployed compares what was captured, and that nothing else changed on the target.
func checkDeployed(t *testing.T, d *image.Disk, source, before, after []byte) {
	t.Helper()
	captured := make([]bool, len(source))
	mark := func(start, end quantity.Bytes) {
		for i := start; i < end; i++ {
			captured[i] = true
		}
	}
	for _, a := range d.Table {
		mark(a.Start, a.Start+quantity.Bytes(len(a.Data)))
	}
	near := make([]bool, len(source)) // free bytes that a joined write may zero
	for _, c := range d.Contents() {
		for _, e := range c.Extents {
			mark(c.Start+e.Start, c.Start+e.End())
		}
		for i := c.Start; i < c.Start+c.Length; i++ {
			near[i] = true
		}
	}
	for i := range source {
		if captured[i] && after[i] != source[i] {
			t.Fatalf("byte %d is %#x, want %#x", i, after[i], source[i])
		}
		if !captured[i] && !near[i] && after[i] != before[i] {
			t.Fatalf("byte %d outside the image was changed", i)
		}
	}
}

func TestCaptureStoresNoFreeByte(t *testing.T) {
	disk, l := testDisk(1)
	store := &memStore{}
	r := captureTo(t, store, disk, l)
	var want quantity.Bytes = 62 * 512
	for i := range l.Partitions {
		want += l.Partitions[i].Allocated()
	}
	if r.Allocated != want || r.Version.Allocated != want {
		t.Errorf("allocated %d, in the version %d, want %d", r.Allocated, r.Version.Allocated, want)
	}
	free := disk.b[63*512+4096 : 63*512+8192] // between two extents of partition 1
	skipped := disk.b[17<<20 : 17<<20+4096]
	d, err := chunk.NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	for id, frame := range store.frames {
		_, plain, err := d.Decode(frame, nil)
		if err != nil {
			t.Fatal(err)
		}
		for what, b := range map[string][]byte{"free": free, "skipped": skipped} {
			if bytes.Contains(plain, b[:64]) {
				t.Fatalf("chunk %v holds %s bytes", id, what)
			}
		}
	}
}

func TestDeployOverRandomDisk(t *testing.T) {
	disk, l := testDisk(1)
	store := &memStore{}
	captureTo(t, store, disk, l)
	before := randomBytes(9, testDiskSize+1<<20)
	target := &memDisk{b: bytes.Clone(before)}
	g := clone.Geometry{Size: quantity.Bytes(len(target.b)), LogicalSector: 512}
	r, err := deployOne(&store.manifest.Disks[0], target, g, store, deployOrder{Verify: true})
	if err != nil {
		t.Fatal(err)
	}
	checkDeployed(t, &store.manifest.Disks[0], disk.b, before[:testDiskSize], target.b[:testDiskSize])
	if r.Kept != 0 || r.Written != quantity.Bytes(target.written) || r.Fetched == 0 || r.Verified == 0 {
		t.Errorf("result %+v, %d bytes were written", r, target.written)
	}

	target.written = 0
	r, err = deployOne(&store.manifest.Disks[0], target, g, store, deployOrder{})
	if err != nil || r.Written != 0 || target.written != 0 || r.Fetched != 0 || r.Kept != r.Compared {
		t.Errorf("second deploy: %+v, %v; %d bytes were written, want 0", r, err, target.written)
	}
}

func TestDeployWritesOnlyWhatDiffers(t *testing.T) {
	disk, l := testDisk(1)
	store := &memStore{}
	captureTo(t, store, disk, l)
	target := &memDisk{b: bytes.Clone(disk.b)}
	g := l.Geometry
	changed := 63*512 + 4<<20 // inside an extent of partition 1
	target.b[changed] ^= 0xff
	r, err := deployOne(&store.manifest.Disks[0], target, g, store, deployOrder{DryRun: true})
	if err != nil || target.written != 0 || r.Differ == 0 {
		t.Fatalf("dry run: %+v, %v; %d bytes were written", r, err, target.written)
	}
	if _, err := deployOne(&store.manifest.Disks[0], target, g, store, deployOrder{Verify: true}); err != nil {
		t.Fatal(err)
	}
	checkDeployed(t, &store.manifest.Disks[0], disk.b, disk.b, target.b)
	// One block of data; LBA 0 and the start of the partition zeroed and written again.
	if limit := blockSize + 2*512 + 2*int(headLength); target.written > limit {
		t.Errorf("%d bytes written for one changed block, want at most %d", target.written, limit)
	}
}

// Power is cut at every write. In between the disk must not boot; a second run must
// make it whole and write no more than was missing.
func TestDeployCutAtEveryWrite(t *testing.T) {
	disk, l := testDisk(1)
	store := &memStore{}
	captureTo(t, store, disk, l)
	d := &store.manifest.Disks[0]
	d.Partitions = d.Partitions[:2] // kept_test.go cuts a deploy that keeps the third
	before := randomBytes(9, testDiskSize)
	whole := &memDisk{b: bytes.Clone(before)}
	if _, err := deployOne(d, whole, l.Geometry, store, deployOrder{}); err != nil {
		t.Fatal(err)
	}
	for cut := 1; cut < whole.writes; cut++ {
		target := &memDisk{b: bytes.Clone(before), cutAt: cut}
		if _, err := deployOne(d, target, l.Geometry, store, deployOrder{}); !errors.Is(err, errCut) {
			t.Fatalf("cut after write %d: Deploy = %v, the cut went unreported", cut, err)
		}
		if !clone.AllZero(target.b[:512]) {
			t.Fatalf("cut after write %d: LBA 0 is not zero, the disk could boot", cut)
		}
		target.cutAt = 0
		if _, err := deployOne(d, target, l.Geometry, store, deployOrder{Verify: true}); err != nil {
			t.Fatalf("rerun after write %d: %v", cut, err)
		}
		checkDeployed(t, d, disk.b, before, target.b)
	}
}

// A disk that loses or misplaces a write is found by reading back.
type lyingDisk struct {
	*memDisk
	lose int64
}

func (d *lyingDisk) WriteAt(b []byte, off int64) (int, error) {
	if off <= d.lose && d.lose < off+int64(len(b)) {
		return len(b), nil
	}
	return d.memDisk.WriteAt(b, off)
}

func TestVerifyFindsLostWrites(t *testing.T) {
	disk, l := testDisk(1)
	store := &memStore{}
	captureTo(t, store, disk, l)
	for _, lose := range []int64{12<<20 + 1<<20, 0} {
		target := &lyingDisk{&memDisk{b: randomBytes(9, testDiskSize)}, lose}
		_, err := deployOne(&store.manifest.Disks[0], target, l.Geometry, store, deployOrder{Verify: true})
		var medium *clone.MediumError
		if !errors.As(err, &medium) {
			t.Errorf("a lost write at byte %d: Deploy = %v, want a clone.MediumError", lose, err)
		}
	}
}

// TestFlippedBits: a medium that flips a bit anywhere in what a deploy writes is found: in the first chunks of
// partitions, in boot areas, in data and in the table.
func TestFlippedBits(t *testing.T) {
	disk, l := testDisk(1)
	store := &memStore{}
	captureTo(t, store, disk, l)
	d := &store.manifest.Disks[0]
	var places []int64
	for _, c := range d.Contents() {
		for _, e := range c.Extents {
			places = append(places, int64(c.Start+e.Start), int64(c.Start+e.Start+e.Length/2), int64(c.Start+e.End()-1))
		}
	}
	for _, at := range append(places, 0, 300, 511) {
		for disk.b[at] == 0 {
			at++
		}
		target := &flippingDisk{&memDisk{b: randomBytes(9, testDiskSize)}, at}
		_, err := deployOne(d, target, l.Geometry, store, deployOrder{Verify: true})
		var medium *clone.MediumError
		if !errors.As(err, &medium) {
			t.Errorf("a flipped bit at byte %d: Deploy = %v, want a MediumError", at, err)
		}
	}
}

// TestPlanIsAValue: plans of the same deploy are equal, and a deploy does nothing that its plan does not show.
func TestPlanIsAValue(t *testing.T) {
	disk, l := testDisk(1)
	store := &memStore{}
	captureTo(t, store, disk, l)
	before := randomBytes(9, testDiskSize)
	target := &memDisk{b: bytes.Clone(before)}
	disks := []deploy.Disk{{Image: &store.manifest.Disks[0], Target: target, Geometry: l.Geometry}}
	plan := func() *deploy.Plan {
		t.Helper()
		p, err := deploy.NewPlan(context.Background(), disks, sourceOf(store), deploy.Options{Verify: true}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	p := plan()
	if diff := cmp.Diff(p, plan()); diff != "" || target.writes != 0 {
		t.Errorf("two plans differ, or %d writes made them:\n%s", target.writes, diff)
	}
	raw, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"save table", "withhold", "fetch", "verify", "finish", "partition 2"} {
		if !strings.Contains(p.String(), want) || !strings.Contains(string(raw), want) {
			t.Errorf("%q is not in the plan, or not in its JSON:\n%v", want, p)
		}
	}
	cut := *p
	cut.Steps = p.Steps[:1]
	means := deploy.Means{Source: sourceOf(store)}
	if _, err := deploy.Execute(context.Background(), &cut, disks, means); err != nil || target.writes != 0 {
		t.Errorf("a plan that only saves the table: %v after %d writes", err, target.writes)
	}
	if _, err := deploy.Execute(context.Background(), p, disks, means); err != nil {
		t.Fatal(err)
	}
	checkDeployed(t, disks[0].Image, disk.b, before, target.b)
	if left := plan(); len(left.Steps) != 0 || left.Differ() != 0 {
		t.Errorf("after the deploy there is still to do:\n%v", left)
	}
}

func TestDeployRefusesBeforeWriting(t *testing.T) {
	disk, l := testDisk(1)
	store := &memStore{}
	captureTo(t, store, disk, l)
	for name, g := range map[string]clone.Geometry{
		"too small":         {Size: 18<<20 - 512, LogicalSector: 512},
		"other sector size": {Size: testDiskSize, LogicalSector: 4096},
	} {
		target := &memDisk{b: make([]byte, g.Size)}
		_, err := deployOne(&store.manifest.Disks[0], target, g, store, deployOrder{})
		var refused *clone.RefusedError
		if !errors.As(err, &refused) || refused.Remedy == "" || target.writes != 0 {
			t.Errorf("%s: Deploy = %v after %d writes, want a refusal with a remedy", name, err, target.writes)
		}
	}
}

func TestCaptureRefusesHibernated(t *testing.T) {
	disk, l := testDisk(1)
	l.Partitions[1].Refuse = true
	var refused *clone.RefusedError
	if _, err := captureOne(disk, l, &memStore{}, captureOrder{Image: "x"}); !errors.As(err, &refused) {
		t.Errorf("Capture = %v, want a refusal", err)
	}
	if _, err := captureOne(disk, l, &memStore{}, captureOrder{Image: "x", Force: true}); err != nil {
		t.Errorf("Capture with Force = %v", err)
	}
}

// brokenDisk cannot read one byte.
type brokenDisk struct {
	*memDisk
	bad int64
}

func (d *brokenDisk) ReadAt(b []byte, off int64) (int, error) {
	if off <= d.bad && d.bad < off+int64(len(b)) {
		return 0, errors.New("input/output error")
	}
	return d.memDisk.ReadAt(b, off)
}

func TestCaptureReadErrors(t *testing.T) {
	disk, l := testDisk(1)
	free, used := int64(63*512+5000), int64(63*512+9000)
	if _, err := captureOne(&brokenDisk{disk, free}, l, &memStore{}, captureOrder{Image: "x"}); err != nil {
		t.Errorf("unreadable free block: Capture = %v, want success", err)
	}
	_, err := captureOne(&brokenDisk{disk, used}, l, &memStore{}, captureOrder{Image: "x"})
	var read *clone.ReadError
	if !errors.As(err, &read) {
		t.Errorf("unreadable used block: Capture = %v, want a clone.ReadError", err)
	}
}

// Marks of the target's old life in free blocks must not win a later probe.
func TestDeployWipesStaleSignatures(t *testing.T) {
	disk, l := testDisk(1)
	store := &memStore{}
	captureTo(t, store, disk, l)
	before := randomBytes(9, testDiskSize)
	btrfs := 63*512 + 0x10040 // allocated in the version: overwritten
	mirror := 63*512 + 4096   // a free block: a second LUKS2 header lies at 0x4000, not here
	luks := 63*512 + 0x80000  // LUKS2's second header, in a free block
	copy(before[btrfs:], "_BHRfS_M")
	copy(before[luks:], "SKUL\xba\xbe")
	copy(before[testDiskSize-512:], gptMagic)
	target := &memDisk{b: bytes.Clone(before)}
	d := &store.manifest.Disks[0]
	if _, err := deployOne(d, target, l.Geometry, store, deployOrder{Verify: true}); err != nil {
		t.Fatal(err)
	}
	for name, at := range map[string]int{"LUKS2": luks, "GPT backup": testDiskSize - 512} {
		if !clone.AllZero(target.b[at : at+6]) {
			t.Errorf("the stale %s signature is still there: %q", name, target.b[at:at+8])
		}
	}
	if !bytes.Equal(target.b[mirror:mirror+64], before[mirror:mirror+64]) {
		t.Error("free bytes without a signature were changed")
	}
	writes := target.writes
	if r, err := deployOne(d, target, l.Geometry, store, deployOrder{}); err != nil || target.writes != writes {
		t.Errorf("second deploy: %+v, %v after %d writes, want none", r, err, target.writes-writes)
	}
}
