package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"time"

	"clonecast/internal/chunk"
	"clonecast/internal/chunkstore"
	"clonecast/internal/image"
	"clonecast/internal/vfs"
)

// maxEnvelope bounds a manifest file: chunk ids do not compress.
const maxEnvelope = image.MaxManifest + 1<<20

func manifestPath(name string, sequence uint64) string {
	return versionPath(name, sequence, manifestSuffix)
}

func versionPath(name string, sequence uint64, suffix string) string {
	return imagesDir + "/" + name + "/" + strconv.FormatUint(sequence, 10) + suffix
}

// Images implements chunkstore.Reader.
func (s *Store) Images(ctx context.Context) ([]string, error) {
	all, err := s.imageNames()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, name := range all {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		sequences, err := s.sequences(name)
		if err != nil {
			return nil, fmt.Errorf("list images: %w", err)
		}
		if len(sequences) > 0 { // a publication that was cut may leave an empty directory
			names = append(names, name)
		}
	}
	return names, nil
}

// sequences lists the numbers of an image's manifests in order, none for an unknown image.
func (s *Store) sequences(name string) ([]uint64, error) { return s.numbers(name, manifestSuffix) }

// summary is a list entry and the file that it was read from.
type summary struct {
	size     int64
	modified time.Time
	version  image.Version
}

// Versions implements chunkstore.Reader.
func (s *Store) Versions(ctx context.Context, name string) ([]image.Version, error) {
	sequences, err := s.sequences(name)
	if err != nil {
		return nil, fmt.Errorf("list versions of %s: %w", name, err)
	}
	if len(sequences) == 0 {
		return nil, fmt.Errorf("%w: %s", chunkstore.ErrNotFound, name)
	}
	var versions []image.Version
	for _, n := range sequences {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		v, err := s.version(name, n)
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted since it was listed
		}
		if isDamage(err) {
			s.log.Error("a version is left out of the list", "version", manifestPath(name, n), "cause", err)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list versions of %s: %w", name, err)
		}
		versions = append(versions, v)
	}
	return versions, nil
}

// version summarises a manifest and remembers that until its file changes.
func (s *Store) version(name string, sequence uint64) (image.Version, error) {
	path := manifestPath(name, sequence)
	info, err := s.fs.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		info, err = s.fs.Stat(copyPath(path))
	}
	if err != nil {
		return image.Version{}, err
	}
	s.mu.RLock()
	known, ok := s.listing[path]
	s.mu.RUnlock()
	if ok && known.size == info.Size() && known.modified.Equal(info.ModTime()) {
		return known.version, nil
	}
	_, m, id, err := s.manifest(name, sequence)
	if err != nil {
		return image.Version{}, err
	}
	v := m.Summary(id)
	s.mu.Lock()
	s.listing[path] = summary{info.Size(), info.ModTime(), v}
	s.mu.Unlock()
	return v, nil
}

// Manifest implements chunkstore.Reader. A damaged newest version is an error: an older
// one is never handed out in its place.
func (s *Store) Manifest(ctx context.Context, name string, sequence uint64) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	sequences, err := s.sequences(name)
	if err != nil {
		return nil, fmt.Errorf("read manifest of %s: %w", name, err)
	}
	if sequence == 0 && len(sequences) > 0 {
		sequence = sequences[len(sequences)-1]
	}
	if !slices.Contains(sequences, sequence) {
		return nil, fmt.Errorf("%w: %s@%d", chunkstore.ErrNotFound, name, sequence)
	}
	envelope, _, _, err := s.manifest(name, sequence)
	if err != nil {
		return nil, fmt.Errorf("read manifest of %s@%d: %w", name, sequence, err)
	}
	return envelope, nil
}

// publish stores m as the next version of its image. All packs of the session are sealed.
func (s *Store) publish(
	ctx context.Context, m *image.Manifest, condemned map[string]bool,
) ([]byte, image.Version, error) {
	if err := m.Validate(); err != nil {
		return nil, image.Version{}, err
	}
	if err := s.checkComplete(ctx, m, condemned); err != nil {
		return nil, image.Version{}, err
	}
	var envelope []byte
	var version image.Version
	err := s.alone(ctx, func() (err error) {
		envelope, version, err = s.publishLocked(m)
		return err
	})
	if err != nil {
		return nil, image.Version{}, err
	}
	return envelope, version, nil
}

// alone runs f while nobody else publishes or deletes.
func (s *Store) alone(ctx context.Context, f func() error) error {
	s.publishing.Lock()
	defer s.publishing.Unlock()
	lock, err := s.waitForLock(ctx, publishLock)
	if err != nil {
		return err
	}
	return errors.Join(f(), lock.Close())
}

