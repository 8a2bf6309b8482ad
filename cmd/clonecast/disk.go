package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"clonecast/internal/blockdev"
	"clonecast/internal/chunkstore"
	"clonecast/internal/clone"
	"clonecast/internal/diskrule"
	"clonecast/internal/image"
	"clonecast/internal/kernelfs"
	"clonecast/internal/quantity"

	"github.com/klauspost/compress/zstd"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

func newDiskCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "disk",
		Short: "Inspect, capture and deploy a disk or disk image file on this computer",
		Long: `Work on a disk of this computer without a server. PATH is a block device or a file that holds
a disk's bytes; a file that holds a bare file system works too.`,
	}
	cmd.AddCommand(newDiskListCmd(), newDiskInspectCmd(), newDiskCaptureCmd(), newDiskDeployCmd(), newDiskRestoreTableCmd())
	return cmd
}

func newDiskInspectCmd() *cobra.Command {
	var asJSON bool
	var policies []string
	cmd := &cobra.Command{
		Use:   "inspect PATH",
		Short: "Show partitions, file systems and how each would be captured",
		Args:  args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			return runDiskInspect(a[0], policies, newReporter(cmd, asJSON))
		},
	}
	cmd.Flags().StringArrayVar(&policies, "policy", nil, policyUsage)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print NDJSON; the last line is the summary")
	return cmd
}

func runDiskInspect(path string, policies []string, rep *reporter) error {
	policy, err := parsePolicies(policies, 1)
	if err != nil {
		return err
	}
	dev, layout, err := inspect(path, blockdev.Open, policy[0])
	if err != nil {
		return err
	}
	defer dev.Close()
	if rep.json {
		return rep.summary(summarize(dev, layout))
	}
	return printLayout(rep.stdout, dev, layout)
}

const policyUsage = "what to do with a partition, `N=clone|raw|format|skip`; joined by commas; DISK:N=… from the second disk on"

// parsePolicies reads policies for so many disks.
func parsePolicies(list []string, disks int) (image.Policies, error) {
	policies, err := image.ParsePolicies(list)
	if err != nil {
		return nil, withCode(exitUsage, err, "")
	}
	for i := range policies {
		if i >= disks {
			return nil, withCode(exitUsage, fmt.Errorf("a policy is for disk %d, and there are %d", i+1, disks), "")
		}
	}
	return policies, nil
}

// inspect opens a disk for reading and finds out what is on it and how it would be captured
// under a policy.
func inspect(path string, open func(string) (*blockdev.Device, error), policy map[int]image.Mode) (*blockdev.Device, *clone.Layout, error) {
	dev, err := open(path)
	if err != nil {
		return nil, nil, diskError(err)
	}
	layout, err := clone.Inspect(dev, geometry(dev))
	if err == nil {
		err = layout.Apply(dev, policy)
	}
	if err != nil {
		dev.Close()
		return nil, nil, diskError(fmt.Errorf("inspect %s: %w", path, err))
	}
	return dev, layout, nil
}

func geometry(dev *blockdev.Device) clone.Geometry {
	return clone.Geometry{Size: dev.Size, LogicalSector: dev.LogicalSector, PhysicalSector: dev.PhysicalSector, Model: dev.Model, Serial: dev.Serial}
}

// diskError gives an error of a disk or the engine its exit code and hint.
func diskError(err error) error {
	var refused *clone.RefusedError
	var choice *diskrule.Error
	switch {
	case errors.As(err, &choice):
		return withCode(exitRefused, err, choice.Hint())
	case errors.As(err, &refused):
		return withCode(exitRefused, err, refused.Remedy)
	case errors.Is(err, blockdev.ErrBusy):
		return withCode(exitRefused, err, "unmount its partitions and stop what uses it; `lsblk` shows what does")
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, chunkstore.ErrNotFound):
		return withCode(exitNotFound, err, "")
	case errors.Is(err, fs.ErrPermission):
		return withCode(exitFailed, err, "disks can only be opened by root")
	}
	return err
}

