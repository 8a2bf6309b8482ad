package builder

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"clonecast/builder/initramfs"
)

// Result describes a build; it is what build.json holds.
type Result struct {
	Class       string          `json:"class"`
	Description string          `json:"description"`
	Kernel      string          `json:"kernel"` // release
	Build       string          `json:"build"`  // id
	CommandLine string          `json:"command_line"`
	Disk        string          `json:"disk,omitempty"` // rule of the class
	Compression string          `json:"compression"`
	Tool        string          `json:"tool"` // that compressed it
	Archive     int             `json:"archive_bytes"`
	Files       map[string]File `json:"files"`
	Components  []Component     `json:"components"`       // of the archive, largest first
	Missing     []string        `json:"missing_firmware"` // named by modules, not to be had
}

// File is one file of the output.
type File struct {
	Bytes  int    `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// Component is a part of the initramfs, before compression.
type Component struct {
	Name  string `json:"name"`
	Files int    `json:"files"`
	Bytes int    `json:"bytes"`
}

// components adds up what goes into an archive.
type components struct {
	byName  map[string]Component
	archive int
}

func (c *components) count(name string, bytes int) {
	if c.byName == nil {
		c.byName = map[string]Component{}
	}
	part := c.byName[name]
	c.byName[name] = Component{name, part.Files + 1, part.Bytes + bytes}
}

func (b *build) result(packed initramfs.Compressed, missing []string) Result {
	parts := slices.Collect(maps.Values(b.component.byName))
	slices.SortFunc(parts, func(x, y Component) int {
		return cmp.Or(y.Bytes-x.Bytes, cmp.Compare(x.Name, y.Name))
	})
	return Result{
		Class: b.Class.Name, Description: b.Class.Description, Kernel: b.linux.Release, Build: b.id,
		CommandLine: b.Class.KernelArguments(), Disk: b.Class.Disk, Compression: packed.Method, Tool: packed.Tool,
		Archive: b.component.archive, Components: parts, Missing: missing,
	}
}

// ReadResult reads the result of a finished build in dir; os.ErrNotExist if there is none.
func ReadResult(dir string) (Result, error) {
	var r Result
	data, err := os.ReadFile(filepath.Join(dir, ResultFile))
	if err != nil {
		return r, fmt.Errorf("read build: %w", err)
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return Result{}, fmt.Errorf("read build in %s: %w", dir, err)
	}
	return r, nil
}
