package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"clonecast/internal/chunkstore"
	"clonecast/internal/chunkstore/local"
	"clonecast/internal/quantity"

	"github.com/spf13/cobra"
)

type storeRepairOptions struct {
	store, from string
	newKey      bool
	json        bool
}

func newStoreRepairCmd() *cobra.Command {
	var opts storeRepairOptions
	cmd := &cobra.Command{
		Use:   "repair --store DIR [--from OTHER] [--new-key]",
		Short: "Heal a damaged store, from a second one where needed",
		Long: `Reads and verifies everything. Format, keys and manifests that are lost come from their copies,
sound chunks of damaged packs move to new packs, indexes are made anew. Chunks, and manifests
without a sound copy, come from the store OTHER, which may be any store that has the same
content: a chunk is proven by its name, a manifest by the signature of a key that this store
trusts. What cannot be healed is reported, and what is left of it stays. It may run beside
captures and deploys and may be cut at any point.

A signing key that is lost with its copy should come from a backup. --new-key makes another one
in its place; versions that the old one signed stay good, and appliances must be built again.

Exit codes: 0 the store is sound now, 1 something is still lost, 2 wrong usage, 3 a collection
runs, 6 there is no store.`,
		Args: words(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if opts.store == "" {
				return usage(cmd, errors.New("--store is needed"))
			}
			rep := newReporter(cmd, opts.json)
			defer rep.close()
			return runStoreRepair(cmd.Context(), opts, rep)
		},
	}
	cmd.Flags().StringVar(&opts.store, "store", "", "`directory` of the store")
	cmd.Flags().StringVar(&opts.from, "from", "", "`directory` of a second store")
	cmd.Flags().BoolVar(&opts.newKey, "new-key", false, "make a new signing key when the old one is lost")
	cmd.Flags().BoolVar(&opts.json, "json", false, "print NDJSON: what was found, what is lost, a summary")
	return cmd
}

// repairSummary is the last line.
type repairSummary struct {
	Sound     bool     `json:"sound"`
	Bytes     int64    `json:"bytes_read"`
	Found     int      `json:"problems_found"`
	Restored  []string `json:"files_restored"`
	NewKey    bool     `json:"new_key"`
	Moved     int      `json:"chunks_moved"`
	Healed    int      `json:"chunks_healed"`
	Manifests []string `json:"manifests_healed"`
	Replaced  int      `json:"packs_replaced"`
	Lost      int      `json:"problems_left"`
}

func runStoreRepair(ctx context.Context, opts storeRepairOptions, rep *reporter) (err error) {
	var from chunkstore.Reader
	if opts.from != "" {
		if sameDirectory(opts.store, opts.from) {
			return withCode(exitUsage, errors.New("--from is the store itself"), "")
		}
		other, err := openStore(opts.from)
		if err != nil {
			return err
		}
		defer other.Close()
		from = other
	}
	store, err := local.Open(opts.store, local.Options{Damaged: true})
	if err != nil {
		return storeError(err)
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	r, err := store.Repair(ctx, local.RepairOptions{
		From: from, NewKey: opts.newKey,
		Progress: func(done, total int64) { rep.progress("read data", done, total) },
	})
	if errors.Is(err, chunkstore.ErrBusy) {
		return withCode(exitRefused, err, "run it again when the collection has ended")
	}
	if err != nil {
		return err
	}
	return printRepair(opts, r, rep)
}

func sameDirectory(a, b string) bool {
	one, err := os.Stat(a)
	other, err2 := os.Stat(b)
	return err == nil && err2 == nil && os.SameFile(one, other)
}

func printRepair(opts storeRepairOptions, r local.RepairReport, rep *reporter) error {
	for kind, list := range map[string][]chunkstore.Problem{"found": r.Found, "lost": r.Lost} {
		for _, p := range list {
			if err := rep.event(kind, storeProblem{p.Object, p.Problem, append([]string{}, p.Affects...)}); err != nil {
				return err
			}
		}
	}
	for _, p := range r.Found {
		rep.printf("found  %s: %s\n", p.Object, p.Problem)
	}
	for _, p := range r.Lost {
		affects := ""
		if len(p.Affects) > 0 {
			affects = " (affects " + strings.Join(p.Affects, ", ") + ")"
		}
		rep.printf("lost   %s: %s%s\n", p.Object, p.Problem, affects)
	}
	for _, file := range r.Restored {
		rep.printf("made anew  %s\n", file)
	}
	if r.NewKey {
		rep.printf("made a new signing key: build the appliances again, those that there are refuse what it signs\n")
	}
	rep.printf("%v read, %d %s found\n", quantity.Bytes(r.Bytes), len(r.Found), plural(len(r.Found), "problem"))
	if r.Moved+r.Healed+len(r.Manifests)+r.Replaced > 0 {
		rep.printf("%d %s moved out of damaged packs, %d healed from %s; %d %s healed; %d %s replaced\n",
			r.Moved, plural(r.Moved, "chunk"), r.Healed, orDash(opts.from),
			len(r.Manifests), plural(len(r.Manifests), "manifest"), r.Replaced, plural(r.Replaced, "pack"))
	}
	err := rep.summary(repairSummary{
		Sound: len(r.Lost) == 0, Bytes: r.Bytes, Found: len(r.Found), Restored: append([]string{}, r.Restored...),
		NewKey: r.NewKey, Moved: r.Moved, Healed: r.Healed, Manifests: append([]string{}, r.Manifests...),
		Replaced: r.Replaced, Lost: len(r.Lost),
	})
	if err == nil && len(r.Lost) > 0 {
		hint := "another store that has these versions can heal them: --from DIR; or capture the images again"
		err = fmt.Errorf("%s: %d %s could not be healed", opts.store, len(r.Lost), plural(len(r.Lost), "problem"))
		err = withCode(exitFailed, err, hint)
	}
	return err
}
