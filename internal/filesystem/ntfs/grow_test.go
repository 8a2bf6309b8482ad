package ntfs

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"clonecast/internal/disktest"
	"clonecast/internal/filesystem"
	"clonecast/internal/quantity"
	"github.com/google/go-cmp/cmp"
)

// TestGrow makes volumes larger; ntfs-3g's tools judge them, and the counts are those of
// ntfsresize's work on the same volume.
func TestGrow(t *testing.T) {
	const smallest = 24 * quantity.MiB
	tests := map[string]struct {
		from, to quantity.Bytes
		mkfs     []string
	}{
		"512 B clusters, $Bitmap gets clusters": {smallest, 200 * quantity.MiB, []string{"-c", "512"}},
		"4 KiB clusters":                        {64*quantity.MiB + 3*512, 700*quantity.MiB + 5*512, []string{"-c", "4096"}},
		"4 KiB clusters, $Bitmap gets clusters": {64 * quantity.MiB, 3 * quantity.GiB, []string{"-c", "4096"}},
		"64 KiB clusters, $Bitmap stays":        {96 * quantity.MiB, quantity.GiB, []string{"-c", "65536"}},
		"4 KiB sectors":                         {smallest, 512 * quantity.MiB, []string{"-s", "4096"}},
		"by less than a word of $Bitmap":        {64 * quantity.MiB, 64*quantity.MiB + 5*4096, []string{"-c", "4096"}},
		"by one cluster":                        {64 * quantity.MiB, 64*quantity.MiB + 4096, []string{"-c", "4096"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			image := makeVolume(t, tt.from, tt.mkfs...)
			var want map[string]string
			mounted(t, image, func(dir string) {
				disktest.Fill(t, dir, 60, 60_000)
				want = disktest.Hashes(t, dir)
			})
			before := disktest.Volume(t, image, Read)
			resize(t, image, tt.to)
			judge := filepath.Join(t.TempDir(), "judge.img")
			disktest.Run(t, "", "cp", "--sparse=always", image, judge)
			disktest.Run(t, "", "ntfsresize", "-f", "-f", judge)

			g := plan(t, image)
			apply(t, image, g.Steps)
			if again := plan(t, image); len(again.Steps) != 0 || again.From != g.To {
				t.Errorf("a second Grow has %d steps, from %d, want none from %d", len(again.Steps), again.From, g.To)
			}
			got := disktest.Volume(t, image, Read)
			if got.Doubt != nil || got.UUID != before.UUID || got.BlockSize != before.BlockSize {
				t.Errorf("read again: %+v, doubt %+v", got, got.Doubt)
			}
			if diff := cmp.Diff(clusterCounts(t, judge), clusterCounts(t, image)); diff != "" {
				t.Errorf("clusters (-ntfsresize +ours):\n%s", diff)
			}
			disktest.Run(t, "", "ntfsresize", "-i", "-f", image)
			disktest.Run(t, "", "ntfsfix", "-n", image)
			checkBootCopies(t, image, tt.to)
			mounted(t, image, func(dir string) {
				if diff := cmp.Diff(want, disktest.Hashes(t, dir)); diff != "" {
					t.Errorf("files changed (-want +got):\n%s", diff)
				}
			})
			if tt.from == smallest {
				useNewRoom(t, image, smallest)
			}
			if v := disktest.Volume(t, image, Read); v.Doubt != nil {
				t.Errorf("after use: doubt %+v", v.Doubt)
			}
		})
	}
}

// useNewRoom writes a file larger than the volume was.
func useNewRoom(t *testing.T, image string, size quantity.Bytes) {
	t.Helper()
	fill := bytes.Repeat([]byte("new room"), int(size)/8)
	mounted(t, image, func(dir string) { write(t, filepath.Join(dir, "fill"), fill) })
	mounted(t, image, func(dir string) {
		if b, err := os.ReadFile(filepath.Join(dir, "fill")); err != nil || !bytes.Equal(b, fill) {
			t.Errorf("a file in the new room: %d bytes of %d, %v", len(b), len(fill), err)
		}
	})
}

