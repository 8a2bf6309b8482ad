package local

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"strings"

	"clonecast/internal/chunk"
	"clonecast/internal/chunkstore"
	"clonecast/internal/vfs"
)

// A pack file is the magic "CCPACK1\n" and then frames back to back, nothing else. It
// only grows, in staging, and never changes after.
const packMagic = "CCPACK1\n"

// pack is a sealed pack in memory. Its number is its place in Store.packs.
type pack struct {
	name   string // without directory and suffix
	frames []frame
	gone   bool // it was removed; its number is not given again
}

// frame says where a frame of a pack lies. The ids of its chunks are in the index only.
type frame struct {
	offset, size uint32
	chunks       uint8
	bad          bool // a read found it damaged: captures store its chunks anew
}

func packPath(name string) string   { return packsDir + "/" + name + packSuffix }
func idxPath(name string) string    { return indexDir + "/" + name + idxSuffix }
func stagedPack(name string) string { return stagingDir + "/" + name + packSuffix }
func stagedIdx(name string) string  { return stagingDir + "/" + name + idxSuffix }
func stagedLock(name string) string { return stagingDir + "/" + name + lockSuffix }

func newPackName() string {
	var b [10]byte
	_, _ = rand.Read(b[:]) // never fails, says crypto/rand
	return hex.EncodeToString(b[:])
}

// scanPack walks over the frames of a pack and returns those before the first one that
// is not whole or that accept refuses, and where that one begins: size when there is
// none. An error is one of the medium.
func scanPack(f vfs.File, size int64, accept func(frame []byte) bool) (frames []packFrame, end int64, err error) {
	if whole, err := hasMagic(f, size); err != nil || !whole {
		return nil, 0, err
	}
	return scanFrames(f, int64(len(packMagic)), scanLimit(size), accept)
}

func hasMagic(f vfs.File, size int64) (bool, error) {
	magic := make([]byte, len(packMagic))
	if size < int64(len(magic)) {
		return false, nil
	}
	err := readAt(f, magic, 0)
	return err == nil && string(magic) == packMagic, ignoreDamage(err)
}

// scanLimit is where a scan stops: offsets in a pack fit 32 bits.
func scanLimit(size int64) int64 { return min(size, int64(maxPackSize)+int64(chunk.MaxFrameSize)) }

// scanFrames lists the whole frames from byte at on by their headers, and where they end.
func scanFrames(
	f vfs.File, at, limit int64, accept func(frame []byte) bool,
) (frames []packFrame, end int64, err error) {
	for end = at; end < limit; {
		h, err := frameAt(f, end, limit, accept)
		if err != nil || h.Entries == nil {
			return frames, end, err
		}
		frames = append(frames, packFrame{uint32(end), uint32(h.Size()), h.Entries})
		end += int64(h.Size())
	}
	return frames, end, nil
}

// frameAt reads the header of the frame at a byte. It has no entries when there is no whole
// frame or accept refuses it; nil accepts all.
func frameAt(f vfs.File, at, limit int64, accept func(frame []byte) bool) (chunk.FrameHeader, error) {
	b := make([]byte, min(int64(chunk.MaxFrameHeader), limit-at))
	if err := readAt(f, b, at); err != nil {
		return chunk.FrameHeader{}, ignoreDamage(err)
	}
	h, err := chunk.ParseFrameHeader(b)
	if err != nil || int64(h.Size()) > limit-at {
		return chunk.FrameHeader{}, nil
	}
	if accept != nil {
		whole := make([]byte, h.Size())
		if err := readAt(f, whole, at); err != nil || !accept(whole) {
			return chunk.FrameHeader{}, ignoreDamage(err)
		}
	}
	return h, nil
}

// gap is a range of a pack that belongs to no frame.
type gap struct{ from, to int64 }

// surveyPack lists the frames of a pack without its index. Where a frame is damaged it goes
// on at the next one whose content proves it: a header alone may be part of another
// frame's payload, as when the disk of a server was captured. An error is one of the medium.
func (s *Store) surveyPack(f vfs.File, size int64) (frames []packFrame, gaps []gap, err error) {
	at, limit := int64(0), scanLimit(size)
	whole, err := hasMagic(f, size)
	if whole {
		at = int64(len(packMagic))
	}
	for err == nil && at < limit {
		end := at
		if at > 0 { // else the magic is damaged
			var more []packFrame
			more, end, err = scanFrames(f, at, limit, nil)
			frames = append(frames, more...)
		}
		if err != nil || end == limit {
			break
		}
		if at, err = s.nextFrame(f, end, limit); err == nil {
			gaps = append(gaps, gap{end, at})
		}
	}
	if err != nil {
		return nil, nil, err
	}
	if limit < size {
		gaps = append(gaps, gap{limit, size})
	}
	return frames, gaps, nil
}

// nextFrame finds the first frame behind byte from that decodes; limit when there is none.
func (s *Store) nextFrame(f vfs.File, from, limit int64) (int64, error) {
	const window = 1 << 20
	proven := func(frame []byte) bool { _, err := s.verify(frame); return err == nil }
	b := make([]byte, window)
	for at := from + 1; at < limit; {
		b = b[:min(window, limit-at)]
		if err := readAt(f, b, at); err != nil {
			return limit, ignoreDamage(err)
		}
		i := bytes.Index(b, []byte(chunk.FrameMagic))
		if i < 0 {
			at += max(1, int64(len(b)-len(chunk.FrameMagic)+1))
			continue
		}
		h, err := frameAt(f, at+int64(i), limit, proven)
		if err != nil || h.Entries != nil {
			return at + int64(i), err
		}
		at += int64(i) + 1
	}
	return limit, nil
}

