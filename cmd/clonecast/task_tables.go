package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"time"

	"clonecast/internal/partition/saved"
	"clonecast/internal/text"
	"clonecast/server/tasks"

	"github.com/spf13/cobra"
)

func newTaskTablesCmd(c *connection) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "tables TASK", Short: "Show or fetch the partition tables that a task overwrote", Args: words("TASK"),
		Long: `Show the partition tables that a deploy saved before it overwrote them; with --output write each to a file of
that directory. 'clonecast disk restore-table FILE PATH' puts one back, run on a live system on the machine itself.`,
		RunE: func(cmd *cobra.Command, a []string) error {
			return runTaskTables(cmd.Context(), c, a[0], output, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&output, "output", "", "write the tables to files in `DIR`")
	return cmd
}

func runTaskTables(ctx context.Context, c *connection, task, output string, w io.Writer) error {
	cl, err := c.open(ctx)
	if err != nil {
		return err
	}
	var list []tasks.SavedTable
	if err := cl.call(ctx, "GET", "/api/v1/tasks/"+url.PathEscape(task)+"/tables", nil, &list); err != nil {
		return err
	}
	if c.json {
		return printList(w, "table", list)
	}
	if len(list) == 0 {
		_, err := fmt.Fprintf(w, "task %s overwrote no partition table\n", task)
		return err
	}
	for _, t := range list {
		table, err := saved.Parse(t.Table)
		if err != nil {
			return fmt.Errorf("the server's answer: %w", err)
		}
		fmt.Fprintf(w, "%s, disk %d: %s table of %s %s, %v, saved %s\n",
			t.Machine, t.Disk+1, table.Table, orDash(text.Escape(table.Model)), orDash(text.Escape(table.Serial)),
			table.Size, t.Saved.Local().Format(time.DateTime))
		if output == "" {
			continue
		}
		content, err := table.Marshal()
		if err != nil {
			return err
		}
		// A machine's name is a host name: no path separator.
		file := fmt.Sprintf("task%s-%s-disk%d.old-table.json", filepath.Base(task), filepath.Base(t.Machine), t.Disk+1)
		name, err := writeOnce(filepath.Join(output, file), content)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "  written to %s\n", name)
	}
	return nil
}
