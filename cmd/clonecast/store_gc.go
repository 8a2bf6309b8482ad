package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"clonecast/internal/chunkstore"
	"clonecast/internal/quantity"
	"clonecast/server/api"

	"github.com/spf13/cobra"
)

type storeGCOptions struct {
	store  string
	dryRun bool
	minAge time.Duration
}

func newStoreGCCmd() *cobra.Command {
	var c connection
	var opts storeGCOptions
	cmd := &cobra.Command{
		Use:   "gc [--store DIR] [--dry-run]",
		Short: "Free the space of deleted versions",
		Long: `Removes chunks that no version needs, in two steps: the first collection condemns packs, and one
that comes at least --min-age later removes them, when every capture and deploy that ran at the first one has ended.
Of packs that are needed less than half, the needed chunks move to new packs. It may run beside captures and deploys
and may be cut at any point. With --min-age 0 both steps are done at once, if nobody captures or reads.

A server does this once a day by itself. Without --store the running server is asked to do it now.

Exit codes: 0 ok, 1 failed, 2 wrong usage, 3 another collection runs, 6 there is no store.`,
		Args: words(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if opts.minAge < 0 {
				return usage(cmd, fmt.Errorf("--min-age is %v", opts.minAge))
			}
			rep := newReporter(cmd, c.json)
			defer rep.close()
			return runStoreGC(cmd.Context(), &c, opts, rep)
		},
	}
	c.flags(cmd)
	cmd.Flags().StringVar(&opts.store, "store", "", "`directory` of a store on this computer, instead of a server")
	cmd.Flags().BoolVar(&opts.dryRun, "dry-run", false, "say what there is to do, change nothing")
	cmd.Flags().DurationVar(&opts.minAge, "min-age", chunkstore.DefaultMinAge, "how long unneeded chunks stay")
	return cmd
}

// gcSummary is the last line.
type gcSummary struct {
	DryRun bool `json:"dry_run"`
	chunkstore.CollectReport
}

func runStoreGC(ctx context.Context, c *connection, opts storeGCOptions, rep *reporter) error {
	collect := collectOnServer
	if opts.store != "" {
		collect = collectHere
	}
	r, err := collect(ctx, c, opts, rep)
	if errors.Is(err, chunkstore.ErrBusy) {
		return withCode(exitRefused, err, "")
	}
	if err != nil {
		return err
	}
	printCollect(opts, r, rep)
	return rep.summary(gcSummary{opts.dryRun, r})
}

func collectHere(
	ctx context.Context, _ *connection, opts storeGCOptions, rep *reporter,
) (r chunkstore.CollectReport, err error) {
	open := openStoreForWriting
	if opts.dryRun {
		open = openStore
	}
	store, err := open(opts.store)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	return store.Collect(ctx, chunkstore.CollectOptions{
		DryRun: opts.dryRun, MinAge: opts.minAge,
		Progress: func(done, total int64) { rep.progress("collect", done, total) },
	})
}

func collectOnServer(
	ctx context.Context, c *connection, opts storeGCOptions, _ *reporter,
) (r chunkstore.CollectReport, err error) {
	cl, err := c.open(ctx)
	if err != nil {
		return r, err
	}
	order := api.Collect{DryRun: opts.dryRun, MinAgeSeconds: int64(opts.minAge / time.Second)}
	err = cl.call(ctx, "POST", "/api/v1/store/collect", order, &r)
	return r, err
}

func printCollect(opts storeGCOptions, r chunkstore.CollectReport, rep *reporter) {
	size := func(n int64) quantity.Bytes { return quantity.Bytes(n) }
	rep.printf("%d %s, %v in packs, %v of it needed\n",
		r.Versions, plural(r.Versions, "version"), size(r.Bytes), size(r.Live))
	if r.Removed > 0 {
		rep.printf("removed %d %s, %v\n", r.Removed, plural(r.Removed, "pack"), size(r.Freed))
	}
	if r.Rewritten > 0 {
		verb := "moved"
		if opts.dryRun {
			verb = "would move"
		}
		rep.printf("%s %v of needed chunks to new packs\n", verb, size(r.Rewritten))
	}
	for _, k := range r.Kept {
		rep.printf("kept %s\n", k)
	}
	switch {
	case r.Condemned > 0 && opts.dryRun:
		rep.printf("to remove: %d %s, %v\n", r.Condemned, plural(r.Condemned, "pack"), size(r.Waiting))
	case r.Condemned > 0 && r.Pinned:
		rep.printf("condemned: %d %s, %v; a capture or reader that ran before still needs them\n",
			r.Condemned, plural(r.Condemned, "pack"), size(r.Waiting))
	case r.Condemned > 0:
		rep.printf("condemned: %d %s, %v; a collection from %s on removes them\n",
			r.Condemned, plural(r.Condemned, "pack"), size(r.Waiting), r.Due.Local().Format("2006-01-02 15:04"))
	case r.Removed == 0:
		rep.printf("nothing to remove\n")
	}
}
