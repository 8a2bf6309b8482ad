package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"time"

	"clonecast/internal/blockdev"
	"clonecast/internal/chunkstore"
	"clonecast/internal/clone"
	"clonecast/internal/clone/layout"
	"clonecast/internal/diskrule"
	"clonecast/internal/image"
	"clonecast/internal/partition"
	"clonecast/internal/quantity"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func newDiskCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "disk",
		Short: "Inspect, capture and deploy a disk or disk image file on this computer",
		Long: `Work on a disk of this computer without a server. PATH is a block device or a file that holds
a disk's bytes; a file that holds a bare file system works too.`,
	}
	cmd.AddCommand(newDiskListCmd(), newDiskInspectCmd(), newDiskCaptureCmd(), newDiskDeployCmd(),
		newDiskRestoreTableCmd())
	return cmd
}

const policyUsage = "what to do with a partition, `N=clone|raw|format|skip`; joined by commas; " +
	"DISK:N=… from the second disk on"

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

// inspect opens a disk for reading and finds out what is on it and how it would be captured.
func inspect(
	path string, open func(string) (*blockdev.Device, error), opts layout.Options,
) (*blockdev.Device, *layout.Layout, error) {
	dev, err := openDisk(path, open)
	if err != nil {
		return nil, nil, err
	}
	l, err := opts.Inspect(dev, geometry(dev))
	var sectors *partition.SectorSizeError
	if errors.As(err, &sectors) && !dev.Block { // a file does not say which sectors its disk had
		dev.LogicalSector, dev.PhysicalSector = sectors.Counted, sectors.Counted
		l, err = opts.Inspect(dev, geometry(dev))
	}
	if err != nil {
		dev.Close()
		return nil, nil, diskError(fmt.Errorf("inspect %s: %w", path, err))
	}
	return dev, l, nil
}

func geometry(dev *blockdev.Device) clone.Geometry {
	return clone.Geometry{
		Size: dev.Size, LogicalSector: dev.LogicalSector, PhysicalSector: dev.PhysicalSector,
		Model: dev.Model, Serial: dev.Serial,
	}
}

// diskError gives an error of a disk or the engine its exit code and hint.
func diskError(err error) error {
	var refused *clone.RefusedError
	var choice *diskrule.Error
	var coded *exitError
	var notDisk *blockdev.NotDiskError
	switch {
	case errors.As(err, &coded):
		return err
	case errors.As(err, &notDisk):
		return withCode(exitUsage, err, "a disk is a block device as /dev/sda, or a file that holds a disk's bytes")
	case errors.As(err, &choice):
		return withCode(exitRefused, err, choice.Hint())
	case errors.As(err, &refused):
		return withCode(exitRefused, err, refused.Remedy)
	case errors.Is(err, blockdev.ErrBusy):
		return withCode(exitRefused, err, "stop what uses it: umount, swapoff, losetup -d, or shut the virtual PC down")
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, chunkstore.ErrNotFound):
		return withCode(exitNotFound, err, "")
	case errors.Is(err, fs.ErrPermission):
		return withCode(exitFailed, err, "disks can only be opened by root")
	}
	return err
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
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

// lookFlags say how a disk is looked at.
type lookFlags struct {
	wholeDisk bool
	bootGap   uint
}

func (l *lookFlags) add(f *pflag.FlagSet) {
	f.BoolVar(&l.wholeDisk, "whole-disk", false,
		"take the disk as it is, block by block, whatever its partition table says (--policy 0=raw)")
	f.UintVar(&l.bootGap, "boot-gap", 0, "so many `MiB` of the disk's start are stored up to the first partition, "+
		"where a boot loader needs more than is recognised")
}

// of are the options for a disk with a policy.
func (l *lookFlags) of(policy map[int]image.Mode) layout.Options {
	if l.wholeDisk {
		policy = maps.Clone(policy)
		if policy == nil {
			policy = map[int]image.Mode{}
		}
		policy[0] = image.ModeRaw
	}
	return layout.Options{Policy: policy, BootGap: quantity.Bytes(l.bootGap) * quantity.MiB}
}