type partitionSummary struct {
	Number     int    `json:"number"`
	Start      int64  `json:"start"`
	Size       int64  `json:"size"`
	Type       string `json:"type"`
	GUID       string `json:"guid,omitempty"`
	Name       string `json:"name,omitempty"`
	Active     bool   `json:"active,omitempty"`
	Filesystem string `json:"filesystem"`
	UUID       string `json:"uuid"`
	Label      string `json:"label"`
	Allocated  int64  `json:"allocated"`
	Discarded  int64  `json:"discarded"` // of the allocated bytes: page files, clean logs
	Mode       string `json:"mode"`
	Reason     string `json:"reason"`
	Remedy     string `json:"remedy,omitempty"`
	Refused    bool   `json:"refused,omitempty"`

	Notes []string `json:"notes,omitempty"` // what is left out of it, or kept beside its file system
}

type diskSummary struct {
	Path       string             `json:"path"`
	Size       int64              `json:"size"`
	Sector     int64              `json:"logical_sector"`
	Model      string             `json:"model,omitempty"`
	Serial     string             `json:"serial,omitempty"`
	Table      string             `json:"table"`
	DiskID     string             `json:"disk_id,omitempty"`
	TableNotes []string           `json:"table_notes,omitempty"` // what is wrong with it
	Partitions []partitionSummary `json:"partitions"`
}

func summarize(dev *blockdev.Device, l *clone.Layout) diskSummary {
	parts := []partitionSummary{}
	for i := range l.Partitions {
		p := &l.Partitions[i]
		parts = append(parts, partitionSummary{p.Number, int64(p.Start), int64(p.Length), p.Type, p.GUID, p.Name, p.Active, p.Volume.Type, p.Volume.UUID, p.Volume.Label,
			int64(p.Allocated()), int64(p.Discarded()), string(p.Mode), p.Reason, p.Remedy, p.Refuse,
			p.Volume.Notes})
	}
	return diskSummary{dev.Path, int64(dev.Size), int64(dev.LogicalSector), dev.Model, dev.Serial, string(l.Table.Kind), l.Table.DiskID, l.Table.Notes, parts}
}

// printLayout shows a disk from its start to its end.
func printLayout(out io.Writer, dev *blockdev.Device, l *clone.Layout) error {
	table := "no partition table"
	if l.Table.DiskID != "" {
		table = fmt.Sprintf("%s %s", l.Table.Kind, l.Table.DiskID)
	}
	fmt.Fprintf(out, "%s, %s, sectors of %d bytes\n", dev, table, dev.LogicalSector)
	for _, note := range l.Table.Notes {
		fmt.Fprintln(out, "table: "+note)
	}
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NO\tSTART\tSIZE\tTYPE\tFILE SYSTEM\tLABEL\tSTORED\tMODE")
	partitions := slices.Clone(l.Partitions)
	slices.SortFunc(partitions, func(a, b clone.PartitionLayout) int { return cmp.Compare(a.Start, b.Start) })
	var end, stored quantity.Bytes
	active := false
	for i := range partitions {
		p := &partitions[i]
		printFree(w, l, end, p.Start)
		number := fmt.Sprint(p.Number)
		if p.Active {
			number, active = number+"*", true
		}
		fmt.Fprintf(w, "%s\t%d\t%v\t%s\t%s\t%s\t%v\t%s\n", number, l.LogicalSector.Sectors(p.Start), p.Length, orDash(printable(p.TypeName())),
			orDash(p.Volume.Type), orDash(printable(p.Volume.Label)), p.Allocated()-p.Discarded(), p.Mode)
		end, stored = p.Start+p.Length, stored+p.Allocated()-p.Discarded()
	}
	printFree(w, l, end, l.Size)
	if err := w.Flush(); err != nil {
		return err
	}
	legend := ""
	if active {
		legend = "; * marks the active partition"
	}
	fmt.Fprintf(out, "\na capture stores %v of %v%s\n", stored, l.Size, legend)
	for _, list := range [][]string{discardNotes(l), notes(l)} {
		if len(list) > 0 {
			fmt.Fprintln(out, "\n"+strings.Join(list, "\n"))
		}
	}
	return nil
}

