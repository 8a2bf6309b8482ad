package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"clonecast/internal/chunk"
	"clonecast/internal/chunkstore"
	"clonecast/internal/image"
	"clonecast/internal/vfs"
)

// checker reads the store from the medium, without a look at what Store remembers.
//
// A frame that is not what it should be belongs to a problem; at the end each version
// that needs a chunk without a sound copy is counted to the problems of its copies.
// Versions are listed before packs: a capture that publishes meanwhile has its packs
// in place before its manifest.
type checker struct {
	store  *Store
	opts   chunkstore.CheckOptions
	report chunkstore.CheckReport

	index index
	bad   map[location]int // frame to its problem
	packs uint32

	// for a repair
	names  []string        // of packs by their number
	faulty map[string]bool // packs with a problem: whether bytes of them belong to no frame
	broken []versionName   // whose manifest and its copy are damaged
	half   []versionName   // of which one of the two is damaged

	done, total int64
}

// Check implements chunkstore.Store. An error is one of the medium or of ctx; what it
// finds damaged is in the report.
func (s *Store) Check(ctx context.Context, opts chunkstore.CheckOptions) (chunkstore.CheckReport, error) {
	c := newChecker(s, opts)
	if err := c.run(ctx); err != nil {
		return chunkstore.CheckReport{}, fmt.Errorf("check store: %w", err)
	}
	return c.report, nil
}

func newChecker(s *Store, opts chunkstore.CheckOptions) *checker {
	return &checker{store: s, opts: opts, index: newIndex(), bad: map[location]int{}, faulty: map[string]bool{}}
}

func (c *checker) run(ctx context.Context) (err error) {
	pin, err := c.store.Pin(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pin.Close()) }()
	for _, part := range []func() error{c.base, c.marks} {
		if err := part(); err != nil {
			return err
		}
	}
	versions, err := c.versions(ctx)
	if err != nil {
		return err
	}
	if err := c.allPacks(ctx); err != nil {
		return err
	}
	return c.contents(ctx, versions)
}

func (c *checker) problem(object, format string, args ...any) int {
	p := chunkstore.Problem{Object: object, Problem: fmt.Sprintf(format, args...)}
	c.report.Problems = append(c.report.Problems, p)
	return len(c.report.Problems) - 1
}

func (c *checker) progress(bytes int64) {
	c.done += bytes
	if c.opts.Progress != nil {
		c.opts.Progress(c.done, c.total)
	}
}

// base reads format, directories and keys once more.
func (c *checker) base() error {
	b, err := inspect(c.store.fs, c.store.opts.ReadOnly)
	if err != nil {
		return err
	}
	for _, f := range b.flaws {
		c.report.Problems = append(c.report.Problems, f.Problem)
	}
	return nil
}

// marks reads the mark of a collection.
func (c *checker) marks() error {
	b, err := readFile(c.store.fs, marksFile, maxMarksSize)
	if err == nil {
		_, err = parseMarks(b)
	}
	switch {
	case err == nil || errors.Is(err, fs.ErrNotExist):
		return nil
	case isDamage(err) || errors.Is(err, errMarks):
		c.problem(marksFile, "%v; nothing is lost: it counts as none, and the next collection or repair removes it", err)
		return nil
	}
	return err
}

type versionName struct {
	image    string
	sequence uint64
}

func (v versionName) String() string { return fmt.Sprintf("%s@%d", v.image, v.sequence) }

// versions proves every manifest and its copy, and lists the versions that have a sound one.
func (c *checker) versions(ctx context.Context) (sound []versionName, err error) {
	var doubtful []versionName
	names, err := c.store.Images(ctx)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		sequences, err := c.store.sequences(name)
		if err != nil {
			return nil, err
		}
		for _, n := range sequences {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			v := versionName{name, n}
			problems, err := c.proveVersion(v)
			if err != nil {
				return nil, err
			}
			if problems == [2]string{} {
				sound = append(sound, v)
			} else {
				doubtful = append(doubtful, v)
			}
		}
	}
	c.report.Versions = len(sound)
	missing, err := c.store.incomplete()
	if err != nil || len(doubtful)+len(missing) == 0 {
		return sound, err
	}
	// Whoever publishes or deletes is between two files for a moment.
	lock, err := c.store.waitShared(ctx, publishLock)
	if err != nil {
		return nil, err
	}
	more, err := c.doubtfulVersions(doubtful)
	return append(sound, more...), errors.Join(err, lock.Close())
}

// proveVersion says what is wrong with the two files of a version.
func (c *checker) proveVersion(v versionName) (problems [2]string, err error) {
	var content [2][]byte
	for i, file := range both(manifestPath(v.image, v.sequence)) {
		envelope, _, _, err := c.store.readManifest(file)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			problems[i] = isMissing
		case i == 1 && c.store.absent(err): // for us
		case isDamage(err):
			problems[i] = err.Error()
		case err != nil:
			return problems, err
		}
		content[i] = envelope
	}
	if problems == [2]string{} && content[1] != nil && !bytes.Equal(content[0], content[1]) {
		problems[1] = "it differs from the manifest"
	}
	return problems, nil
}

