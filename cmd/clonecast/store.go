package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"clonecast/internal/chunkstore"
	"clonecast/internal/chunkstore/local"
	"clonecast/internal/quantity"

	"github.com/spf13/cobra"
)

func newStoreCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "store",
		Short: "Look after the chunk store",
		Args:  words(),
	}
	cmd.AddCommand(newStoreCheckCmd(), newStoreStatsCmd(), newStoreGCCmd(), newStoreRepairCmd())
	return cmd
}

type storeCheckOptions struct {
	store    string
	readData bool
	json     bool
}

func newStoreCheckCmd() *cobra.Command {
	var opts storeCheckOptions
	cmd := &cobra.Command{
		Use:   "check --store DIR",
		Short: "Find damage in a chunk store",
		Long: `Compares packs with their indexes and every file that is kept twice with its copy, proves
the signature of every version and looks up all of its chunks. With --read-data it also reads
and verifies every byte. Each file that is lost or damaged is named, with what that means.

The check changes nothing and may run while the server captures and deploys.

Exit codes: 0 the store is sound, 1 damage was found, 2 wrong usage, 6 there is no store.`,
		Args: words(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if opts.store == "" {
				return usage(cmd, errors.New("--store is needed"))
			}
			out := newReporter(cmd, opts.json)
			defer out.close()
			return runStoreCheck(cmd.Context(), opts, out)
		},
	}
	cmd.Flags().StringVar(&opts.store, "store", "", "`directory` of the store")
	cmd.Flags().BoolVar(&opts.readData, "read-data", false, "read and verify every chunk")
	cmd.Flags().BoolVar(&opts.json, "json", false, "print NDJSON: problems, then a summary")
	return cmd
}

// storeProblem is a line of type "problem".
type storeProblem struct {
	Object  string   `json:"object"`
	Problem string   `json:"problem"`
	Affects []string `json:"affects"`
}

// storeSummary is the last line.
type storeSummary struct {
	Sound     bool  `json:"sound"`
	ReadData  bool  `json:"read_data"`
	Versions  int   `json:"versions"`
	Packs     int   `json:"packs"`
	Chunks    int   `json:"chunks"`
	Bytes     int64 `json:"bytes_packs"`
	BytesRead int64 `json:"bytes_read"`
	Problems  int   `json:"problems"`
}

func runStoreCheck(ctx context.Context, opts storeCheckOptions, out *reporter) error {
	store, err := local.Open(opts.store, local.Options{ReadOnly: true, Damaged: true})
	if errors.Is(err, chunkstore.ErrNotStore) {
		return withCode(exitNotFound, err,
			"a store is a directory that holds a file \"format\"; the server makes it when it starts")
	}
	if err != nil {
		return err
	}
	defer store.Close()
	phase := "check structure"
	if opts.readData {
		phase = "read data"
	}
	r, err := store.Check(ctx, chunkstore.CheckOptions{
		ReadData: opts.readData,
		Progress: func(done, total int64) { out.progress(phase, done, total) },
	})
	if err != nil {
		return err
	}
	if err := printCheck(opts, r, out); err != nil {
		return err
	}
	if n := len(r.Problems); n > 0 {
		return withCode(exitFailed, fmt.Errorf("%s: %d %s", opts.store, n, plural(n, "problem")), checkHint(opts, r))
	}
	return nil
}

func printCheck(opts storeCheckOptions, r chunkstore.CheckReport, out *reporter) error {
	for _, p := range r.Problems {
		affects := "no version is lost by it"
		if len(p.Affects) > 0 {
			affects = "affects " + strings.Join(p.Affects, ", ")
		}
		out.printf("%s: %s (%s)\n", p.Object, p.Problem, affects)
		if err := out.event("problem", storeProblem{p.Object, p.Problem, append([]string{}, p.Affects...)}); err != nil {
			return err
		}
	}
	read := "structure only"
	if opts.readData {
		read = fmt.Sprintf("%v read and verified", quantity.Bytes(r.BytesRead))
	}
	out.printf("%d %s, %d %s, %d %s, %v in packs, %s\n", r.Versions, plural(r.Versions, "version"),
		r.Packs, plural(r.Packs, "pack"), r.Chunks, plural(r.Chunks, "chunk"), quantity.Bytes(r.Bytes), read)
	return out.summary(storeSummary{
		Sound: len(r.Problems) == 0, ReadData: opts.readData, Versions: r.Versions, Packs: r.Packs, Chunks: r.Chunks,
		Bytes: r.Bytes, BytesRead: r.BytesRead, Problems: len(r.Problems),
	})
}

func checkHint(opts storeCheckOptions, r chunkstore.CheckReport) string {
	for _, p := range r.Problems {
		if len(p.Affects) > 0 {
			return "clonecast store repair --from a second store heals them; else capture the affected images again"
		}
	}
	if !opts.readData {
		return "no version is affected as far as the structure shows; run it again with --read-data, " +
			"then clonecast store repair"
	}
	return "no version is affected; clonecast store repair makes anew what can be made"
}

func plural(n int, noun string) string {
	if n == 1 {
		return noun
	}
	return noun + "s"
}
