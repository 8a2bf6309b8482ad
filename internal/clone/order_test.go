package clone_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"clonecast/internal/chunkstore"
	"clonecast/internal/chunkstore/local"
	"clonecast/internal/clone/layout"
	"clonecast/internal/faultfs"
	"clonecast/internal/image"
	"clonecast/internal/quantity"
	"clonecast/internal/vfs/memfs"
)

// TestAnyOrder captures changing disks, deploys versions to targets, deletes and collects, in a
// random order and mix, with power cuts of the server and of the PCs at random operations.
// Whatever came before, a deploy that ends well makes its target what the version's disk was
// when it was captured.
func TestAnyOrder(t *testing.T) {
	counts := map[string]int{}
	for seed := range uint64(12) {
		w := newWorld(t, seed, counts)
		for step := range 40 {
			w.name = fmt.Sprintf("seed %d, step %d", seed, step)
			w.step()
		}
		w.end()
	}
	t.Log(counts)
	for _, what := range []string{
		"capture", "capture, server cut", "deploy", "deploy, PC cut", "deploy, nothing to do", "delete", "removed packs",
	} {
		if counts[what] == 0 {
			t.Errorf("never %s: the test has lost its bite", what)
		}
	}
}

// world is a store, two PCs that are captured and three that are deployed to.
type world struct {
	t      *testing.T
	name   string
	random *rand.Rand
	counts map[string]int

	medium *memfs.FS // of the store
	store  *local.Store
	now    time.Time
	cut    *memfs.FS // the medium as a power cut in the present step left it
	cutAt  int       // changes of the medium until then; 0: never

	layout   *layout.Layout
	sources  []*memDisk
	targets  [][]byte
	versions map[uint64][]byte // what the disk was
}

func newWorld(t *testing.T, seed uint64, counts map[string]int) *world {
	t.Helper()
	w := &world{
		t: t, random: rand.New(rand.NewPCG(seed, 11)), counts: counts,
		medium: memfs.New(), now: time.Unix(1_800_000_000, 0),
		versions: map[uint64][]byte{},
	}
	if _, err := local.CreateFS(w.medium, w.options()); err != nil {
		t.Fatal(err)
	}
	for i := range byte(2) {
		disk, layout := smallDisk(100*byte(seed) + i)
		w.sources, w.layout = append(w.sources, disk), layout
	}
	for i := range byte(3) {
		w.targets = append(w.targets, randomBytes(100*byte(seed)+50+i, smallDiskSize))
	}
	w.boot()
	return w
}

func (w *world) options() local.Options {
	return local.Options{PackSize: 128 * quantity.KiB, Now: func() time.Time { return w.now }}
}

// boot starts the server.
func (w *world) boot() {
	var err error
	w.cut, w.cutAt = nil, 0
	var mu sync.Mutex // a capture has several goroutines
	watch := func(op faultfs.Op, _ string) error {
		mu.Lock()
		defer mu.Unlock()
		if w.cutAt > 0 && op.Changes() {
			if w.cutAt--; w.cutAt == 0 {
				w.cut = w.medium.CrashClone([]int{0, 50, 100}[w.random.IntN(3)], w.random)
			}
		}
		return nil
	}
	w.store, err = local.OpenFS(faultfs.New(w.medium, watch), w.options())
	w.must("open the store", err)
}

func (w *world) must(what string, err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatalf("%s: %s: %v", w.name, what, err)
	}
}

func (w *world) step() {
	before := maps.Clone(w.versions)
	if w.random.IntN(4) == 0 {
		w.cutAt = 1 + w.random.IntN(40)
	}
	what := "deploy"
	switch n := w.random.IntN(100); {
	case n < 35:
		w.change()
		what = "capture"
		w.capture()
	case n < 80:
		w.deploy()
	case n < 90:
		what = "delete"
		w.remove()
	default:
		what = "collect"
		w.collect()
	}
	w.cutAt = 0
	if w.cut == nil {
		return
	}
	w.counts[what+", server cut"]++
	w.medium = w.cut
	w.boot()
	w.recall(before)
}

