package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"clonecast/internal/chunkstore"
	"clonecast/internal/chunkstore/local"
	"clonecast/internal/image"
	"clonecast/server/api"
)

// shelf is where versions can be listed, shown and deleted: a server, or a store on this computer.
type shelf interface {
	versions(ctx context.Context) ([]shelved, error)
	show(ctx context.Context, v shelved) (shownVersion, error)
	delete(ctx context.Context, v shelved) error
	close() error
}

// shelved is a version on a shelf.
type shelved struct {
	Image     string    `json:"image"`
	Sequence  uint64    `json:"sequence"`
	ID        string    `json:"version"`
	Created   time.Time `json:"created"`
	Comment   string    `json:"comment"`
	Origin    string    `json:"origin"`
	Disks     int       `json:"disk_count"`
	Size      int64     `json:"size"` // of the disks together
	Allocated int64     `json:"bytes_allocated"`
	Own       *int64    `json:"bytes_own_stored,omitempty"` // in the store, of chunks that no other version has
}

func (v shelved) String() string { return fmt.Sprintf("%s@%d", v.Image, v.Sequence) }

// shownVersion is a version with its disks.
type shownVersion struct {
	shelved
	Creator string           `json:"creator"`
	Engine  string           `json:"engine"`
	Layout  []api.DiskDetail `json:"disks"`
}

// openShelf opens the server, or the store in a directory, for reading or also for deletions.
func openShelf(ctx context.Context, c *connection, dir string, open func(string) (*local.Store, error)) (shelf, error) {
	if dir == "" {
		cl, err := c.open(ctx)
		return serverShelf{cl}, err
	}
	store, err := open(dir)
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
			list = append(list, shelvedThere(v))
		}
	}
	return list, nil
}

func shelvedThere(v api.Version) shelved {
	return shelved{v.Image, v.Sequence, v.ID, v.Created, v.Comment, v.Origin, v.Disks, v.DiskBytes, v.Allocated, nil}
}

func (s serverShelf) path(v shelved) string {
	return "/api/v1/images/" + url.PathEscape(v.Image+"@"+v.ID)
}

func (s serverShelf) show(ctx context.Context, v shelved) (shownVersion, error) {
	var d api.ImageDetail
	if err := s.call(ctx, "GET", s.path(v), nil, &d); err != nil {
		return shownVersion{}, err
	}
	return shownVersion{shelvedThere(d.Version), d.Creator, d.Engine, d.Layout}, nil
}

func (s serverShelf) delete(ctx context.Context, v shelved) error {
	return s.call(ctx, "DELETE", s.path(v), nil, &api.Version{})
}

func (s serverShelf) close() error { return nil }

type storeShelf struct{ chunkstore.Store }

// versions tells what each takes, unless the store has damage that must be deleted first.
func (s storeShelf) versions(ctx context.Context) ([]shelved, error) {
	if stats, err := s.Stats(ctx); err == nil {
		var list []shelved
		for _, v := range stats.Versions {
			list = append(list, shelvedHere(v.Version, &v.OwnStored))
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
			list = append(list, shelvedHere(v, nil))
		}
	}
	return list, nil
}

func shelvedHere(v image.Version, own *int64) shelved {
	return shelved{v.Image, v.Sequence, v.ID.String(), time.Unix(v.Created, 0).UTC(), v.Comment, v.Origin, v.Disks,
		int64(v.DiskBytes), int64(v.Allocated), own}
}

func (s storeShelf) show(ctx context.Context, v shelved) (shownVersion, error) {
	m, _, err := findVersion(ctx, s, v.String())
	if err != nil {
		return shownVersion{}, err
	}
	shown := shownVersion{v, m.Creator, m.Engine, []api.DiskDetail{}}
	for _, d := range m.Disks {
		shown.Layout = append(shown.Layout, api.DetailOf(d))
	}
	return shown, nil
}

func (s storeShelf) delete(ctx context.Context, v shelved) error {
	return s.Delete(ctx, v.Image, v.Sequence)
}

func (s storeShelf) close() error { return s.Close() }

// noVersion is the error of a reference that fits nothing, with what there is.
func noVersion(list []shelved, ref string) error {
	name, _, one := strings.Cut(ref, "@")
	var names, numbers []string
	for _, v := range list {
		if len(names) == 0 || names[len(names)-1] != v.Image {
			names = append(names, v.Image)
		}
		if v.Image == name {
			numbers = append(numbers, fmt.Sprint(v.Sequence))
		}
	}
	hint := "there is no image at all"
	switch near := closest(name, names); {
	case one && len(numbers) > 0:
		hint = fmt.Sprintf("%s has the %s %s", name, plural(len(numbers), "version"), someOf(numbers))
	case near != "" && len(names) == 1:
		hint = fmt.Sprintf("did you mean %s? there is no other image", near)
	case near != "":
		hint = fmt.Sprintf("did you mean %s? there are %s", near, someOf(names))
	case len(names) == 1:
		hint = "there is only " + names[0]
	case len(names) > 0:
		hint = "there are " + someOf(names)
	}
	return withCode(exitNotFound, fmt.Errorf("image %s: %w", ref, chunkstore.ErrNotFound), hint)
}

// someOf lists names, the last ones if they are many.
func someOf(names []string) string {
	const most = 12
	if more := len(names) - most; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[more:], ", "), more)
	}
	return strings.Join(names, ", ")
}
