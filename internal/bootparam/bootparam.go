// Package bootparam is the part of the kernel command line that the server
// writes and the appliance reads:
//
//	clonecast.server=https://10.99.0.1:8443   where the server answers
//	clonecast.token=3f9c…                     names this boot to the server; proves nothing
//	clonecast.mac=52:54:00:12:34:56           the interface that booted
//	clonecast.debug=1                         the kernel's messages stay on the screen
//
// Every key may be absent: an appliance on a USB stick has its server built in.
// Words that are not ours and unknown clonecast keys are ignored, so that an
// older appliance boots from a newer server. A key given twice counts as its
// last value, as in the kernel.
//
// The line passes through iPXE and the kernel, which both split it at blanks and
// give a meaning to quotes, "${", "||", "#" and more. So every byte of a value
// outside a small safe set is written %XX.
//
// Anybody on the network can write this line. It says where to look, never whom
// to trust: the certificate authority is built into the appliance.
package bootparam

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// Limits of a command line. The kernel cuts it at 2048 bytes on x86
// (COMMAND_LINE_SIZE), arm64 allows the same.
const (
	MaxLine  = 4096 // bytes that Parse looks at, more is an error
	maxValue = 512  // bytes of one value, decoded
)

const prefix = "clonecast."

// Params is what the server tells an appliance by its command line.
type Params struct {
	Server string // base URL, "https://10.99.0.1:8443"; empty: the one built in
	Token  string // boot token: letters, digits and "-._~"
	MAC    string // interface that booted, "52:54:00:12:34:56"
	Debug  bool
}

// CommandLine gives the parameters as words of a kernel command line, in a fixed
// order and without those that are empty.
func (p Params) CommandLine() string {
	var words []string
	add := func(key, value string) {
		if value != "" {
			words = append(words, prefix+key+"="+escape(value))
		}
	}
	add("server", p.Server)
	add("token", p.Token)
	add("mac", p.MAC)
	if p.Debug {
		add("debug", "1")
	}
	return strings.Join(words, " ")
}

// Parse reads the parameters from a whole kernel command line (/proc/cmdline).
// On error the result is the zero Params.
func Parse(cmdline string) (Params, error) {
	if len(cmdline) > MaxLine {
		return Params{}, fmt.Errorf("parse kernel command line: %d bytes, at most %d are read", len(cmdline), MaxLine)
	}
	var p Params
	for _, word := range strings.Fields(cmdline) {
		rest, ours := strings.CutPrefix(word, prefix)
		if !ours {
			continue
		}
		key, raw, hasValue := strings.Cut(rest, "=")
		if err := p.set(key, raw, hasValue); err != nil {
			return Params{}, fmt.Errorf("parse kernel command line: %s%s: %w", prefix, key, err)
		}
	}
	return p, nil
}

// set stores the value of one key; keys of a newer server are left alone.
func (p *Params) set(key, raw string, hasValue bool) error {
	check, known := map[string]func(string) error{
		"server": checkServer, "token": checkToken, "mac": checkMAC, "debug": checkBool,
	}[key]
	if !known {
		return nil
	}
	value, err := unescape(raw)
	if err != nil {
		return err
	}
	if key == "debug" && !hasValue {
		value = "1"
	}
	if value != "" {
		if err := check(value); err != nil {
			return err
		}
	}
	switch key {
	case "server":
		p.Server = value
	case "token":
		p.Token = value
	case "mac":
		p.MAC = strings.ToLower(value)
	case "debug":
		p.Debug = value == "1"
	}
	return nil
}

// Validate tells whether an appliance will accept p.
func (p Params) Validate() error {
	q, err := Parse(p.CommandLine())
	if err != nil {
		return err
	}
	if p.MAC = strings.ToLower(p.MAC); q != p {
		return errors.New("boot parameters do not survive the command line")
	}
	return nil
}

func checkServer(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return fmt.Errorf("%q is not a URL", s)
	case u.Scheme != "https":
		return fmt.Errorf("%q is not an https URL", s)
	case u.Hostname() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || strings.ContainsAny(s, "?#"):
		return fmt.Errorf("%q is not of the form https://host:port", s)
	}
	return nil
}

func checkToken(s string) error {
	for i := range len(s) {
		if !alphanumeric(s[i]) && !strings.ContainsRune("-._~", rune(s[i])) {
			return fmt.Errorf("byte %d is not allowed in a token", i) // the token itself stays out of logs
		}
	}
	return nil
}

// checkMAC accepts six octets with colons, in either case.
func checkMAC(s string) error {
	if len(s) != len("aa:bb:cc:dd:ee:ff") {
		return fmt.Errorf("%q is not a MAC address", s)
	}
	for i := range len(s) {
		if c := s[i]; i%3 == 2 && c != ':' || i%3 != 2 && !isHex(c) {
			return fmt.Errorf("%q is not a MAC address", s)
		}
	}
	return nil
}

func checkBool(s string) error {
	if s != "0" && s != "1" {
		return fmt.Errorf("%q is neither 0 nor 1", s)
	}
	return nil
}