// printFree shows room that no partition takes, unless it is as short as what alignment
// leaves.
func printFree(w io.Writer, l *clone.Layout, start, end quantity.Bytes) {
	if end-start > 2*quantity.MiB {
		fmt.Fprintf(w, "-\t%d\t%v\tfree\t-\t-\t-\t-\n", l.LogicalSector.Sectors(start), end-start)
	}
}

// discardNotes says of each partition what is allocated but not stored.
func discardNotes(l *clone.Layout) []string {
	var out []string
	for i := range l.Partitions {
		p := &l.Partitions[i]
		var what []string
		for _, d := range p.Discards() {
			what = append(what, fmt.Sprintf("%s (%v)", d.What, quantity.Total(d.Extents)))
		}
		if len(what) > 0 {
			out = append(out, fmt.Sprintf("partition %d: allocated, but not stored: %s", p.Number, strings.Join(what, ", ")))
		}
	}
	return out
}

// notes says of each partition that is not cloned why, and what can be done.
func notes(l *clone.Layout) []string {
	var out []string
	for i := range l.Partitions {
		p := &l.Partitions[i]
		if p.Mode == image.ModeClone {
			out = append(out, wholeNotes(p)...)
		}
		if p.Mode == image.ModeClone || p.Mode == image.ModeSwap {
			for _, note := range p.Volume.Notes {
				note = strings.ReplaceAll(note, "--policy N=", fmt.Sprintf("--policy %d=", p.Number))
				out = append(out, fmt.Sprintf("partition %d: %s", p.Number, printable(note)))
			}
		}
		if p.Mode == image.ModeClone || p.Mode == image.ModeSwap {
			continue
		}
		note := fmt.Sprintf("partition %d is copied block by block: %s", p.Number, p.Reason)
		switch {
		case p.Mode == image.ModeSkip:
			note = fmt.Sprintf("partition %d is not captured, and a deploy leaves it as it is: %s", p.Number, p.Reason)
		case p.Mode == image.ModeFormat:
			note = fmt.Sprintf("partition %d is stored as an empty %s, its files are not: %s", p.Number, p.Volume.Type, p.Reason)
		case p.Refuse:
			note = fmt.Sprintf("partition %d is not captured unless forced: %s", p.Number, p.Reason)
		}
		if p.Remedy != "" {
			note += "\n  to do: " + p.Remedy
		}
		out = append(out, note)
	}
	return out
}