// Delete implements chunkstore.Store. The file that keeps the number comes first, so that a
// crash does not give it to another version; it goes when a later number needs none.
func (s *Store) Delete(ctx context.Context, name string, sequence uint64) error {
	if err := s.writable(); err != nil {
		return fmt.Errorf("delete version: %w", err)
	}
	err := s.alone(ctx, func() error { return s.deleteLocked(name, sequence) })
	if err != nil {
		return fmt.Errorf("delete %s@%d: %w", name, sequence, err)
	}
	return nil
}

func (s *Store) deleteLocked(name string, sequence uint64) error {
	sequences, err := s.sequences(name)
	if err != nil {
		return err
	}
	if !slices.Contains(sequences, sequence) {
		return chunkstore.ErrNotFound
	}
	if sequence == sequences[len(sequences)-1] {
		for _, kept := range both(versionPath(name, sequence, deletedSuffix)) {
			if err := s.keep(kept, 0o600, nil); err != nil {
				return err
			}
		}
	}
	if err := s.removeVersion(name, sequence); err != nil {
		return err
	}
	return s.forgetNumbers(name)
}

// forgetNumbers removes the kept numbers of an image but the highest.
func (s *Store) forgetNumbers(name string) error {
	kept, err := s.numbers(name, deletedSuffix)
	if err != nil {
		return err
	}
	for _, n := range kept[:max(0, len(kept)-1)] {
		for _, file := range both(versionPath(name, n, deletedSuffix)) {
			if err := s.fs.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

func (s *Store) publishLocked(m *image.Manifest) ([]byte, image.Version, error) {
	last, parent, err := s.newest(m.Image)
	if err != nil {
		return nil, image.Version{}, err
	}
	next := *m
	next.Sequence, next.Parent, next.Created = last+1, parent, s.opts.Now().Unix()
	envelope, id, err := image.Seal(&next, s.signing)
	if err != nil {
		return nil, image.Version{}, err
	}
	if err := s.writeVersion(manifestPath(m.Image, next.Sequence), envelope); err != nil {
		if syncLost(err) {
			s.fail(err)
		}
		return nil, image.Version{}, err
	}
	return envelope, next.Summary(id), nil
}

// newest gives the highest number that an image has used and the id of its newest sound
// version: damage to one version must not stop the next capture.
func (s *Store) newest(name string) (uint64, image.VersionID, error) {
	sequences, err := s.sequences(name)
	if err != nil {
		return 0, image.VersionID{}, err
	}
	deleted, err := s.numbers(name, deletedSuffix)
	if err != nil || len(sequences)+len(deleted) == 0 {
		return 0, image.VersionID{}, err
	}
	last := slices.Max(slices.Concat(sequences, deleted))
	for _, n := range slices.Backward(sequences) {
		v, err := s.version(name, n)
		if err == nil {
			return last, v.ID, nil
		}
		if !isDamage(err) {
			return 0, image.VersionID{}, fmt.Errorf("read manifest of %s@%d: %w", name, n, err)
		}
		s.log.Error("a version is damaged and cannot be the parent of the next one",
			"version", manifestPath(name, n), "cause", err)
	}
	return last, image.VersionID{}, nil
}

// checkComplete reports the chunks of m that the store lacks or that have another length.
// It looks at the packs that there are now, whatever the store remembers.
func (s *Store) checkComplete(ctx context.Context, m *image.Manifest, condemned map[string]bool) error {
	if err := s.refresh(); err != nil {
		return err
	}
	var missing []chunk.ID
	seen := map[chunk.ID]bool{}
	for id, want := range m.Chunks() {
		have, ok := s.has(id, condemned)
		if ok && have != want {
			return &chunkstore.LengthError{ID: id, Have: have, Want: want}
		}
		if !ok && !seen[id] {
			seen[id] = true
			missing = append(missing, id)
		}
	}
	if len(missing) > 0 {
		return &chunkstore.IncompleteError{Missing: missing}
	}
	return ctx.Err()
}

// waitShared waits until nobody has a lock alone. Nobody ever had one that does not exist.
func (s *Store) waitShared(ctx context.Context, name string) (interface{ Close() error }, error) {
	for {
		lock, err := s.fs.LockShared(name)
		if errors.Is(err, fs.ErrNotExist) {
			return noPin{}, nil
		}
		if !errors.Is(err, vfs.ErrLocked) {
			return lock, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// waitForLock waits for another process to finish.
func (s *Store) waitForLock(ctx context.Context, name string) (interface{ Close() error }, error) {
	for {
		lock, err := s.fs.Lock(name)
		if !errors.Is(err, vfs.ErrLocked) {
			return lock, full(err)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}
