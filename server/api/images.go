package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"clonecast/internal/chunkstore"
	"clonecast/internal/image"
	"clonecast/internal/protocol"
	"clonecast/server/tasks"
)

type byRef struct {
	Ref string `path:"ref" maxLength:"160"`
}

// Image is a series of versions, the newest last.
type Image struct {
	Name     string    `json:"name"`
	Versions []Version `json:"versions"`
}

// Version is one version in a list.
type Version struct {
	Image     string    `json:"image"`
	Sequence  uint64    `json:"sequence"`
	ID        string    `json:"id"`
	Created   time.Time `json:"created"`
	Comment   string    `json:"comment"`
	Origin    string    `json:"origin"`
	Disks     int       `json:"disks"`
	DiskBytes int64     `json:"disk_bytes"`
	Allocated int64     `json:"allocated_bytes"`
}

// ImageDetail is a version with its disks.
type ImageDetail struct {
	Version
	Creator string       `json:"creator"`
	Engine  string       `json:"engine"`
	Layout  []DiskDetail `json:"layout"`
}

// DiskDetail is a captured disk.
type DiskDetail struct {
	Bytes      int64             `json:"bytes"`
	SectorSize int64             `json:"sector_bytes"`
	Model      string            `json:"model"`
	Serial     string            `json:"serial"`
	Table      string            `json:"table"`
	DiskID     string            `json:"disk_id"`
	Partitions []PartitionDetail `json:"partitions"`
}

// PartitionDetail is a partition of a captured disk.
type PartitionDetail struct {
	Number     int    `json:"number"`
	Start      int64  `json:"start"`
	Size       int64  `json:"size"`
	Filesystem string `json:"filesystem"`
	UUID       string `json:"uuid"`
	Label      string `json:"label"`
	Mode       string `json:"mode"`
	Reason     string `json:"reason,omitempty"`
	Allocated  int64  `json:"allocated"`
}

func versionOf(v image.Version) Version {
	return Version{v.Image, v.Sequence, v.ID.String(), time.Unix(v.Created, 0).UTC(), v.Comment, v.Origin, v.Disks, int64(v.DiskBytes), int64(v.Allocated)}
}

func (a *API) images(ctx context.Context) ([]Image, error) {
	names, err := a.Store.Images(ctx)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	list := []Image{}
	for _, name := range names {
		versions, err := a.Store.Versions(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("list versions of %s: %w", name, err)
		}
		i := Image{Name: name, Versions: []Version{}}
		for _, v := range versions {
			i.Versions = append(i.Versions, versionOf(v))
		}
		list = append(list, i)
	}
	return list, nil
}

// resolve finds the version that a person means: NAME, NAME@SEQUENCE, NAME@ID.
func (a *API) resolve(ctx context.Context, ref string) (image.Version, error) {
	name, which, _ := strings.Cut(ref, "@")
	if err := image.CheckName(name); err != nil {
		return image.Version{}, &protocol.Problem{Code: protocol.CodeInvalid, Title: err.Error()}
	}
	list, err := a.Store.Versions(ctx, name)
	if err != nil {
		return image.Version{}, err
	}
	var found []image.Version
	for _, v := range list {
		sequence, err := strconv.ParseUint(which, 10, 64)
		if which == "" || err == nil && v.Sequence == sequence || len(which) >= 8 && strings.HasPrefix(v.ID.String(), which) {
			found = append(found, v)
		}
	}
	switch {
	case len(found) == 0:
		return image.Version{}, fmt.Errorf("image %s: %w", ref, chunkstore.ErrNotFound)
	case which != "" && len(found) > 1:
		return image.Version{}, &protocol.Problem{Code: protocol.CodeConflict, Title: fmt.Sprintf("%s means %d versions", ref, len(found))}
	}
	return found[len(found)-1], nil
}

func (a *API) imageDetail(ctx context.Context, ref string) (ImageDetail, error) {
	v, err := a.resolve(ctx, ref)
	if err != nil {
		return ImageDetail{}, err
	}
	envelope, err := a.Store.Manifest(ctx, v.Image, v.Sequence)
	if err != nil {
		return ImageDetail{}, fmt.Errorf("manifest of %s: %w", ref, err)
	}
	m, _, err := image.Open(envelope, a.Store.TrustedKeys())
	if err != nil {
		return ImageDetail{}, fmt.Errorf("manifest of %s: %w", ref, err)
	}
	d := ImageDetail{Version: versionOf(v), Creator: m.Creator, Engine: m.Engine, Layout: []DiskDetail{}}
	for _, disk := range m.Disks {
		dd := DiskDetail{int64(disk.Size), int64(disk.LogicalSector), disk.Model, disk.Serial, disk.TableKind, disk.DiskID, []PartitionDetail{}}
		for _, p := range disk.Partitions {
			dd.Partitions = append(dd.Partitions, PartitionDetail{p.Number, int64(p.Content.Start), int64(p.Content.Length), p.Filesystem.Type,
				p.Filesystem.UUID, p.Filesystem.Label, string(p.Mode), p.Reason, int64(p.Content.Allocated())})
		}
		d.Layout = append(d.Layout, dd)
	}
	return d, nil
}

