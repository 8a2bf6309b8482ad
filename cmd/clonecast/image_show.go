package main

import (
	"errors"
	"fmt"
	"text/tabwriter"

	"clonecast/internal/text"

	"github.com/spf13/cobra"
)

func newImageShowCmd(c *connection) *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use: "show IMAGE[@VERSION] [--store DIR]", Short: "Show a version: disks and partitions", Args: words("IMAGE"),
		RunE: func(cmd *cobra.Command, a []string) error { return runImageShow(cmd, c, dir, a[0]) },
	}
	cmd.Flags().StringVar(&dir, "store", "", hereUsage)
	return cmd
}

func runImageShow(cmd *cobra.Command, c *connection, dir, ref string) (err error) {
	rep := newReporter(cmd, c.json)
	defer rep.close()
	from, err := openShelf(cmd.Context(), c, dir, openStore)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.close()) }()
	list, err := from.versions(cmd.Context())
	if err != nil {
		return err
	}
	found, err := selectReference(list, ref)
	if err != nil {
		return err
	}
	shown, err := from.show(cmd.Context(), found[len(found)-1])
	if err != nil {
		return err
	}
	if !c.json {
		if err := printVersion(rep, shown); err != nil {
			return err
		}
	}
	return rep.summary(shown)
}

func printVersion(rep *reporter, v shownVersion) error {
	rep.printf("%v  %s\nversion   %s\ncaptured  %s from %s by %s\n", v.shelved, text.Escape(v.Comment), v.ID,
		v.Created.Local().Format("2006-01-02 15:04"), text.Escape(v.Origin), text.Escape(v.Creator))
	for _, d := range v.Layout {
		rep.printf("disk      %s, %s, %s %s\n", gigabytes(d.Size), d.Table, text.Escape(d.Model), text.Escape(d.Serial))
		t := tabwriter.NewWriter(rep.stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "  PART\tSIZE\tFILE SYSTEM\tLABEL\tALLOCATED\tMODE\t")
		for _, p := range d.Partitions {
			fmt.Fprintf(t, "  %d\t%s\t%s\t%s\t%s\t%s\t%s\n", p.Number, gigabytes(p.Size), p.Filesystem,
				text.Escape(p.Label),
				gigabytes(p.Allocated), p.Mode, text.Escape(p.Reason))
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	return nil
}
