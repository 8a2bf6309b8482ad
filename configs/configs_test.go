package configs

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestBuiltInClasses(t *testing.T) {
	names := ClassNames()
	if strings.Join(names, " ") != "generic-pc qemu" {
		t.Errorf("built in are %v", names)
	}
	for _, name := range names {
		c, err := LoadClass(name)
		if err != nil {
			t.Fatal(err)
		}
		if c.Name != name || c.Kernel != DefaultKernel || c.Description == "" {
			t.Errorf("class %s: %+v", name, c)
		}
		if !strings.HasPrefix(c.KernelArguments(), "console=tty0 console=ttyS0,115200 ") {
			t.Errorf("class %s: kernel arguments %q", name, c.KernelArguments())
		}
	}
}

func TestLoadClass(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mine.yaml")
	if err := os.WriteFile(file, []byte("name: mine\nmodules: [e1000e]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := LoadClass(file)
	if err != nil || c.Name != "mine" || c.Kernel != DefaultKernel || c.Compression != "auto" {
		t.Errorf("LoadClass = %+v, %v", c, err)
	}
	for _, name := range []string{"nosuch", "../classes/qemu", "", "nosuch.yaml"} {
		if _, err := LoadClass(name); !errors.Is(err, ErrNotFound) {
			t.Errorf("LoadClass(%q): error %v, want ErrNotFound", name, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, c := range []struct{ yaml, want string }{
		{"name: a\nmodules: [x]\nmodule: [y]\n", ">  3 | module: [y]"},
		{"name: a\nmodules: {\n", ">  2 |"},
		{"name: A B\nmodules: [x]\n", "letters, digits and hyphens"},
		{"name: a\n", "modules is empty"},
		{"name: a\nmodules: ['[']\n", "malformed"},
		{"name: a\nmodules: [x]\ndisk: sda\n", "is no condition"},
		{"name: a\nmodules: [x]\ncompression: rar\n", "auto, xz, zstd, gzip, none"},
		{"name: a\nmodules: [x]\nkernel: 'linux; rm'\n", "not a pattern of Debian package names"},
		{"name: a\nmodules: [x]\nfirmware: {packages: ['-o x']}\n", "not the name of a Debian package"},
		{"name: a\nmodules: [x]\ncommand_line: \"a\\nb\"\n", "single lines"},
	} {
		_, err := Parse("my.yaml", []byte(c.yaml))
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "my.yaml") {
			t.Errorf("Parse(%q): error %v, want %q and the file's name in it", c.yaml, err, c.want)
		}
	}
}

func TestKindOf(t *testing.T) {
	for pattern, want := range map[string]Kind{
		"e1000e": ByName, "pinctrl_*": ByName, "kernel/drivers/ata/**": ByPath, "pci:v00008086d*": ByAlias,
	} {
		if got := KindOf(pattern); got != want {
			t.Errorf("KindOf(%q) = %v, want %v", pattern, got, want)
		}
	}
}
