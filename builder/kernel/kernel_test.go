package kernel

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ulikunitz/xz"

	"clonecast/builder/kernel/kerneltest"
)

// open writes a package and opens it.
func open(t *testing.T, deb []byte) (*Package, error) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "kernel.deb")
	if err := os.WriteFile(name, deb, 0o600); err != nil {
		t.Fatal(err)
	}
	return Open(t.Context(), name)
}

func xzBytes(t *testing.T, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := xz.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(data)
	w.Close()
	return out.Bytes()
}

// example is a small kernel in which each kind of dependency occurs.
func example(t *testing.T) *Package {
	t.Helper()
	p, err := open(t, kerneltest.Package(map[string][]byte{
		"kernel/drivers/ata/ahci.ko": kerneltest.Module("depends=libahci,libata",
			"alias=pci:v*d*sv*sd*bc01sc06i01*"),
		"kernel/drivers/ata/libahci.ko":   kerneltest.Module("depends=libata"),
		"kernel/drivers/ata/libata.ko.xz": xzBytes(t, kerneltest.Module("depends=scsi_mod", "alias=with space")),
		"kernel/drivers/scsi/scsi_mod.ko": kerneltest.Module("depends="),
		"kernel/drivers/scsi/sd_mod.ko":   kerneltest.Module("depends=scsi_mod"),
		"kernel/drivers/net/ethernet/r/r8169.ko": kerneltest.Module("depends=mdio_lib", "firmware=rtl_nic/a.fw",
			"alias=pci:v000010ECd00008168sv*", "softdep=pre: realtek"),
		"kernel/drivers/net/phy/realtek.ko":         kerneltest.Module("depends="),
		"kernel/drivers/net/phy/other-phy.ko":       kerneltest.Module("depends="),
		"kernel/fs/ext4/ext4.ko":                    kerneltest.Module("softdep=pre: crc32c nosuch post: realtek"),
		"kernel/crypto/crc32c_generic.ko":           kerneltest.Module("alias=crc32c"),
		"kernel/arch/x86/crypto/crc32c-intel.ko":    kerneltest.Module("alias=crc32c"),
		"kernel/drivers/net/ethernet/b/broken.ko":   kerneltest.Module("depends=not-there"),
		"kernel/drivers/net/ethernet/b/garbage.ko":  []byte("no ELF"),
		"kernel/drivers/net/ethernet/c/loop_one.ko": kerneltest.Module("depends=loop_two"),
		"kernel/drivers/net/ethernet/c/loop_two.ko": kerneltest.Module("depends=loop_one"),
		"kernel/drivers/mfd/intel-lpss.ko":          kerneltest.Module("softdep=pre: platform:idma64"),
		"kernel/drivers/dma/idma64.ko":              kerneltest.Module("alias=platform:idma64"),
	}, "kernel/drivers/net/mdio-lib.ko", "kernel/drivers/virtio/virtio.ko"))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestSelect(t *testing.T) {
	p := example(t)
	if p.Release != kerneltest.Release || string(p.Vmlinuz) != "kernel" {
		t.Fatalf("release %q, kernel %q", p.Release, p.Vmlinuz)
	}
	for _, c := range []struct{ patterns, exclude, want string }{
		{"ahci", "", "ahci libahci libata scsi_mod"},
		{"virtio sd-mod", "", "scsi_mod sd_mod"},
		{"kernel/drivers/net/phy/**", "", "other_phy realtek"},
		{"kernel/drivers/net/phy/**", "other_phy", "realtek"},
		{"kernel/drivers/net/phy/other_phy", "", "other_phy"},
		{"kernel/drivers/ata/**", "kernel/drivers/ata/libata", "ahci libahci libata scsi_mod"},
		{"r8169", "", "r8169 realtek"},
		{"ext4", "", "crc32c_generic crc32c_intel ext4 realtek"},
		{"*_phy", "", "other_phy"},
		{"loop_one", "", "loop_one loop_two"},
		{"intel_lpss", "", "idma64 intel_lpss"},
	} {
		set, err := p.Select(t.Context(), strings.Fields(c.patterns), strings.Fields(c.exclude))
		if err != nil {
			t.Errorf("Select(%q, %q): %v", c.patterns, c.exclude, err)
		}
		if got := names(set); got != c.want {
			t.Errorf("Select(%q, %q) = %q, want %q", c.patterns, c.exclude, got, c.want)
		}
	}
}

func names(s Set) string {
	var list []string
	for _, m := range s.Modules {
		list = append(list, m.Name)
	}
	return strings.Join(list, " ")
}

func TestSelectByAlias(t *testing.T) {
	p, err := open(t, kerneltest.Package(map[string][]byte{
		"kernel/a.ko": kerneltest.Module("alias=pci:v000010ECd00008168sv*sd*bc*sc*i*"),
		"kernel/b.ko": kerneltest.Module("alias=pci:v00008086d*", "alias=virtio:d00000001v*"),
		"kernel/c.ko": kerneltest.Module("alias=usb:v*"),
	}))
	if err != nil {
		t.Fatal(err)
	}
	for pattern, want := range map[string]string{
		"pci:v000010ECd00008168sv00001043sd00008677bc02sc00i00": "a", // of a device
		"pci:v00008086d000010D3sv00008086sd00000000bc02sc00i00": "b",
		"pci:*":    "a b", // of a bus
		"virtio:*": "b",
	} {
		set, err := p.Select(t.Context(), []string{pattern}, nil)
		if err != nil || names(set) != want {
			t.Errorf("Select(%q) = %q, %v; want %q", pattern, names(set), err, want)
		}
	}
}

func TestSelectRefuses(t *testing.T) {
	p := example(t)
	for pattern, want := range map[string]string{
		"nosuch":                           `no module that matches "nosuch"`,
		"kernel/drivers/nosuch/**":         "no module that matches",
		"kernel/drivers/net/phy/nosuch":    "no module that matches",
		"broken":                           "module broken depends on not_there",
		"garbage":                          "module garbage",
		"pci:v000010ECd00008168sv*":        "module garbage", // aliases need all modules to be read
		"kernel/drivers/net/ethernet/b/**": "module",
	} {
		_, err := p.Select(t.Context(), []string{pattern}, nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Select(%q): error %v, want %q", pattern, err, want)
		}
	}
	var unknown *UnknownModuleError
	if _, err := p.Select(t.Context(), []string{"nosuch"}, nil); !errors.As(err, &unknown) || unknown.Hint() == "" {
		t.Errorf("error %v has no hint", err)
	}
}

func TestTables(t *testing.T) {
	set, err := example(t).Select(t.Context(), []string{"ahci", "sd_mod", "ext4", "r8169"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"modules.dep": `ahci.ko: libahci.ko libata.ko scsi_mod.ko
crc32c_generic.ko:
crc32c_intel.ko:
ext4.ko:
libahci.ko: libata.ko scsi_mod.ko
libata.ko: scsi_mod.ko
r8169.ko:
realtek.ko:
scsi_mod.ko:
sd_mod.ko: scsi_mod.ko
`,
		"modules.alias": `alias pci:v*d*sv*sd*bc01sc06i01* ahci
alias crc32c crc32c_generic
alias crc32c crc32c_intel
alias pci:v000010ECd00008168sv* r8169
`,
		"modules.softdep": `softdep ext4 pre: crc32c_generic crc32c_intel post: realtek
softdep r8169 pre: realtek
`,
		"modules.builtin": "kernel/drivers/net/mdio-lib.ko\nkernel/drivers/virtio/virtio.ko\n",
	}
	got := map[string]string{}
	for name, data := range set.Tables() {
		got[name] = string(data)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestOpenRefuses(t *testing.T) {
	module := kerneltest.Module("depends=")
	for name, deb := range map[string][]byte{
		"no kernel":    kerneltest.Deb(map[string][]byte{"./lib/modules/1/kernel/a.ko": module}),
		"no modules":   kerneltest.Package(nil),
		"twice":        kerneltest.Package(map[string][]byte{"kernel/a/x-y.ko": module, "kernel/b/x_y.ko": module}),
		"odd name":     kerneltest.Package(map[string][]byte{"kernel/a b.ko": module}),
		"two releases": kerneltest.Package(map[string][]byte{"../9.9/kernel/a.ko": module, "kernel/b.ko": module}),
		"no package":   []byte("!<arch>\nhello"),
	} {
		if _, err := open(t, deb); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func FuzzModinfo(f *testing.F) {
	f.Add(kerneltest.Module("depends=a,b-c", "alias=pci:*", "softdep=pre: a post: b", "firmware=x"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		info, err := parseModinfo(data)
		if err != nil && !cmp.Equal(info, Info{}) {
			t.Errorf("error %v with result %+v", err, info)
		}
		for _, name := range info.Depends {
			if name == "" || strings.ContainsAny(name, ",-\n\x00") {
				t.Errorf("dependency %q", name)
			}
		}
		for _, alias := range info.Aliases {
			if strings.ContainsAny(alias, "\n\r\x00") {
				t.Errorf("alias %q would break modules.alias", alias)
			}
		}
	})
}
