package bringup

import (
	"bytes"
	"fmt"
	"path"
	"strings"
)

// Limits of the index files. The whole tree of a distribution's kernel stays far below.
const (
	maxIndexFile = 16 << 20
	maxModules   = 1 << 16
	maxDepth     = 64 // of dependencies; real ones end at about ten
)

// Index answers which modules a device or a name needs.
type Index struct {
	modules map[string]module // by name
	aliases map[string][]alias
	builtin map[string]bool
}

type module struct {
	file      string // relative to the modules' directory
	deps      []string
	pre, post []string // softdep
}

type alias struct{ pattern, module string }

// IndexFiles are the contents of modules.dep and the others; all but Dep may be empty.
type IndexFiles struct {
	Dep, Alias, Softdep, Builtin []byte
}

// ParseIndex reads the index files that depmod or the builder wrote.
func ParseIndex(files IndexFiles) (*Index, error) {
	x := &Index{modules: map[string]module{}, aliases: map[string][]alias{}, builtin: map[string]bool{}}
	steps := []struct {
		name  string
		data  []byte
		parse func(line string) error
	}{
		{"modules.dep", files.Dep, x.parseDep},
		{"modules.builtin", files.Builtin, x.parseBuiltin},
		{"modules.softdep", files.Softdep, x.parseSoftdep},
		{"modules.alias", files.Alias, x.parseAlias},
	}
	for _, s := range steps {
		if len(s.data) > maxIndexFile {
			return nil, fmt.Errorf("parse %s: %d bytes, at most %d are read", s.name, len(s.data), maxIndexFile)
		}
		number := 0
		for line := range bytes.Lines(s.data) {
			number++
			text := strings.TrimSpace(string(line))
			if text == "" || text[0] == '#' {
				continue
			}
			if err := s.parse(text); err != nil {
				return nil, fmt.Errorf("parse %s: line %d: %w", s.name, number, err)
			}
		}
	}
	return x, nil
}

// parseDep reads "kernel/a.ko: kernel/b.ko kernel/c.ko".
func (x *Index) parseDep(line string) error {
	file, rest, ok := strings.Cut(line, ":")
	if !ok {
		return fmt.Errorf("%.80q has no colon", line)
	}
	if !relative(file) {
		return fmt.Errorf("%.80q is not a file below the modules", file)
	}
	if len(x.modules) >= maxModules {
		return fmt.Errorf("more than %d modules", maxModules)
	}
	m := module{file: file}
	for _, dep := range strings.Fields(rest) {
		m.deps = append(m.deps, ModuleName(dep))
	}
	x.modules[ModuleName(file)] = m
	return nil
}

func (x *Index) parseBuiltin(line string) error {
	x.builtin[ModuleName(line)] = true
	return nil
}

// parseSoftdep reads "softdep NAME pre: a b post: c".
func (x *Index) parseSoftdep(line string) error {
	words := strings.Fields(line)
	if len(words) < 2 || words[0] != "softdep" {
		return fmt.Errorf("%.80q is not a softdep", line)
	}
	name := ModuleName(words[1])
	m, ok := x.modules[name]
	if !ok {
		return nil // of a module that was left out
	}
	var list *[]string
	for _, w := range words[2:] {
		switch {
		case w == "pre:":
			list = &m.pre
		case w == "post:":
			list = &m.post
		case list != nil:
			*list = append(*list, ModuleName(w))
		}
	}
	x.modules[name] = m
	return nil
}

// parseAlias reads "alias PATTERN NAME". Patterns are kept by what stands before their
// first colon ("pci", "usb"), which is never a wildcard in a bus's modalias.
func (x *Index) parseAlias(line string) error {
	words := strings.Fields(line)
	if len(words) < 3 || words[0] != "alias" {
		return fmt.Errorf("%.80q is not an alias", line)
	}
	pattern := strings.Join(words[1:len(words)-1], " ")
	bus := busOf(pattern)
	x.aliases[bus] = append(x.aliases[bus], alias{pattern, ModuleName(words[len(words)-1])})
	return nil
}

// Match gives the modules that a device's modalias asks for.
func (x *Index) Match(modalias string) []string {
	var names []string
	for _, a := range x.aliases[busOf(modalias)] {
		if matchPattern(a.pattern, modalias) {
			names = append(names, a.module)
		}
	}
	return names
}

// File tells where a module's file is, relative to the modules' directory.
func (x *Index) File(name string) (string, bool) {
	m, ok := x.modules[ModuleName(name)]
	return m.file, ok
}

// Order lists the modules to load, in order, so that name and everything it
// needs or prefers is there. Names that are built in are left out; a soft dependency that
// does not exist is too, a hard one is an error.
func (x *Index) Order(name string) ([]string, error) {
	var order []string
	seen := map[string]bool{}
	err := x.order(ModuleName(name), seen, &order, 0)
	return order, err
}

func (x *Index) order(name string, seen map[string]bool, order *[]string, depth int) error {
	if seen[name] || x.builtin[name] {
		return nil
	}
	if depth > maxDepth {
		return fmt.Errorf("module %s: dependencies deeper than %d", name, maxDepth)
	}
	seen[name] = true
	m, ok := x.modules[name]
	if !ok {
		return fmt.Errorf("module %s is not in this appliance", name)
	}
	x.prefer(m.pre, seen, order, depth)
	for _, dep := range m.deps {
		if err := x.order(dep, seen, order, depth+1); err != nil {
			return fmt.Errorf("module %s needs %w", name, err)
		}
	}
	*order = append(*order, name)
	x.prefer(m.post, seen, order, depth)
	return nil
}

// prefer adds soft dependencies; what cannot be had is left out.
func (x *Index) prefer(names []string, seen map[string]bool, order *[]string, depth int) {
	for _, n := range names {
		before := len(*order)
		if err := x.order(n, seen, order, depth+1); err != nil {
			*order = (*order)[:before]
		}
	}
}

// ModuleName turns a file or a name into the kernel's name: "a/snd-hda.ko.xz" is "snd_hda".
func ModuleName(file string) string {
	base, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(base, "-", "_")
}

func busOf(s string) string {
	bus, _, _ := strings.Cut(s, ":")
	return bus
}

func relative(file string) bool {
	return file != "" && !path.IsAbs(file) && path.Clean(file) == file && !strings.HasPrefix(file, "..")
}