// wholeNotes says which volumes inside of a partition are not cloned, and why.
func wholeNotes(p *clone.PartitionLayout) []string {
	var out []string
	for _, part := range p.Volume.Whole {
		note := fmt.Sprintf("partition %d: %s (%s) is copied block by block: %s", p.Number, printable(part.Name), cmp.Or(part.Type, "unknown"), part.Doubt.Reason)
		if remedy := clone.Remedy(part.Doubt); remedy != "" {
			note += "\n  to do: " + remedy
		}
		out = append(out, note)
	}
	return out
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// printable replaces what could move the cursor of whoever reads it.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

type diskCaptureOptions struct {
	store, comment      string
	compression         string
	also, policies      []string
	force, verify, json bool
	fillBadSectors      bool
	replay              bool
}

// compressions are the values of --compression.
var compressions = map[string]zstd.EncoderLevel{"fast": zstd.SpeedFastest, "normal": zstd.SpeedDefault, "small": zstd.SpeedBetterCompression}

func newDiskCaptureCmd() *cobra.Command {
	var opts diskCaptureOptions
	cmd := &cobra.Command{
		Use:   "capture PATH IMAGE --store DIR",
		Short: "Store a disk as the next version of an image",
		Long: `Store a disk as the next version of an image. File systems that are proven clean are stored by their
allocated blocks; all others block by block, and the output says why. Without --replay the disk is only read; it must not be mounted.
The store is made when DIR does not exist or is empty. With --also several disks become one version.

--policy says what to do with a partition instead: clone (refused if it is not proven clean), raw (every block), format
(only FAT and swap: the deploy makes an empty one of the same UUID and label), skip (nothing; the deploy leaves the
partition as it is on the target).

A file system that was not unmounted, after a power cut for example, is copied block by block. With --replay the kernel mounts it first (ext3, ext4,
XFS, btrfs), which replays its journal and changes the disk that is captured; what is not clean then is copied block by block all
the same. It takes root, and a disk that nobody else uses. Do not mount file systems that somebody may have made to attack this computer.

The compressor is what a capture waits for. --compression fast takes about an eighth less time and stores a twentieth more; small
takes about half as long again and stores a little less.

Sectors that cannot be read are read again in smaller steps. If some stay unreadable the capture lists them and makes no version;
with --fill-bad-sectors it stores zeroes in their place. Unreadable sectors that no file uses do not matter.`,
		Args: args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, a []string) error {
			return runDiskCapture(cmd.Context(), a[0], a[1], opts, newReporter(cmd, opts.json))
		},
	}
	f := cmd.Flags()
	f.StringVar(&opts.store, "store", "", "directory of the store")
	f.StringVar(&opts.comment, "comment", "", "why this version is made")
	f.StringArrayVar(&opts.also, "also", nil, "`PATH` of a further disk of the same version, in the order in which they will be deployed")
	f.StringArrayVar(&opts.policies, "policy", nil, policyUsage)
	f.StringVar(&opts.compression, "compression", "normal", "fast, normal or small")
	f.BoolVar(&opts.force, "force", false, "capture a hibernated system, or a disk that is in use, all the same")
	f.BoolVar(&opts.replay, "replay", false, "let the kernel replay the journals of file systems that were not unmounted: changes the disk that is captured")
	f.BoolVar(&opts.fillBadSectors, "fill-bad-sectors", false, "store zeroes in the place of sectors that cannot be read")
	f.BoolVar(&opts.verify, "verify", false, "decode all that was compressed again before it is stored")
	f.BoolVar(&opts.json, "json", false, "print NDJSON; the last line is the summary")
	cobra.CheckErr(cmd.MarkFlagRequired("store"))
	return cmd
}

func runDiskCapture(ctx context.Context, path, name string, opts diskCaptureOptions, rep *reporter) error {
	if err := image.CheckName(name); err != nil {
		return withCode(exitUsage, err, "")
	}
	level, known := compressions[opts.compression]
	if !known {
		return withCode(exitUsage, fmt.Errorf("--compression %q is neither fast, normal nor small", opts.compression), "")
	}
	started := time.Now()
	paths := append([]string{path}, opts.also...)
	policies, err := parsePolicies(opts.policies, len(paths))
	if err != nil {
		return err
	}
	defer rep.close()
	disks, devices, err := openSources(paths, opts)
	if err != nil {
		return err
	}
	defer closeAll(devices)
	replayed, err := prepareSources(ctx, paths, disks, policies, opts, rep)
	if err != nil {
		return diskError(err)
	}
	store, err := openOrCreateStore(opts.store)
	if err != nil {
		return err
	}
	defer store.Close()
	session, err := store.Begin(ctx)
	if err != nil {
		return err
	}
	defer session.Close()
	result, err := clone.CaptureDisks(ctx, disks, session, clone.CaptureOptions{
		Image: name, Comment: opts.comment, Origin: strings.Join(paths, ", "), Creator: "clonecast disk capture", Engine: engine(),
		Force: opts.force, FillBadSectors: opts.fillBadSectors, Verify: opts.verify, Level: level, Progress: bytesProgress(rep),
	})
	var unreadable *clone.UnreadableError
	if errors.As(err, &unreadable) {
		rep.warnUnreadable(paths, unreadable)
	}
	if err != nil {
		return diskError(err)
	}
	for _, u := range result.Unreadable {
		rep.warnUnreadable(paths, u)
	}
	took := time.Since(started)
	rep.printf("captured %s as %s@%d (%s): %v allocated, %v new in the store, %s\n", strings.Join(paths, " and "), name, result.Version.Sequence,
		result.Version.ID.Short(), result.Allocated, result.Stored, rate(result.Allocated, took))
	return rep.summary(captureSummary{name, result.Version.Sequence, result.Version.ID.String(), int64(result.Allocated),
		int64(result.Read), int64(result.Stored), unreadableBytes(result), took.Seconds(), replayed})
}

