// Package builder makes the appliance of a hardware class: kernel, initramfs, and
// the network boot programs beside them.
//
//	kernel package  → vmlinuz, the class's modules and all that they need
//	firmware        → the files that those modules name, where Debian has them
//	init + settings → /init, the server's CA, the keys that sign manifests
//	                → cpio, compressed → DIR/vmlinuz, DIR/initramfs, DIR/build.json, …
//
// The same inputs give the same bytes. The build id is the hash of all of them,
// so two appliances with one id are the same. No secret goes in: everybody on
// the network can read what is served to a machine that boots.
//
// Files appear in the output directory whole or not at all; build.json comes
// last, and a directory with one holds a finished build.
package builder

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"

	"clonecast/builder/debian"
	"clonecast/builder/initramfs"
	"clonecast/builder/kernel"
	"clonecast/configs"
	"clonecast/internal/bootparam"
	"clonecast/internal/vfs"
)

// The files of a build.
const (
	KernelFile    = "vmlinuz"
	InitramfsFile = "initramfs"
	ResultFile    = "build.json"
)

// Options says what to build from what.
type Options struct {
	Class         configs.Class
	Output        string              // directory, made if it is not there
	KernelPackage string              // Debian package file; empty: through apt
	Cache         string              // directory for packages from apt
	Init          string              // clonecast-init; empty: FindInit
	CA            []byte              // server's certificate authorities, PEM; may be empty
	ManifestKeys  []ed25519.PublicKey // that an appliance accepts; may be empty
	Server        string              // base URL for appliances that boot without a network; may be empty
	Log           *slog.Logger        // progress
}

// Build makes an appliance.
func Build(ctx context.Context, o Options) (Result, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	settings, err := o.settings()
	if err != nil {
		return Result{}, err
	}
	init, err := readInit(o.Init)
	if err != nil {
		return Result{}, err
	}
	linux, set, err := o.modules(ctx)
	if err != nil {
		return Result{}, err
	}
	firmware, missing, err := o.firmware(ctx, set)
	if err != nil {
		return Result{}, err
	}
	b := build{Options: o, linux: linux, set: set, init: init, firmware: firmware, settings: settings}
	programs, err := o.bootPrograms(ctx) // what may not be to be had comes before the long work
	if err != nil {
		return Result{}, err
	}
	packed, err := b.pack(ctx)
	if err != nil {
		return Result{}, err
	}
	result := b.result(packed, missing)
	files := programs
	files[KernelFile], files[InitramfsFile] = linux.Vmlinuz, packed.Data
	return result, write(o.Output, files, &result)
}

// Ready finds what would stop a build, before anything long is done, and gives the options with the kernel package
// that the build will use.
func Ready(ctx context.Context, o Options) (Options, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if _, err := o.settings(); err != nil {
		return o, err
	}
	if _, err := readInit(o.Init); err != nil {
		return o, err
	}
	if o.KernelPackage == "" {
		var err error
		if o.KernelPackage, err = debian.Fetch(ctx, o.Class.Kernel, o.Cache, o.Log); err != nil {
			return o, err
		}
	}
	if err := debian.Check(o.KernelPackage); err != nil {
		return o, err
	}
	_, err := o.bootPrograms(ctx)
	return o, err
}

// build is what goes into one appliance.
type build struct {
	Options
	linux     *kernel.Package
	set       kernel.Set
	init      []byte
	firmware  map[string]firmwareFile // by path below lib/firmware
	settings  map[string][]byte       // by path
	id        string
	component components
}

// settings are the files of the appliance that come from the server.
func (o Options) settings() (map[string][]byte, error) {
	files := map[string][]byte{}
	if len(o.CA) > 0 {
		if err := checkCAs(o.CA); err != nil {
			return nil, fmt.Errorf("read CA: %w", err)
		}
		files[bootparam.CAFile] = o.CA
	}
	var keys []byte
	for _, key := range o.ManifestKeys {
		if len(key) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("manifest key has %d bytes, not %d", len(key), ed25519.PublicKeySize)
		}
		keys = append(hex.AppendEncode(keys, key), '\n')
	}
	files[bootparam.KeysFile] = keys
	if err := (bootparam.Params{Server: o.Server}).Validate(); err != nil {
		return nil, fmt.Errorf("server address: %w", err)
	}
	return files, nil
}

// checkCAs finds out whether PEM text holds certificates of authorities and nothing else.
func checkCAs(text []byte) error {
	block, rest := pem.Decode(text)
	if block == nil {
		return errors.New("it is not a PEM certificate")
	}
	for ; block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return errors.New("it is not a PEM certificate")
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return err
		}
		if !cert.IsCA {
			return errors.New("the certificate is not one of a certificate authority")
		}
	}
	return nil
}

