package bringup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// NoModulesError reports that the appliance came without its modules.
type NoModulesError struct{ Path string }

func (e *NoModulesError) Error() string { return e.Path + " is missing: no driver can be loaded" }

// Hint says what to do.
func (e *NoModulesError) Hint() string {
	return "the kernel could probably not unpack the whole initramfs (look for \"Initramfs unpacking failed\" above): " +
		"give the machine more RAM or use a smaller hardware class"
}

// Loader loads modules for the devices of this machine.
type Loader struct {
	dir    string // /lib/modules/VERSION
	sys    string // /sys/devices
	index  *Index
	insert func(file string) error

	mu     sync.Mutex
	seen   map[string]bool // modaliases
	done   map[string]bool // modules, loaded or refused
	report func(error)
}

// NewLoader reads the index of the running kernel's modules. report is told of
// modules that do not load; the machine may well do without them.
func NewLoader(report func(error)) (*Loader, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return nil, fmt.Errorf("kernel version: %w", err)
	}
	dir := filepath.Join("/lib/modules", unix.ByteSliceToString(name.Release[:]))
	return newLoader(dir, "/sys/devices", insertModule, report)
}

func newLoader(dir, sys string, insert func(string) error, report func(error)) (*Loader, error) {
	files := IndexFiles{}
	for name, data := range map[string]*[]byte{
		"dep": &files.Dep, "alias": &files.Alias, "softdep": &files.Softdep, "builtin": &files.Builtin,
	} {
		b, err := os.ReadFile(filepath.Join(dir, "modules."+name))
		if errors.Is(err, fs.ErrNotExist) && name == "dep" {
			return nil, &NoModulesError{filepath.Join(dir, "modules.dep")}
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		*data = b
	}
	index, err := ParseIndex(files)
	if err != nil {
		return nil, err
	}
	return &Loader{
		dir: dir, sys: sys, index: index, insert: insert, report: report,
		seen: map[string]bool{}, done: map[string]bool{},
	}, nil
}

// Load loads modules by name, with what they need.
func (l *Loader) Load(names ...string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for _, name := range names {
		_, err := l.load(name)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// load tells whether it loaded anything.
func (l *Loader) load(name string) (loaded bool, err error) {
	name = ModuleName(name)
	if l.done[name] || l.index.builtin[name] {
		return false, nil
	}
	order, err := l.index.Order(name)
	if err != nil {
		l.done[name] = true
		return false, err
	}
	for _, m := range order {
		if l.done[m] {
			continue
		}
		l.done[m] = true
		file, _ := l.index.File(m)
		if err := l.insert(filepath.Join(l.dir, file)); err != nil {
			if m == name {
				return loaded, fmt.Errorf("load module %s: %w", m, err)
			}
			l.report(fmt.Errorf("load module %s for %s: %w", m, name, err))
			continue
		}
		loaded = true
	}
	return loaded, nil
}

// maxRounds bounds ColdPlug; each round goes one bus deeper (PCI, controller, port, disk).
const maxRounds = 20

// ColdPlug loads the modules of all devices, again and again until no new module is
// needed. It returns how many devices asked for something.
func (l *Loader) ColdPlug() int {
	total := 0
	for range maxRounds {
		devices, loaded := l.plug()
		total += devices
		if !loaded {
			break
		}
		time.Sleep(20 * time.Millisecond) // drivers announce what they find a moment later
	}
	return total
}

// Watch looks for new devices every second until ctx ends.
func (l *Loader) Watch(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
			l.ColdPlug()
		}
	}
}

// plug walks the devices once.
func (l *Loader) plug() (devices int, loaded bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = filepath.WalkDir(l.sys, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "modalias" {
			return nil // a device that went away meanwhile
		}
		b, err := os.ReadFile(path)
		modalias := strings.TrimSpace(string(b))
		if err != nil || modalias == "" || l.seen[modalias] {
			return nil
		}
		l.seen[modalias] = true
		devices++
		for _, name := range l.index.Match(modalias) {
			some, err := l.load(name)
			if err != nil {
				l.report(err)
			}
			loaded = loaded || some
		}
		return nil
	})
	return devices, loaded
}

// insertModule hands a module's file to the kernel.
func insertModule(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	flags := 0
	if !strings.HasSuffix(file, ".ko") {
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	err = unix.FinitModule(int(f.Fd()), "", flags)
	switch {
	case errors.Is(err, unix.EEXIST):
		return nil
	case errors.Is(err, unix.ENODEV):
		return nil // the driver found that it has nothing to drive
	case errors.Is(err, unix.EKEYREJECTED):
		return fmt.Errorf("%w: its signature does not fit this kernel", err)
	}
	return err
}