// Order is what an admin wants machines to do.
type Order struct {
	Kind     string            `json:"kind" enum:"capture,deploy"`
	Machines []string          `json:"machines" minItems:"1" maxItems:"2000" doc:"by name, id or MAC"`
	Image    string            `json:"image" maxLength:"160" doc:"capture: a name; deploy: NAME, NAME@SEQUENCE or NAME@ID"`
	Comment  string            `json:"comment,omitempty" maxLength:"1024"`
	Force    bool              `json:"force,omitempty" doc:"capture: also a hibernated system"`
	Disk     protocol.DiskRule `json:"disk,omitempty"`
	Then     string            `json:"then,omitempty" enum:"poweroff,reboot,"`
	DryRun   bool              `json:"dry_run,omitempty" doc:"say what would happen and change nothing"`
}

// Ordered is what became of an order. In a dry run there is no task.
type Ordered struct {
	Task     *tasks.Task `json:"task,omitempty"`
	Version  *Version    `json:"version,omitempty"` // to be deployed
	Machines []Target    `json:"machines"`
}

// Target is a machine of an order and the disk that the rule chooses there, as far as the
// server knows the machine.
type Target struct {
	ID      string         `json:"id"`
	Name    string         `json:"name"`
	State   string         `json:"state"`
	Disk    *protocol.Disk `json:"disk,omitempty"`
	Problem string         `json:"problem,omitempty"`
}

type orderIn struct{ Body Order }

func (a *API) order(ctx context.Context, i *orderIn) (Ordered, error) {
	q := i.Body
	n := tasks.New{Creator: callerOf(ctx).admin}
	op := protocol.Operation{Kind: q.Kind, Image: q.Image, Comment: q.Comment, Force: q.Force, Disk: q.Disk}
	answer := Ordered{Machines: []Target{}}
	if q.Kind == protocol.OpDeploy {
		v, err := a.resolve(ctx, q.Image)
		if err != nil {
			return Ordered{}, err
		}
		op.Image, op.Version = v.Image, v.ID.String()
		seen := versionOf(v)
		answer.Version = &seen
		n.Title = fmt.Sprintf("deploy %s@%d", v.Image, v.Sequence)
	} else {
		if err := image.CheckName(q.Image); err != nil {
			return Ordered{}, &protocol.Problem{Code: protocol.CodeInvalid, Title: err.Error()}
		}
		if len(q.Machines) != 1 {
			return Ordered{}, &protocol.Problem{Code: protocol.CodeInvalid, Title: "a capture is of one machine"}
		}
		n.Title = "capture " + q.Image
	}
	for _, ref := range q.Machines {
		m, err := a.Machines.Find(ctx, ref)
		if err != nil {
			return Ordered{}, err
		}
		t := Target{ID: m.ID, Name: m.Name, State: m.State}
		t.Disk, t.Problem = chooseDisk(m.Facts.Disks, q.Disk)
		answer.Machines = append(answer.Machines, t)
		n.Machines = append(n.Machines, m.ID)
	}
	n.Operations = []protocol.Operation{op}
	if q.Then != "" {
		n.Operations = append(n.Operations, protocol.Operation{Kind: q.Then})
	}
	if q.DryRun {
		return answer, nil
	}
	t, err := a.Tasks.Create(ctx, n)
	if err != nil {
		return Ordered{}, err
	}
	a.Log.Info("task ordered", "task", t.ID, "title", t.Title, "machines", len(t.Runs), "by", n.Creator)
	answer.Task = &t
	return answer, nil
}

// chooseDisk foretells which disk the appliance will choose; it decides itself again
// with what it then sees.
func chooseDisk(disks []protocol.Disk, rule protocol.DiskRule) (*protocol.Disk, string) {
	var found []protocol.Disk
	for _, d := range disks {
		if d.Removable || d.ReadOnly || rule.Serial != "" && d.Serial != rule.Serial || rule.WWN != "" && d.WWN != rule.WWN ||
			rule.Model != "" && d.Model != rule.Model || rule.MinBytes > 0 && d.Bytes < rule.MinBytes || rule.MaxBytes > 0 && d.Bytes > rule.MaxBytes {
			continue
		}
		found = append(found, d)
	}
	switch len(found) {
	case 0:
		return nil, "no disk fits"
	case 1:
		return &found[0], ""
	}
	return nil, fmt.Sprintf("%d disks fit: name one by its serial number", len(found))
}

func writeLine(w io.Writer, v any) error { return json.NewEncoder(w).Encode(v) }
