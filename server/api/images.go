package api

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"clonecast/internal/chunkstore"
	"clonecast/internal/clone/deploy"
	"clonecast/internal/diskrule"
	"clonecast/internal/image"
	"clonecast/internal/protocol"
	"clonecast/server/machines"
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
	Size       int64             `json:"size"`
	Sector     int64             `json:"logical_sector"`
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
	return Version{v.Image, v.Sequence, v.ID.String(), time.Unix(v.Created, 0).UTC(), v.Comment, v.Origin,
		v.Disks, int64(v.DiskBytes), int64(v.Allocated)}
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
		return image.Version{}, &protocol.Problem{
			Code: protocol.CodeConflict, Title: fmt.Sprintf("%s means %d versions", ref, len(found))}
	}
	return found[len(found)-1], nil
}

// version finds the version that a person means, and opens its manifest.
func (a *API) version(ctx context.Context, ref string) (image.Version, *image.Manifest, error) {
	v, err := a.resolve(ctx, ref)
	if err != nil {
		return image.Version{}, nil, err
	}
	envelope, err := a.Store.Manifest(ctx, v.Image, v.Sequence)
	if err != nil {
		return image.Version{}, nil, fmt.Errorf("manifest of %s: %w", ref, err)
	}
	m, _, err := image.Open(envelope, a.Store.TrustedKeys())
	if err != nil {
		return image.Version{}, nil, fmt.Errorf("manifest of %s: %w", ref, err)
	}
	return v, m, nil
}

func (a *API) imageDetail(ctx context.Context, ref string) (ImageDetail, error) {
	v, m, err := a.version(ctx, ref)
	if err != nil {
		return ImageDetail{}, err
	}
	d := ImageDetail{Version: versionOf(v), Creator: m.Creator, Engine: m.Engine, Layout: []DiskDetail{}}
	for _, disk := range m.Disks {
		d.Layout = append(d.Layout, DetailOf(disk))
	}
	return d, nil
}

// DetailOf describes a captured disk.
func DetailOf(d image.Disk) DiskDetail {
	out := DiskDetail{int64(d.Size), int64(d.LogicalSector), d.Model, d.Serial, d.TableKind, d.DiskID,
		[]PartitionDetail{}}
	for _, p := range d.Partitions {
		out.Partitions = append(out.Partitions, PartitionDetail{
			p.Number, int64(p.Content.Start), int64(p.Content.Length),
			p.Filesystem.Type, p.Filesystem.UUID, p.Filesystem.Label,
			string(p.Mode), p.Reason, int64(p.Content.Allocated()),
		})
	}
	return out
}

// Order is what an admin wants machines to do.
type Order struct {
	Kind     string   `json:"kind" enum:"capture,deploy,cast"`
	Machines []string `json:"machines" minItems:"1" maxItems:"2000" doc:"by name, id or MAC"`
	From     string   `json:"from,omitempty" maxLength:"128" doc:"cast: the machine to capture; the others become it"`
	Image    string   `json:"image" maxLength:"160" doc:"capture, cast: a name; deploy: NAME, NAME@SEQUENCE or NAME@ID"`
	Comment  string   `json:"comment,omitempty" maxLength:"1024"`
	Force    bool     `json:"force,omitempty" doc:"capture: also a hibernated system"`
	Fill     bool     `json:"fill_bad_sectors,omitempty" doc:"capture: zeroes for sectors that cannot be read"`
	Replay   bool     `json:"replay,omitempty" doc:"capture: replay journals first; changes the disk"`
	NoTrim   bool     `json:"no_trim,omitempty" doc:"deploy: do not tell the disk which blocks are free"`
	Disks    []string `json:"disks,omitempty" maxItems:"64" doc:"rules that name the disks; default: that of the class"`
	FromDisk []string `json:"from_disks,omitempty" maxItems:"64" doc:"cast: rules for the disks to capture"`
	Grow     string   `json:"grow,omitempty" maxLength:"160" doc:"deploy, cast: partitions to grow: last, or 2,3"`
	AllDisks bool     `json:"all_disks,omitempty" doc:"capture: every disk that fits the rule"`
	Policies []string `json:"policies,omitempty" maxItems:"64" doc:"3=skip, 2:3=raw for disk 2; a deploy only skips"`
	Then     string   `json:"then,omitempty" enum:"poweroff,reboot,"`
	DryRun   bool     `json:"dry_run,omitempty" doc:"say what would happen and change nothing"`
	Unseen   bool     `json:"unseen,omitempty" doc:"order although the disks, as last seen, do not fit the rules"`
	SessionOrder
}

