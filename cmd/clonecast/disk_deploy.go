package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"clonecast/internal/blockdev"
	"clonecast/internal/clone/deploy"
	"clonecast/internal/clone/layout"
	"clonecast/internal/image"
	"clonecast/internal/kernelfs"
	"clonecast/internal/text"

	"github.com/spf13/cobra"
)

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
		Long: `Make a disk hold a version of an image (the newest when none is given). What the disk holds already is
kept, so a deploy that was cut is finished by running it again. Everything else on the disk is lost: the command
shows what it is about to overwrite and asks, unless --yes is given. --dry-run compares and writes nothing.

Instead of a PATH, --rule names a disk of this computer; 'clonecast disk list --help' explains
rules. A version with several disks needs a PATH or a rule for each, in its order. All targets
are checked before one is touched, and none boots before all are whole.

If the partition table changes or a partition is skipped, the old table and boot areas are saved
before the first write: to FILE of --save-table, else beside a disk image file or in the current
directory. An older file is never overwritten. 'clonecast disk restore-table' puts a saved table back.

--grow makes partitions and their file systems (ext2, ext3, ext4, XFS, btrfs, NTFS; swap) larger where a larger
disk has room behind them: last, or numbers joined by commas; DISK:N or DISK:last from the second disk on. No
partition is moved, so one that is followed by another cannot grow. The kernel grows all but NTFS: that takes root.

A block device is told which blocks of the written partitions are free (TRIM): solid-state disks stay fast and wear
less. What deleted files left there is lost then, which the deploy of an image means anyway; --trim=false leaves
it. With --trim, disk image files get holes there. Partitions that are skipped or stored whole are not touched.`,
		Args: words("IMAGE", "[PATH…]"),
		RunE: func(cmd *cobra.Command, a []string) error {
			if (len(a) > 1) == (len(opts.rules) > 0) {
				return usage(cmd, errors.New("name the target: either by PATH or with --rule"))
			}
			opts.trimChosen = cmd.Flags().Changed("trim")
			return runDiskDeploy(cmd.Context(), a[0], a[1:], opts, newReporter(cmd, opts.json), cmd.InOrStdin())
		},
	}
	f := cmd.Flags()
	f.StringVar(&opts.store, "store", "", storeUsage)
	f.StringArrayVar(&opts.rules, "rule", nil,
		"`RULE` that names the target among this computer's disks, as serial=…; once for each disk of the image")
	f.StringArrayVar(&opts.policies, "policy", nil,
		"leave a partition as it is, `N=skip`; joined by commas; DISK:N=skip from the second disk on")
	f.StringVar(&opts.grow, "grow", "", "`PARTITIONS` that take the free room behind them: last, or numbers as 2,3")
	f.StringVar(&opts.saveTable, "save-table", "", "`FILE` for the target's old partition table")
	f.BoolVar(&opts.dryRun, "dry-run", false, "show what would be written, write nothing")
	f.BoolVar(&opts.yes, "yes", false, "do not ask")
	f.BoolVar(&opts.verify, "verify", false, "read back what was written (always done on block devices)")
	f.BoolVar(&opts.trim, "trim", true, "tell the disk which blocks are free (files only if the flag is given)")
	f.BoolVar(&opts.json, "json", false, jsonUsage)
	require(cmd, "store")
	return cmd
}

