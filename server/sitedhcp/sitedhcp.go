// Package sitedhcp writes what a site's own DHCP server has to be told where clonecast answers no DHCP itself: which
// boot file each kind of client gets, in the words of dnsmasq, ISC dhcpd and Kea. The tests of this package run them.
//
// The order matters: iPXE that can load by HTTP is told the script, everybody else the boot program of his firmware. A
// server that names the program to all has iPXE load itself for ever.
package sitedhcp

import (
	"bytes"
	"embed"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"text/template"

	"clonecast/internal/netboot"
	"clonecast/internal/vfs"
)

//go:embed lines
var lines embed.FS

// Facts are where clonecast answers.
type Facts struct {
	Server string // address, also of TFTP
	HTTP   string // "http://10.99.0.1:8080"
}

// fields fills the templates.
type fields struct {
	Facts
	Script, BIOS, UEFI, UEFIHTTP string
}

func (f Facts) fields() (fields, error) {
	x := fields{Facts: f}
	for _, file := range []struct {
		client netboot.Client
		to     *string
	}{
		{netboot.Client{IPXE: true}, &x.Script},
		{netboot.Client{Kind: netboot.PXEClient, Arch: netboot.BIOS}, &x.BIOS},
		{netboot.Client{Kind: netboot.PXEClient, Arch: netboot.UEFI64}, &x.UEFI},
		{netboot.Client{Kind: netboot.HTTPClient, Arch: netboot.UEFI64HTTP}, &x.UEFIHTTP},
	} {
		var err error
		if *file.to, err = netboot.DefaultPrograms().BootFile(file.client, f.HTTP); err != nil {
			return x, err
		}
	}
	return x, nil
}

// Files gives the lines for each server, by file name.
func Files(f Facts) (map[string][]byte, error) {
	x, err := f.fields()
	if err != nil {
		return nil, fmt.Errorf("lines for DHCP servers: %w", err)
	}
	t, err := template.ParseFS(lines, "lines/*")
	if err != nil {
		return nil, fmt.Errorf("lines for DHCP servers: %w", err)
	}
	list, err := fs.ReadDir(lines, "lines")
	if err != nil {
		return nil, fmt.Errorf("lines for DHCP servers: %w", err)
	}
	files := map[string][]byte{}
	for _, entry := range list {
		var b bytes.Buffer
		if err := t.ExecuteTemplate(&b, entry.Name(), x); err != nil {
			return nil, fmt.Errorf("lines for DHCP servers: %w", err)
		}
		files[entry.Name()] = b.Bytes()
	}
	return files, nil
}

// Write writes the files into a folder.
func Write(dir string, f Facts) error {
	files, err := Files(f)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("lines for DHCP servers: %w", err)
	}
	for name, b := range files {
		if err := vfs.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			return fmt.Errorf("lines for DHCP servers: %w", err)
		}
	}
	return nil
}

// Summary says the same in a few words, with the folder of the files.
func Summary(f Facts, dir string) (string, error) {
	x, err := f.fields()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf(`DHCP is off: set the network's DHCP server to next server %s and to these boot files,
  by who asks; without the first line iPXE would load itself again:
    iPXE (user class)      %s
    UEFI x64 (arch 7, 9)   %s
    UEFI HTTP (arch 16)    %s, with vendor class HTTPClient
    all others             %s
  ready lines for dnsmasq, ISC dhcpd and Kea: %s`,
		x.Server, x.Script, x.UEFI, x.UEFIHTTP, x.BIOS, dir), nil
}