// Ordered is what became of an order. In a dry run there is no task.
type Ordered struct {
	Task     *tasks.Task `json:"task,omitempty"`
	Version  *Version    `json:"version,omitempty"` // to be deployed
	From     *Target     `json:"from,omitempty"`    // to be captured for a cast
	Machines []Target    `json:"machines"`
}

// Target is a machine of an order and the disks that the rules choose there, as far as the
// server knows the machine.
type Target struct {
	ID    string          `json:"id"`
	Name  string          `json:"name"`
	State string          `json:"state"`
	Disks []protocol.Disk `json:"disks,omitempty"`
	// Plan is what the deploy does to each of the disks. What they hold now is not known here: what differs is what it
	// writes at most.
	Plan    []deploy.DiskPlan `json:"plan,omitempty"`
	Problem string            `json:"problem,omitempty"`
}

type orderIn struct{ Body Order }

func (a *API) order(ctx context.Context, i *orderIn) (Ordered, error) {
	q := i.Body
	if problem := cmp.Or(q.problem(), q.SessionOrder.problem(q.Kind, len(q.Machines), a.Now())); problem != "" {
		return Ordered{}, &protocol.Problem{Code: protocol.CodeInvalid, Title: problem}
	}
	if q.Kind == OrderCast {
		return a.orderCast(ctx, q)
	}
	n := tasks.New{Creator: callerOf(ctx).admin}
	op := q.operation()
	answer := Ordered{Machines: []Target{}}
	var deployed *image.Manifest
	if q.Kind == protocol.OpDeploy {
		v, m, err := a.version(ctx, q.Image)
		if err != nil {
			return Ordered{}, err
		}
		if err := growable(m, q.Grow); err != nil {
			return Ordered{}, err
		}
		deployed = m
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
		t, err := a.versionTarget(ctx, q, ref, deployed)
		if err != nil {
			return Ordered{}, err
		}
		answer.Machines = append(answer.Machines, t)
		n.Machines = append(n.Machines, t.ID)
	}
	n.Operations = q.then(op)
	return a.create(ctx, q, n, answer)
}

// operation is what each machine of the order does.
func (q Order) operation() protocol.Operation {
	return protocol.Operation{
		Kind: q.Kind, Image: q.Image, Comment: q.Comment,
		Force: q.Force, Fill: q.Fill, Replay: q.Replay, NoTrim: q.NoTrim,
		Disks: q.Disks, AllDisks: q.AllDisks, Policies: q.Policies, Grow: q.Grow,
		Multicast: q.Multicast, Start: q.rule(),
	}
}

// then is an operation and what comes after it.
func (q Order) then(op protocol.Operation) []protocol.Operation {
	if q.Then == "" {
		return []protocol.Operation{op}
	}
	return []protocol.Operation{op, {Kind: q.Then}}
}

// target finds a machine and foretells its disks. Disks that do not fit end the order, unless it
// is to be tried or ordered all the same.
func (a *API) target(ctx context.Context, q Order, ref string, wants []diskrule.Want) (Target, error) {
	m, err := a.Machines.Find(ctx, ref)
	if err != nil {
		return Target{}, err
	}
	t := Target{ID: m.ID, Name: m.Name, State: m.State}
	t.Disks, err = a.foretell(m, q, wants)
	return t, q.refuse(&t, err)
}

