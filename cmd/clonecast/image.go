package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"text/tabwriter"

	"clonecast/server/api"

	"github.com/spf13/cobra"
)

func newImageCmd() *cobra.Command {
	var c connection
	cmd := &cobra.Command{Use: "image", Short: "Show, delete, compare and carry images"}
	c.flags(cmd)
	cmd.AddCommand(
		&cobra.Command{
			Use: "list", Short: "List images and their versions", Args: args(cobra.NoArgs),
			RunE: func(cmd *cobra.Command, _ []string) error { return runImageList(cmd.Context(), &c, cmd.OutOrStdout()) },
		},
		&cobra.Command{
			Use: "show NAME[@VERSION]", Short: "Show a version: disks and partitions", Args: args(cobra.ExactArgs(1)),
			RunE: func(cmd *cobra.Command, a []string) error {
				return runImageShow(cmd.Context(), &c, a[0], cmd.OutOrStdout())
			},
		},
		newImageDeleteCmd(&c),
		newImagePruneCmd(&c),
		newImageDiffCmd(&c),
		newImageExportCmd(&c),
		newImageImportCmd(&c),
	)
	return cmd
}

func runImageList(ctx context.Context, c *connection, w io.Writer) error {
	cl, err := c.open(ctx)
	if err != nil {
		return err
	}
	var list []api.Image
	if err := cl.call(ctx, "GET", "/api/v1/images", nil, &list); err != nil {
		return err
	}
	if c.json {
		return printJSON(w, list)
	}
	if len(list) == 0 {
		_, err := fmt.Fprintln(w, "no images yet: clonecast task run capture --machine M --image NAME")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "IMAGE\tCREATED\tDISK\tALLOCATED\tFROM\tCOMMENT")
	for _, i := range list {
		for _, v := range i.Versions {
			fmt.Fprintf(t, "%s@%d\t%s\t%s\t%s\t%s\t%s\n", v.Image, v.Sequence, v.Created.Local().Format("2006-01-02 15:04"),
				gigabytes(v.DiskBytes), gigabytes(v.Allocated), v.Origin, v.Comment)
		}
	}
	return t.Flush()
}

func runImageShow(ctx context.Context, c *connection, ref string, w io.Writer) error {
	cl, err := c.open(ctx)
	if err != nil {
		return err
	}
	var d api.ImageDetail
	if err := cl.call(ctx, "GET", "/api/v1/images/"+url.PathEscape(ref), nil, &d); err != nil {
		return err
	}
	if c.json {
		return printJSON(w, d)
	}
	fmt.Fprintf(w, "%s@%d  %s\nversion   %s\ncaptured  %s from %s by %s\n", d.Image, d.Sequence, d.Comment, d.ID, d.Created.Local().Format("2006-01-02 15:04"), d.Origin, d.Creator)
	for _, disk := range d.Layout {
		fmt.Fprintf(w, "disk      %s, %s, %s %s\n", gigabytes(disk.Bytes), disk.Table, disk.Model, disk.Serial)
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "  PART\tSIZE\tFILE SYSTEM\tLABEL\tALLOCATED\tMODE\t")
		for _, p := range disk.Partitions {
			fmt.Fprintf(t, "  %d\t%s\t%s\t%s\t%s\t%s\t%s\n", p.Number, gigabytes(p.Size), p.Filesystem, p.Label, gigabytes(p.Allocated), p.Mode, p.Reason)
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	return nil
}
