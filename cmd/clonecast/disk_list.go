package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"clonecast/internal/blockdev"
	"clonecast/internal/diskrule"

	"github.com/spf13/cobra"
)

const ruleHelp = `A rule is a list of conditions joined by commas; a disk fits when all of them hold:

    serial=S62BNX0R           the serial number; wwn= and model= likewise, case does not matter
    model~samsung*            a pattern with * and ?, also for serial and wwn
    size>=400G                also <=, >, <, =; units K, M, G, T (powers of 1000; a 2 TB disk is =2T), KiB to TiB
    bus=nvme|sata             nvme, sata, usb, virtio, scsi or mmc; | joins alternatives of every condition
    removable=no              or yes
    only-internal             not removable, not on USB, not write-protected: the rule when none is given

Disks on USB count only if the rule says serial, wwn or bus; removable ones also with removable; write-protected ones
only with serial or wwn. A rule that fits no disk or more than one is refused.`

func newDiskListCmd() *cobra.Command {
	var rule string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List this computer's disks, and which of them a rule names",
		Long: "List this computer's disks. With --rule also say of each why it fits or not; " +
			"the exit code is 3 unless exactly one\ndoes.\n\n" + ruleHelp,
		Args: words(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			disks, err := blockdev.List()
			if err != nil {
				return fmt.Errorf("list disks: %w", err)
			}
			return runDiskList(disks, rule, cmd.Flags().Changed("rule"), newReporter(cmd, asJSON))
		},
	}
	f := cmd.Flags()
	f.StringVar(&rule, "rule", "", "say which disk the `RULE` names")
	f.BoolVar(&asJSON, "json", false, jsonUsage)
	return cmd
}

type listedDisk struct {
	Path      string `json:"path"`
	Size      int64  `json:"size"`
	Sector    int64  `json:"logical_sector"`
	Model     string `json:"model"`
	Serial    string `json:"serial"`
	WWN       string `json:"wwn"`
	Bus       string `json:"bus"`
	Removable bool   `json:"removable"`
	ReadOnly  bool   `json:"read_only"`
	Fits      *bool  `json:"fits,omitempty"` // with a rule
	Reason    string `json:"reason,omitempty"`
}

func runDiskList(disks []blockdev.Facts, text string, ruled bool, rep *reporter) error {
	rule, err := diskrule.Parse(text)
	if err != nil {
		return withCode(exitUsage, err, "'clonecast disk list --help' explains rules")
	}
	listed := []listedDisk{}
	var candidates []diskrule.Disk
	for _, f := range disks {
		d := listedDisk{
			Path: f.Path, Size: int64(f.Size), Sector: int64(f.LogicalSector),
			Model: f.Model, Serial: f.Serial, WWN: f.WWN,
			Bus: f.Bus, Removable: f.Removable, ReadOnly: f.ReadOnly,
		}
		if ruled {
			d.Reason = rule.Mismatch(f.Rule())
			fits := d.Reason == ""
			d.Fits = &fits
		}
		listed = append(listed, d)
		candidates = append(candidates, f.Rule())
	}
	if rep.json {
		err = rep.summary(struct {
			Rule  string       `json:"rule,omitempty"`
			Disks []listedDisk `json:"disks"`
		}{text, listed})
	} else {
		err = printDisks(rep.stdout, disks, listed)
	}
	if err != nil || !ruled {
		return err
	}
	_, err = rule.Choose(candidates)
	return diskError(err)
}

func printDisks(out io.Writer, disks []blockdev.Facts, listed []listedDisk) error {
	if len(disks) == 0 {
		_, err := fmt.Fprintln(out, "this computer shows no disk")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "DISK\tSIZE\tBUS\tMODEL\tSERIAL\tNOTES")
	for i, f := range disks {
		note := ""
		for _, n := range []struct {
			is   bool
			text string
		}{{f.Removable, "removable"}, {f.ReadOnly, "write-protected"}} {
			if n.is {
				note = join(note, n.text)
			}
		}
		if fits := listed[i].Fits; fits != nil && *fits {
			note = join(note, "FITS")
		} else if fits != nil {
			note = join(note, "does not fit: "+listed[i].Reason)
		}
		fmt.Fprintf(w, "%s\t%v\t%s\t%s\t%s\t%s\n", f.Path, f.Size, orDash(f.Bus), orDash(f.Model), orDash(f.Serial), note)
	}
	return w.Flush()
}

func join(a, b string) string {
	if a == "" {
		return b
	}
	return a + ", " + b
}