// versionTarget is a target of a deploy; without a version of it, of a capture. It foretells what the deploy does.
func (a *API) versionTarget(ctx context.Context, q Order, ref string, m *image.Manifest) (Target, error) {
	if m == nil {
		return a.target(ctx, q, ref, make([]diskrule.Want, max(1, len(q.Disks))))
	}
	t, err := a.target(ctx, q, ref, deploy.Wants(m))
	if err != nil || t.Problem != "" {
		return t, err
	}
	t.Plan, err = foretold(m, t.Disks, q.Grow)
	return t, q.refuse(&t, err)
}

// refuse notes why a machine will refuse the order, and ends the order for that unless it is to be tried or ordered all
// the same.
func (q Order) refuse(t *Target, why error) error {
	if why == nil {
		return nil
	}
	t.Problem = why.Error()
	if q.DryRun || q.Unseen {
		return nil
	}
	return &protocol.Problem{
		Code: protocol.CodeConflict, Title: fmt.Sprintf("machine %s: %v", t.Name, why), Hint: unseenHint}
}

// create orders the task of an order, unless that is only to be tried.
func (a *API) create(ctx context.Context, q Order, n tasks.New, answer Ordered) (Ordered, error) {
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

const unseenHint = "name each disk by its serial number: --disk serial=…; " +
	"if the machine has other disks by now: --unseen"

// problem says what no machine could do.
func (q Order) problem() string {
	if q.Kind == OrderCast {
		return q.castProblem()
	}
	if q.From != "" || len(q.FromDisk) > 0 {
		return "from is for a cast"
	}
	for _, rule := range q.Disks {
		if _, err := diskrule.Parse(rule); err != nil {
			return err.Error()
		}
	}
	if _, err := image.ParseGrow(q.Grow); err != nil {
		return err.Error()
	}
	if q.Grow != "" && q.Kind != protocol.OpDeploy && q.Kind != protocol.OpFollow {
		return "grow is for a deploy"
	}
	if q.Replay && q.Kind != protocol.OpCapture {
		return "replay is for a capture"
	}
	policies, err := image.ParsePolicies(q.Policies)
	if err != nil {
		return err.Error()
	}
	if q.Kind == protocol.OpDeploy {
		for _, disk := range policies {
			for partition, mode := range disk {
				if mode != image.ModeSkip {
					return fmt.Sprintf("partition %d: a deploy can only skip, not %s", partition, mode)
				}
			}
		}
	}
	if q.AllDisks && (q.Kind != protocol.OpCapture || len(q.Disks) > 1) {
		return "all_disks is for a capture with at most one rule"
	}
	return ""
}

// foretell says which disks the appliance will choose; it decides itself again with
// what it then sees. Of a machine that never showed a disk nothing is foretold.
func (a *API) foretell(m machines.Machine, q Order, wants []diskrule.Want) ([]protocol.Disk, error) {
	if len(m.Facts.Disks) == 0 {
		return nil, nil
	}
	texts := q.Disks
	if len(texts) == 0 {
		texts = []string{a.DiskRule(m)}
	}
	var rules []diskrule.Rule
	for _, text := range texts {
		rule, err := diskrule.Parse(text)
		if err != nil {
			return nil, err
		}
		rules = append(rules, rule)
	}
	var disks []diskrule.Disk
	for _, d := range m.Facts.Disks {
		disks = append(disks, d.Rule())
	}
	var chosen []int
	var err error
	if q.AllDisks {
		chosen, err = rules[0].All(disks)
	} else {
		chosen, err = diskrule.Assign(rules, disks, wants)
	}
	if err != nil {
		return nil, err
	}
	var out []protocol.Disk
	for _, i := range chosen {
		out = append(out, m.Facts.Disks[i])
	}
	return out, nil
}

func writeLine(w io.Writer, v any) error { return json.NewEncoder(w).Encode(v) }
