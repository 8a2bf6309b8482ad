package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"clonecast/internal/blockdev"
	"clonecast/internal/clone/layout"
	"clonecast/internal/image"
	"clonecast/internal/partition"
	"clonecast/internal/quantity"
	"clonecast/internal/text"

	"github.com/spf13/cobra"
)

func newDiskInspectCmd() *cobra.Command {
	var asJSON bool
	var policies []string
	var looks lookFlags
	cmd := &cobra.Command{
		Use:   "inspect PATH",
		Short: "Show partitions, file systems and how each would be captured",
		Args:  words("PATH"),
		RunE: func(cmd *cobra.Command, a []string) error {
			return runDiskInspect(a[0], policies, looks, newReporter(cmd, asJSON))
		},
	}
	looks.add(cmd.Flags())
	cmd.Flags().StringArrayVar(&policies, "policy", nil, policyUsage)
	cmd.Flags().BoolVar(&asJSON, "json", false, jsonUsage)
	return cmd
}

func runDiskInspect(path string, policies []string, looks lookFlags, rep *reporter) error {
	policy, err := parsePolicies(policies, 1)
	if err != nil {
		return err
	}
	dev, l, err := inspect(path, blockdev.Open, looks.of(policy[0]))
	if err != nil {
		return err
	}
	defer dev.Close()
	if err := l.Apply(dev, looks.of(policy[0]).Policy); err != nil {
		return diskError(fmt.Errorf("inspect %s: %w", path, err))
	}
	warnInUse(rep, dev)
	if rep.json {
		return rep.summary(summarize(dev, l))
	}
	return printLayout(rep.stdout, dev, l)
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

func summarize(dev *blockdev.Device, l *layout.Layout) diskSummary {
	parts := []partitionSummary{}
	for i := range l.Partitions {
		p := &l.Partitions[i]
		parts = append(parts, partitionSummary{p.Number, int64(p.Start), int64(p.Length), p.Type, p.GUID, p.Name, p.Active,
			p.Volume.Type, p.Volume.UUID, p.Volume.Label, int64(p.Allocated()), int64(p.Discarded()),
			string(p.Mode), p.Reason, p.Remedy, p.Refuse, p.Volume.Notes})
	}
	return diskSummary{dev.Path, int64(dev.Size), int64(dev.LogicalSector), dev.Model, dev.Serial,
		string(l.Table.Kind), l.Table.DiskID, l.Table.Notes, parts}
}

// printLayout shows a disk from its start to its end.
func printLayout(out io.Writer, dev *blockdev.Device, l *layout.Layout) error {
	table := "no partition table"
	if l.Table.DiskID != "" {
		table = fmt.Sprintf("%s %s", l.Table.Kind, l.Table.DiskID)
	}
	fmt.Fprintf(out, "%s, %s, sectors of %d bytes\n", dev, table, dev.LogicalSector)
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NO\tSTART\tSIZE\tTYPE\tFILE SYSTEM\tLABEL\tSTORED\tMODE")
	partitions := slices.Clone(l.Partitions)
	slices.SortFunc(partitions, func(a, b layout.Partition) int { return cmp.Compare(a.Start, b.Start) })
	end, stored := printBootAreas(w, l)
	active := false
	for i := range partitions {
		p := &partitions[i]
		printFree(w, l, end, p.Start)
		number := fmt.Sprint(p.Number)
		if p.Active {
			number, active = number+"*", true
		}
		fmt.Fprintf(w, "%s\t%d\t%v\t%s\t%s\t%s\t%v\t%s\n",
			number, l.LogicalSector.Sectors(p.Start), p.Length, orDash(text.Escape(p.TypeName())),
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
	for _, list := range [][]string{l.DiscardNotes(), noteTexts(l.Notes())} {
		if len(list) > 0 {
			fmt.Fprintln(out, "\n"+strings.Join(list, "\n"))
		}
	}
	return nil
}

// printBootAreas shows what is stored of the gaps that boot code may use, in one line. It gives the end of the
// first, where free room begins, and how much all of them store.
func printBootAreas(w io.Writer, l *layout.Layout) (end, stored quantity.Bytes) {
	var areas []partition.Area
	for _, a := range l.Table.Areas {
		if a.Kind == partition.AreaBoot {
			areas = append(areas, a)
			stored += a.Length
		}
	}
	if len(areas) == 0 {
		return 0, 0
	}
	what := "boot area"
	if len(areas) > 1 {
		what = fmt.Sprintf("%d boot areas", len(areas))
	}
	fmt.Fprintf(w, "-\t%d\t%v\t%s\t-\t-\t%v\t%s\n",
		l.LogicalSector.Sectors(areas[0].Start), stored, what, stored, image.ModeRaw)
	return areas[0].Start + areas[0].Length, stored
}

// printFree shows room that no partition takes, unless it is as short as what alignment
// leaves.
func printFree(w io.Writer, l *layout.Layout, start, end quantity.Bytes) {
	if end-start > 2*quantity.MiB {
		fmt.Fprintf(w, "-\t%d\t%v\tfree\t-\t-\t-\t-\n", l.LogicalSector.Sectors(start), end-start)
	}
}

// noteTexts gives notes in lines, with what is to do below each.
func noteTexts(notes []layout.Note) []string {
	var out []string
	for _, n := range notes {
		line := text.Escape(n.Text)
		if n.Remedy != "" {
			line += "\n  to do: " + n.Remedy
		}
		out = append(out, line)
	}
	return out
}
