package clone

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"sort"
	"sync"

	"clonecast/internal/chunk"
	newclone "clonecast/internal/clone"
	ncapture "clonecast/internal/clone/capture"
	ndeploy "clonecast/internal/clone/deploy"
	"clonecast/internal/clone/layout"
	"clonecast/internal/image"
	"clonecast/internal/quantity"
)

var compared sync.Map

func tell(what string) {
	f, err := os.OpenFile("/tmp/equal.log", os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		fmt.Fprintln(f, what)
		f.Close()
	}
}

type copyDisk struct {
	mu      sync.Mutex
	b       []byte
	trace   []string
	group   []string
	failing bool
}

func (d *copyDisk) ReadAt(b []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return bytes.NewReader(d.b).ReadAt(b, off)
}
func (d *copyDisk) WriteAt(b []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.group = append(d.group, fmt.Sprintf("%d+%d", off, len(b)))
	return copy(d.b[off:], b), nil
}
func (d *copyDisk) end(what string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	sort.Strings(d.group)
	d.trace = append(append(d.trace, d.group...), what)
	d.group = nil
}
func (d *copyDisk) Sync() error      { d.end("sync"); return nil }
func (d *copyDisk) DropCache() error { d.end("drop"); return nil }
func (d *copyDisk) Trim(start, length quantity.Bytes) error {
	d.end(fmt.Sprintf("trim %d+%d", start, length))
	return nil
}

type oldDisk struct{ *copyDisk }

func newGeometry(g Geometry) newclone.Geometry {
	return newclone.Geometry{Size: g.Size, LogicalSector: g.LogicalSector, PhysicalSector: g.PhysicalSector, Model: g.Model, Serial: g.Serial}
}

func wholeDisk(r io.ReaderAt, size quantity.Bytes) []byte {
	b := make([]byte, size)
	if n, err := r.ReadAt(b, 0); n < len(b) {
		_ = err
		return nil
	}
	return b
}

// DeployDisks runs both engines.
func DeployDisks(ctx context.Context, disks []Deployment, source Source, opts DeployOptions) ([]DeployResult, error) {
	plainOpts := opts
	plainOpts.Progress, plainOpts.SaveTable, plainOpts.Grower = nil, nil, nil
	var before [][]byte
	ok := true
	for _, d := range disks {
		b := wholeDisk(d.Target, d.Geometry.Size)
		if b == nil {
			ok = false
		}
		before = append(before, b)
	}
	results, err := deployDisksOld(ctx, disks, source, opts)
	if !ok {
		return results, err
	}
	// Both once more, on copies, from the same source.
	_, whole := source.(WholeSource)
	if whole {
		tell("skip whole source")
		return results, err
	}
	var oldDisks []Deployment
	var newDisks []ndeploy.Disk
	var olds, news []*copyDisk
	for i, d := range disks {
		o, n := &copyDisk{b: bytes.Clone(before[i])}, &copyDisk{b: bytes.Clone(before[i])}
		olds, news = append(olds, o), append(news, n)
		oldDisks = append(oldDisks, Deployment{d.Disk, oldDisk{o}, d.Geometry})
		newDisks = append(newDisks, ndeploy.Disk{Image: d.Disk, Target: n, Geometry: newGeometry(d.Geometry)})
	}
	oldResults, oldErr := deployDisksOld(ctx, oldDisks, source, plainOpts)
	s := ndeploy.Source{Frames: source.Frames}
	if p, ok := source.(PlainSource); ok {
		s.Plain = p.Plain
	}
	if p, ok := source.(DeltaSource); ok {
		s.Deltas = p.Deltas
	}
	means := ndeploy.Means{Source: s, Parent: opts.Parent}
	plan, newErr := ndeploy.NewPlan(ctx, newDisks, s, ndeploy.Options{Verify: opts.Verify, Trim: opts.Trim, Grow: opts.Grow}, nil)
	var newResults []ndeploy.Result
	if newErr == nil && !opts.DryRun {
		newResults, newErr = ndeploy.Execute(ctx, plan, newDisks, means)
	} else if newErr == nil {
		for _, d := range plan.Disks {
			newResults = append(newResults, ndeploy.Result{Compared: d.Compared, Kept: d.Kept, Differ: d.Differ, Grown: d.Growth})
		}
	}
	if fmt.Sprint(oldErr) != fmt.Sprint(newErr) {
		tell(fmt.Sprintf("ERROR differs: %v | %v", oldErr, newErr))
		return results, err
	}
	if oldErr != nil {
		tell("equal error: " + oldErr.Error())
		return results, err
	}
	if a, b := fmt.Sprintf("%+v", oldResults), fmt.Sprintf("%+v", newResults); a != b {
		tell("RESULTS differ:\n" + a + "\n" + b)
	}
	for i := range olds {
		if !bytes.Equal(olds[i].b, news[i].b) {
			tell("BYTES differ")
		}
		olds[i].end("end")
		news[i].end("end")
		if a, b := fmt.Sprint(olds[i].trace), fmt.Sprint(news[i].trace); a != b {
			tell(fmt.Sprintf("TRACES differ (verify %v trim %v):\n%s\n%s", opts.Verify, opts.Trim, a, b))
		}
	}
	tell(fmt.Sprintf("deploy compared, %d disks, %d trace, dry %v, grow %v", len(disks), len(olds[0].trace), opts.DryRun, len(opts.Grow)))
	return results, err
}

