// Package kernel takes a Linux kernel and the modules that a hardware class needs
// from a Debian kernel package.
//
//	Open            reads the package: vmlinuz, modules (still packed), modules.builtin
//	Package.Select  patterns → modules, closed under dependencies
//	Set.Tables      modules.dep, modules.alias, modules.softdep, modules.builtin
//
// The package brings no modules.dep: dependencies, aliases, firmware names and soft
// dependencies are read from the modules themselves (see Info), so that no depmod
// is needed and only the modules that are chosen are unpacked.
//
// A hard dependency that is neither a module nor built in is an error. A soft one
// (the checksum drivers of ext4, say) is followed by module name, and by alias among
// the modules of crypto and lib; one that is not found is left out, as modprobe does.
//
// Modules keep their signatures: under Secure Boot the kernel loads no others.
package kernel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/ulikunitz/xz"

	"clonecast/builder/debian"
)

// Limits; the largest module of Debian's 6.12 kernel has 9 MB, the kernel 12 MB.
const (
	maxKernel  = 128 << 20
	maxModule  = 64 << 20
	maxModules = 20_000
	maxText    = 16 << 20
)

// Package is an opened kernel package.
type Package struct {
	Release string // as uname -r: "6.12.117+deb12-amd64"
	Vmlinuz []byte
	Builtin []byte // modules.builtin, text

	modules map[string]*module // by normal name
	builtin map[string]bool    // by normal name
}

// module is one file of the package; data and info are there once it is loaded.
type module struct {
	name   string
	path   string // below /lib/modules/RELEASE, without ".ko" and what follows
	packed []byte
	format string // ".ko", ".ko.xz"
	data   []byte
	info   Info
}

// Open reads the kernel package at name.
func Open(ctx context.Context, name string) (*Package, error) {
	p := &Package{modules: map[string]*module{}, builtin: map[string]bool{}}
	if err := debian.Walk(ctx, name, p.add); err != nil {
		return nil, err
	}
	switch {
	case p.Vmlinuz == nil:
		return nil, fmt.Errorf("kernel package %s: it holds no kernel (boot/vmlinuz-…)", name)
	case len(p.modules) == 0:
		return nil, fmt.Errorf("kernel package %s: it holds no modules", name)
	}
	for line := range strings.Lines(string(p.Builtin)) {
		base, _, _ := strings.Cut(path.Base(strings.TrimSpace(line)), ".ko")
		p.builtin[normal(base)] = true
	}
	return p, nil
}

// add takes what it needs from one file of the package. Newer packages have usr/lib for lib.
func (p *Package) add(f debian.File, r io.Reader) (err error) {
	name := strings.TrimPrefix(f.Name, "usr/")
	if f.Link != "" {
		return nil
	}
	if release, ok := strings.CutPrefix(name, "boot/vmlinuz-"); ok {
		if err := p.setRelease(release); err != nil {
			return err
		}
		p.Vmlinuz, err = readAll(r, maxKernel)
		return err
	}
	rest, ok := strings.CutPrefix(name, "lib/modules/")
	release, rest, found := strings.Cut(rest, "/")
	if !ok || !found {
		return nil
	}
	if rest == "modules.builtin" {
		p.Builtin, err = readAll(r, maxText)
		return err
	}
	stem, format := cutModule(rest)
	if format == "" {
		return nil
	}
	if err := p.setRelease(release); err != nil {
		return err
	}
	m := &module{name: normal(path.Base(stem)), path: stem, format: format}
	switch other := p.modules[m.name]; {
	case strings.ContainsAny(m.name, " \t\r\n:"):
		return fmt.Errorf("module name %q would break modules.dep", m.name)
	case other != nil:
		return fmt.Errorf("module %s is there twice, as %s too", m.name, other.path)
	case len(p.modules) >= maxModules:
		return fmt.Errorf("more than %d modules", maxModules)
	}
	p.modules[m.name] = m
	m.packed, err = readAll(r, maxModule)
	return err
}

// setRelease notes the kernel's release, of which a package has one.
func (p *Package) setRelease(release string) error {
	if strings.ContainsAny(release, " /\\\n") || p.Release != "" && p.Release != release {
		return fmt.Errorf("release %q, where %q was before", release, p.Release)
	}
	p.Release = release
	return nil
}

// cutModule splits "kernel/fs/ext4/ext4.ko.xz" into its stem and ".ko.xz".
func cutModule(name string) (stem, format string) {
	for _, format := range []string{".ko", ".ko.xz"} {
		if stem, ok := strings.CutSuffix(name, format); ok {
			return stem, format
		}
	}
	return name, ""
}

// load unpacks a module and reads what it says about itself.
func (m *module) load() error {
	if m.data != nil {
		return nil
	}
	data := m.packed
	if m.format == ".ko.xz" {
		r, err := xz.NewReader(bytes.NewReader(m.packed))
		if err != nil {
			return fmt.Errorf("module %s: %w", m.name, err)
		}
		if data, err = readAll(r, maxModule); err != nil {
			return fmt.Errorf("module %s: %w", m.name, err)
		}
	}
	info, err := parseModinfo(data)
	if err != nil {
		return fmt.Errorf("module %s: %w", m.name, err)
	}
	m.data, m.info = data, info
	return nil
}

var errTooLong = errors.New("longer than allowed")

// readAll reads at most limit bytes; more is an error.
func readAll(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%w: %d bytes", errTooLong, limit)
	}
	return data, nil
}
