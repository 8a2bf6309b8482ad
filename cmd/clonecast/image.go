package main

import (
	"errors"
	"fmt"
	"text/tabwriter"

	"clonecast/internal/text"

	"github.com/spf13/cobra"
)

// Usages of flags that many commands have.
const (
	jsonUsage  = "print NDJSON; the last line is the summary, or the error"
	storeUsage = "`DIR` of the store"
	hereUsage  = "`DIR` of a store on this computer, instead of a server"
)

func newImageCmd() *cobra.Command {
	var c connection
	cmd := &cobra.Command{Use: "image", Short: "Show, delete, compare and carry images"}
	c.flags(cmd)
	cmd.AddCommand(newImageListCmd(&c), newImageShowCmd(&c), newImageDeleteCmd(&c), newImagePruneCmd(&c),
		newImageDiffCmd(&c),
		newImageExportCmd(&c), newImageImportCmd(&c))
	return cmd
}

func newImageListCmd(c *connection) *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use: "list [--store DIR]", Short: "List images and their versions", Args: words(),
		RunE: func(cmd *cobra.Command, _ []string) error { return runImageList(cmd, c, dir) },
	}
	cmd.Flags().StringVar(&dir, "store", "", hereUsage)
	return cmd
}

type imageListSummary struct {
	Images   int `json:"images"`
	Versions int `json:"versions"`
}

func runImageList(cmd *cobra.Command, c *connection, dir string) (err error) {
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
	images := map[string]bool{}
	for _, v := range list {
		images[v.Image] = true
		if err := rep.event("version", v); err != nil {
			return err
		}
	}
	if !c.json {
		if err := printShelf(rep, dir, list); err != nil {
			return err
		}
	}
	return rep.summary(imageListSummary{len(images), len(list)})
}

func printShelf(rep *reporter, dir string, list []shelved) error {
	if len(list) == 0 {
		how := "clonecast task run capture --machine M --image NAME"
		if dir != "" {
			how = "clonecast disk capture PATH NAME --store " + dir
		}
		rep.printf("no images yet: %s\n", how)
		return nil
	}
	t := tabwriter.NewWriter(rep.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "IMAGE\tCREATED\tDISK\tALLOCATED\tFROM\tCOMMENT")
	for _, v := range list {
		fmt.Fprintf(t, "%v\t%s\t%s\t%s\t%s\t%s\n", v, v.Created.Local().Format("2006-01-02 15:04"),
			gigabytes(v.Size), gigabytes(v.Allocated), text.Escape(v.Origin), text.Escape(v.Comment))
	}
	return t.Flush()
}
