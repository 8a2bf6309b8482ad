package main

import (
	"context"
	"errors"
	"fmt"

	"clonecast/internal/chunk"
	"clonecast/internal/chunkstore/diff"
	"clonecast/internal/quantity"
	"clonecast/internal/text"

	"github.com/spf13/cobra"
)

type imageDiffOptions struct {
	store         string
	ranges, files bool
}

func newImageDiffCmd(c *connection) *cobra.Command {
	var o imageDiffOptions
	cmd := &cobra.Command{
		Use:   "diff A[@VERSION] B[@VERSION] --store DIR",
		Short: "Show where two versions differ",
		Long: `Show for each partition, boot area and table how many bytes differ between two versions: changed
(both store them), new (only B stores them), freed (only A stores them). A deploy of B to a disk that holds
A writes about what is changed and new. The unit is 4 KiB. --ranges lists the places, from the start of the
partition. --files lists the files that read differently, were added or removed, where the file system is
ext2, ext3, ext4, FAT or NTFS and both captures found it clean; names, times and rights are not compared.

Exit codes: 0 ok, whether they differ or not, 1 failed, 2 wrong usage, 6 not found.`,
		Args: words("A", "B"),
		RunE: func(cmd *cobra.Command, a []string) error {
			rep := newReporter(cmd, c.json)
			defer rep.close()
			return runImageDiff(cmd.Context(), a[0], a[1], o, rep)
		},
	}
	cmd.Flags().StringVar(&o.store, "store", "", storeUsage)
	require(cmd, "store")
	cmd.Flags().BoolVar(&o.ranges, "ranges", false, "list the ranges")
	cmd.Flags().BoolVar(&o.files, "files", false, "list the files that differ (ext2, ext3, ext4, FAT, NTFS)")
	return cmd
}

type diffRange struct {
	Start  int64  `json:"start"`
	Length int64  `json:"size"`
	Kind   string `json:"kind"`
}

type diffRegion struct {
	Disk    int         `json:"disk"`
	Region  string      `json:"region"`
	Notes   []string    `json:"notes"`
	Changed int64       `json:"bytes_changed"`
	New     int64       `json:"bytes_new"`
	Freed   int64       `json:"bytes_freed"`
	Ranges  []diffRange `json:"ranges,omitempty"`
	Files   []diffFile  `json:"files,omitempty"`
	Unknown string      `json:"files_unknown,omitempty"`
}

type diffFile struct {
	Path  string `json:"path"`
	Kind  string `json:"kind"`
	Bytes int64  `json:"size"`
}

type diffSummary struct {
	A       string `json:"a"`
	B       string `json:"b"`
	Same    bool   `json:"same"`
	Changed int64  `json:"bytes_changed"`
	New     int64  `json:"bytes_new"`
	Freed   int64  `json:"bytes_freed"`
}

func runImageDiff(ctx context.Context, refA, refB string, o imageDiffOptions, rep *reporter) (err error) {
	store, err := openStore(o.store)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	pin, err := store.Pin(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pin.Close()) }()
	a, idA, err := findVersion(ctx, store, refA)
	if err != nil {
		return diskError(err)
	}
	b, idB, err := findVersion(ctx, store, refB)
	if err != nil {
		return diskError(err)
	}
	regions, err := diff.Versions(ctx, store, a, b, diff.Options{
		Files:    o.files,
		Progress: func(done, total int64) { rep.progress("compare", done*int64(chunk.Size), total*int64(chunk.Size)) },
	})
	if err != nil {
		return err
	}
	s := diffSummary{A: idA.String(), B: idB.String(), Same: len(regions) == 0}
	for _, r := range regions {
		shown := diffRegion{
			Disk: r.Disk, Region: r.Name, Notes: append([]string{}, r.Notes...),
			Changed: int64(r.Total(diff.Changed)), New: int64(r.Total(diff.New)), Freed: int64(r.Total(diff.Freed)),
			Unknown: r.FilesUnknown,
		}
		for _, x := range r.Ranges {
			if o.ranges {
				shown.Ranges = append(shown.Ranges, diffRange{int64(x.Start), int64(x.Length), string(x.Kind)})
			}
		}
		for _, f := range r.Files {
			shown.Files = append(shown.Files, diffFile{f.Path, string(f.Kind), int64(f.Size)})
		}
		s.Changed, s.New, s.Freed = s.Changed+shown.Changed, s.New+shown.New, s.Freed+shown.Freed
		printRegion(rep, shown, max(len(a.Disks), len(b.Disks)) > 1)
		if err := rep.event("region", shown); err != nil {
			return err
		}
	}
	if s.Same {
		rep.printf("no difference\n")
	} else {
		rep.printf("together: %v changed, %v new, %v freed\n",
			quantity.Bytes(s.Changed), quantity.Bytes(s.New), quantity.Bytes(s.Freed))
	}
	return rep.summary(s)
}

func printRegion(rep *reporter, r diffRegion, manyDisks bool) {
	where := r.Region
	if manyDisks {
		where = fmt.Sprintf("disk %d, %s", r.Disk, where)
	}
	rep.printf("%s: %v changed, %v new, %v freed\n",
		where, quantity.Bytes(r.Changed), quantity.Bytes(r.New), quantity.Bytes(r.Freed))
	for _, n := range r.Notes {
		rep.printf("    %s\n", text.Escape(n))
	}
	for _, x := range r.Ranges {
		rep.printf("    %-7s %d bytes at %d\n", x.Kind, x.Length, x.Start)
	}
	for _, f := range r.Files {
		rep.printf("    %-7s %s (%v)\n", f.Kind, text.Escape(f.Path), quantity.Bytes(f.Bytes))
	}
	if r.Unknown != "" {
		rep.printf("    files are not compared: %s\n", text.Escape(r.Unknown))
	}
}