func runDiskDeploy(
	ctx context.Context, ref string, paths []string, opts diskDeployOptions, rep *reporter, in io.Reader,
) error {
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
	for _, dev := range devices {
		if opts.dryRun {
			warnInUse(rep, dev)
		}
	}
	if !opts.dryRun && !opts.yes {
		if err := confirm(ctx, rep.stderr, in, devices, manifest); err != nil {
			return err
		}
	}
	tables := tableSaver{paths: paths, file: opts.saveTable, rep: rep}
	options := deploy.Options{Verify: opts.verify, Trim: opts.trim, Grow: grow, Show: opts.dryRun}
	var disks []deploy.Disk
	var growers kernelfs.Disks
	for i, dev := range devices {
		growers = append(growers, kernelfs.Disk{Path: dev.Path, Sector: dev.LogicalSector})
		disks = append(disks, deploy.Disk{Image: &manifest.Disks[i], Target: dev, Geometry: geometry(dev)})
		options.Verify = options.Verify || dev.Block
		options.Trim = options.Trim && (dev.Block || opts.trimChosen)
	}
	source := deploy.Source{Name: "the store", Frames: store.Frames, Plain: store.Plain}
	plan, err := deploy.NewPlan(ctx, disks, source, options, bytesProgress(rep))
	if err != nil {
		return diskError(fmt.Errorf("deploy %s to %s: %w", ref, strings.Join(paths, " and "), err))
	}
	if opts.dryRun {
		return showPlan(rep, plan, manifest, id, paths, time.Since(started))
	}
	results, err := deploy.Execute(ctx, plan, disks, deploy.Means{Source: source, SaveTable: tables.save, Grower: growers,
		Progress: bytesProgress(rep)})
	if err != nil {
		return diskError(fmt.Errorf("deploy %s to %s: %w", ref, strings.Join(paths, " and "), err))
	}
	var sum deploy.Result
	var grown []grownSummary
	for i, r := range results {
		if r.Written > 0 {
			if err := devices[i].RereadPartitions(); err != nil {
				rep.warn("the kernel still shows the old partitions of %s: %v", paths[i], err)
			}
		}
		rep.printf("%s\n", deployOutcome(manifest, paths[i], r))
		for _, g := range r.Grown {
			rep.printf("  grow: %v\n", g)
			grown = append(grown, grownSummary{i + 1, g})
		}
		sum.Add(r)
	}
	took := time.Since(started)
	rep.printf("%s\n", rate(sum.Compared, took))
	return rep.summary(deploySummary{
		Image: manifest.Image, Sequence: manifest.Sequence, Version: id.String(),
		Compared: int64(sum.Compared), Kept: int64(sum.Kept), Differ: int64(sum.Differ),
		Written: int64(sum.Written), Fetched: int64(sum.Fetched), Verified: int64(sum.Verified),
		Seconds: took.Seconds(), SavedTables: tables.saved, Grown: grown,
	})
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
	Plan        *deploy.Plan   `json:"plan,omitempty"` // of a dry run
}

// showPlan shows what a deploy would do.
func showPlan(
	rep *reporter, p *deploy.Plan, m *image.Manifest, id image.VersionID, paths []string, took time.Duration,
) error {
	var sum deploy.Result
	var grown []grownSummary
	for i, d := range p.Disks {
		sum.Add(deploy.Result{Compared: d.Compared, Kept: d.Kept, Differ: d.Differ})
		for _, g := range d.Growth {
			grown = append(grown, grownSummary{i + 1, g})
		}
		rep.printf("%s@%d on %s: %v would be kept, %v differ; nothing was written\n",
			m.Image, m.Sequence, paths[i], d.Kept, d.Differ)
	}
	rep.printf("\n%s\n%s\n", p, rate(sum.Compared, took))
	return rep.summary(deploySummary{
		Image: m.Image, Sequence: m.Sequence, Version: id.String(), DryRun: true,
		Compared: int64(sum.Compared), Kept: int64(sum.Kept), Differ: int64(sum.Differ),
		Seconds: took.Seconds(), Grown: grown, Plan: p,
	})
}

// grownSummary is a partition that was to grow.
type grownSummary struct {
	Disk int `json:"disk"` // from 1
	deploy.Grown
}

func deployOutcome(m *image.Manifest, path string, r deploy.Result) string {
	ref := fmt.Sprintf("%s@%d", m.Image, m.Sequence)
	if r.Written == 0 {
		return fmt.Sprintf("%s holds %s already; nothing was written", path, ref)
	}
	return fmt.Sprintf("deployed %s to %s: %v kept, %v written", ref, path, r.Kept, r.Written)
}

// confirm shows what will be lost and asks for the word yes.
func confirm(ctx context.Context, out io.Writer, in io.Reader, devices []*blockdev.Device, m *image.Manifest) error {
	err := askable(in, devices[0].Path+" would be overwritten",
		"add --yes when you are sure, or --dry-run to see what would be written")
	if err != nil {
		return err
	}
	for i, dev := range devices {
		d := &m.Disks[i]
		fmt.Fprintf(out, "%s@%d (%v) will be written to\n  %s\n", m.Image, m.Sequence, d.Size, dev)
		l, err := layout.Inspect(dev, geometry(dev))
		if err != nil {
			fmt.Fprintf(out, "    now: what it holds cannot be told: %v\n", err)
		} else {
			for i := range l.Partitions {
				p := &l.Partitions[i]
				fmt.Fprintf(out, "    now: partition %d, %v, %s %s\n",
					p.Number, p.Length, orDash(p.Volume.Type), text.Escape(p.Volume.Label))
			}
		}
		for _, p := range d.Partitions {
			if p.Mode == image.ModeSkip {
				fmt.Fprintf(out, "    kept: bytes %d to %d (partition %d of the image)\n",
					p.Content.Start, p.Content.Start+p.Content.Length, p.Number)
			}
		}
	}
	fmt.Fprint(out, "All other data on it will be lost. ")
	return askYes(ctx, out, in, "nothing was written", "")
}
