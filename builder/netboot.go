package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"

	"clonecast/builder/debian"
)

// BootPrograms are the files of Debian's package ipxe that a machine may ask for:
// BIOS, UEFI, and UEFI through the firmware's own network driver.
func BootPrograms() []string { return []string{"undionly.kpxe", "ipxe.efi", "snponly.efi"} }

const (
	ipxePackage = "ipxe"
	ipxeDir     = "/usr/lib/ipxe" // where the package puts them
	maxProgram  = 16 << 20
)

// bootPrograms reads them from where they are installed, or else from the package.
func (o Options) bootPrograms(ctx context.Context) (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, name := range BootPrograms() {
		data, err := os.ReadFile(filepath.Join(ipxeDir, name))
		if errors.Is(err, os.ErrNotExist) {
			return o.packagedPrograms(ctx)
		}
		if err != nil {
			return nil, fmt.Errorf("read network boot program: %w", err)
		}
		files[name] = data
	}
	return files, nil
}

func (o Options) packagedPrograms(ctx context.Context) (map[string][]byte, error) {
	file, err := debian.Fetch(ctx, ipxePackage, o.Cache, o.Log)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	err = debian.Walk(ctx, file, func(f debian.File, r io.Reader) error {
		name := path.Base(f.Name)
		if f.Link != "" || !slices.Contains(BootPrograms(), name) {
			return nil // usr/lib/ipxe/ipxe.efi is a link to boot/ipxe.efi
		}
		data, err := io.ReadAll(io.LimitReader(r, maxProgram))
		files[name] = data
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, name := range BootPrograms() {
		if len(files[name]) == 0 {
			return nil, fmt.Errorf("package %s: it has no %s", file, name)
		}
	}
	return files, nil
}