// TestGrowCut cuts the power at every write, with any of the writes since the last flush
// on the disk. A deploy that puts the old bytes back and grows once more must end well.
// Where $MFT and its mirror agree, the volume must mount as it is with all of its files.
func TestGrowCut(t *testing.T) {
	const from, to = 12 * quantity.MiB, 60 * quantity.MiB
	image := makeVolume(t, from, "-c", "512")
	var want map[string]string
	mounted(t, image, func(dir string) {
		disktest.Fill(t, dir, 20, 60_000)
		want = disktest.Hashes(t, dir)
	})
	v := open(t, image)
	log, size := v.streamPlace(t, recordLogFile)
	overwrite(t, image, log, restartPageOf(size, 100, 1, true)) // so that it must be emptied
	resize(t, image, to)
	original, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	steps := plan(t, image).Steps
	if len(steps) != 7 {
		t.Fatalf("%d steps, want 7", len(steps))
	}
	whole := written(original, steps)
	random, mounts := rand.New(rand.NewPCG(1, 2)), 0
	for i, step := range steps {
		for cut := range len(step) + 1 {
			// The writes before the cut are on the disk, or any others of the step.
			for _, some := range [][]filesystem.Write{step[:cut], pick(random, step, cut)} {
				b := written(original, append(steps[:i:i], some))
				name := fmt.Sprintf("step %d, %d of %d writes", i, cut, len(step))
				checkRedo(t, name, bytes.Clone(b), original, whole)
				if mounts++; mounts%2 == 0 || !mirrorAgrees(t, b) {
					continue // mounting takes its time: one of the two
				}
				write(t, image, b)
				mounted(t, image, func(dir string) {
					if diff := cmp.Diff(want, disktest.Hashes(t, dir)); diff != "" {
						t.Errorf("%s: files changed (-want +got):\n%s", name, diff)
					}
				})
			}
		}
	}
}

// written gives b with the writes of all steps done.
func written(b []byte, steps [][]filesystem.Write) []byte {
	b = bytes.Clone(b)
	for _, s := range steps {
		for _, w := range s {
			copy(b[w.Offset:], w.Data)
		}
	}
	return b
}

// checkRedo does to the disk b what a deploy does: the allocated bytes of the original,
// then Grow. The result must be that of a run that was not cut.
func checkRedo(t *testing.T, name string, b, original, whole []byte) {
	t.Helper()
	size := quantity.Bytes(len(b))
	version, err := Read(bytes.NewReader(original), size)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range version.Allocated {
		copy(b[e.Start:e.End()], original[e.Start:])
	}
	g, err := Grow(bytes.NewReader(b), size)
	if err != nil {
		t.Fatalf("%s: grow again: %v", name, err)
	}
	b = written(b, g.Steps)
	v, err := Read(bytes.NewReader(b), size)
	if err != nil || v.Doubt != nil {
		t.Fatalf("%s: grown again: %+v, %v", name, v.Doubt, err)
	}
	for _, e := range v.Allocated {
		if !bytes.Equal(b[e.Start:e.End()], whole[e.Start:e.End()]) {
			t.Errorf("%s: grown again, bytes %d to %d differ from a run without a cut", name, e.Start, e.End())
		}
	}
}

// mirrorAgrees tells whether $Volume's record and its mirror are the same.
func mirrorAgrees(t *testing.T, b []byte) bool {
	t.Helper()
	v := &volume{r: bytes.NewReader(b), size: quantity.Bytes(len(b))}
	var err error
	if v.geometry, err = readBoot(v.r, v.size); err != nil {
		t.Fatal(err)
	}
	if err := v.loadMFT(); err != nil {
		t.Fatal(err)
	}
	mirror, _ := v.streamPlace(t, recordMirror)
	mft := v.clusterOffset(v.mftCluster)
	record := recordVolume * v.recordSize
	return bytes.Equal(b[mft+record:][:v.recordSize], b[mirror+record:][:v.recordSize])
}

