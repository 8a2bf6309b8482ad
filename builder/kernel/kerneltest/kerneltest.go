// Package kerneltest makes small Debian kernel packages for tests: an ar archive
// with a data.tar, whose modules are ELF objects that have a .modinfo and nothing
// else. No kernel would load them; what reads packages and modules cannot tell.
package kerneltest

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Release is the release of the kernel of Package.
const Release = "6.12.1+test"

// Module makes a module of words such as "depends=libata".
func Module(modinfo ...string) []byte {
	names := "\x00.modinfo\x00.shstrtab\x00"
	info := strings.Join(modinfo, "\x00") + "\x00"
	const headers = 64
	sections := []elf.Section64{
		{},
		{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: headers, Size: uint64(len(info)), Addralign: 1},
		{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: headers + uint64(len(info)), Size: uint64(len(names)), Addralign: 1},
	}
	return object(elf.ET_REL, []byte(info+names), sections, nil)
}

// Program makes an executable without code, linked statically or dynamically.
func Program(static bool) []byte {
	kind := elf.PT_LOAD
	if !static {
		kind = elf.PT_INTERP
	}
	return object(elf.ET_EXEC, nil, nil, []elf.Prog64{{Type: uint32(kind), Off: 64}})
}

// object lays out header, body, section headers, program headers.
func object(kind elf.Type, body []byte, sections []elf.Section64, programs []elf.Prog64) []byte {
	h := elf.Header64{
		Type: uint16(kind), Machine: uint16(elf.EM_X86_64), Version: 1, Ehsize: 64,
		Shoff: uint64(64 + len(body)), Shentsize: 64, Shnum: uint16(len(sections)),
		Phoff: uint64(64 + len(body) + 64*len(sections)), Phentsize: 56, Phnum: uint16(len(programs)),
	}
	if len(sections) > 0 {
		h.Shstrndx = uint16(len(sections) - 1)
	} else {
		h.Shoff = 0
	}
	copy(h.Ident[:], "\x7fELF\x02\x01\x01")
	var out bytes.Buffer
	for _, part := range []any{h, body, sections, programs} {
		binary.Write(&out, binary.LittleEndian, part) // into memory: cannot fail
	}
	return out.Bytes()
}

// Package makes a kernel package of modules, named by their path below
// /lib/modules/RELEASE ("kernel/fs/ext4/ext4.ko"), with a kernel and modules.builtin.
func Package(modules map[string][]byte, builtin ...string) []byte {
	files := map[string][]byte{
		"./boot/vmlinuz-" + Release:                     []byte("kernel"),
		"./lib/modules/" + Release + "/modules.builtin": []byte(strings.Join(builtin, "\n") + "\n"),
	}
	for name, data := range modules {
		files["./lib/modules/"+Release+"/"+name] = data
	}
	return Deb(files)
}

// Deb makes a Debian package of files.
func Deb(files map[string][]byte) []byte {
	var data bytes.Buffer
	w := tar.NewWriter(&data)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(files[name]))})
		w.Write(files[name])
	}
	w.Close()
	out := []byte("!<arch>\n")
	for _, m := range []struct {
		name string
		data []byte
	}{{"debian-binary", []byte("2.0\n")}, {"data.tar", data.Bytes()}} {
		out = fmt.Appendf(out, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", m.name, 0, 0, 0, "100644", len(m.data))
		out = append(out, m.data...)
		out = append(out, "\n"[:len(m.data)%2]...)
	}
	return out
}
