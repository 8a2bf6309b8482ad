package main

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"clonecast/internal/chunkstore"
	"clonecast/internal/quantity"

	"github.com/spf13/cobra"
)

func newStoreStatsCmd() *cobra.Command {
	var dir string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "stats --store DIR",
		Short: "Show what images take in a store",
		Long: `Shows for every version what it holds and what of that is its own: chunks that no other version has, which a
deletion and a collection would free. "Stored" is the compressed size in the store.

Exit codes: 0 ok, 1 failed, 2 wrong usage, 6 there is no store.`,
		Args: words(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dir == "" {
				return usage(cmd, errors.New("--store is needed"))
			}
			rep := newReporter(cmd, asJSON)
			defer rep.close()
			return runStoreStats(cmd.Context(), dir, rep)
		},
	}
	cmd.Flags().StringVar(&dir, "store", "", "`directory` of the store")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print NDJSON: versions, then a summary")
	return cmd
}

type versionStats struct {
	Image        string    `json:"image"`
	Sequence     uint64    `json:"sequence"`
	ID           string    `json:"version"`
	Created      time.Time `json:"created"`
	Allocated    int64     `json:"bytes_allocated"`
	Chunks       int       `json:"chunks"`
	Own          int64     `json:"bytes_own"`
	Shared       int64     `json:"bytes_shared"`
	OwnStored    int64     `json:"bytes_own_stored"`
	SharedStored int64     `json:"bytes_shared_stored"`
}

type statsSummary struct {
	Versions int   `json:"versions"`
	Logical  int64 `json:"bytes_logical"`
	Unique   int64 `json:"bytes_unique"`
	Stored   int64 `json:"bytes_stored"`
	Packs    int   `json:"packs"`
	Bytes    int64 `json:"bytes_packs"`
	Waste    int64 `json:"bytes_waste"`
	Missing  int   `json:"chunks_missing"`
}

func runStoreStats(ctx context.Context, dir string, rep *reporter) (err error) {
	store, err := openStore(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	s, err := store.Stats(ctx)
	if err != nil {
		return err
	}
	for _, v := range s.Versions {
		err := rep.event("version", versionStats{v.Image, v.Sequence, v.ID.String(),
			time.Unix(v.Created, 0).UTC(), int64(v.Allocated), v.Chunks, v.Own, v.Shared, v.OwnStored, v.SharedStored})
		if err != nil {
			return err
		}
	}
	if !rep.json {
		if err := printStats(rep, s); err != nil {
			return err
		}
	}
	return rep.summary(statsSummary{
		Versions: len(s.Versions), Logical: s.Logical, Unique: s.Unique, Stored: s.Stored,
		Packs: s.Packs, Bytes: s.Bytes, Waste: s.Bytes - s.Stored, Missing: s.Missing,
	})
}

func printStats(rep *reporter, s chunkstore.Stats) error {
	size := func(n int64) quantity.Bytes { return quantity.Bytes(n) }
	t := tabwriter.NewWriter(rep.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "VERSION\tALLOCATED\tOWN\tOWN, STORED\tSHARED\tSHARED, STORED")
	for _, v := range s.Versions {
		fmt.Fprintf(t, "%s@%d\t%v\t%v\t%v\t%v\t%v\n", v.Image, v.Sequence, v.Allocated,
			size(v.Own), size(v.OwnStored), size(v.Shared), size(v.SharedStored))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	rep.printf("logical  %v in %d %s\n", size(s.Logical), len(s.Versions), plural(len(s.Versions), "version"))
	rep.printf("unique   %v of different chunks\n", size(s.Unique))
	rep.printf("stored   %v of the same, compressed\n", size(s.Stored))
	rep.printf("packs    %v in %d %s, %v of it not needed or there twice\n",
		size(s.Bytes), s.Packs, plural(s.Packs, "pack"), size(s.Bytes-s.Stored))
	if s.Missing > 0 {
		rep.printf("missing  %d chunks: run clonecast store check\n", s.Missing)
	}
	return nil
}