// openSources opens the disks of a capture and finds out what is on them.
func openSources(paths []string, opts diskCaptureOptions) ([]clone.Captured, []*blockdev.Device, error) {
	open := blockdev.OpenUnused
	if opts.force && !opts.replay { // what is mounted must not be mounted once more
		open = blockdev.Open
	}
	var disks []clone.Captured
	var devices []*blockdev.Device
	for _, path := range paths {
		dev, layout, err := inspect(path, open, nil)
		if err != nil {
			closeAll(devices)
			return nil, nil, err
		}
		devices = append(devices, dev)
		disks = append(disks, clone.Captured{Disk: dev, Layout: layout})
	}
	return disks, devices, nil
}

// prepareSources replays journals, if that is wanted, and applies the policies. It warns of what
// is not cloned.
func prepareSources(ctx context.Context, paths []string, disks []clone.Captured, policies image.Policies, opts diskCaptureOptions, rep *reporter) ([]replayedSummary, error) {
	var replayed []replayedSummary
	if opts.replay {
		var err error
		if replayed, err = replayJournals(ctx, paths, disks, policies, opts.force, rep); err != nil {
			return nil, err
		}
	}
	for i, c := range disks {
		if err := c.Layout.Apply(c.Disk, policies[i]); err != nil {
			return nil, fmt.Errorf("%s: %w", paths[i], err)
		}
		for _, note := range notes(c.Layout) {
			rep.warn("%s%s", ofPath(paths[i], len(paths)), note)
		}
	}
	return replayed, nil
}

// replayJournals replays the journals on the disks, none if one of them must not be changed.
func replayJournals(ctx context.Context, paths []string, disks []clone.Captured, policies image.Policies, force bool, rep *reporter) ([]replayedSummary, error) {
	if os.Geteuid() != 0 {
		return nil, withCode(exitFailed, errors.New("--replay mounts file systems, which takes root"), "run the command as root (sudo)")
	}
	var options []clone.ReplayOptions
	for i, c := range disks {
		options = append(options, clone.ReplayOptions{Policy: policies[i], Force: force, Before: func(r clone.Replayed) {
			rep.warn("%s: %v: replaying its journal, which changes this disk", paths[i], r)
		}})
		if err := c.Layout.MayReplay(c.Disk, options[i]); err != nil {
			return nil, fmt.Errorf("%s: %w", paths[i], err)
		}
	}
	var out []replayedSummary
	for i, c := range disks {
		layout, replayed, err := clone.Replay(ctx, c.Disk, c.Layout, kernelfs.Disk{Path: paths[i], Sector: c.Layout.LogicalSector}, options[i])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", paths[i], err)
		}
		disks[i].Layout = layout
		for _, r := range replayed {
			rep.warn("%s: %s", paths[i], r.Outcome())
			out = append(out, replayedSummary{i + 1, r})
		}
	}
	return out, nil
}

func unreadableBytes(r clone.CaptureResult) int64 {
	sum := quantity.Bytes(0)
	for _, u := range r.Unreadable {
		sum += quantity.Total(u.Extents)
	}
	return int64(sum)
}

// warnUnreadable lists what of a disk could not be read.
func (r *reporter) warnUnreadable(paths []string, u *clone.UnreadableError) {
	const most = 50
	for _, e := range u.Extents[:min(most, len(u.Extents))] {
		r.warn("%s: bytes %d to %d cannot be read", paths[u.Disk], int64(e.Start), int64(e.End())-1)
	}
	if more := len(u.Extents) - most; more > 0 {
		r.warn("%s: and %d more places", paths[u.Disk], more)
	}
}

