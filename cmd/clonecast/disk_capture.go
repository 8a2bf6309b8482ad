package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"clonecast/internal/blockdev"
	"clonecast/internal/clone/capture"
	"clonecast/internal/clone/layout"
	"clonecast/internal/clone/rescue"
	"clonecast/internal/image"
	"clonecast/internal/kernelfs"
	"clonecast/internal/quantity"
	"clonecast/internal/text"

	"github.com/klauspost/compress/zstd"
	"github.com/spf13/cobra"
)

type diskCaptureOptions struct {
	store, comment      string
	compression         string
	also, policies      []string
	force, verify, json bool
	fillBadSectors      bool
	replay              bool
	looks               lookFlags
}

// compressions are the values of --compression.
var compressions = map[string]zstd.EncoderLevel{
	"fast":   zstd.SpeedFastest,
	"normal": zstd.SpeedDefault,
	"small":  zstd.SpeedBetterCompression,
}

func newDiskCaptureCmd() *cobra.Command {
	var opts diskCaptureOptions
	cmd := &cobra.Command{
		Use:   "capture PATH IMAGE --store DIR",
		Short: "Store a disk as the next version of an image",
		Long: `Store a disk as the next version of an image. File systems that are proven clean are stored by their
allocated blocks; all others block by block, and the output says why. Without --replay the disk is only read; it must
not be mounted. The store is made when DIR does not exist or is empty. With --also several disks become one version.

--policy says what to do with a partition instead: clone (refused if it is not proven clean),
raw (every block), format (only FAT and swap: the deploy makes an empty one of the same UUID
and label), skip (nothing; the deploy leaves the partition as it is on the target).

A file system that was not unmounted, after a power cut for example, is copied block by block. With
--replay the kernel mounts it first (ext3, ext4, XFS, btrfs), which replays its journal and changes the
disk that is captured; what is not clean then is copied block by block all the same. It takes root, and a
disk that nobody else uses. Do not mount file systems that somebody may have made to attack this computer.

The compressor is what a capture waits for. --compression fast takes about an eighth less time
and stores a twentieth more; small takes about half as long again and stores a little less.

Sectors that cannot be read are read again in smaller steps. If some stay unreadable the capture lists them and makes no
version; with --fill-bad-sectors it stores zeroes in their place. Unreadable sectors that no file uses do not matter.

--whole-disk takes a disk whose partition table cannot be used or must not be looked at (a live stick made
from an ISO, partitions that overlap): every block, and zeroes take no room. It says the same as --policy
0=raw. A disk that a RAID or a volume manager claims as a whole is refused unless --force is given.`,
		Args: words("PATH", "IMAGE"),
		RunE: func(cmd *cobra.Command, a []string) error {
			return runDiskCapture(cmd.Context(), a[0], a[1], opts, newReporter(cmd, opts.json))
		},
	}
	f := cmd.Flags()
	f.StringVar(&opts.store, "store", "", storeUsage)
	f.StringVar(&opts.comment, "comment", "", "why this version is made")
	f.StringArrayVar(&opts.also, "also", nil,
		"`PATH` of a further disk of the same version, in the order in which they will be deployed")
	f.StringArrayVar(&opts.policies, "policy", nil, policyUsage)
	opts.looks.add(f)
	f.StringVar(&opts.compression, "compression", "normal", "fast, normal or small")
	f.BoolVar(&opts.force, "force", false, "capture a hibernated system, or a disk that is in use, all the same")
	f.BoolVar(&opts.replay, "replay", false,
		"let the kernel replay the journals of file systems that were not unmounted: changes the disk that is captured")
	f.BoolVar(&opts.fillBadSectors, "fill-bad-sectors", false, "store zeroes in the place of sectors that cannot be read")
	f.BoolVar(&opts.verify, "verify", false, "decode all that was compressed again before it is stored")
	f.BoolVar(&opts.json, "json", false, jsonUsage)
	require(cmd, "store")
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
	if err := image.CheckText("--comment", opts.comment); err != nil {
		return withCode(exitUsage, err, "")
	}
	started := time.Now()
	paths := append([]string{path}, opts.also...)
	policies, err := parsePolicies(opts.policies, len(paths))
	if err != nil {
		return err
	}
	defer rep.close()
	disks, devices, err := openSources(paths, opts, policies, rep)
	if err != nil {
		return err
	}
	defer closeAll(devices)
	store, err := openOrCreateStore(opts.store)
	if err != nil {
		return err
	}
	defer store.Close()
	begin := store.BeginOwn
	if opts.verify {
		begin = store.Begin
	}
	session, err := begin(ctx) // before a journal is replayed: the store may be read-only
	if err != nil {
		return err
	}
	defer session.Close()
	replayed, err := prepareSources(ctx, paths, disks, policies, opts, rep)
	if err != nil {
		return diskError(err)
	}
	plan, err := capture.NewPlan(disks, capture.Options{Image: name, Comment: opts.comment, Origin: origin(paths),
		Creator: "clonecast disk capture", Engine: engine(), Force: opts.force})
	if err != nil {
		return diskError(err)
	}
	means := capture.Means{Sink: session, Level: level, FillBadSectors: opts.fillBadSectors, Progress: bytesProgress(rep)}
	result, err := capture.Execute(ctx, plan, disks, means)
	var unreadable *rescue.UnreadableError
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
	rep.printf("captured %s as %s@%d (%s): %v allocated, %v new in the store, %s\n",
		text.Escape(strings.Join(paths, " and ")), name, result.Version.Sequence, result.Version.ID.Short(),
		result.Allocated, result.Stored, rate(result.Allocated, took))
	return rep.summary(captureSummary{name, result.Version.Sequence, result.Version.ID.String(), int64(result.Allocated),
		int64(result.Read), int64(result.Stored), unreadableBytes(result), took.Seconds(), replayed})
}