// recall finds out whether the version that a cut step made or deleted is there.
func (w *world) recall(before map[uint64][]byte) {
	after := w.versions
	list, err := w.store.Versions(w.t.Context(), "lab")
	if err != nil && !errors.Is(err, chunkstore.ErrNotFound) {
		w.must("list versions", err)
	}
	w.versions = map[uint64][]byte{}
	for _, v := range list {
		disk, ok := after[v.Sequence]
		if !ok {
			disk, ok = before[v.Sequence]
		}
		if !ok {
			w.t.Fatalf("%s: version %d comes from nowhere", w.name, v.Sequence)
		}
		w.versions[v.Sequence] = disk
	}
	if len(w.versions) != len(before) && len(w.versions) != len(after) {
		w.t.Fatalf("%s: %d versions after the cut, before the step %d, without a cut %d",
			w.name, len(w.versions), len(before), len(after))
	}
}

// change is a day's work on one of the PCs that are captured.
func (w *world) change() {
	disk := w.sources[w.random.IntN(len(w.sources))]
	for range 1 + w.random.IntN(4) {
		at, n := w.random.IntN(smallDiskSize-4096), 1+w.random.IntN(4000)
		for i := range n {
			disk.b[at+i] ^= byte(w.random.Uint32())
		}
	}
}

func (w *world) capture() {
	disk := w.sources[w.random.IntN(len(w.sources))]
	session, err := w.store.Begin(w.t.Context())
	w.must("begin", err)
	r, err := captureOne(disk, w.layout, session, captureOrder{Image: "lab"})
	w.must("capture", errors.Join(err, session.Close()))
	w.versions[r.Version.Sequence] = bytes.Clone(disk.b)
	w.counts["capture"]++
}

// pick is one of the versions that are there; 0 when there is none.
func (w *world) pick() uint64 {
	numbers := slices.Sorted(maps.Keys(w.versions))
	if len(numbers) == 0 {
		return 0
	}
	return numbers[w.random.IntN(len(numbers))]
}

func (w *world) deploy() {
	n := w.pick()
	if n == 0 {
		return
	}
	i := w.random.IntN(len(w.targets))
	f := &faults{}
	if w.random.IntN(3) == 0 {
		f.at, f.lasts, f.changes = 1+w.random.IntN(40), true, true
	}
	target := newFaultyDisk(w.targets[i], f)
	envelope, err := w.store.Manifest(w.t.Context(), "lab", n)
	w.must("get the manifest", err)
	m, _, err := image.Open(envelope, w.store.TrustedKeys())
	w.must("open the manifest", err)
	r, err := deployOne(&m.Disks[0], target, w.layout.Geometry, w.store, deployOrder{Verify: w.random.IntN(2) == 0})
	if len(f.hits) > 0 {
		if !errors.Is(err, errFault) {
			w.t.Fatalf("%s: a deploy that was cut: %v", w.name, err)
		}
		w.targets[i] = target.crash([]float64{0, 0.5, 1}[w.random.IntN(3)], w.random)
		w.counts["deploy, PC cut"]++
		return
	}
	w.must(fmt.Sprintf("deploy version %d", n), err)
	checkDeployed(w.t, &m.Disks[0], w.versions[n], w.targets[i], target.durable)
	w.targets[i] = target.durable
	w.counts["deploy"]++
	if r.Written == 0 {
		w.counts["deploy, nothing to do"]++
	}
}

func (w *world) remove() {
	if n := w.pick(); n != 0 {
		w.must("delete", w.store.Delete(w.t.Context(), "lab", n))
		delete(w.versions, n)
		w.counts["delete"]++
	}
}

func (w *world) collect() {
	w.now = w.now.Add(time.Duration(w.random.IntN(20)) * time.Hour)
	minAge := []time.Duration{0, 24 * time.Hour}[w.random.IntN(2)]
	r, err := w.store.Collect(w.t.Context(), chunkstore.CollectOptions{MinAge: minAge})
	w.must("collect", err)
	w.counts["removed packs"] += r.Removed
}

// end deploys every version that is left.
func (w *world) end() {
	w.name = "at the end"
	for len(w.versions) > 0 {
		w.deploy()
		n := w.pick()
		w.must("delete", w.store.Delete(w.t.Context(), "lab", n))
		delete(w.versions, n)
	}
}
