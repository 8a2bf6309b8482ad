package main

import (
	"runtime/debug"
)

// version is set by the linker (see the Makefile); a plain `go build` knows the commit.
var version = ""

// engine names this program and its version, for manifests and reports.
func engine() string {
	v := version
	if info, ok := debug.ReadBuildInfo(); ok && v == "" {
		v = info.Main.Version
	}
	return "clonecast " + v
}