// ofPath names the disk if there are several.
func ofPath(path string, count int) string {
	if count == 1 {
		return ""
	}
	return path + ": "
}

type captureSummary struct {
	Image     string  `json:"image"`
	Sequence  uint64  `json:"sequence"`
	Version   string  `json:"version"`
	Allocated int64   `json:"bytes_allocated"`
	Read      int64   `json:"bytes_read"`
	Stored    int64   `json:"bytes_stored"`
	Filled    int64   `json:"bytes_unreadable"` // zeroes are stored in their place
	Seconds   float64 `json:"seconds"`

	Replayed []replayedSummary `json:"replayed,omitempty"` // journals, by --replay
}

// replayedSummary is a file system whose journal was replayed.
type replayedSummary struct {
	Disk int `json:"disk"` // from 1
	clone.Replayed
}

// bytesProgress hands the engine's progress to the reporter.
func bytesProgress(rep *reporter) clone.Progress {
	return func(phase string, done, total quantity.Bytes) { rep.progress(phase, int64(done), int64(total)) }
}

func rate(n quantity.Bytes, took time.Duration) string {
	s := fmt.Sprintf("%.1f s", took.Seconds())
	if took > 100*time.Millisecond {
		s += fmt.Sprintf(", %v/s", quantity.Bytes(float64(n)/took.Seconds()))
	}
	return s
}

type diskDeployOptions struct {
	store, saveTable, grow    string
	rules, policies           []string
	dryRun, yes, json, verify bool
	trim                      bool
	trimChosen                bool // by the operator
}

func newDiskDeployCmd() *cobra.Command {
	var opts diskDeployOptions
	cmd := &cobra.Command{
		Use:   "deploy IMAGE[@VERSION] PATH [PATH…] --store DIR",
		Short: "Make a disk hold a version; only what differs is written",
		Long: `Make a disk hold a version of an image (the newest when none is given). What the disk holds already is kept, so
a deploy that was cut is finished by running it again. Everything else on the disk is lost: the command shows what
it is about to overwrite and asks, unless --yes is given. --dry-run compares and writes nothing.

Instead of a PATH, --rule names a disk of this computer; 'clonecast disk list --help' explains rules. A version with several
disks needs a PATH or a rule for each, in its order. All targets are checked before one is touched, and none boots before all are
whole.

If the partition table changes or a partition is skipped, the old table and boot areas are saved before the first write: to
FILE of --save-table, else beside a disk image file or in the current directory. An older file is never
overwritten. 'clonecast disk restore-table' puts a saved table back.

--grow makes partitions and their file systems (ext2, ext3, ext4, XFS, btrfs, NTFS; swap) larger where a larger disk has room
behind them: last, or numbers joined by commas; DISK:N or DISK:last from the second disk on. No partition is moved, so one that
is followed by another cannot grow. The kernel grows all but NTFS: that takes root.

A block device is told which blocks of the written partitions are free (TRIM): solid-state disks stay fast and wear less. What deleted
files left there is lost then, which the deploy of an image means anyway; --trim=false leaves it. With --trim, disk image files
get holes there. Partitions that are skipped or stored whole are not touched.`,
		Args: args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			if (len(a) > 1) == (len(opts.rules) > 0) {
				return usage(cmd, errors.New("name the target: either by PATH or with --rule"))
			}
			opts.trimChosen = cmd.Flags().Changed("trim")
			return runDiskDeploy(cmd.Context(), a[0], a[1:], opts, newReporter(cmd, opts.json), cmd.InOrStdin())
		},
	}
	f := cmd.Flags()
	f.StringVar(&opts.store, "store", "", "directory of the store")
	f.StringArrayVar(&opts.rules, "rule", nil, "`RULE` that names the target among this computer's disks, as serial=…; once for each disk of the image")
	f.StringArrayVar(&opts.policies, "policy", nil, "leave a partition as it is, `N=skip`; joined by commas; DISK:N=skip from the second disk on")
	f.StringVar(&opts.grow, "grow", "", "`PARTITIONS` that take the free room behind them: last, or numbers as 2,3")
	f.StringVar(&opts.saveTable, "save-table", "", "`FILE` for the target's old partition table")
	f.BoolVar(&opts.dryRun, "dry-run", false, "show what would be written, write nothing")
	f.BoolVar(&opts.yes, "yes", false, "do not ask")
	f.BoolVar(&opts.verify, "verify", false, "read back what was written (always done on block devices)")
	f.BoolVar(&opts.trim, "trim", true, "tell the disk which blocks are free (files only if the flag is given)")
	f.BoolVar(&opts.json, "json", false, "print NDJSON; the last line is the summary")
	cobra.CheckErr(cmd.MarkFlagRequired("store"))
	return cmd
}

