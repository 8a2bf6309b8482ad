package configs

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"clonecast/internal/diskrule"

	"github.com/goccy/go-yaml"
)

// Class is a hardware class: which kernel, modules and firmware the machines of
// one kind need to boot the appliance.
type Class struct {
	Name        string   `yaml:"name" json:"name"`
	Description string   `yaml:"description" json:"description"`
	Kernel      string   `yaml:"kernel" json:"kernel"`             // pattern of Debian package names; the newest counts
	Modules     []string `yaml:"modules" json:"modules"`           // see Kind
	Exclude     []string `yaml:"exclude" json:"exclude,omitempty"` // left out, unless another module depends on them
	Always      []string `yaml:"always" json:"always"`             // loaded although no device asks for them
	Firmware    Firmware `yaml:"firmware" json:"firmware"`
	Console     []string `yaml:"console" json:"console"`           // the last one becomes /dev/console
	CommandLine string   `yaml:"command_line" json:"command_line"` // further words
	Disk        string   `yaml:"disk" json:"disk,omitempty"`       // rule that names the disk when a task has none
	Compression string   `yaml:"compression" json:"compression"`   // auto, xz, zstd, gzip or none
}

// Firmware says which firmware files go in, besides the rule that only files
// that a chosen module names are ever taken.
type Firmware struct {
	Packages []string `yaml:"packages" json:"packages,omitempty"` // Debian packages to take them from
	Exclude  []string `yaml:"exclude" json:"exclude,omitempty"`   // path patterns to leave out
}

// DefaultKernel is Debian's signed 6.12 kernel: it has NTFS3 and drivers for newer cards.
const DefaultKernel = "linux-image-6.12.*+deb12-amd64"

// Compressions are the values of Class.Compression.
var compressions = []string{"auto", "xz", "zstd", "gzip", "none"}

// Kind tells how a word in Modules or Exclude selects modules.
type Kind int

// The kinds: "e1000e", "kernel/drivers/ata/**", "pci:v00008086d*".
const (
	ByName Kind = iota
	ByPath
	ByAlias
)

// KindOf tells the kind of a module pattern: a modalias has a colon, a path has a slash.
func KindOf(pattern string) Kind {
	switch {
	case strings.Contains(pattern, ":"):
		return ByAlias
	case strings.Contains(pattern, "/"):
		return ByPath
	}
	return ByName
}

// Parse reads a class from YAML. name is what errors call the file; they show
// the line with a caret.
func Parse(name string, data []byte) (Class, error) {
	c := Class{Kernel: DefaultKernel, Compression: "auto", Console: []string{"tty0", "ttyS0,115200"}}
	if err := yaml.UnmarshalWithOptions(data, &c, yaml.Strict()); err != nil {
		return Class{}, fmt.Errorf("read hardware class %s: %s", name, yaml.FormatError(err, false, true))
	}
	if err := c.validate(); err != nil {
		return Class{}, fmt.Errorf("read hardware class %s: %w", name, err)
	}
	return c, nil
}

var (
	classNameRE = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)
	packageRE   = regexp.MustCompile(`^[a-z0-9][a-z0-9.+*?~-]*$`)
)

func (c Class) validate() error {
	switch {
	case !classNameRE.MatchString(c.Name):
		return fmt.Errorf("name %q: letters, digits and hyphens are allowed", c.Name)
	case !packageRE.MatchString(c.Kernel):
		return fmt.Errorf("kernel %q is not a pattern of Debian package names", c.Kernel)
	case !slices.Contains(compressions, c.Compression):
		return fmt.Errorf("compression %q: choose one of %s", c.Compression, strings.Join(compressions, ", "))
	case len(c.Modules) == 0:
		return errors.New("modules is empty: no disk and no network card would work")
	case strings.ContainsAny(c.CommandLine+strings.Join(c.Console, ""), "\n\r\x00"):
		return errors.New("console and command_line must be single lines")
	}
	if _, err := diskrule.Parse(c.Disk); err != nil {
		return err
	}
	for _, pattern := range slices.Concat(c.Modules, c.Exclude, c.Always, c.Firmware.Exclude) {
		if _, err := path.Match(pattern, ""); err != nil || pattern == "" {
			return fmt.Errorf("pattern %q is malformed", pattern)
		}
	}
	for _, name := range c.Firmware.Packages {
		if !packageRE.MatchString(name) || strings.ContainsAny(name, "*?") {
			return fmt.Errorf("firmware package %q is not the name of a Debian package", name)
		}
	}
	return nil
}

// KernelArguments are the words for the kernel command line that the class asks for.
func (c Class) KernelArguments() string {
	var words []string
	for _, console := range c.Console {
		words = append(words, "console="+console)
	}
	if c.CommandLine != "" {
		words = append(words, c.CommandLine)
	}
	return strings.Join(words, " ")
}
