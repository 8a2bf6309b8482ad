package local_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"clonecast/internal/chunkstore"
	"clonecast/internal/chunkstore/local"
	"clonecast/internal/chunkstore/storetest"
	"clonecast/internal/faultfs"
	"clonecast/internal/vfs/memfs"
)

// TestModel does captures, deletions, collections and crashes in a random order and mix,
// by two processes, and compares with a map of versions: whatever happened, each version has
// the disk that was captured, and no other version is there.
func TestModel(t *testing.T) {
	t.Parallel()
	var samples []*storetest.Sample
	for seed := range uint64(3) {
		s := newSample(t, seed+1, 24, 5)
		samples = append(samples, s, part(t, s, 1, 4, 6), part(t, s, 2, 3))
	}
	counts := map[string]int{}
	for seed := range uint64(40) {
		m := &model{t: t, rnd: rand.New(rand.NewPCG(seed, 7)), disk: memfs.New(), samples: samples,
			now: time.Unix(1_800_000_000, 0), versions: map[uint64]*storetest.Sample{}, counts: counts}
		createFS(t, m.disk, small)
		m.boot()
		for step := range 60 {
			m.name = fmt.Sprintf("seed %d, step %d", seed, step)
			m.step()
		}
		m.judge()
	}
	t.Log(counts)
	for _, what := range []string{
		"publish", "delete", "removed packs", "moved bytes", "crash inside", "crash", "pinned", "resumed",
	} {
		if counts[what] < 10 {
			t.Errorf("%d times %s: the test has lost its bite", counts[what], what)
		}
	}
}

type model struct {
	t        *testing.T
	rnd      *rand.Rand
	name     string
	disk     *memfs.FS
	samples  []*storetest.Sample
	counts   map[string]int
	now      time.Time
	versions map[uint64]*storetest.Sample // what must be there
	last     uint64                       // the highest number that was given

	stores   []*local.Store
	captures []*running
	cut      *memfs.FS // what a crash inside the present step left
	cutAt    int       // operations until then; 0: never
}

// running is a capture that is under way.
type running struct {
	session chunkstore.Session
	sample  *storetest.Sample
	next    int
}

// boot starts two processes after a crash or at the beginning.
func (m *model) boot() {
	m.stores, m.captures, m.cut, m.cutAt = nil, nil, nil, 0
	for range 2 {
		opts := small
		opts.Now = func() time.Time { return m.now }
		s, err := local.OpenFS(faultfs.New(m.disk, m.watch), opts)
		if err != nil {
			m.t.Fatalf("%s: Open = %v", m.name, err)
		}
		m.stores = append(m.stores, s)
	}
}

// watch takes the picture of a crash when its time has come.
func (m *model) watch(op faultfs.Op, _ string) error {
	if m.cutAt > 0 && op.Changes() {
		if m.cutAt--; m.cutAt == 0 {
			m.cut = m.disk.CrashClone(m.percent(), m.rnd)
		}
	}
	return nil
}

func (m *model) percent() int { return []int{0, 50, 100}[m.rnd.IntN(3)] }

func (m *model) store() *local.Store { return m.stores[m.rnd.IntN(len(m.stores))] }

func (m *model) step() {
	before := maps.Clone(m.versions)
	if m.rnd.IntN(12) == 0 {
		m.cutAt = 1 + m.rnd.IntN(25)
	}
	switch n := m.rnd.IntN(100); {
	case n < 12:
		m.begin()
	case n < 62:
		m.advance()
	case n < 76:
		m.remove()
	case n < 92:
		m.collect()
	case n < 96:
		m.judge()
	default:
		m.counts["crash"]++
		m.disk = m.disk.CrashClone(m.percent(), m.rnd)
		m.boot()
	}
	if m.cut == nil {
		m.cutAt = 0
		return
	}
	m.counts["crash inside"]++
	m.disk = m.cut
	m.boot()
	m.recall(before)
}

