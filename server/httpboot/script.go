package httpboot

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"text/template"

	"clonecast/internal/netboot"
	"clonecast/internal/text"
)

//go:embed scripts/*.ipxe scripts/*.partial
var scriptFiles embed.FS

// script is what the templates are filled with. Each field has been made safe
// before: iPXE reads whatever stands here as commands.
type script struct {
	Base        string // "http://10.99.0.1": iPXE takes a colon in a relative URL for a scheme's
	Reason      string
	UEFI        bool
	Class       string
	Kernel      string
	Initramfs   string
	CommandLine string
	Boot        string // query of the files: "?boot=" and the token
	Query       string
}

// scripts holds the templates.
type scripts struct{ t *template.Template }

func parseScripts() (scripts, error) {
	t, err := template.New("").Option("missingkey=error").ParseFS(scriptFiles, "scripts/*.ipxe", "scripts/*.partial")
	return scripts{t}, err
}

// ask is the first script, the same for every PC. iPXE fills in the settings;
// netX is the interface that booted, uristring escapes what the maker wrote.
func (s scripts) ask(base string) ([]byte, error) {
	return s.run("ask.ipxe", script{Base: base, Query: strings.Join([]string{
		"mac=${netX/mac}", "uuid=${uuid}", "platform=${platform}", "cpu=${buildarch}",
		"serial=${serial:uristring}", "manufacturer=${manufacturer:uristring}", "product=${product:uristring}",
	}, "&")})
}

// local sends the PC to its local disk.
//
// On BIOS the disk is started at once; a plain exit leaves it to the firmware,
// which may ask the next network card first or stop with "no bootable device".
// On UEFI only the firmware knows its boot entries, so iPXE gives control back.
func (s scripts) local(c Client, reason string) ([]byte, error) {
	return s.run("local.ipxe", script{UEFI: c.UEFI, Reason: harmless(reason)})
}

// appliance loads a class's boot image, and goes on to the local disk if that fails.
func (s scripts) appliance(base string, c Client, d Decision) ([]byte, error) {
	if !validName(d.Class) {
		return nil, fmt.Errorf("class %q is not a name", d.Class)
	}
	if err := d.Params.Validate(); err != nil {
		return nil, err
	}
	if err := checkArgs(d.Args); err != nil {
		return nil, err
	}
	// A UEFI kernel finds its initramfs by this name; a BIOS kernel ignores it.
	words := []string{"initrd=" + netboot.InitramfsFile, d.Params.CommandLine(), d.Args}
	line := strings.Join(strings.Fields(strings.Join(words, " ")), " ")
	if len(line) > maxCommandLine {
		return nil, fmt.Errorf("kernel command line of %d bytes, the kernel takes %d", len(line), maxCommandLine)
	}
	boot := ""
	if d.Params.Token != "" {
		boot = "?" + bootKey + "=" + d.Params.Token // of letters that a URL has no meaning for
	}
	return s.run("appliance.ipxe", script{
		Boot: boot, Base: base, UEFI: c.UEFI, Reason: harmless(d.Reason), Class: d.Class,
		Kernel: netboot.KernelFile, Initramfs: netboot.InitramfsFile, CommandLine: line,
	})
}

func (s scripts) run(name string, data script) ([]byte, error) {
	var b bytes.Buffer
	if err := s.t.ExecuteTemplate(&b, name, data); err != nil {
		return nil, fmt.Errorf("write boot script: %w", err)
	}
	return b.Bytes(), nil
}

// bootKey names the boot in the URLs of its files.
const bootKey = "boot"

// Chain is the script that leads iPXE to the boot server at base, "http://10.99.0.1:8080".
func Chain(base string) []byte {
	return []byte("#!ipxe\nchain --replace --autofree " + base + netboot.ScriptPath + " || exit 1\n")
}

const (
	maxCommandLine = 2047 // COMMAND_LINE_SIZE of x86, less its NUL
	maxReason      = 70   // one line of a text screen, after "clonecast: "
)

// harmless reduces a text to letters that iPXE gives no meaning: no "$" and "{"
// (settings), "|" "&" ";" (further commands), "#" (comment), quotes and backslash.
func harmless(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case b.Len() >= maxReason:
			return b.String()
		case r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || strings.ContainsRune(" .,:_/()+@%-", r):
			b.WriteRune(r)
		case r < ' ' || r == 0x7f:
			b.WriteByte(' ')
		default:
			b.WriteByte('?')
		}
	}
	return b.String()
}

// checkArgs refuses kernel arguments that iPXE would take for something else.
func checkArgs(s string) error {
	for _, r := range s {
		if r < ' ' || r > '~' {
			return errors.New("kernel arguments have a character that is not printable ASCII")
		}
	}
	for _, bad := range []string{"${", "|", "&", "#", "\\", "\"", "'", ";"} {
		if strings.Contains(s, bad) {
			return fmt.Errorf("kernel arguments have %q, which iPXE does not pass on", bad)
		}
	}
	return nil
}

// baseURL gives the address that the PC reached us by: the one that is sure to
// work for it. The Host header is hostile text like all else.
func baseURL(r *http.Request) (string, error) {
	if len(r.Host) == 0 || len(r.Host) > 255 {
		return "", errors.New("host header is missing or too long")
	}
	for _, c := range r.Host {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && !strings.ContainsRune(".-:[]", c) {
			return "", fmt.Errorf("host header %q is no host", text.Clean(r.Host, maxText))
		}
	}
	return "http://" + r.Host, nil
}

// validName accepts what a class may be called: 1 to 64 letters, digits, "-",
// "_" and ".", not beginning with a dot.
func validName(s string) bool {
	if len(s) == 0 || len(s) > 64 || s[0] == '.' {
		return false
	}
	for _, r := range s {
		if (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && !strings.ContainsRune("-_.", r) {
			return false
		}
	}
	return true
}
