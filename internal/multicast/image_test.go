package multicast

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"clonecast/internal/blockdev"
	"clonecast/internal/chunk"
	"clonecast/internal/chunkstore/local"
	"clonecast/internal/clone"
	"clonecast/internal/clone/capture"
	"clonecast/internal/clone/deploy"
	"clonecast/internal/clone/layout"
	"clonecast/internal/image"
	"clonecast/internal/quantity"

	"github.com/klauspost/compress/zstd"
)

// openVersion opens a store and its only version.
func openVersion(dir string) (*local.Store, []byte, *image.Manifest, error) {
	store, err := local.Open(dir, local.Options{ReadOnly: true})
	if err != nil {
		return nil, nil, nil, err
	}
	envelope, err := store.Manifest(context.Background(), "lab", 0)
	if err != nil {
		return nil, nil, nil, err
	}
	m, _, err := image.Open(envelope, store.TrustedKeys())
	return store, envelope, m, err
}

func testPairing() (Pairing, ed25519.PrivateKey, error) {
	_, signer, err := NewPairing()
	if err != nil {
		return Pairing{}, nil, err
	}
	pairing, err := KeyFile([]byte(testKey))
	return pairing, signer, err
}

// sendImageRole sends a store's version to two receivers.
func sendImageRole(dir string) error {
	store, _, m, err := openVersion(dir)
	if err != nil {
		return err
	}
	payload, err := NewImagePayload(store, m)
	if err != nil {
		return err
	}
	pairing, signer, err := testPairing()
	if err != nil {
		return err
	}
	table, err := json.Marshal(payload.Table())
	if err != nil {
		return err
	}
	_, err = Send(context.Background(), SendOptions{
		Interface: "eth0", Pairing: pairing, Signer: signer, Receivers: 2, MaxRate: testRate,
		Payload: payload.Size(), Source: payload, Details: table, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	return err
}

// receiveImageRole deploys the version to a disk image file. The manifest comes from the store, everything else from
// the sender.
func receiveImageRole(dir, disk string) error {
	_, _, m, err := openVersion(dir)
	if err != nil {
		return err
	}
	pairing, _, err := testPairing()
	if err != nil {
		return err
	}
	found, err := Find(context.Background(), "eth0", pairing, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		return err
	}
	defer found.Close()
	var table []byte
	if err := json.Unmarshal(found.Description.Details, &table); err != nil {
		return err
	}
	source, err := NewImageSource(found, m, table)
	if err != nil {
		return err
	}
	defer source.Close()
	return deployTo(disk, m, deploy.Source{Frames: source.Frames, Prepare: source.Prepare}, false)
}

// deployTo deploys a version to a disk image file; with same, it is an error if anything differs.
func deployTo(disk string, m *image.Manifest, source deploy.Source, same bool) error {
	dev, err := blockdev.OpenExclusive(disk)
	if err != nil {
		return err
	}
	defer dev.Close()
	g := clone.Geometry{Size: dev.Size, LogicalSector: dev.LogicalSector, PhysicalSector: dev.PhysicalSector}
	disks := []deploy.Disk{{Image: &m.Disks[0], Target: dev, Geometry: g}}
	plan, err := deploy.NewPlan(context.Background(), disks, source, deploy.Options{}, nil)
	if err != nil {
		return err
	}
	if same && plan.Differ() > 0 {
		return fmt.Errorf("%v differ", plan.Differ())
	}
	_, err = deploy.Execute(context.Background(), plan, disks, deploy.Means{Source: source})
	return err
}

// captureRandom makes a store with a version of a disk of random and repeated bytes.
func captureRandom(t *testing.T, size quantity.Bytes) (dir, disk string) {
	t.Helper()
	disk = filepath.Join(t.TempDir(), "disk")
	content := make([]byte, size)
	rand.NewChaCha8([32]byte{2}).Read(content[:size/2])
	copy(content[size/2:], bytes.Repeat([]byte("clonecast"), int(size/4)/9))
	if err := os.WriteFile(disk, content, 0o600); err != nil {
		t.Fatal(err)
	}
	dev, err := blockdev.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	l, err := layout.Inspect(dev, clone.Geometry{Size: dev.Size, LogicalSector: dev.LogicalSector})
	if err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(t.TempDir(), "store")
	store, err := local.Create(dir, local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	session, err := store.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	_, err = capture.Run(t.Context(), []capture.Disk{{Reader: dev, Layout: l}},
		capture.Options{Image: "lab", Origin: disk},
		capture.Means{Sink: session, Level: zstd.SpeedFastest})
	if err != nil {
		t.Fatal(err)
	}
	return dir, disk
}

// TestDeployByMulticast deploys a version to two disks in one session, over a network that loses 3 %. One of the disks
// has most of it already. Both end as the captured one.
func TestDeployByMulticast(t *testing.T) {
	const size = 12 * quantity.MiB
	dir, disk := captureRandom(t, size)
	store, _, m, err := openVersion(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	blank, near := filepath.Join(t.TempDir(), "blank"), filepath.Join(t.TempDir(), "near")
	content, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	clear(content[4<<20 : 5<<20])
	if err := errors.Join(os.WriteFile(near, content, 0o600), os.WriteFile(blank, make([]byte, size), 0o600)); err != nil {
		t.Fatal(err)
	}
	n := newNetwork(t)
	sender := start(t, n.computer(0), "send image", dir)
	var receivers []*process
	for _, target := range []string{blank, near} {
		receivers = append(receivers, start(t, n.computer(3), "receive image", dir, target))
	}
	for _, r := range receivers {
		r.wait()
	}
	sender.wait()
	for _, target := range []string{blank, near} {
		if err := deployTo(target, m, deploy.Source{Frames: store.Frames}, true); err != nil {
			t.Errorf("%s: %v", target, err)
		}
	}
}

// TestImageSource gives blocks in every order; frames come out whole, and only wanted ones.
func TestImageSource(t *testing.T) {
	dir, _ := captureRandom(t, 6*quantity.MiB)
	store, _, m, err := openVersion(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	payload, err := NewImagePayload(store, m)
	if err != nil {
		t.Fatal(err)
	}
	found := &Found{Description: Description{Payload: payload.Size()}, room: fullRoom}
	geo := found.Geometry()
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 5))
		s, err := NewImageSource(found, m, payload.Table())
		if err != nil {
			t.Fatal(err)
		}
		want := map[int]bool{}
		for _, f := range s.table.of {
			if r.IntN(2) == 0 {
				s.wanted[f], want[f] = true, true
			}
		}
		for _, b := range r.Perm(geo.Count()) {
			plain := make([]byte, geo.Length(b))
			if err := payload.Block(b, plain); err != nil {
				t.Fatal(err)
			}
			complete, err := s.fill(geo.Offset(b), plain)
			if err != nil {
				t.Fatal(err)
			}
			for _, frame := range complete {
				h, err := chunk.ParseFrameHeader(frame)
				if err != nil || h.Size() != len(frame) {
					t.Fatalf("seed %d: a frame of %d bytes: %v", seed, len(frame), err)
				}
				f := s.table.of[h.Entries[0].ID]
				if !want[f] {
					t.Fatalf("seed %d: frame %d was not wanted, or comes twice", seed, f)
				}
				delete(want, f)
			}
		}
		if len(want) > 0 || s.held != 0 || len(s.partial) > 0 {
			t.Fatalf("seed %d: %d frames did not come, %d bytes are held", seed, len(want), s.held)
		}
	}
}

// FuzzTable feeds bytes to the table of frames: what is taken lies within the payload.
func FuzzTable(f *testing.F) {
	ids := []chunk.ID{{1}, {2}, {3}}
	f.Add(appendTable(nil, []int{100, 200}, []int{0, 0, 1}))
	f.Fuzz(func(t *testing.T, b []byte) {
		table, err := parseTable(b, ids)
		if err != nil {
			return
		}
		for id, n := range table.of {
			if n < 0 || table.starts[n] >= table.starts[n+1] || table.starts[n+1] > table.payload() {
				t.Errorf("chunk %v is in frame %d of %v", id, n, table.starts)
			}
		}
	})
}
