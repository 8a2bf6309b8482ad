// Package configs holds the settings that clonecast comes with, as the same YAML
// files that an admin would write: the examples are the defaults.
//
// classes/*.yaml are hardware classes: kernel, modules, firmware and console of
// machines that can boot the same appliance. A class is named (then it is one of
// those built in) or given as a path to a YAML file of one's own.
package configs

import (
	"embed"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
)

//go:embed classes/*.yaml
var classFiles embed.FS

// ErrNotFound: there is no such class.
var ErrNotFound = errors.New("not found")

// LoadClass finds a class that is built in by its name, or reads the file if
// name ends in .yaml or .yml.
func LoadClass(name string) (Class, error) {
	if strings.HasSuffix(name, ".yaml") || strings.HasSuffix(name, ".yml") {
		data, err := os.ReadFile(name)
		if errors.Is(err, os.ErrNotExist) {
			return Class{}, fmt.Errorf("hardware class %s: %w", name, ErrNotFound)
		}
		if err != nil {
			return Class{}, fmt.Errorf("read hardware class: %w", err)
		}
		return Parse(name, data)
	}
	data, err := classFiles.ReadFile(path.Join("classes", path.Base(name)+".yaml"))
	if err != nil || path.Base(name) != name {
		return Class{}, fmt.Errorf("hardware class %q: %w", name, ErrNotFound)
	}
	return Parse(name+".yaml", data)
}

// ClassNames lists the classes that are built in.
func ClassNames() []string {
	entries, _ := classFiles.ReadDir("classes") // embedded: cannot fail
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".yaml"))
	}
	return names
}