func ignoreDamage(err error) error {
	if isDamage(err) {
		return nil
	}
	return err
}

// refresh takes up packs that appeared since the last look and lets go those that a
// collection of another process removed.
func (s *Store) refresh() error {
	s.refreshing.Lock()
	defer s.refreshing.Unlock()
	s.mu.RLock()
	vanished := maps.Clone(s.names) // before the listing: a pack that is sealed meanwhile is not among them
	s.mu.RUnlock()
	entries, err := s.fs.ReadDir(packsDir)
	if err != nil && !(s.opts.Damaged && errors.Is(err, fs.ErrNotExist)) {
		return fmt.Errorf("list packs: %w", err)
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), packSuffix)
		if !ok {
			continue
		}
		delete(vanished, name)
		if s.knows(name) {
			continue
		}
		frames, err := s.loadPack(name)
		if err != nil {
			return err
		}
		s.addPack(name, frames)
	}
	s.dropPacks(vanished)
	return nil
}

// dropPacks forgets packs that were removed.
func (s *Store) dropPacks(names map[string]bool) {
	if len(names) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.packs {
		if names[p.name] {
			p.gone = true
			delete(s.names, p.name)
		}
	}
	left := newIndex()
	for e, at := range s.index.at {
		if !s.packs[at.pack].gone {
			left.add(chunk.Entry{ID: s.index.ids[e], Length: int(s.index.lengths[e])}, at)
		}
	}
	s.index = left
}

func (s *Store) knows(name string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.names[name]
}

// addPack makes the chunks of a sealed pack visible.
func (s *Store) addPack(name string, frames []packFrame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.names[name] {
		return
	}
	s.names[name] = true
	p := &pack{name: name, frames: make([]frame, len(frames))}
	for i, f := range frames {
		p.frames[i] = frame{offset: f.offset, size: f.size, chunks: uint8(len(f.chunks))}
		for _, c := range f.chunks {
			s.index.add(c, location{uint32(len(s.packs)), uint32(i)})
		}
	}
	s.packs = append(s.packs, p)
}

// loadPack gives the frames of a sealed pack: from its index when that is sound and
// fits, else from the pack itself. What is damaged is logged and left out; Check says more.
func (s *Store) loadPack(name string) ([]packFrame, error) {
	f, err := s.fs.Open(packPath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // gone since it was listed
	}
	if err != nil {
		return nil, fmt.Errorf("open pack: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("open pack: %w", err)
	}
	b, err := readFile(s.fs, idxPath(name), maxIdxSize)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !isDamage(err) {
		return nil, fmt.Errorf("read index of pack: %w", err)
	}
	length, frames, idxErr := parseIdx(b)
	if err == nil && idxErr == nil && length == info.Size() {
		return frames, nil
	}
	frames, gaps, err := s.surveyPack(f, info.Size())
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", packPath(name), err)
	}
	if len(gaps) > 0 {
		s.log.Warn("pack is damaged, run clonecast store check",
			"pack", packPath(name), "at byte", gaps[0].from, "frames", len(frames))
		return frames, nil
	}
	if !s.opts.ReadOnly && idxErr != nil {
		if err := s.repairIdx(name, info.Size(), frames); err != nil && !errors.Is(err, vfs.ErrLocked) {
			s.log.Warn("index of pack is not repaired", "index", idxPath(name), "cause", err)
		} else if err == nil {
			s.noteRestored(chunkstore.Problem{Object: idxPath(name), Problem: "was lost; made anew from its pack"})
		}
	}
	return frames, nil
}

// repairIdx writes the index of a pack that has none or a damaged one. Its writer's lock
// tells whether the pack was sealed just now and its index is on the way.
func (s *Store) repairIdx(name string, length int64, frames []packFrame) error {
	lock, err := s.fs.Lock(stagedLock(name))
	if err != nil {
		return err
	}
	_, err = s.fs.Stat(packPath(name)) // a collection removes it under the same lock
	if err == nil {
		err = writeFile(s.fs, stagedIdx(name), idxPath(name), 0o600, marshalIdx(length, frames))
	} else if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, s.unlock(name, lock))
}

// unlock removes the lock file before it gives the lock back, see vfs.FS.Lock.
func (s *Store) unlock(name string, lock interface{ Close() error }) error {
	return errors.Join(s.fs.Remove(stagedLock(name)), lock.Close())
}

// seal makes a staged pack durable, moves it to packs, writes its index and shows its
// chunks. The caller holds the pack's lock. f is closed in any case.
func (s *Store) seal(f vfs.File, name string, length int64, frames []packFrame) error {
	if err := f.Sync(); err != nil {
		// What the kernel dropped cannot be told: nothing of this pack may be used.
		_ = f.Close()
		_ = s.fs.Remove(stagedPack(name))
		err = fmt.Errorf("write %s: %w", stagedPack(name), full(err))
		s.fail(err)
		return err
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("write %s: %w", stagedPack(name), full(err))
	}
	if err := s.fs.Rename(stagedPack(name), packPath(name)); err != nil {
		return fmt.Errorf("seal pack: %w", full(err))
	}
	if err := s.fs.SyncDir(packsDir); err != nil {
		_ = s.fs.Remove(packPath(name))
		err = fmt.Errorf("seal pack: %w", full(err))
		s.fail(err)
		return err
	}
	s.addPack(name, frames)
	if err := s.fs.SyncDir(stagingDir); err != nil {
		return fmt.Errorf("seal pack: %w", full(err))
	}
	if err := writeFile(s.fs, stagedIdx(name), idxPath(name), 0o600, marshalIdx(length, frames)); err != nil {
		return fmt.Errorf("write index of pack: %w", err)
	}
	return nil
}
