package local

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"clonecast/internal/chunkstore"
	"clonecast/internal/image"
	"clonecast/internal/vfs"
)

// What nothing else can replace is kept twice: the file format, the keys, the manifests and the
// numbers of deleted versions have a second file of the same content below copies.
//
// A version exists as long as one of its two manifests does. Publication makes the first one
// durable, then the copy; deletion takes the copy away first. So what a crash leaves is a
// version with one manifest, and the next Open for writing makes the other one from it, as it
// does for one that was lost. Readers take whichever is sound.
func copyPath(name string) string { return copiesDir + "/" + name }

// both gives the two names under which a file is kept.
func both(name string) [2]string { return [2]string{name, copyPath(name)} }

// makeDir makes the directory of an image durable; it may be there since a crash.
func (s *Store) makeDir(dir string) error {
	if slices.Contains(append(dirs, "."), dir) {
		return nil
	}
	if err := s.fs.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return full(err)
	}
	if err := s.fs.SyncDir(path.Dir(dir)); err != nil {
		return full(&vfs.SyncError{Err: err})
	}
	return nil
}

// keep writes one of the two files. The caller has publish.lock.
func (s *Store) keep(name string, perm fs.FileMode, data []byte) error {
	if err := s.makeDir(path.Dir(name)); err != nil {
		return err
	}
	temp := publishFile
	if strings.HasPrefix(name, copiesDir+"/") {
		temp = copyFile
	}
	return replaceFile(s.fs, temp, name, perm, data)
}

// numbers lists the numbers of an image's files with a suffix in order, from both directories.
func (s *Store) numbers(name, suffix string) ([]uint64, error) {
	if image.CheckName(name) != nil {
		return nil, nil
	}
	set := map[uint64]bool{}
	for _, dir := range both(imagesDir + "/" + name) {
		list, err := s.numbersIn(dir, suffix)
		if err != nil {
			return nil, err
		}
		for _, n := range list {
			set[n] = true
		}
	}
	return slices.Sorted(maps.Keys(set)), nil
}

// absent tells of a directory that is not there, or not for somebody who may only read images.
func (s *Store) absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || s.opts.ReadOnly && errors.Is(err, fs.ErrPermission)
}

func (s *Store) numbersIn(dir, suffix string) (list []uint64, err error) {
	entries, err := s.fs.ReadDir(dir)
	if s.absent(err) {
		return nil, nil
	}
	for _, e := range entries {
		digits, ok := strings.CutSuffix(e.Name(), suffix)
		n, err := strconv.ParseUint(digits, 10, 64)
		if ok && err == nil && n > 0 && strconv.FormatUint(n, 10) == digits {
			list = append(list, n)
		}
	}
	return list, err
}

// imageNames lists the directories of images in order.
func (s *Store) imageNames() ([]string, error) {
	set := map[string]bool{}
	for _, dir := range both(imagesDir) {
		entries, err := s.fs.ReadDir(dir)
		if s.absent(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list images: %w", err)
		}
		for _, e := range entries {
			if e.IsDir() && image.CheckName(e.Name()) == nil {
				set[e.Name()] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(set)), nil
}

// syncImages makes durable which versions there are.
func (s *Store) syncImages() error {
	names, err := s.imageNames()
	if err != nil {
		return err
	}
	for _, name := range names {
		for _, dir := range both(imagesDir + "/" + name) {
			if err := s.fs.SyncDir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
				s.fail(err)
				return fmt.Errorf("sync %s: %w", dir, err)
			}
		}
	}
	return nil
}

// single lists the files of one directory of versions that the other one lacks.
func (s *Store) single(name, suffix string) (missing []string, err error) {
	numbers, err := s.numbers(name, suffix)
	if suffix == deletedSuffix && len(numbers) > 0 {
		numbers = numbers[len(numbers)-1:] // the others are on their way out
	}
	for _, n := range numbers {
		for _, file := range both(versionPath(name, n, suffix)) {
			_, statErr := s.fs.Stat(file)
			if errors.Is(statErr, fs.ErrNotExist) {
				missing = append(missing, file)
			} else if statErr != nil {
				return nil, statErr
			}
		}
	}
	return missing, err
}

// incomplete lists the files of versions that are not there twice.
func (s *Store) incomplete() (missing []string, err error) {
	names, err := s.imageNames()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		for _, suffix := range []string{manifestSuffix, deletedSuffix} {
			some, err := s.single(name, suffix)
			if err != nil {
				return nil, fmt.Errorf("list versions of %s: %w", name, err)
			}
			missing = append(missing, some...)
		}
	}
	return missing, nil
}