const isMissing = "is missing"

// doubtfulVersions reports versions of which a file is not as it should be, and lists those that
// can be read. Nobody publishes meanwhile.
func (c *checker) doubtfulVersions(doubtful []versionName) (sound []versionName, err error) {
	for _, v := range doubtful {
		problems, err := c.proveVersion(v)
		if err != nil {
			return nil, err
		}
		if problems == [2]string{isMissing, isMissing} {
			continue // deleted since it was listed
		}
		c.report.Versions++
		files := both(manifestPath(v.image, v.sequence))
		switch {
		case problems[0] == "" && problems[1] == "":
			sound = append(sound, v) // published since it was looked at
			continue
		case problems[0] == "" || problems[1] == "":
			bad := 0
			if problems[0] == "" {
				bad = 1
			}
			c.problem(files[bad], "%s; the version is read from %s, and clonecast store repair makes this file from it",
				problems[bad], files[1-bad])
			c.half = append(c.half, v)
			sound = append(sound, v)
		default:
			if problems[0] == isMissing {
				problems[0] += ", and its copy is damaged: " + problems[1]
			}
			i := c.problem(files[0], "%s", problems[0])
			c.report.Problems[i].Affects = []string{v.String()}
			c.broken = append(c.broken, v)
		}
	}
	missing, err := c.store.incomplete()
	for _, file := range missing {
		if strings.HasSuffix(file, deletedSuffix) {
			c.problem(file, "is missing: it keeps the number of a deleted version from being used again; "+
				"it is made from %s when the store is opened for writing", twinOf(file))
		}
	}
	return sound, err
}

// allPacks checks packs and indexes; an index without a pack tells of a lost one.
// It looks twice: what a collection moved out of a pack meanwhile is in a new one.
func (c *checker) allPacks(ctx context.Context) error {
	seen := map[string]bool{}
	for range 2 {
		names, err := c.newPacks(seen)
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := c.pack(ctx, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// newPacks lists the names of packs and indexes that were not seen yet, and counts the packs.
func (c *checker) newPacks(seen map[string]bool) ([]string, error) {
	names := map[string]bool{}
	for dir, suffix := range map[string]string{packsDir: packSuffix, indexDir: idxSuffix} {
		entries, err := c.store.fs.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a problem of the base
		}
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			name, ok := strings.CutSuffix(e.Name(), suffix)
			if !ok || seen[name] {
				continue
			}
			names[name] = true
			info, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) || dir != packsDir {
				continue
			}
			if err != nil {
				return nil, err
			}
			c.report.Packs++
			c.report.Bytes += info.Size()
			c.total += info.Size()
		}
	}
	maps.Copy(seen, names)
	return slices.Sorted(maps.Keys(names)), nil
}

