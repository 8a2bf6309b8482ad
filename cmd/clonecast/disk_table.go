package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"clonecast/internal/blockdev"
	"clonecast/internal/clone/deploy"
	"clonecast/internal/partition/saved"
	"clonecast/internal/text"

	"github.com/spf13/cobra"
)

// tableSaver writes old partition tables to files.
type tableSaver struct {
	paths []string // of the targets
	file  string   // that the user named
	rep   *reporter
	saved []string
}

// save makes the table of a disk durable before the disk is written.
func (s *tableSaver) save(_ context.Context, disk int, c saved.Copy) error {
	content, err := c.Marshal()
	if err != nil {
		return err
	}
	name := s.file
	if name == "" {
		name = s.paths[disk] + ".old-table.json"
		if info, err := os.Stat(s.paths[disk]); err == nil && !info.Mode().IsRegular() {
			name = "clonecast-" + filepath.Base(name)
		}
	}
	if name, err = writeOnce(name, content); err != nil {
		return fmt.Errorf("%w; --save-table FILE puts it elsewhere", err)
	}
	s.saved = append(s.saved, name)
	s.rep.printf("the old partition table of %s is saved in %s\n", s.paths[disk], name)
	return nil
}

// writeOnce writes a new file: NAME, or NAME.2 and so on if that is taken by other content.
// It returns the name.
func writeOnce(name string, content []byte) (string, error) {
	for i := 1; ; i++ {
		try := name
		if i > 1 {
			try = fmt.Sprintf("%s.%d", name, i)
		}
		f, err := os.OpenFile(try, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if errors.Is(err, fs.ErrExist) {
			if old, err := readInput(try, maxSavedTable); err == nil && bytes.Equal(old, content) {
				return try, nil
			}
			continue
		}
		if err != nil {
			return "", err
		}
		_, err = f.Write(content)
		if err = errors.Join(err, f.Sync(), f.Close(), syncDirectory(filepath.Dir(try))); err != nil {
			return "", errors.Join(err, os.Remove(try))
		}
		return try, nil
	}
}

func syncDirectory(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

type restoreTableOptions struct{ yes, json bool }

func newDiskRestoreTableCmd() *cobra.Command {
	var opts restoreTableOptions
	cmd := &cobra.Command{
		Use:   "restore-table FILE PATH",
		Short: "Put a partition table back that a deploy saved",
		Long: `Put the partition table and boot areas back that a deploy saved before it overwrote
them. The content of the partitions is what the deploy left. The disk must be the one that the
table was saved from: same size, sectors and serial number.`,
		Args: words("FILE", "PATH"),
		RunE: func(cmd *cobra.Command, a []string) error {
			return runDiskRestoreTable(cmd.Context(), a[0], a[1], opts, newReporter(cmd, opts.json), cmd.InOrStdin())
		},
	}
	cmd.Flags().BoolVar(&opts.yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&opts.json, "json", false, jsonUsage)
	return cmd
}

// maxSavedTable bounds a file of a saved table, which holds boot areas of some MiB as text.
const maxSavedTable = 256 << 20

type restoreTableSummary struct {
	Path  string `json:"path"`
	Table string `json:"table"`
}

func runDiskRestoreTable(
	ctx context.Context, file, path string, opts restoreTableOptions, rep *reporter, in io.Reader,
) error {
	b, err := readInput(file, maxSavedTable)
	if err != nil {
		return err
	}
	c, err := saved.Parse(b)
	if err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	dev, err := openDisk(path, blockdev.OpenExclusive)
	if err != nil {
		return err
	}
	defer dev.Close()
	if !dev.Block { // a file has no sectors of its own
		dev.LogicalSector = c.Sector
	}
	if !opts.yes {
		err := askable(in, "the partition table of "+path+" would be overwritten", "add --yes when you are sure")
		if err != nil {
			return err
		}
		fmt.Fprintf(rep.stderr, "the %s table in %s will be written to\n  %s\nThe table that is there will be lost. ",
			c.Table, text.Escape(file), dev)
		if err := askYes(ctx, rep.stderr, in, "nothing was written", ""); err != nil {
			return err
		}
	}
	if err := deploy.Restore(dev, geometry(dev), c); err != nil {
		return diskError(fmt.Errorf("restore the table of %s: %w", path, err))
	}
	if err := dev.RereadPartitions(); err != nil {
		return fmt.Errorf("the table is restored, but the kernel still shows the old partitions of %s: %w", path, err)
	}
	rep.printf("the partition table of %s is what it was\n", text.Escape(path))
	return rep.summary(restoreTableSummary{path, fmt.Sprint(c.Table)})
}
