package bringup

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var testFiles = IndexFiles{
	Dep: []byte(`kernel/drivers/net/virtio_net.ko: kernel/net/core/failover.ko kernel/drivers/net/net_failover.ko
kernel/drivers/net/net_failover.ko: kernel/net/core/failover.ko
kernel/net/core/failover.ko:
kernel/drivers/scsi/sd_mod.ko: kernel/drivers/scsi/scsi_mod.ko
kernel/drivers/scsi/scsi_mod.ko:
kernel/fs/btrfs/btrfs.ko: kernel/lib/raid6.ko
kernel/lib/raid6.ko:
kernel/crypto/crc32c-intel.ko.xz:
kernel/crypto/late.ko:
kernel/a.ko: kernel/b.ko
kernel/b.ko: kernel/a.ko
kernel/broken.ko: kernel/absent.ko
`),
	Alias: []byte(`# Aliases extracted from modules themselves.
alias virtio:d00000001v* virtio_net
alias pci:v00008086d0000[12]000sv*sd*bc*sc*i* scsi_mod
alias scsi:t-0x00* sd_mod
alias dmi:*svnAcme*:pnBox?: late
`),
	Softdep: []byte("# Soft dependencies\n" +
		"softdep btrfs pre: crc32c-intel unheard-of post: late\nsoftdep left_out pre: late\n"),
	Builtin: []byte("kernel/drivers/virtio/virtio.ko\n"),
}