// complete makes the files of versions that are not there twice. It does nothing while
// somebody publishes or deletes: that ends with both files or none.
func (s *Store) complete() error {
	missing, err := s.incomplete()
	if err != nil || len(missing) == 0 {
		return err
	}
	lock, err := s.fs.Lock(publishLock)
	if errors.Is(err, vfs.ErrLocked) {
		return nil
	}
	if err != nil {
		return full(err)
	}
	if missing, err = s.incomplete(); err == nil {
		err = s.completeFiles(missing)
	}
	return errors.Join(err, lock.Close())
}

func (s *Store) completeFiles(missing []string) error {
	for _, file := range missing {
		twin := twinOf(file)
		data, err := readFile(s.fs, twin, maxEnvelope)
		if err == nil && strings.HasSuffix(file, manifestSuffix) {
			_, _, err = s.openEnvelope(data, strings.TrimPrefix(twin, copiesDir+"/"))
		}
		switch {
		case isDamage(err):
			continue // Check names both
		case err != nil:
			return fmt.Errorf("read %s: %w", twin, err)
		}
		if err := s.keep(file, 0o600, data); err != nil {
			s.log.Error("a second file of a version cannot be written", "file", file, "cause", err)
			if errors.Is(err, chunkstore.ErrFull) {
				return nil // the store can be read, and freed
			}
			return fmt.Errorf("write %s: %w", file, err)
		}
		s.log.Warn("a file of a version was there only once", "restored", file)
		s.noteRestored(chunkstore.Problem{Object: file, Problem: "was missing; made anew from " + twin})
	}
	return nil
}

// twinOf gives the other name of a file that is kept twice.
func twinOf(file string) string {
	if name, ok := strings.CutPrefix(file, copiesDir+"/"); ok {
		return name
	}
	return copyPath(file)
}

// openEnvelope proves an envelope: its signature, and that it stands in its place.
func (s *Store) openEnvelope(envelope []byte, place string) (*image.Manifest, image.VersionID, error) {
	m, id, err := image.Open(envelope, s.trusted)
	if err != nil {
		return nil, image.VersionID{}, &damage{err}
	}
	if manifestPath(m.Image, m.Sequence) != place {
		return nil, image.VersionID{}, &damage{fmt.Errorf("it is the manifest of %s@%d", m.Image, m.Sequence)}
	}
	return m, id, nil
}

// readManifest reads and proves one of the two files of a version.
func (s *Store) readManifest(file string) ([]byte, *image.Manifest, image.VersionID, error) {
	envelope, err := readFile(s.fs, file, maxEnvelope)
	if err != nil {
		return nil, nil, image.VersionID{}, err
	}
	m, id, err := s.openEnvelope(envelope, strings.TrimPrefix(file, copiesDir+"/"))
	if err != nil {
		return nil, nil, image.VersionID{}, err
	}
	return envelope, m, id, nil
}

// manifest reads and proves a manifest, or its copy where that fails. When both do, the error is
// that of a file that is there.
func (s *Store) manifest(name string, sequence uint64) ([]byte, *image.Manifest, image.VersionID, error) {
	files := both(manifestPath(name, sequence))
	envelope, m, id, err := s.readManifest(files[0])
	if err == nil {
		return envelope, m, id, nil
	}
	envelope, m, id, err2 := s.readManifest(files[1])
	if err2 == nil {
		s.log.Warn("a manifest is read from its copy: run clonecast store repair", "manifest", files[0], "cause", err)
		return envelope, m, id, nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = err2
	}
	return nil, nil, image.VersionID{}, err
}

// writeVersion stores a new manifest twice. The version exists from the first file on: when only
// the second one fails, the log says so, and a later Open or collection writes it.
func (s *Store) writeVersion(file string, envelope []byte) error {
	if err := s.makeDir(path.Dir(file)); err != nil {
		return err
	}
	if err := writeFile(s.fs, publishFile, file, 0o600, envelope); err != nil {
		return err
	}
	if err := s.keep(copyPath(file), 0o600, envelope); err != nil {
		s.log.Error("the copy of a manifest is not written", "manifest", file, "cause", err)
		if syncLost(err) {
			s.fail(err)
		}
	}
	return nil
}

// removeVersion takes both files of a version away: the copy first, so that the version is there
// with one or not at all.
func (s *Store) removeVersion(name string, sequence uint64) error {
	files := both(manifestPath(name, sequence))
	for _, file := range [2]string{files[1], files[0]} {
		if err := s.fs.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := s.fs.SyncDir(path.Dir(file)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.fail(err)
			return err
		}
	}
	return nil
}
