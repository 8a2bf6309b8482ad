package builder

import (
	"context"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"clonecast/builder/debian"
	"clonecast/builder/kernel"
)

const maxFirmware = 64 << 20 // of one file

// firmwareFile is a file, or a symbolic link to another firmware file.
type firmwareFile struct {
	data []byte
	link string
}

// firmware takes what the chosen modules name from the class's packages. A
// package that cannot be had is no error, its files are reported as missing:
// most cards work, or work well enough, without.
func (o Options) firmware(ctx context.Context, set kernel.Set) (map[string]firmwareFile, []string, error) {
	wanted := map[string]bool{}
	for _, m := range set.Modules {
		for _, name := range m.Info.Firmware {
			if !slices.ContainsFunc(o.Class.Firmware.Exclude, func(pattern string) bool { return matchPath(pattern, name) }) {
				wanted[name] = true
			}
		}
	}
	all := map[string]firmwareFile{}
	for _, name := range o.Class.Firmware.Packages {
		file, err := debian.Fetch(ctx, name, o.Cache, o.Log)
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		if err != nil {
			o.Log.Warn("firmware package is not to be had; is non-free-firmware in apt's sources?", "package", name)
			continue
		}
		if err := readFirmware(ctx, file, all); err != nil {
			return nil, nil, err
		}
	}
	chosen, missing := chooseFirmware(wanted, all)
	return chosen, missing, nil
}

// readFirmware adds the firmware files of a package to all.
func readFirmware(ctx context.Context, file string, all map[string]firmwareFile) error {
	return debian.Walk(ctx, file, func(f debian.File, r io.Reader) error {
		name, ok := strings.CutPrefix(strings.TrimPrefix(f.Name, "usr/"), "lib/firmware/")
		if !ok {
			return nil
		}
		if f.Link != "" {
			all[name] = firmwareFile{link: f.Link}
			return nil
		}
		if f.Size > maxFirmware {
			return fmt.Errorf("firmware file has %d bytes", f.Size)
		}
		data, err := io.ReadAll(r)
		all[name] = firmwareFile{data: data}
		return err
	})
}

// chooseFirmware picks the files that a wanted name or pattern matches, follows
// links to their targets, and lists the names that match nothing.
func chooseFirmware(wanted map[string]bool, all map[string]firmwareFile) (map[string]firmwareFile, []string) {
	chosen := map[string]firmwareFile{}
	var missing []string
	for _, pattern := range slices.Sorted(maps.Keys(wanted)) {
		found := false
		for name := range all {
			if name == pattern || matchPath(pattern, name) {
				found = takeFirmware(name, all, chosen) || found
			}
		}
		if !found {
			missing = append(missing, pattern)
		}
	}
	return chosen, missing
}

// takeFirmware chooses name and what it links to; false, and nothing chosen, if
// the links lead nowhere.
func takeFirmware(name string, all, chosen map[string]firmwareFile) bool {
	taken := map[string]firmwareFile{}
	for range 8 {
		f, ok := all[name]
		if !ok {
			return false
		}
		taken[name] = f
		if f.link == "" {
			maps.Copy(chosen, taken)
			return true
		}
		name = path.Join(path.Dir(name), f.link)
	}
	return false
}

func matchPath(pattern, name string) bool {
	ok, err := path.Match(pattern, name)
	return ok && err == nil
}