func testIndex(t *testing.T) *Index {
	t.Helper()
	x, err := ParseIndex(testFiles)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestOrder(t *testing.T) {
	tests := []struct {
		name string
		want []string
		err  string
	}{
		{name: "virtio_net", want: []string{"failover", "net_failover", "virtio_net"}},
		{name: "virtio-net", want: []string{"failover", "net_failover", "virtio_net"}},
		{name: "sd_mod", want: []string{"scsi_mod", "sd_mod"}},
		{name: "btrfs", want: []string{"crc32c_intel", "raid6", "btrfs", "late"}},
		{name: "virtio", want: nil},
		{name: "a", want: []string{"b", "a"}}, // a ring ends
		{name: "absent", err: "module absent is not in this appliance"},
		{name: "broken", err: "module broken needs module absent is not in this appliance"},
	}
	for _, test := range tests {
		got, err := testIndex(t).Order(test.name)
		if test.err != "" {
			if err == nil || err.Error() != test.err {
				t.Errorf("Order(%q) = %v, want %q", test.name, err, test.err)
			}
			continue
		}
		if diff := cmp.Diff(test.want, got); diff != "" || err != nil {
			t.Errorf("Order(%q): %v %s", test.name, err, diff)
		}
	}
}

func TestMatch(t *testing.T) {
	tests := map[string][]string{
		"virtio:d00000001v00001AF4":                             {"virtio_net"},
		"virtio:d00000002v00001AF4":                             nil,
		"pci:v00008086d00002000sv00001AF4sd00001100bc02sc00i00": {"scsi_mod"},
		"pci:v00008086d00003000sv00001AF4sd00001100bc02sc00i00": nil,
		"dmi:bvnX:svnAcme Inc:pnBox7:":                          {"late"},
		"unknown":                                               nil,
	}
	for modalias, want := range tests {
		if diff := cmp.Diff(want, testIndex(t).Match(modalias)); diff != "" {
			t.Errorf("Match(%q): %s", modalias, diff)
		}
	}
}

func TestMatchPattern(t *testing.T) {
	tests := []struct {
		pattern, s string
		want       bool
	}{
		{"", "", true}, {"", "x", false}, {"*", "", true}, {"a*b*c", "aXXbYYbZc", true}, {"a*b*c", "aXXbYY", false},
		{"a?c", "abc", true}, {"a?c", "ac", false}, {"[a-c]x", "bx", true}, {"[a-c]x", "dx", false},
		{"[!a-c]x", "dx", true}, {"[^a-c]x", "ax", false}, {"[]]x", "]x", true}, {"[a-]x", "-x", true},
		{"[abc", "[abc", true}, {"[abc", "a", false}, {`\*`, "*", true}, {`\*`, "x", false}, {"a\\", "a\\", true},
		{strings.Repeat("a*", 200) + "b", strings.Repeat("a", 400), false}, // must not take for ever
	}
	for _, test := range tests {
		if got := matchPattern(test.pattern, test.s); got != test.want {
			t.Errorf("matchPattern(%.40q, %.40q) = %v", test.pattern, test.s, got)
		}
	}
}

func TestParseIndexRefuses(t *testing.T) {
	for name, files := range map[string]IndexFiles{
		"no colon":     {Dep: []byte("kernel/a.ko\n")},
		"absolute":     {Dep: []byte("/etc/passwd:\n")},
		"climbing":     {Dep: []byte("../../etc/a.ko:\n")},
		"short alias":  {Alias: []byte("alias pci:v*\n")},
		"odd softdep":  {Softdep: []byte("blacklist x\n")},
		"endless file": {Dep: make([]byte, maxIndexFile+1)},
	} {
		if _, err := ParseIndex(files); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// loaderBench is a modules' directory, a tree of devices, and a kernel that only notes.
type loaderBench struct {
	*Loader
	dir, sys string
	inserted []string
	reports  []string
	appear   map[string]string // module → modalias of the device that it finds
	refuse   map[string]error
}

func newLoaderBench(t *testing.T) *loaderBench {
	t.Helper()
	b := &loaderBench{dir: t.TempDir(), sys: t.TempDir(), appear: map[string]string{}, refuse: map[string]error{}}
	for name, data := range map[string][]byte{
		"dep": testFiles.Dep, "alias": testFiles.Alias, "softdep": testFiles.Softdep, "builtin": testFiles.Builtin,
	} {
		if err := os.WriteFile(filepath.Join(b.dir, "modules."+name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	insert := func(file string) error {
		name := ModuleName(file)
		b.inserted = append(b.inserted, name)
		if modalias, ok := b.appear[name]; ok {
			b.device(t, name, modalias)
		}
		return b.refuse[name]
	}
	var err error
	report := func(err error) { b.reports = append(b.reports, err.Error()) }
	if b.Loader, err = newLoader(b.dir, b.sys, insert, report); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *loaderBench) device(t *testing.T, name, modalias string) {
	t.Helper()
	dir := filepath.Join(b.sys, "bus0", name)
	err := os.MkdirAll(dir, 0o700)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "modalias"), []byte(modalias+"\n"), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// The controller's driver makes the disk appear, whose driver is wanted then.
func TestColdPlugGoesDeeper(t *testing.T) {
	b := newLoaderBench(t)
	b.device(t, "net", "virtio:d00000001v00001AF4")
	b.device(t, "net2", "virtio:d00000001v00001AF4")
	b.device(t, "controller", "pci:v00008086d00001000sv0sd0bc1sc0i0")
	b.appear["scsi_mod"] = "scsi:t-0x00"
	if got := b.ColdPlug(); got != 3 {
		t.Errorf("%d kinds of devices, want 3", got)
	}
	slices.Sort(b.inserted)
	if diff := cmp.Diff([]string{"failover", "net_failover", "scsi_mod", "sd_mod", "virtio_net"}, b.inserted); diff != "" {
		t.Error(diff)
	}
	if b.ColdPlug(); len(b.inserted) != 5 || len(b.reports) != 0 {
		t.Errorf("second time: %v, reports %v", b.inserted, b.reports)
	}
}

func TestModuleThatDoesNotLoad(t *testing.T) {
	b := newLoaderBench(t)
	b.refuse["scsi_mod"] = errors.New("bad luck")
	if err := b.Load("sd_mod", "virtio_net"); err != nil {
		t.Errorf("Load = %v; what the kernel takes should not fail because of its dependency", err)
	}
	if len(b.reports) != 1 || !strings.Contains(b.reports[0], "scsi_mod for sd_mod: bad luck") {
		t.Errorf("reports = %v", b.reports)
	}
	if !slices.Contains(b.inserted, "virtio_net") {
		t.Errorf("inserted = %v", b.inserted)
	}
	b.refuse["late"] = errors.New("no")
	if err := b.Load("late", "nothing"); err == nil || !strings.Contains(err.Error(), "load module late: no") ||
		!strings.Contains(err.Error(), "nothing is not in this appliance") {
		t.Errorf("Load = %v", err)
	}
}

func TestNoModules(t *testing.T) {
	_, err := newLoader(t.TempDir(), t.TempDir(), nil, nil)
	var none *NoModulesError
	if !errors.As(err, &none) || !strings.Contains(none.Hint(), "more RAM") {
		t.Errorf("newLoader = %v", err)
	}
}

func FuzzParseIndex(f *testing.F) {
	f.Add(testFiles.Dep, testFiles.Alias, testFiles.Softdep, "virtio:d00000001v1")
	f.Fuzz(func(t *testing.T, dep, alias, softdep []byte, modalias string) {
		x, err := ParseIndex(IndexFiles{Dep: dep, Alias: alias, Softdep: softdep})
		if err != nil {
			return
		}
		for _, name := range append(x.Match(modalias), modalias) {
			order, err := x.Order(name)
			if err != nil {
				continue
			}
			seen := map[string]bool{}
			for _, m := range order {
				file, ok := x.File(m)
				if !ok || !relative(file) || seen[m] {
					t.Fatalf("Order(%q) = %q: %q at %q", name, order, m, file)
				}
				seen[m] = true
			}
		}
	})
}

// The regular expression of a pattern without sets and backslashes says the same.
func FuzzMatchPattern(f *testing.F) {
	f.Add("pci:v*d?bc02*", "pci:v00008086d7bc0200")
	f.Fuzz(func(t *testing.T, pattern, s string) {
		got := matchPattern(pattern, s)
		if strings.ContainsAny(pattern, `[\`) || len(pattern)+len(s) > 200 || !ascii(pattern+s) {
			return
		}
		expression := strings.NewReplacer(`\*`, `(?s:.*)`, `\?`, `(?s:.)`).Replace(regexp.QuoteMeta(pattern))
		if want := regexp.MustCompile(`^(?:` + expression + `)$`).MatchString(s); got != want && !strings.HasSuffix(s, "\n") {
			t.Errorf("matchPattern(%q, %q) = %v, want %v", pattern, s, got, want)
		}
	})
}

func ascii(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r > 127 }) < 0
}
