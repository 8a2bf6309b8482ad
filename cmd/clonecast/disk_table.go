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
			if old, err := os.ReadFile(try); err == nil && bytes.Equal(old, content) {
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

func newDiskRestoreTableCmd() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "restore-table FILE PATH",
		Short: "Put a partition table back that a deploy saved",
		Long: `Put the partition table and boot areas back that a deploy saved before it overwrote them. The content of the
partitions is what the deploy left. The disk must be the one that the table was saved from: same size, sectors and serial number.`,
		Args: args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, a []string) error {
			return runDiskRestoreTable(a[0], a[1], yes, cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

func runDiskRestoreTable(file, path string, yes bool, in io.Reader, stdout, stderr io.Writer) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return diskError(err)
	}
	c, err := saved.Parse(b)
	if err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	dev, err := blockdev.OpenExclusive(path)
	if err != nil {
		return diskError(err)
	}
	defer dev.Close()
	if !yes {
		if err := askable(in, "the partition table of "+path+" would be overwritten", "add --yes when you are sure"); err != nil {
			return err
		}
		fmt.Fprintf(stderr, "the %s table in %s will be written to\n  %s\n", c.Table, file, dev)
		if err := ask(stderr, in, "The table that is there will be lost."); err != nil {
			return err
		}
	}
	if err := deploy.Restore(dev, geometry(dev), c); err != nil {
		return diskError(fmt.Errorf("restore the table of %s: %w", path, err))
	}
	if err := dev.RereadPartitions(); err != nil {
		return fmt.Errorf("the table is restored, but the kernel still shows the old partitions of %s: %w", path, err)
	}
	_, err = fmt.Fprintf(stdout, "the partition table of %s is what it was\n", path)
	return err
}
