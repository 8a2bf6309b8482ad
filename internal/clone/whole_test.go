package clone_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"clonecast/internal/chunk"
	"clonecast/internal/clone"
)

// wholeStore gives the frames of a store from the last one to the first, and notes when it is asked what.
type wholeStore struct {
	*memStore
	disks    []*memDisk
	refuse   error
	prepared [][]chunk.ID
	asked    [][]chunk.ID
	writes   int // on the disks when it was prepared
}

func (s *wholeStore) Prepare(_ context.Context, ids []chunk.ID) error {
	s.prepared = append(s.prepared, ids)
	for _, d := range s.disks {
		s.writes += d.writes
	}
	return s.refuse
}

func (s *wholeStore) Frames(ctx context.Context, ids []chunk.ID, yield func([]byte) error) error {
	s.asked = append(s.asked, ids)
	var frames [][]byte
	err := s.memStore.Frames(ctx, ids, func(frame []byte) error {
		frames = append(frames, slices.Clone(frame))
		return nil
	})
	for _, frame := range slices.Backward(frames) {
		if err := errors.Join(err, yield(frame)); err != nil {
			return err
		}
	}
	return err
}

// checkPrepared checks that the source was prepared once, before any write, and that nothing was written if it refused.
func (s *wholeStore) checkPrepared(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, s.refuse) || len(s.prepared) != 1 || s.writes != 0 {
		t.Fatalf("%v, want %v; prepared %d times, after %d writes", err, s.refuse, len(s.prepared), s.writes)
	}
	if writes := s.disks[0].writes + s.disks[1].writes; s.refuse != nil && (writes > 0 || len(s.asked) > 0) {
		t.Errorf("the source refused, and there were %d writes", writes)
	}
}

// TestWholeSource deploys two disks from a source that is asked once for both, and is prepared before any write.
func TestWholeSource(t *testing.T) {
	store, sources, _ := twoDisks(t)
	for _, refuse := range []error{nil, errors.New("no session")} {
		disks := []*memDisk{{b: randomBytes(8, tableDiskSize)}, {b: randomBytes(9, tableDiskSize)}}
		source := &wholeStore{memStore: store, disks: disks, refuse: refuse}
		results, err := deployDisks(deployments(store.manifest, disks), source, deployOrder{Verify: true})
		source.checkPrepared(t, err)
		if refuse != nil {
			continue
		}
		if len(source.asked) != 1 || len(source.asked[0]) == 0 || !slices.Equal(source.asked[0], source.prepared[0]) {
			t.Errorf("prepared for %d chunks, asked %d times", len(source.prepared[0]), len(source.asked))
		}
		for i := range disks {
			checkDeployed(t, &store.manifest.Disks[i], sources[i].b, disks[i].b, disks[i].b)
			if results[i].Written == 0 || results[i].Verified == 0 {
				t.Errorf("disk %d: %+v", i, results[i])
			}
		}
	}
}

// forgetful leaves out a chunk.
type forgetful struct{ wholeStore }

func (s *forgetful) Frames(ctx context.Context, ids []chunk.ID, yield func([]byte) error) error {
	return s.wholeStore.Frames(ctx, ids[1:], func(frame []byte) error {
		h, err := chunk.ParseFrameHeader(frame)
		if err != nil || slices.ContainsFunc(h.Entries, func(e chunk.Entry) bool { return e.ID == ids[0] }) {
			return err
		}
		return yield(frame)
	})
}

// TestWholeSourceForgets: a chunk that does not come fails the deploy, and the disk boots nothing.
func TestWholeSourceForgets(t *testing.T) {
	store, _, _ := twoDisks(t)
	disks := []*memDisk{{b: randomBytes(8, tableDiskSize)}, {b: randomBytes(9, tableDiskSize)}}
	_, err := deployDisks(deployments(store.manifest, disks), &forgetful{wholeStore{memStore: store}}, deployOrder{})
	var missing *chunk.MissingError
	if !errors.As(err, &missing) || !clone.AllZero(disks[0].b[:512]) {
		t.Errorf("%v, want a missing chunk and a disk that does not boot", err)
	}
}
