package builder

import (
	"bytes"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// InitName is the program that becomes /init of the appliance.
const InitName = "clonecast-init"

// initError: there is no usable clonecast-init.
type initError struct{ problem, hint string }

func (e *initError) Error() string { return e.problem }

// Hint says what to do about it.
func (e *initError) Hint() string { return e.hint }

const howToInit = "build it with 'CGO_ENABLED=0 go build -trimpath -ldflags \"-s -w -buildid=\" " +
	"./cmd/clonecast-init' and name it with --init"

// FindInit looks for clonecast-init beside the running program, where packages
// put it, and on PATH.
func FindInit() (string, error) {
	var paths []string
	if self, err := os.Executable(); err == nil {
		if real, err := filepath.EvalSymlinks(self); err == nil {
			self = real
		}
		paths = append(paths, filepath.Join(filepath.Dir(self), InitName))
	}
	paths = append(paths, "/usr/lib/clonecast/"+InitName, "/usr/local/lib/clonecast/"+InitName)
	for _, path := range paths {
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return path, nil
		}
	}
	if found, err := exec.LookPath(InitName); err == nil {
		return found, nil
	}
	cause := fmt.Sprintf("find %s: it is neither beside clonecast nor in /usr/lib/clonecast nor on PATH", InitName)
	return "", &initError{cause, howToInit}
}

// readInit reads the program and checks that it can be PID 1 on an empty disk.
func readInit(name string) ([]byte, error) {
	if name == "" {
		found, err := FindInit()
		if err != nil {
			return nil, err
		}
		name = found
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, &initError{fmt.Sprintf("read init: %v", err), howToInit}
	}
	program, err := elf.NewFile(bytes.NewReader(data))
	if err != nil || program.Machine != elf.EM_X86_64 {
		return nil, &initError{fmt.Sprintf("init %s is not a program for Linux on x86-64", name), howToInit}
	}
	for _, p := range program.Progs {
		if p.Type == elf.PT_INTERP {
			cause := fmt.Sprintf("init %s is linked dynamically, and the appliance has no libraries", name)
			return nil, &initError{cause, howToInit}
		}
	}
	return data, nil
}
