package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"clonecast/internal/image"
	"clonecast/internal/quantity"
	"clonecast/internal/text"

	"github.com/spf13/cobra"
)

// removeOptions are what delete and prune have in common.
type removeOptions struct {
	store       string
	yes, dryRun bool
}

func (o *removeOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.store, "store", "", hereUsage)
	f.BoolVar(&o.yes, "yes", false, "do not ask")
	f.BoolVar(&o.dryRun, "dry-run", false, "show what would be deleted, delete nothing")
}

func newImageDeleteCmd(c *connection) *cobra.Command {
	var o removeOptions
	cmd := &cobra.Command{
		Use:   "delete IMAGE[@VERSION] [--store DIR]",
		Short: "Delete a version, or an image with all its versions",
		Long: `Delete a version of an image, or without @VERSION the image with all its versions. What
will be deleted is shown first; --yes answers the question. A version that a waiting or running
task deploys is refused. The space is free after the next collections, see 'clonecast store gc'.`,
		Args: words("IMAGE"),
		RunE: func(cmd *cobra.Command, a []string) error {
			return runRemove(cmd, c, o, func(list []shelved) ([]shelved, error) { return selectReference(list, a[0]) })
		},
	}
	o.flags(cmd)
	return cmd
}

// selectReference finds the versions that IMAGE, IMAGE@NUMBER or IMAGE@ID means.
func selectReference(list []shelved, ref string) ([]shelved, error) {
	name, which, one := strings.Cut(ref, "@")
	if err := image.CheckName(name); err != nil {
		return nil, withCode(exitUsage, err, "")
	}
	number, _ := strconv.ParseUint(which, 10, 64)
	var found []shelved
	for _, v := range list {
		named := !one || v.Sequence == number && number > 0 || len(which) >= 8 && strings.HasPrefix(v.ID, which)
		if v.Image == name && named {
			found = append(found, v)
		}
	}
	switch {
	case len(found) == 0:
		return nil, noVersion(list, ref)
	case one && len(found) > 1:
		return nil, withCode(exitRefused, fmt.Errorf("%s means %d versions", ref, len(found)), "give more digits")
	}
	return found, nil
}

type pruneRule struct{ keep, days int }

func newImagePruneCmd(c *connection) *cobra.Command {
	var o removeOptions
	var rule pruneRule
	cmd := &cobra.Command{
		Use:   "prune [IMAGE …] --keep N | --keep-days D [--store DIR]",
		Short: "Delete old versions",
		Long: `Delete versions that are neither among the newest N of their image (--keep) nor younger than D days
(--keep-days). The newest version of an image always stays. Without IMAGE it is done for every image. What will be
deleted is shown first; --yes answers the question. The age is that of the store's clock when it was captured.`,
		Args: words("[IMAGE…]"),
		RunE: func(cmd *cobra.Command, names []string) error {
			if rule.keep < 0 || rule.days < 0 || rule.keep+rule.days == 0 {
				return usage(cmd, errors.New("say what stays: --keep N or --keep-days D, both from 1 on"))
			}
			return runRemove(cmd, c, o, func(list []shelved) ([]shelved, error) { return rule.choose(list, names, time.Now()) })
		},
	}
	o.flags(cmd)
	cmd.Flags().IntVar(&rule.keep, "keep", 0, "keep the newest `N` versions of each image")
	cmd.Flags().IntVar(&rule.days, "keep-days", 0, "keep versions that are younger than `D` days")
	return cmd
}

// choose lists the versions that no rule keeps.
func (r pruneRule) choose(list []shelved, names []string, now time.Time) ([]shelved, error) {
	versions := map[string][]shelved{}
	for _, v := range list { // by sequence
		versions[v.Image] = append(versions[v.Image], v)
	}
	if len(names) == 0 {
		for _, v := range list {
			if v.Sequence == versions[v.Image][0].Sequence {
				names = append(names, v.Image)
			}
		}
	}
	var old []shelved
	for _, name := range names {
		all := versions[name]
		if all == nil {
			return nil, noVersion(list, name)
		}
		for _, v := range all[:max(0, len(all)-max(r.keep, 1))] {
			if r.days == 0 || now.Sub(v.Created) >= time.Duration(r.days)*24*time.Hour {
				old = append(old, v)
			}
		}
	}
	return old, nil
}

// runRemove shows the chosen versions, asks, and deletes them.
func runRemove(
	cmd *cobra.Command, c *connection, o removeOptions, choose func([]shelved) ([]shelved, error),
) (err error) {
	ctx, rep := cmd.Context(), newReporter(cmd, c.json)
	defer rep.close()
	from, err := openShelf(ctx, c, o.store, openStoreForWriting)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.close()) }()
	list, err := from.versions(ctx)
	if err != nil {
		return err
	}
	chosen, err := choose(list)
	if err != nil {
		return err
	}
	if len(chosen) > 0 && !o.yes && !o.dryRun {
		if err := confirmRemove(ctx, rep.stderr, cmd.InOrStdin(), chosen); err != nil {
			return err
		}
	}
	if o.dryRun && !c.json {
		if err := printRemoval(rep.stdout, chosen); err != nil {
			return err
		}
	}
	for _, v := range chosen {
		if !o.dryRun {
			if err := from.delete(ctx, v); err != nil {
				return fmt.Errorf("%v: %w", v, err)
			}
			rep.printf("deleted %v\n", v)
		}
		if err := rep.event("version", v); err != nil {
			return err
		}
	}
	if len(chosen) == 0 {
		rep.printf("no version to delete\n")
	}
	return rep.summary(removeSummary{o.dryRun, len(chosen)})
}

type removeSummary struct {
	DryRun   bool `json:"dry_run"`
	Versions int  `json:"versions"`
}

func printRemoval(w io.Writer, list []shelved) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, v := range list {
		own := ""
		if v.Own != nil {
			own = fmt.Sprintf("frees %v", quantity.Bytes(*v.Own))
		}
		fmt.Fprintf(t, "  %v\t%s\t%s\t%s\n", v, v.Created.Local().Format("2006-01-02 15:04"), own, text.Escape(v.Comment))
	}
	return t.Flush()
}

func confirmRemove(ctx context.Context, w io.Writer, in io.Reader, list []shelved) error {
	fmt.Fprintf(w, "%d %s will be deleted:\n", len(list), plural(len(list), "version"))
	if err := printRemoval(w, list); err != nil {
		return err
	}
	return askYes(ctx, w, in, "nothing was deleted",
		"add --yes when you are sure, or --dry-run to see what would be deleted")
}
