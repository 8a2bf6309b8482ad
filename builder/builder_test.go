package builder

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/u-root/u-root/pkg/cpio"

	"clonecast/builder/kernel/kerneltest"
	"clonecast/configs"
	"clonecast/internal/bootparam"
)

func writeTemp(t *testing.T, name string, data []byte) string {
	t.Helper()
	name = filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(name, data, 0o700); err != nil {
		t.Fatal(err)
	}
	return name
}

// example builds from a small kernel package, with everything that can be set.
func example(t *testing.T) Options {
	t.Helper()
	deb := kerneltest.Package(map[string][]byte{
		"kernel/drivers/net/e1000e.ko":   kerneltest.Module("depends=ptp", "alias=pci:v00008086d*", "firmware=intel/x.bin"),
		"kernel/drivers/ptp/ptp.ko":      kerneltest.Module("depends="),
		"kernel/drivers/scsi/sd_mod.ko":  kerneltest.Module("depends="),
		"kernel/drivers/sound/snd_ac.ko": kerneltest.Module("depends="),
	})
	class, err := configs.Parse("test", []byte("name: test\ncompression: none\n"+
		"modules: [e1000e]\nalways: [sd_mod]\ndisk: bus=nvme\n"))
	if err != nil {
		t.Fatal(err)
	}
	return Options{
		Class: class, Output: t.TempDir(),
		KernelPackage: writeTemp(t, "kernel.deb", deb),
		Init:          writeTemp(t, InitName, kerneltest.Program(true)),
		CA:            testCA(t, true), Server: "https://10.0.0.1:8443",
		ManifestKeys: []ed25519.PublicKey{bytes.Repeat([]byte{0xab}, 32)},
	}
}

func testCA(t *testing.T, isCA bool) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: isCA, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// unpack reads an initramfs that is not compressed.
func unpack(t *testing.T, name string) map[string]string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(data)))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, r := range records {
		content := make([]byte, r.FileSize)
		if r.FileSize > 0 {
			r.ReadAt(content, 0)
		}
		files[r.Name] = string(content)
	}
	return files
}

func TestBuild(t *testing.T) {
	o := example(t)
	result, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	files := unpack(t, filepath.Join(o.Output, InitramfsFile))
	dir := "lib/modules/" + kerneltest.Release + "/"
	var got []string
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if strings.Contains(name, ".") {
			got = append(got, name)
		}
	}
	want := []string{
		bootparam.SizeFile, "etc/clonecast/ca.pem", "etc/clonecast/class.json", "lib/modules/" + kerneltest.Release,
		dir + "e1000e.ko", dir + "modules.alias", dir + "modules.builtin", dir + "modules.dep", dir + "modules.softdep",
		dir + "ptp.ko", dir + "sd_mod.ko",
		bootparam.WholeFile,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files: -want +got\n%s", diff)
	}
	if files["init"] != string(kerneltest.Program(true)) || files["etc/clonecast/ca.pem"] != string(o.CA) {
		t.Error("init or the CA in the archive is not what was given")
	}
	if want := hex.EncodeToString(o.ManifestKeys[0]) + "\n"; files[bootparam.KeysFile] != want {
		t.Errorf("manifest keys %q, want %q", files[bootparam.KeysFile], want)
	}
	var appliance bootparam.Appliance
	if err := json.Unmarshal([]byte(files[bootparam.ClassFile]), &appliance); err != nil {
		t.Fatal(err)
	}
	wantAppliance := bootparam.Appliance{
		Class: "test", Kernel: kerneltest.Release, Build: result.Build,
		Always: []string{"sd_mod"}, Disk: "bus=nvme", Server: o.Server,
	}
	if diff := cmp.Diff(wantAppliance, appliance); diff != "" {
		t.Errorf("class.json: -want +got\n%s", diff)
	}
	read, err := ReadResult(o.Output)
	if diff := cmp.Diff(result, read); err != nil || diff != "" {
		t.Errorf("build.json: error %v, -returned +read\n%s", err, diff)
	}
	for name, f := range result.Files {
		if info, err := os.Stat(filepath.Join(o.Output, name)); err != nil || info.Size() != int64(f.Bytes) {
			t.Errorf("%s: %v, want %d bytes", name, err, f.Bytes)
		}
	}
	if len(result.Files) != 2+len(BootPrograms()) || !slices.Equal(result.Missing, []string{"intel/x.bin"}) {
		t.Errorf("files %v, missing firmware %v", result.Files, result.Missing)
	}
}

