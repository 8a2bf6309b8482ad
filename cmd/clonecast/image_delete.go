package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"clonecast/internal/chunkstore"
	"clonecast/internal/image"
	"clonecast/internal/quantity"
	"clonecast/server/api"

	"github.com/spf13/cobra"
)

// shelf is where versions can be listed and deleted: a server, or a store on this computer.
type shelf interface {
	versions(ctx context.Context) ([]shelved, error)
	delete(ctx context.Context, v shelved) error
	close() error
}

// shelved is a version on a shelf.
type shelved struct {
	Image    string    `json:"image"`
	Sequence uint64    `json:"sequence"`
	ID       string    `json:"id"`
	Created  time.Time `json:"created"`
	Comment  string    `json:"comment"`
	Own      *int64    `json:"own_bytes,omitempty"` // in the store, of chunks that no other version has
}

func (v shelved) String() string { return fmt.Sprintf("%s@%d", v.Image, v.Sequence) }

func openShelf(ctx context.Context, c *connection, dir string) (shelf, error) {
	if dir == "" {
		cl, err := c.open(ctx)
		return serverShelf{cl}, err
	}
	store, err := openStoreForWriting(dir)
	return storeShelf{store}, err
}

type serverShelf struct{ *client }

func (s serverShelf) versions(ctx context.Context) ([]shelved, error) {
	var images []api.Image
	if err := s.call(ctx, "GET", "/api/v1/images", nil, &images); err != nil {
		return nil, err
	}
	var list []shelved
	for _, i := range images {
		for _, v := range i.Versions {
			list = append(list, shelved{v.Image, v.Sequence, v.ID, v.Created, v.Comment, nil})
		}
	}
	return list, nil
}

func (s serverShelf) delete(ctx context.Context, v shelved) error {
	return s.call(ctx, "DELETE", "/api/v1/images/"+url.PathEscape(v.Image+"@"+v.ID), nil, &api.Version{})
}

func (s serverShelf) close() error { return nil }

type storeShelf struct{ chunkstore.Store }

// versions tells what each takes, unless the store has damage that must be deleted first.
func (s storeShelf) versions(ctx context.Context) ([]shelved, error) {
	if stats, err := s.Stats(ctx); err == nil {
		var list []shelved
		for _, v := range stats.Versions {
			list = append(list, shelvedOf(v.Version, &v.OwnStored))
		}
		return list, nil
	}
	names, err := s.Images(ctx)
	if err != nil {
		return nil, err
	}
	var list []shelved
	for _, name := range names {
		versions, err := s.Versions(ctx, name)
		if err != nil && !errors.Is(err, chunkstore.ErrNotFound) {
			return nil, err
		}
		for _, v := range versions {
			list = append(list, shelvedOf(v, nil))
		}
	}
	return list, nil
}

func shelvedOf(v image.Version, own *int64) shelved {
	return shelved{v.Image, v.Sequence, v.ID.String(), time.Unix(v.Created, 0), v.Comment, own}
}

func (s storeShelf) delete(ctx context.Context, v shelved) error {
	return s.Delete(ctx, v.Image, v.Sequence)
}

func (s storeShelf) close() error { return s.Close() }

// removeOptions are what delete and prune have in common.
type removeOptions struct {
	store       string
	yes, dryRun bool
}

func (o *removeOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.store, "store", "", "`directory` of a store on this computer, instead of a server")
	f.BoolVar(&o.yes, "yes", false, "do not ask")
	f.BoolVar(&o.dryRun, "dry-run", false, "show what would be deleted, delete nothing")
}

func newImageDeleteCmd(c *connection) *cobra.Command {
	var o removeOptions
	cmd := &cobra.Command{
		Use:   "delete IMAGE[@VERSION] [--store DIR]",
		Short: "Delete a version, or an image with all its versions",
		Long: `Delete a version of an image, or without @VERSION the image with all its versions. What will be deleted is shown
first; --yes answers the question. A version that a waiting or running task deploys is refused. The space is free
after the next collections, see 'clonecast store gc'.

Exit codes: 0 ok, 1 failed, 2 wrong usage, 3 refused or declined, 6 not found.`,
		Args: args(cobra.ExactArgs(1)),
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
		if v.Image == name && (!one || v.Sequence == number && number > 0 || len(which) >= 8 && strings.HasPrefix(v.ID, which)) {
			found = append(found, v)
		}
	}
	switch {
	case len(found) == 0:
		return nil, withCode(exitNotFound, fmt.Errorf("image %s: %w", ref, chunkstore.ErrNotFound), "'clonecast image list' shows what there is")
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
deleted is shown first; --yes answers the question. The age is that of the store's clock when it was captured.

Exit codes: 0 ok, 1 failed, 2 wrong usage, 3 refused or declined, 6 not found.`,
		Args: args(cobra.ArbitraryArgs),
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
			return nil, withCode(exitNotFound, fmt.Errorf("image %s: %w", name, chunkstore.ErrNotFound), "'clonecast image list' shows what there is")
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
func runRemove(cmd *cobra.Command, c *connection, o removeOptions, choose func([]shelved) ([]shelved, error)) (err error) {
	ctx, rep := cmd.Context(), newReporter(cmd, c.json)
	defer rep.close()
	from, err := openShelf(ctx, c, o.store)
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
		if err := confirmRemove(rep.stderr, cmd.InOrStdin(), chosen); err != nil {
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
		fmt.Fprintf(t, "  %v\t%s\t%s\t%s\n", v, v.Created.Local().Format("2006-01-02 15:04"), own, printable(v.Comment))
	}
	return t.Flush()
}

func confirmRemove(w io.Writer, in io.Reader, list []shelved) error {
	fmt.Fprintf(w, "%d %s will be deleted:\n", len(list), plural(len(list), "version"))
	if err := printRemoval(w, list); err != nil {
		return err
	}
	return askYes(w, in, "nothing was deleted", "add --yes when you are sure, or --dry-run to see what would be deleted")
}