func runDiskDeploy(ctx context.Context, ref string, paths []string, opts diskDeployOptions, rep *reporter, in io.Reader) error {
	started := time.Now()
	defer rep.close()
	grow, err := image.ParseGrow(opts.grow)
	if err != nil {
		return withCode(exitUsage, err, "")
	}
	store, err := openStore(opts.store)
	if err != nil {
		return err
	}
	defer store.Close()
	pin, err := store.Pin(ctx) // a deletion meanwhile does not end the deploy
	if err != nil {
		return err
	}
	defer pin.Close()
	manifest, id, err := findVersion(ctx, store, ref)
	if err != nil {
		return diskError(err)
	}
	if err := keepPartitions(manifest, opts.policies); err != nil {
		return err
	}
	if len(opts.rules) > 0 {
		if paths, err = pathsByRules(opts.rules, manifest); err != nil {
			return err
		}
	}
	devices, err := openTargets(manifest, paths, opts.dryRun)
	if err != nil {
		return err
	}
	defer closeAll(devices)
	if !opts.dryRun && !opts.yes {
		if err := confirm(rep.stderr, in, devices, manifest); err != nil {
			return err
		}
	}
	tables := tableSaver{paths: paths, file: opts.saveTable, rep: rep}
	options := clone.DeployOptions{DryRun: opts.dryRun, Verify: opts.verify, Trim: opts.trim, SaveTable: tables.save, Progress: bytesProgress(rep)}
	var disks []clone.Deployment
	var growers kernelfs.Disks
	for i, dev := range devices {
		growers = append(growers, kernelfs.Disk{Path: dev.Path, Sector: dev.LogicalSector})
		disks = append(disks, clone.Deployment{Disk: &manifest.Disks[i], Target: dev, Geometry: geometry(dev)})
		options.Verify = options.Verify || dev.Block
		options.Trim = options.Trim && (dev.Block || opts.trimChosen)
	}
	options.Grow, options.Grower = grow, growers
	results, err := clone.DeployDisks(ctx, disks, store, options)
	if err != nil {
		return diskError(fmt.Errorf("deploy %s to %s: %w", ref, strings.Join(paths, " and "), err))
	}
	var sum clone.DeployResult
	var grown []grownSummary
	for i, r := range results {
		if !opts.dryRun && r.Written > 0 {
			if err := devices[i].RereadPartitions(); err != nil {
				rep.warn("the kernel still shows the old partitions of %s: %v", paths[i], err)
			}
		}
		rep.printf("%s\n", deployOutcome(manifest, paths[i], opts.dryRun, r))
		for _, g := range r.Grown {
			rep.printf("  grow: %v\n", g)
			grown = append(grown, grownSummary{i + 1, g})
		}
		sum.Add(r)
	}
	took := time.Since(started)
	rep.printf("%s\n", rate(sum.Compared, took))
	return rep.summary(deploySummary{manifest.Image, manifest.Sequence, id.String(), opts.dryRun, int64(sum.Compared), int64(sum.Kept),
		int64(sum.Differ), int64(sum.Written), int64(sum.Fetched), int64(sum.Verified), took.Seconds(), tables.saved, grown})
}