func TestBuildIsReproducible(t *testing.T) {
	o := example(t)
	o.Class.Compression = "auto"
	first, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	o.Output = t.TempDir()
	second, err := Build(t.Context(), o)
	if diff := cmp.Diff(first, second); err != nil || diff != "" {
		t.Fatalf("error %v, the second build differs:\n%s", err, diff)
	}
	// Each input counts.
	for name, change := range map[string]func(*Options){
		"key":    func(o *Options) { o.ManifestKeys = nil },
		"CA":     func(o *Options) { o.CA = nil },
		"server": func(o *Options) { o.Server = "" },
		"class":  func(o *Options) { o.Class.CommandLine = "quiet" },
		"module": func(o *Options) { o.Class.Modules = []string{"ptp"} },
	} {
		other := o
		change(&other)
		third, err := Build(t.Context(), other)
		if err != nil || third.Build == first.Build {
			t.Errorf("another %s: error %v, the build id is the same", name, err)
		}
	}
}

func TestBuildRefuses(t *testing.T) {
	for name, change := range map[string]func(*Options){
		"dynamic init":     func(o *Options) { o.Init = writeTemp(t, "init", kerneltest.Program(false)) },
		"script as init":   func(o *Options) { o.Init = writeTemp(t, "init", []byte("#!/bin/sh\n")) },
		"no init":          func(o *Options) { o.Init = "/nonexistent" },
		"no kernel":        func(o *Options) { o.KernelPackage = "/nonexistent" },
		"garbage for CA":   func(o *Options) { o.CA = []byte("hello") },
		"CA without power": func(o *Options) { o.CA = testCA(t, false) },
		"short key":        func(o *Options) { o.ManifestKeys[0] = o.ManifestKeys[0][:31] },
		"server on http":   func(o *Options) { o.Server = "http://x" },
		"unknown module":   func(o *Options) { o.Class.Always = []string{"nosuch"} },
	} {
		o := example(t)
		change(&o)
		if _, err := Build(t.Context(), o); err == nil {
			t.Errorf("%s: no error", name)
		}
		if _, err := ReadResult(o.Output); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: there is a result: %v", name, err)
		}
	}
}

func TestChooseFirmware(t *testing.T) {
	all := map[string]firmwareFile{
		"rtl_nic/a-1.fw": {data: []byte("a")},
		"rtl_nic/a-2.fw": {link: "../real/a.fw"},
		"real/a.fw":      {data: []byte("r")},
		"dangling.fw":    {link: "nowhere"},
		"circle.fw":      {link: "circle.fw"},
		"unwanted.fw":    {data: []byte("u")},
	}
	wanted := map[string]bool{"rtl_nic/a-?.fw": true, "dangling.fw": true, "circle.fw": true, "absent.fw": true}
	chosen, missing := chooseFirmware(wanted, all)
	got := slices.Sorted(maps.Keys(chosen))
	if want := []string{"real/a.fw", "rtl_nic/a-1.fw", "rtl_nic/a-2.fw"}; !slices.Equal(got, want) {
		t.Errorf("chosen %v, want %v", got, want)
	}
	if want := []string{"absent.fw", "circle.fw", "dangling.fw"}; !slices.Equal(missing, want) {
		t.Errorf("missing %v, want %v", missing, want)
	}
}
