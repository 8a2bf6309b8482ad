package clone_test

import (
	"bytes"
	"errors"
	"testing"

	"clonecast/internal/clone"
	"clonecast/internal/clone/capture"
	"clonecast/internal/clone/deploy"
	"clonecast/internal/image"
	"clonecast/internal/quantity"
)

// toCapture gives disks with their layouts, as a capture takes them.
func toCapture(t *testing.T, disks []*memDisk) []capture.Disk {
	t.Helper()
	var out []capture.Disk
	for _, d := range disks {
		out = append(out, capture.Disk{Reader: d, Layout: inspected(t, d, nil)})
	}
	return out
}

// twoDisks captures two disks as one version.
func twoDisks(t *testing.T) (*memStore, []*memDisk, capture.Result) {
	t.Helper()
	disks := []*memDisk{
		tableDisk(t, 1, "label: dos\nstart=63,size=2000\nstart=4096,size=8192,type=5\nstart=4159,size=1000\n"),
		tableDisk(t, 2, "label: gpt\nstart=2048,size=3000\n"),
	}
	store := &memStore{}
	var total, last quantity.Bytes
	r, err := captureDisks(toCapture(t, disks), store, captureOrder{Image: "two",
		Progress: func(_ string, done, all quantity.Bytes) {
			if done < last {
				t.Errorf("progress goes back from %d to %d", last, done)
			}
			total, last = all, done
		}})
	if err != nil {
		t.Fatal(err)
	}
	if last != total || total != r.Allocated || r.Version.Disks != 2 || r.Version.Allocated != r.Allocated {
		t.Errorf("progress ended at %d of %d; %+v", last, total, r)
	}
	return store, disks, r
}

func deployments(m *image.Manifest, disks []*memDisk) []deploy.Disk {
	var out []deploy.Disk
	for i, d := range disks {
		g := tableGeometry
		g.Size = quantity.Bytes(len(d.b))
		out = append(out, deploy.Disk{Image: &m.Disks[i], Target: d, Geometry: g})
	}
	return out
}

// Power of a machine with two disks is cut at every write. As long as one disk is not whole
// the first one does not boot, though it may have had nothing to write.
func TestDeployDisksCutAtEveryWrite(t *testing.T) {
	store, sources, _ := twoDisks(t)
	blank := func() []*memDisk {
		return []*memDisk{{b: bytes.Clone(sources[0].b)}, {b: randomBytes(9, tableDiskSize)}}
	}
	whole := blank()
	results, err := deployDisks(deployments(store.manifest, whole), store, deployOrder{Verify: true})
	if err != nil || len(results) != 2 || results[0].Differ != 0 || results[1].Differ == 0 {
		t.Fatalf("%+v, %v", results, err)
	}
	for i := range whole {
		checkDeployed(t, &store.manifest.Disks[i], sources[i].b, whole[i].b, whole[i].b)
	}
	for i := range 2 {
		for cut := 1; cut < whole[i].writes; cut++ {
			disks := blank()
			disks[i].cutAt = cut
			if _, err := deployDisks(deployments(store.manifest, disks), store, deployOrder{}); !errors.Is(err, errCut) {
				t.Fatalf("disk %d cut after write %d: %v", i, cut, err)
			}
			if !clone.AllZero(disks[0].b[:512]) {
				t.Fatalf("disk %d cut after write %d: the first disk could boot", i, cut)
			}
			disks[i].cutAt = 0
			if _, err := deployDisks(deployments(store.manifest, disks), store, deployOrder{}); err != nil {
				t.Fatal(err)
			}
			for k := range disks {
				checkDeployed(t, &store.manifest.Disks[k], sources[k].b, disks[k].b, disks[k].b)
			}
		}
	}
}

func TestDeployDisksChecksAllFirst(t *testing.T) {
	store, sources, _ := twoDisks(t)
	disks := []*memDisk{{b: randomBytes(9, tableDiskSize)}, {b: make([]byte, 1<<20)}}
	_, err := deployDisks(deployments(store.manifest, disks), store, deployOrder{})
	var refused *clone.RefusedError
	if !errors.As(err, &refused) || disks[0].writes+disks[1].writes != 0 {
		t.Errorf("the second target is too small: %v after %d writes", err, disks[0].writes)
	}
	same := []*memDisk{{b: sources[0].b}, {b: sources[1].b}}
	r, err := deployDisks(deployments(store.manifest, same), store, deployOrder{})
	if err != nil || same[0].writes+same[1].writes != 0 {
		t.Errorf("both are up to date: %+v, %v", r, err)
	}
}