type deploySummary struct {
	Image    string  `json:"image"`
	Sequence uint64  `json:"sequence"`
	Version  string  `json:"version"`
	DryRun   bool    `json:"dry_run"`
	Compared int64   `json:"bytes_compared"`
	Kept     int64   `json:"bytes_kept"`
	Differ   int64   `json:"bytes_differing"`
	Written  int64   `json:"bytes_written"`
	Fetched  int64   `json:"bytes_fetched"`
	Verified int64   `json:"bytes_verified"`
	Seconds  float64 `json:"seconds"`

	SavedTables []string       `json:"saved_tables,omitempty"` // files
	Grown       []grownSummary `json:"grown,omitempty"`
}

// grownSummary is a partition that was to grow.
type grownSummary struct {
	Disk int `json:"disk"` // from 1
	clone.Grown
}

func deployOutcome(m *image.Manifest, path string, dryRun bool, r clone.DeployResult) string {
	ref := fmt.Sprintf("%s@%d", m.Image, m.Sequence)
	switch {
	case dryRun:
		return fmt.Sprintf("%s on %s: %v would be kept, %v differ; nothing was written", ref, path, r.Kept, r.Differ)
	case r.Written == 0:
		return fmt.Sprintf("%s holds %s already; nothing was written", path, ref)
	}
	return fmt.Sprintf("deployed %s to %s: %v kept, %v written", ref, path, r.Kept, r.Written)
}

// findVersion resolves IMAGE[@VERSION] and verifies its manifest.
func findVersion(ctx context.Context, store chunkstore.Reader, ref string) (*image.Manifest, image.VersionID, error) {
	name, sequence, err := image.ParseReference(ref)
	if err != nil {
		return nil, image.VersionID{}, withCode(exitUsage, err, "")
	}
	envelope, err := store.Manifest(ctx, name, sequence)
	if err != nil {
		return nil, image.VersionID{}, fmt.Errorf("image %s: %w", ref, err)
	}
	m, id, err := image.Open(envelope, store.TrustedKeys())
	if err != nil {
		return nil, image.VersionID{}, fmt.Errorf("image %s: %w", ref, err)
	}
	return m, id, nil
}

// confirm shows what will be lost and asks for the word yes.
func confirm(out io.Writer, in io.Reader, devices []*blockdev.Device, m *image.Manifest) error {
	if err := askable(in, devices[0].Path+" would be overwritten", "add --yes when you are sure, or --dry-run to see what would be written"); err != nil {
		return err
	}
	for i, dev := range devices {
		d := &m.Disks[i]
		fmt.Fprintf(out, "%s@%d (%v) will be written to\n  %s\n", m.Image, m.Sequence, d.Size, dev)
		if layout, err := clone.Inspect(dev, geometry(dev)); err == nil {
			for i := range layout.Partitions {
				p := &layout.Partitions[i]
				fmt.Fprintf(out, "    now: partition %d, %v, %s %s\n", p.Number, p.Length, orDash(p.Volume.Type), printable(p.Volume.Label))
			}
		}
		for _, p := range d.Partitions {
			if p.Mode == image.ModeSkip {
				fmt.Fprintf(out, "    kept: bytes %d to %d (partition %d of the image)\n", p.Content.Start, p.Content.Start+p.Content.Length, p.Number)
			}
		}
	}
	return ask(out, in, "All other data on it will be lost.")
}

// askable refuses where nobody can answer.
func askable(in io.Reader, what, hint string) error {
	if f, ok := in.(*os.File); !ok || !term.IsTerminal(int(f.Fd())) {
		return withCode(exitRefused, fmt.Errorf("%s, and there is no terminal to ask", what), hint)
	}
	return nil
}

func ask(out io.Writer, in io.Reader, what string) error {
	fmt.Fprintf(out, "%s Type yes to go on: ", what)
	line, err := bufio.NewReader(in).ReadString('\n')
	if err != nil || strings.TrimSpace(line) != "yes" {
		return withCode(exitRefused, errors.New("declined; nothing was written"), "")
	}
	return nil
}
