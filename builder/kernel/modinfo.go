package kernel

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"strings"
)

// Info is what a module says about itself in its ELF section .modinfo, a list of
// NUL-terminated words "key=value" (include/linux/moduleinfo in the kernel).
type Info struct {
	Depends  []string // names of modules that must be there first
	Aliases  []string // shell patterns of modaliases, or plain names
	Firmware []string // paths below /lib/firmware, may be patterns
	Pre      []string // soft dependencies: load before, if there
	Post     []string // load after
}

// maxModinfo bounds the section; the longest of Debian's 6.12 kernel is 110 KiB.
const maxModinfo = 4 << 20

// parseModinfo reads the section of a module, an ELF object.
func parseModinfo(module []byte) (Info, error) {
	f, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return Info{}, fmt.Errorf("read module: %w", err)
	}
	section := f.Section(".modinfo")
	if section == nil {
		return Info{}, errors.New("read module: no section .modinfo")
	}
	if section.Type == elf.SHT_NOBITS || section.Size > maxModinfo {
		return Info{}, fmt.Errorf("read module: section .modinfo has %d bytes", section.Size)
	}
	data, err := section.Data()
	if err != nil {
		return Info{}, fmt.Errorf("read module: section .modinfo: %w", err)
	}
	return parseWords(data), nil
}

func parseWords(data []byte) Info {
	var info Info
	for word := range strings.SplitSeq(string(data), "\x00") {
		key, value, ok := strings.Cut(word, "=")
		if !ok || value == "" || strings.ContainsAny(value, "\n\r") {
			continue
		}
		switch key {
		case "depends":
			for name := range strings.SplitSeq(value, ",") {
				if name != "" {
					info.Depends = append(info.Depends, normal(name))
				}
			}
		case "alias":
			info.Aliases = append(info.Aliases, value)
		case "firmware":
			info.Firmware = append(info.Firmware, value)
		case "softdep":
			info.addSoftdep(value)
		}
	}
	return info
}

// addSoftdep reads "pre: a b post: c".
func (info *Info) addSoftdep(value string) {
	var list *[]string
	for _, word := range strings.Fields(value) {
		switch {
		case word == "pre:":
			list = &info.Pre
		case word == "post:":
			list = &info.Post
		case list != nil:
			*list = append(*list, normal(word))
		}
	}
}

// normal is a module's name as the kernel has it: files say virtio-rng or
// virtio_rng as they like.
func normal(name string) string { return strings.ReplaceAll(name, "-", "_") }