// recall finds out whether the step that a crash cut had its effect, which is one version
// more or less.
func (m *model) recall(before map[uint64]*storetest.Sample) {
	after := m.versions
	m.versions = before
	list, err := m.store().Versions(m.t.Context(), "lab")
	if err != nil && !errors.Is(err, chunkstore.ErrNotFound) {
		m.t.Fatalf("%s: Versions = %v", m.name, err)
	}
	var there []uint64
	for _, v := range list {
		there = append(there, v.Sequence)
	}
	if slices.Equal(there, slices.Sorted(maps.Keys(after))) {
		m.versions = after
	}
	// A number that nobody was told of may be given again.
	m.last = 0
}

func (m *model) fatal(what string, err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatalf("%s: %s = %v", m.name, what, err)
	}
}

func (m *model) begin() {
	n, err := m.store().Begin(m.t.Context())
	m.fatal("Begin", err)
	m.captures = append(m.captures, &running{session: n, sample: m.samples[m.rnd.IntN(len(m.samples))]})
}

// advance sends one frame of a capture, or publishes or abandons it.
func (m *model) advance() {
	if len(m.captures) == 0 {
		m.begin()
	}
	i := m.rnd.IntN(len(m.captures))
	c := m.captures[i]
	if c.next < len(c.sample.Frames) && m.rnd.IntN(30) > 0 {
		missing, err := c.session.Missing(m.t.Context(), c.sample.IDs[c.next])
		m.fatal("Missing", err)
		if slices.Contains(missing, true) {
			_, err := c.session.PutFrame(m.t.Context(), c.sample.Frames[c.next])
			m.fatal("PutFrame", err)
		} else {
			m.counts["resumed"]++
		}
		c.next++
		return
	}
	if c.next == len(c.sample.Frames) {
		_, v, err := c.session.Publish(m.t.Context(), c.sample.Manifest)
		m.fatal("Publish", err)
		if v.Sequence <= m.last {
			m.t.Fatalf("%s: number %d is given after %d", m.name, v.Sequence, m.last)
		}
		m.last, m.versions[v.Sequence] = v.Sequence, c.sample
		m.counts["publish"]++
	}
	m.captures = slices.Delete(m.captures, i, i+1)
	m.fatal("Close", c.session.Close())
}

func (m *model) remove() {
	numbers := slices.Sorted(maps.Keys(m.versions))
	if len(numbers) == 0 {
		return
	}
	n := numbers[m.rnd.IntN(len(numbers))]
	m.fatal("Delete", m.store().Delete(m.t.Context(), "lab", n))
	delete(m.versions, n)
	m.counts["delete"]++
}

func (m *model) collect() {
	m.now = m.now.Add(time.Duration(m.rnd.IntN(20)) * time.Hour)
	age := []time.Duration{0, 24 * time.Hour}[m.rnd.IntN(2)]
	r, err := m.store().Collect(m.t.Context(), chunkstore.CollectOptions{MinAge: age})
	m.fatal("Collect", err)
	m.counts["removed packs"] += r.Removed
	m.counts["moved bytes"] += int(r.Rewritten)
	if r.Pinned {
		m.counts["pinned"]++
	}
}

// judge compares the store with the model.
func (m *model) judge() {
	s := m.store()
	if p := check(m.t, s, true); len(p) > 0 {
		m.t.Fatalf("%s: Check = %v", m.name, p)
	}
	list, err := s.Versions(m.t.Context(), "lab")
	if err != nil && !errors.Is(err, chunkstore.ErrNotFound) || len(list) != len(m.versions) {
		m.t.Fatalf("%s: %d versions, %v; want %d", m.name, len(list), err, len(m.versions))
	}
	for n, sample := range m.versions {
		if err := sample.Verify(m.t.Context(), s, n); err != nil {
			m.t.Fatalf("%s: version %d: %v", m.name, n, err)
		}
	}
}