// modules opens the kernel package and chooses the class's modules.
func (o Options) modules(ctx context.Context) (*kernel.Package, kernel.Set, error) {
	file := o.KernelPackage
	if file == "" {
		var err error
		if file, err = debian.Fetch(ctx, o.Class.Kernel, o.Cache, o.Log); err != nil {
			return nil, kernel.Set{}, err
		}
	}
	o.Log.Info("reading kernel package", "file", file)
	linux, err := kernel.Open(ctx, file)
	if err != nil {
		return nil, kernel.Set{}, err
	}
	o.Log.Info("choosing modules", "kernel", linux.Release)
	patterns := slices.Concat(o.Class.Modules, o.Class.Always)
	set, err := linux.Select(ctx, patterns, o.Class.Exclude)
	if err != nil {
		return nil, kernel.Set{}, fmt.Errorf("class %s: %w", o.Class.Name, err)
	}
	return linux, set, nil
}

// pack makes the initramfs. Its id is the hash of the archive before the id is in it.
func (b *build) pack(ctx context.Context) (initramfs.Compressed, error) {
	archive, err := b.archive()
	if err != nil {
		return initramfs.Compressed{}, err
	}
	plain, err := archive.Bytes()
	if err != nil {
		return initramfs.Compressed{}, err
	}
	hash := sha256.New()
	class, _ := json.Marshal(b.Class) // strings only: cannot fail
	for _, part := range [][]byte{class, []byte(b.Server), b.linux.Vmlinuz, plain} {
		sum := sha256.Sum256(part)
		hash.Write(sum[:])
	}
	b.id = hex.EncodeToString(hash.Sum(nil)[:8])
	info, err := json.MarshalIndent(bootparam.Appliance{
		Class: b.Class.Name, Kernel: b.linux.Release, Build: b.id,
		Always: b.Class.Always, Disk: b.Class.Disk, Server: b.Server,
	}, "", "  ")
	if err != nil {
		return initramfs.Compressed{}, err
	}
	if err := archive.AddFile(bootparam.ClassFile, append(info, '\n'), false); err != nil {
		return initramfs.Compressed{}, err
	}
	size, err := json.Marshal(bootparam.Archive{Unpacked: int64(len(plain))})
	if err != nil {
		return initramfs.Compressed{}, err
	}
	err = errors.Join(archive.AddFile(bootparam.SizeFile, size, false), archive.AddFile(bootparam.WholeFile, size, false))
	if err != nil {
		return initramfs.Compressed{}, err
	}
	if plain, err = archive.Bytes(); err != nil {
		return initramfs.Compressed{}, err
	}
	b.component.archive = len(plain)
	b.Log.Info("compressing", "bytes", len(plain))
	return initramfs.Compress(ctx, b.Class.Compression, plain)
}

// archive lays out the root file system, all but ClassFile.
func (b *build) archive() (*initramfs.Archive, error) {
	a := &initramfs.Archive{}
	errs := []error{
		a.AddDevice("dev/console", 0o600, 5, 1),
		a.AddDevice("dev/null", 0o666, 1, 3),
		a.AddFile("init", b.init, true),
	}
	for _, dir := range []string{"proc", "sys", "run", "tmp"} {
		errs = append(errs, a.AddDir(dir))
	}
	b.component.count("init", len(b.init))
	dir := path.Join(bootparam.ModuleDir, b.linux.Release)
	for _, m := range b.set.Modules {
		errs = append(errs, a.AddFile(path.Join(dir, m.File()), m.Data, false))
		b.component.count("modules "+path.Dir(m.Path), len(m.Data))
	}
	for name, data := range b.set.Tables() {
		errs = append(errs, a.AddFile(path.Join(dir, name), data, false))
		b.component.count("module tables", len(data))
	}
	for name, f := range b.firmware {
		name = path.Join("lib/firmware", name)
		if f.link != "" {
			errs = append(errs, a.AddSymlink(name, f.link))
			continue
		}
		errs = append(errs, a.AddFile(name, f.data, false))
		b.component.count("firmware", len(f.data))
	}
	for name, data := range b.settings {
		errs = append(errs, a.AddFile(name, data, false))
		b.component.count("settings", len(data))
	}
	return a, errors.Join(errs...)
}

// write puts the files into the directory, the result last.
func write(dir string, files map[string][]byte, result *Result) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make output directory: %w", err)
	}
	if err := os.Remove(filepath.Join(dir, ResultFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the result of the build before: %w", err)
	}
	result.Files = map[string]File{}
	for name, data := range files {
		sum := sha256.Sum256(data)
		result.Files[name] = File{Bytes: len(data), SHA256: hex.EncodeToString(sum[:])}
		if err := writeFile(filepath.Join(dir, name), data); err != nil {
			return err
		}
	}
	text, err := json.MarshalIndent(result, "", "  ")
	if err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	return writeFile(filepath.Join(dir, ResultFile), append(text, '\n'))
}

// writeFile makes a file appear whole. Everybody may read it: the server of boot files is not root.
func writeFile(name string, data []byte) error {
	err := vfs.WriteFile(name, data, 0o644)
	if err == nil {
		err = os.Chmod(name, 0o644)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}