// pack compares a pack with its index, or lists it by its own headers when the index
// is absent or damaged. It is the index that says what a damaged pack should hold.
func (c *checker) pack(ctx context.Context, name string) error {
	b, err := readFile(c.store.fs, idxPath(name), maxIdxSize)
	noIdx := errors.Is(err, fs.ErrNotExist)
	if err != nil && !noIdx && !isDamage(err) {
		return err
	}
	length, frames, idxErr := parseIdx(b)
	if idxErr != nil && !noIdx {
		c.problem(idxPath(name), "%v; "+indexMeaning, idxErr)
	}
	f, err := c.store.fs.Open(packPath(name))
	if errors.Is(err, fs.ErrNotExist) {
		// A collection removes the index first, then the pack.
		if _, err := c.store.fs.Stat(idxPath(name)); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if idxErr != nil { // a repair removes it
			c.fault(name)
		} else {
			c.lost(name, frames, c.problem(packPath(name), "is missing: %d bytes", length))
		}
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	size := info.Size()
	if noIdx {
		if err := c.noIndex(name); err != nil {
			return err
		}
	}
	if idxErr != nil {
		if frames, err = c.survey(name, f, size); err != nil {
			return err
		}
	} else if length != size {
		// As a reader does: the pack's own headers say what is still there.
		c.lost(name, frames, c.problem(packPath(name), "has %d bytes, its index says %d", size, length))
		if frames, _, err = c.store.surveyPack(f, size); err != nil {
			return err
		}
	}
	return c.frames(ctx, name, f, size, frames)
}

// indexMeaning tells what a lost index means.
const indexMeaning = "no chunk is lost, the pack itself says what it holds, but damage in it cannot be told so well; " +
	"it is made anew when the store is opened for writing"

// noIndex reports an index that is missing, unless the pack's writer is about to write it, or
// a collection is about to remove the pack.
func (c *checker) noIndex(name string) error {
	lock, err := c.store.fs.LockShared(stagedLock(name))
	if errors.Is(err, vfs.ErrLocked) {
		return nil
	}
	if err == nil {
		err = lock.Close()
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for file, there := range map[string]bool{idxPath(name): false, packPath(name): true} {
		if _, err := c.store.fs.Stat(file); errors.Is(err, fs.ErrNotExist) == there {
			return nil
		}
	}
	c.problem(idxPath(name), "is missing; "+indexMeaning)
	return nil
}

// survey lists the frames of a pack that has no index to go by. What was in its gaps nobody
// knows: a version that needs it lacks chunks.
func (c *checker) survey(name string, f vfs.File, size int64) ([]packFrame, error) {
	frames, gaps, err := c.store.surveyPack(f, size)
	for _, g := range gaps {
		c.faulty[name] = true
		c.problem(packPath(name), "no whole frame at byte %d; %d bytes from there are lost", g.from, g.to-g.from)
	}
	return frames, err
}

// lost counts frames that are not where their index says to a problem. A chunk that is
// also found elsewhere is not lost.
func (c *checker) lost(name string, frames []packFrame, problem int) {
	c.fault(name)
	for i, f := range frames {
		c.add(f, uint32(i))
		c.bad[location{c.packs, uint32(i)}] = problem
	}
	c.next(name)
}

// fault remembers that a pack, or its index, is not sound.
func (c *checker) fault(name string) { c.faulty[name] = c.faulty[name] }

// next ends the pack at hand.
func (c *checker) next(name string) {
	c.packs++
	c.names = append(c.names, name)
}

func (c *checker) add(f packFrame, number uint32) {
	for _, e := range f.chunks {
		c.index.add(e, location{c.packs, number})
	}
}

// frames reads the frames of a pack: their headers, or all of them with ReadData.
func (c *checker) frames(ctx context.Context, name string, f vfs.File, size int64, frames []packFrame) error {
	at := int64(len(packMagic))
	magic := make([]byte, len(packMagic))
	if err := readAt(f, magic, 0); err != nil && !isDamage(err) {
		return err
	} else if string(magic) != packMagic {
		c.fault(name)
		c.problem(packPath(name), "its magic is damaged")
	}
	c.progress(min(at, size))
	problems := map[string]int{} // one per kind: a pack that was overwritten has many bad frames
	for i, frame := range frames {
		if err := ctx.Err(); err != nil {
			return err
		}
		at += int64(frame.size)
		number := location{c.packs, uint32(i)}
		c.add(frame, number.frame)
		c.report.Chunks += len(frame.chunks)
		found, err := c.frame(f, frame)
		if err != nil {
			return fmt.Errorf("read %s: %w", packPath(name), err)
		}
		if found != "" {
			if _, ok := problems[found]; !ok {
				problems[found] = c.problem(packPath(name), "frame at byte %d: %s", frame.offset, found)
			}
			c.bad[number] = problems[found]
			c.fault(name)
		}
		c.progress(max(0, min(int64(frame.size), size-int64(frame.offset))))
	}
	c.progress(max(0, size-at))
	c.next(name)
	return nil
}

// frame says what is wrong with a frame, or nothing.
func (c *checker) frame(f vfs.File, want packFrame) (problem string, err error) {
	length := int(want.size)
	if !c.opts.ReadData {
		length = min(length, chunk.MaxFrameHeader)
	}
	b := make([]byte, length)
	if err := readAt(f, b, int64(want.offset)); err != nil {
		if isDamage(err) {
			return err.Error(), nil
		}
		return "", err
	}
	c.report.BytesRead += int64(length)
	h, err := chunk.ParseFrameHeader(b)
	if err == nil && c.opts.ReadData {
		h, err = c.store.verify(b)
	}
	switch {
	case err != nil:
		return err.Error(), nil
	case h.Size() != int(want.size) || !slices.Equal(h.Entries, want.chunks):
		return "it is not the frame that the index names", nil
	}
	return "", nil
}

// contents looks up every chunk of every version.
func (c *checker) contents(ctx context.Context, versions []versionName) error {
	for _, v := range versions {
		if err := ctx.Err(); err != nil {
			return err
		}
		_, m, _, err := c.store.manifest(v.image, v.sequence)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil { // sound a moment ago
			return err
		}
		lacks := map[chunk.ID]bool{}
		blame := map[int]bool{}
		for _, id := range chunksOf(m) {
			if problem, ok := c.lookup(id); !ok && problem >= 0 {
				blame[problem] = true
			} else if !ok {
				lacks[id] = true
			}
		}
		for _, problem := range slices.Sorted(maps.Keys(blame)) {
			p := &c.report.Problems[problem]
			p.Affects = append(p.Affects, v.String())
		}
		if len(lacks) > 0 {
			i := c.problem(manifestPath(v.image, v.sequence), "%d of its chunks are in no pack", len(lacks))
			c.report.Problems[i].Affects = []string{v.String()}
		}
	}
	return nil
}

// lookup tells whether a chunk has a sound copy, and if not, which problem of its copies
// is to blame: -1 when there is no copy at all.
func (c *checker) lookup(id chunk.ID) (problem int, ok bool) {
	problem = -1
	for e := range c.index.find(id) {
		p, bad := c.bad[c.index.at[e]]
		if !bad {
			return 0, true
		}
		problem = p
	}
	return problem, false
}

func chunksOf(m *image.Manifest) []chunk.ID {
	var ids []chunk.ID
	for i := range m.Disks {
		for _, c := range m.Disks[i].Contents() {
			ids = append(ids, c.Chunks...)
		}
	}
	return ids
}
