package kernel

import (
	"fmt"
	"slices"
	"strings"
)

// File is the module's name in the appliance, where all stand in one directory.
func (m Module) File() string { return m.Name + ".ko" }

// Tables gives the text files that a module loader reads, in depmod's formats
// (modules.dep(5)), for the modules of the set alone.
func (s Set) Tables() map[string][]byte {
	return map[string][]byte{
		"modules.dep":     s.dep(),
		"modules.alias":   s.alias(),
		"modules.softdep": s.softdep(),
		"modules.builtin": s.builtin,
	}
}

// dep lists for each module all that must be loaded before it, the last one first.
func (s Set) dep() []byte {
	byName := s.byName()
	var b strings.Builder
	for _, m := range s.Modules {
		fmt.Fprintf(&b, "%s:", m.File())
		for _, name := range order(byName, m.Name) {
			fmt.Fprintf(&b, " %s.ko", name)
		}
		b.WriteByte('\n')
	}
	return []byte(b.String())
}

func (s Set) byName() map[string]Module {
	byName := make(map[string]Module, len(s.Modules))
	for _, m := range s.Modules {
		byName[m.Name] = m
	}
	return byName
}

// order lists all hard dependencies of name, each before those that it needs
// itself. The visited set ends cycles, which no real kernel has.
func order(byName map[string]Module, name string) []string {
	var list []string
	visited := map[string]bool{name: true}
	var visit func(string)
	visit = func(name string) {
		for _, dep := range byName[name].Info.Depends {
			if _, ok := byName[dep]; ok && !visited[dep] {
				visited[dep] = true
				visit(dep)
				list = append(list, dep) // after all that it needs
			}
		}
	}
	visit(name)
	slices.Reverse(list)
	return list
}

// alias gives the patterns as the modules have them, and as /sys has modaliases;
// depmod turns "-" into "_" here and modprobe does the same with what it looks up.
func (s Set) alias() []byte {
	var b strings.Builder
	for _, m := range s.Modules {
		for _, alias := range m.Info.Aliases {
			if !strings.ContainsAny(alias, " \t") { // no device's modalias has a blank, and the format cannot say it
				fmt.Fprintf(&b, "alias %s %s\n", alias, m.Name)
			}
		}
	}
	return []byte(b.String())
}

// softdep names modules of the set only: aliases such as crc32c are resolved here.
func (s Set) softdep() []byte {
	var b strings.Builder
	for _, m := range s.Modules {
		pre, post := s.resolve(m.Info.Pre), s.resolve(m.Info.Post)
		if pre+post != "" {
			fmt.Fprintf(&b, "softdep %s%s%s\n", m.Name, prefixed(" pre:", pre), prefixed(" post:", post))
		}
	}
	return []byte(b.String())
}

// resolve gives the modules of the set that have one of names as their name or alias.
func (s Set) resolve(names []string) string {
	var b strings.Builder
	for _, name := range names {
		for _, m := range s.Modules {
			if m.Name == name || slices.ContainsFunc(m.Info.Aliases, func(a string) bool { return normal(a) == name }) {
				b.WriteString(" " + m.Name)
			}
		}
	}
	return b.String()
}

func prefixed(prefix, list string) string {
	if list == "" {
		return ""
	}
	return prefix + list
}