// origin says where a version comes from. Paths are bytes and a manifest's texts are UTF-8, so that what is not is
// escaped.
func origin(paths []string) string {
	s := text.Escape(strings.Join(paths, ", "))
	for len(s) > image.MaxText {
		s = strings.ToValidUTF8(s[:image.MaxText-len("…")], "") + "…"
	}
	return s
}

// openSources opens the disks of a capture and finds out what is on them.
func openSources(paths []string, opts diskCaptureOptions, policies image.Policies,
	rep *reporter) ([]capture.Disk, []*blockdev.Device, error) {
	if err := differentDisks(paths); err != nil {
		return nil, nil, err
	}
	open := blockdev.OpenUnused
	if opts.force && !opts.replay { // what is mounted must not be mounted once more
		open = blockdev.Open
	}
	var disks []capture.Disk
	var devices []*blockdev.Device
	for i, path := range paths {
		dev, l, err := inspect(path, open, opts.looks.of(policies[i]))
		if err != nil {
			closeAll(devices)
			return nil, nil, err
		}
		if opts.force {
			warnInUse(rep, dev)
		}
		devices = append(devices, dev)
		disks = append(disks, capture.Disk{Reader: dev, Layout: l})
	}
	return disks, devices, nil
}

// prepareSources replays journals, if that is wanted, and applies the policies. It warns of what
// is not cloned.
func prepareSources(ctx context.Context, paths []string, disks []capture.Disk, policies image.Policies,
	opts diskCaptureOptions, rep *reporter) ([]capture.Replayed, error) {
	p := capture.Preparation{Policies: policies, Force: opts.force}
	if opts.replay {
		if os.Geteuid() != 0 {
			return nil, withCode(exitFailed, errors.New("--replay mounts file systems, which takes root"),
				"run the command as root (sudo)")
		}
		p.Replayer = func(i int) layout.Replayer {
			return kernelfs.Disk{Path: paths[i], Sector: disks[i].Layout.LogicalSector}
		}
		p.Before = func(i int, r layout.Replayed) {
			rep.warn("%s: %v: replaying its journal, which changes this disk", paths[i], r)
		}
	}
	replayed, err := capture.Prepare(ctx, disks, p)
	for _, r := range replayed {
		rep.warn("%s: %s", paths[r.Disk-1], r.Outcome())
	}
	if err != nil {
		return nil, err
	}
	for i, d := range disks {
		for _, note := range noteTexts(d.Layout.Notes()) {
			rep.warn("%s%s", ofPath(paths[i], len(paths)), note)
		}
	}
	return replayed, nil
}

func unreadableBytes(r capture.Result) int64 {
	sum := quantity.Bytes(0)
	for _, u := range r.Unreadable {
		sum += quantity.Total(u.Extents)
	}
	return int64(sum)
}

// warnUnreadable lists what of a disk could not be read.
func (r *reporter) warnUnreadable(paths []string, u *rescue.UnreadableError) {
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

	Replayed []capture.Replayed `json:"replayed,omitempty"` // journals, by --replay
}