// pick gives n of the writes.
func pick(random *rand.Rand, writes []filesystem.Write, n int) []filesystem.Write {
	var out []filesystem.Write
	for _, i := range random.Perm(len(writes))[:n] {
		out = append(out, writes[i])
	}
	return out
}

func TestCannotGrow(t *testing.T) {
	image := makeVolume(t, 24*quantity.MiB)
	volumeFlags(volumeDirty)(t, image)
	resize(t, image, 64*quantity.MiB)
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var cannot *filesystem.UnchangedError
	if g, err := Grow(f, 64*quantity.MiB); !errors.As(err, &cannot) || len(g.Steps) != 0 {
		t.Errorf("Grow of a dirty volume = %+v, %v", g, err)
	}
}

// TestAppendRuns encodes what addRuns decoded.
func TestAppendRuns(t *testing.T) {
	v := &volume{geometry: geometry{clusterSize: 512, clusters: 1 << 40}}
	for _, runs := range [][]run{
		{{0, 5, 1}},
		{{0, 127, 127}, {127, 128, 128}, {255, 0, 300}},
		{{0, sparse, 1 << 33}, {1 << 33, 1 << 39, 7}, {1<<33 + 7, sparse, 1}, {1<<33 + 8, 3, 1 << 16}},
	} {
		last := runs[len(runs)-1]
		a := attribute{runs: appendRuns(nil, runs)}
		a.LastVCN = uint64(last.vcn+last.length) - 1
		var s stream
		if err := v.addRuns(&s, a); err != nil {
			t.Fatalf("%v: %v", runs, err)
		}
		var joined stream
		for _, r := range runs {
			joined.add(r)
		}
		if diff := cmp.Diff(joined.runs, s.runs, cmp.AllowUnexported(run{})); diff != "" {
			t.Errorf("runs (-want +got):\n%s", diff)
		}
	}
}

func plan(t *testing.T, image string) filesystem.Growth {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	g, err := Grow(f, quantity.Bytes(info.Size()))
	if err != nil {
		t.Fatalf("Grow: %v", err)
	}
	return g
}

func apply(t *testing.T, image string, steps [][]filesystem.Write) {
	t.Helper()
	for _, s := range steps {
		for _, w := range s {
			overwrite(t, image, w.Offset, w.Data)
		}
	}
}

func resize(t *testing.T, image string, size quantity.Bytes) {
	t.Helper()
	if err := os.Truncate(image, int64(size)); err != nil {
		t.Fatal(err)
	}
}

// clusterCounts gives ntfsinfo's lines on the size of the volume and what is free.
func clusterCounts(t *testing.T, image string) []string {
	t.Helper()
	var out []string
	for line := range strings.Lines(disktest.Run(t, "", "ntfsinfo", "-m", "-f", image)) {
		if strings.Contains(line, "Clusters") {
			out = append(out, strings.TrimSpace(line))
		}
	}
	if len(out) < 2 {
		t.Fatal("ntfsinfo says nothing about clusters")
	}
	return out
}

// checkBootCopies: the backup of the boot sector is the partition's last sector, and the
// sector after the volume.
func checkBootCopies(t *testing.T, image string, size quantity.Bytes) {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	g, err := readBoot(f, size)
	if err != nil {
		t.Fatal(err)
	}
	first, last := make([]byte, g.sectorSize), make([]byte, g.sectorSize)
	lastAt := size/g.sectorSize*g.sectorSize - g.sectorSize
	if err := errors.Join(filesystem.ReadFull(f, first, 0), filesystem.ReadFull(f, last, lastAt)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, last) || quantity.Bytes(g.totalSectors+1) != size/g.sectorSize {
		t.Errorf("%d sectors in a partition of %d; copies equal: %v",
			g.totalSectors, size/g.sectorSize, bytes.Equal(first, last))
	}
}