type mapSink struct {
	mu     sync.Mutex
	m      *image.Manifest
	frames int
}

func (s *mapSink) Missing(_ context.Context, ids []chunk.ID) ([]bool, error) {
	return make([]bool, len(ids)), nil
}
func (s *mapSink) PutFrame(context.Context, []byte) (int64, error) { s.frames++; return 0, nil }
func (s *mapSink) Publish(_ context.Context, m *image.Manifest) ([]byte, image.Version, error) {
	s.m = m
	return nil, image.Version{}, nil
}

// CaptureDisks runs both engines.
func CaptureDisks(ctx context.Context, disks []Captured, sink Sink, opts CaptureOptions) (CaptureResult, error) {
	result, err := captureDisksOld(ctx, disks, sink, opts)
	oldSink, newSink := &mapSink{}, &mapSink{}
	o := opts
	o.Progress = nil
	r1, err1 := captureDisksOld(ctx, disks, oldSink, o)
	var newDisks []ncapture.Disk
	for _, d := range disks {
		l := &layout.Layout{Geometry: newGeometry(d.Layout.Geometry), Table: d.Layout.Table}
		for _, p := range d.Layout.Partitions {
			l.Partitions = append(l.Partitions, layout.Partition{Partition: p.Partition, Volume: p.Volume, Mode: p.Mode, Reason: p.Reason, Remedy: p.Remedy, Refuse: p.Refuse, Extents: p.Extents, Blank: p.blank})
		}
		newDisks = append(newDisks, ncapture.Disk{Reader: d.Disk, Layout: l})
	}
	r2, err2 := ncapture.Run(ctx, newDisks, ncapture.Options{Image: opts.Image, Comment: opts.Comment, Origin: opts.Origin, Creator: opts.Creator, Engine: opts.Engine, Force: opts.Force},
		ncapture.Means{Sink: newSink, Level: opts.Level, FillBadSectors: opts.FillBadSectors})
	if fmt.Sprint(err1) != fmt.Sprint(err2) {
		tell(fmt.Sprintf("CAPTURE ERROR differs: %v | %v", err1, err2))
		return result, err
	}
	if err1 != nil {
		tell("capture equal error: " + err1.Error())
		return result, err
	}
	r1.Version, r2.Version = image.Version{}, image.Version{}
	if r1.Allocated != r2.Allocated || r1.Read != r2.Read || len(r1.Unreadable) != len(r2.Unreadable) {
		tell(fmt.Sprintf("CAPTURE RESULTS differ: %+v %+v", r1, r2))
	}
	a, _ := oldSink.m.MarshalBinary()
	b, _ := newSink.m.MarshalBinary()
	if !bytes.Equal(a, b) {
		tell("MANIFESTS differ")
	}
	tell(fmt.Sprintf("capture compared, %d bytes of manifest", len(a)))
	return result, err
}
