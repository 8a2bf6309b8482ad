package local

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"clonecast/internal/chunk"
	"clonecast/internal/vfs"
)

// A pack file is the magic "CCPACK1\n" and then frames back to back, nothing else. It
// only grows, in staging, and never changes after.
const packMagic = "CCPACK1\n"

// pack is a sealed pack in memory. Its number is its place in Store.packs.
type pack struct {
	name   string // without directory and suffix
	frames []frame
}

// frame says where a frame of a pack lies. The ids of its chunks are in the index only.
type frame struct {
	offset, size uint32
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

// scanPack walks over the frames of a pack by their headers and returns those before
// the first one that is not whole, and where that one begins: size when all are whole.
// With accept, a frame must also pass that. An error is one of the medium.
func scanPack(f vfs.File, size int64, accept func(frame []byte) bool) (frames []packFrame, end int64, err error) {
	header := make([]byte, chunk.MaxFrameHeader)
	if size < int64(len(packMagic)) {
		return nil, 0, nil
	}
	if err := readAt(f, header[:len(packMagic)], 0); err != nil || string(header[:len(packMagic)]) != packMagic {
		return nil, 0, ignoreDamage(err)
	}
	end = int64(len(packMagic))
	limit := min(size, int64(maxPackSize)+int64(chunk.MaxFrameSize))
	for end < limit {
		b := header[:min(int64(len(header)), limit-end)]
		if err := readAt(f, b, end); err != nil {
			return frames, end, ignoreDamage(err)
		}
		h, err := chunk.ParseFrameHeader(b)
		if err != nil || int64(h.Size()) > limit-end {
			return frames, end, nil
		}
		if accept != nil {
			whole := make([]byte, h.Size())
			if err := readAt(f, whole, end); err != nil || !accept(whole) {
				return frames, end, ignoreDamage(err)
			}
		}
		frames = append(frames, packFrame{uint32(end), uint32(h.Size()), headerIDs(h)})
		end += int64(h.Size())
	}
	return frames, end, nil
}

func ignoreDamage(err error) error {
	if isDamage(err) {
		return nil
	}
	return err
}

func headerIDs(h chunk.FrameHeader) []chunk.ID {
	ids := make([]chunk.ID, len(h.Entries))
	for i, e := range h.Entries {
		ids[i] = e.ID
	}
	return ids
}

// refresh takes up packs that appeared since the last look.
func (s *Store) refresh() error {
	s.refreshing.Lock()
	defer s.refreshing.Unlock()
	entries, err := s.fs.ReadDir(packsDir)
	if err != nil {
		return fmt.Errorf("list packs: %w", err)
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), packSuffix)
		if !ok || s.knows(name) {
			continue
		}
		frames, err := s.loadPack(name)
		if err != nil {
			return err
		}
		s.addPack(name, frames)
	}
	return nil
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
		p.frames[i] = frame{offset: f.offset, size: f.size}
		for _, id := range f.ids {
			s.index.add(id, location{uint32(len(s.packs)), uint32(i)})
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
	scanned, end, err := scanPack(f, info.Size(), nil)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", packPath(name), err)
	}
	if end != info.Size() {
		s.log.Warn("pack is damaged, run clonecast store check", "pack", packPath(name), "sound bytes", end, "bytes", info.Size())
		return scanned, nil
	}
	if !s.opts.ReadOnly && idxErr != nil {
		if err := s.repairIdx(name, end, scanned); err != nil && !errors.Is(err, vfs.ErrLocked) {
			s.log.Warn("index of pack is not repaired", "index", idxPath(name), "cause", err)
		}
	}
	return scanned, nil
}

// repairIdx writes the index of a pack that has none or a damaged one. Its writer's lock
// tells whether the pack was sealed just now and its index is on the way.
func (s *Store) repairIdx(name string, length int64, frames []packFrame) error {
	lock, err := s.fs.Lock(stagedLock(name))
	if err != nil {
		return err
	}
	err = writeFile(s.fs, stagedIdx(name), idxPath(name), 0o600, marshalIdx(length, frames))
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
