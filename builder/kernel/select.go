package kernel

import (
	"context"
	"fmt"
	"maps"
	"path"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"clonecast/configs"
)

// Module is a module that was chosen, unpacked.
type Module struct {
	Name string // as the kernel calls it
	Path string // directory and stem in the package: "kernel/fs/ext4/ext4"
	Data []byte
	Info Info
	Why  string // the pattern, or the module that needs it
}

// Set is a choice of modules that is closed under dependencies, sorted by name.
type Set struct {
	Modules []Module
	builtin []byte
}

// UnknownModuleError: a pattern of the class matches nothing in this kernel.
type UnknownModuleError struct{ Pattern, Release string }

func (e *UnknownModuleError) Error() string {
	return fmt.Sprintf("kernel %s has no module that matches %q", e.Release, e.Pattern)
}

// Hint says what to do about it.
func (e *UnknownModuleError) Hint() string {
	return "correct or remove that line in the class file; names may have changed between kernels"
}

// Select chooses the modules that match patterns and not exclude, and everything
// they depend on. A pattern that matches nothing, not even what is built in, is
// an error: a typing mistake must not cost a class its network card.
func (p *Package) Select(ctx context.Context, patterns, exclude []string) (Set, error) {
	byAlias := func(s string) bool { return configs.KindOf(s) == configs.ByAlias }
	if slices.ContainsFunc(slices.Concat(patterns, exclude), byAlias) {
		if err := p.loadAll(ctx, slices.Collect(maps.Values(p.modules))); err != nil {
			return Set{}, err
		}
	}
	why := map[string]string{}
	for _, pattern := range patterns {
		matched := p.matching(pattern)
		if len(matched) == 0 && !p.builtinMatches(pattern) {
			return Set{}, &UnknownModuleError{pattern, p.Release}
		}
		for _, m := range matched {
			if why[m.name] == "" && !slices.ContainsFunc(exclude, m.matches) {
				why[m.name] = pattern
			}
		}
	}
	if err := p.close(ctx, why); err != nil {
		return Set{}, err
	}
	set := Set{builtin: p.Builtin}
	for _, name := range slices.Sorted(maps.Keys(why)) {
		m := p.modules[name]
		set.Modules = append(set.Modules, Module{Name: name, Path: m.path, Data: m.data, Info: m.info, Why: why[name]})
	}
	return set, nil
}

// close adds to why all that its modules depend on, level by level.
func (p *Package) close(ctx context.Context, why map[string]string) error {
	level := slices.Sorted(maps.Keys(why))
	for len(level) > 0 {
		modules := make([]*module, len(level))
		for i, name := range level {
			modules[i] = p.modules[name]
		}
		if err := p.loadAll(ctx, modules); err != nil {
			return err
		}
		var next []string
		for _, m := range modules {
			needs, err := p.needs(ctx, m)
			if err != nil {
				return err
			}
			for _, name := range needs {
				if why[name] == "" {
					why[name] = m.name
					next = append(next, name)
				}
			}
		}
		level = next
	}
	return nil
}

// needs names the modules that m depends on, hard and soft.
func (p *Package) needs(ctx context.Context, m *module) ([]string, error) {
	var names []string
	for _, name := range m.info.Depends {
		switch {
		case p.modules[name] != nil:
			names = append(names, name)
		case !p.builtin[name]:
			return nil, fmt.Errorf("module %s depends on %s, which kernel %s does not have", m.name, name, p.Release)
		}
	}
	for _, name := range slices.Concat(m.info.Pre, m.info.Post) {
		if p.modules[name] != nil {
			names = append(names, name)
		} else if !p.builtin[name] {
			found, err := p.byAlias(ctx, name)
			if err != nil {
				return nil, err
			}
			names = append(names, found...)
		}
	}
	return names, nil
}

// byAlias finds the modules that offer name where soft dependencies name something else than a module: an algorithm
// such as crc32c, by the modules of crypto and lib, or a device such as platform:idma64, by the module called so.
func (p *Package) byAlias(ctx context.Context, name string) ([]string, error) {
	_, device, _ := strings.Cut(name, ":")
	var modules []*module
	for _, m := range p.modules {
		if m.isAlgorithm() || m.name == device {
			modules = append(modules, m)
		}
	}
	if err := p.loadAll(ctx, modules); err != nil {
		return nil, err
	}
	var names []string
	for _, m := range modules {
		if slices.ContainsFunc(m.info.Aliases, func(alias string) bool { return normal(alias) == name }) {
			names = append(names, m.name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// isAlgorithm tells whether m lies where the kernel keeps algorithms.
func (m *module) isAlgorithm() bool {
	top := strings.TrimPrefix(m.path, "kernel/")
	return strings.HasPrefix(top, "crypto/") || strings.HasPrefix(top, "lib/") ||
		strings.HasPrefix(top, "arch/") && strings.Contains(top, "/crypto/")
}

// loadAll loads modules on all processors.
func (p *Package) loadAll(ctx context.Context, modules []*module) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.NumCPU())
	for _, m := range modules {
		group.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return m.load()
		})
	}
	return group.Wait()
}

// matching lists the modules that pattern selects.
func (p *Package) matching(pattern string) []*module {
	var found []*module
	for _, m := range p.modules {
		if m.matches(pattern) {
			found = append(found, m)
		}
	}
	return found
}

func (m *module) matches(pattern string) bool {
	switch configs.KindOf(pattern) {
	case configs.ByAlias:
		return slices.ContainsFunc(m.info.Aliases, func(alias string) bool {
			return match(alias, pattern) || match(pattern, alias)
		})
	case configs.ByPath:
		return matchPath(pattern, m.path)
	}
	return match(normal(pattern), m.name)
}

func (p *Package) builtinMatches(pattern string) bool {
	for line := range strings.Lines(string(p.Builtin)) {
		stem, _ := cutModule(strings.TrimSpace(line))
		m := module{name: normal(path.Base(stem)), path: stem}
		if m.matches(pattern) {
			return true
		}
	}
	return false
}

// matchPath matches stem against a path pattern; "dir/**" is the subtree of dir,
// and "-" and "_" are the same in the last part, as in module names.
func matchPath(pattern, stem string) bool {
	if dir, ok := strings.CutSuffix(pattern, "/**"); ok {
		return strings.HasPrefix(stem, dir+"/")
	}
	return path.Dir(pattern) == path.Dir(stem) && match(normal(path.Base(pattern)), normal(path.Base(stem)))
}

// match is path.Match without the special part of "/"; a malformed pattern matches nothing.
func match(pattern, name string) bool {
	const slash = "\x01"
	ok, err := path.Match(strings.ReplaceAll(pattern, "/", slash), strings.ReplaceAll(name, "/", slash))
	return ok && err == nil
}
