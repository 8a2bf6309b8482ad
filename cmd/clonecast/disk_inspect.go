package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"clonecast/internal/blockdev"
	"clonecast/internal/clone"
	"clonecast/internal/image"
	"clonecast/internal/quantity"
	"clonecast/internal/text"

	"github.com/spf13/cobra"
)

func newDiskInspectCmd() *cobra.Command {
	var asJSON bool
	var policies []string
	cmd := &cobra.Command{
		Use:   "inspect PATH",
		Short: "Show partitions, file systems and how each would be captured",
		Args:  words("PATH"),
		RunE: func(cmd *cobra.Command, a []string) error {
			return runDiskInspect(a[0], policies, newReporter(cmd, asJSON))
		},
	}
	cmd.Flags().StringArrayVar(&policies, "policy", nil, policyUsage)
	cmd.Flags().BoolVar(&asJSON, "json", false, jsonUsage)
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
	warnInUse(rep, dev)
	if rep.json {
		return rep.summary(summarize(dev, layout))
	}
	return printLayout(rep.stdout, dev, layout)
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
			int64(p.Allocated()), int64(p.Discarded()), string(p.Mode), p.Reason, p.Remedy, p.Refuse})
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
		fmt.Fprintf(w, "%s\t%d\t%v\t%s\t%s\t%s\t%v\t%s\n", number, l.LogicalSector.Sectors(p.Start), p.Length, orDash(text.Escape(p.TypeName())),
			orDash(p.Volume.Type), orDash(text.Escape(p.Volume.Label)), p.Allocated()-p.Discarded(), p.Mode)
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
		note := fmt.Sprintf("partition %d: %s (%s) is copied block by block: %s", p.Number, text.Escape(part.Name), cmp.Or(part.Type, "unknown"), part.Doubt.Reason)
		if remedy := clone.Remedy(part.Doubt); remedy != "" {
			note += "\n  to do: " + remedy
		}
		out = append(out, note)
	}
	return out
}
