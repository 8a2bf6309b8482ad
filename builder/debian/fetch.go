package debian

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// NoPackageError: neither apt nor the cache has the package.
type NoPackageError struct {
	Pattern string
	Cause   error
}

func (e *NoPackageError) Error() string {
	return fmt.Sprintf("get Debian package %s: %v", e.Pattern, e.Cause)
}
func (e *NoPackageError) Unwrap() error { return e.Cause }

// Hint says what to do about it.
func (e *NoPackageError) Hint() string {
	if strings.HasPrefix(e.Pattern, "linux-image") {
		return "without a network: get the package elsewhere ('apt-get download') and name the file with " +
			"--kernel-package FILE; with one: run 'apt-get update' and try again"
	}
	return "install it where there is a network: apt-get install " + e.Pattern + "; or run 'apt-get update' and try again"
}

var errUnknown = errors.New("apt knows no such package")

// Fetch gets the newest package whose name matches pattern, a shell pattern, and
// returns the path of the file below cache. Without network the newest matching
// file in the cache serves.
func Fetch(ctx context.Context, pattern, cache string, log *slog.Logger) (string, error) {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", fmt.Errorf("make package cache: %w", err)
	}
	file, err := fetch(ctx, pattern, cache, log)
	if err == nil || ctx.Err() != nil {
		return file, err
	}
	if file, ok := newestCached(pattern, cache); ok {
		log.Warn("using the package in the cache", "file", file, "because", err)
		return file, nil
	}
	return "", &NoPackageError{pattern, err}
}

func fetch(ctx context.Context, pattern, cache string, log *slog.Logger) (string, error) {
	name, err := newestName(ctx, pattern)
	if err != nil {
		return "", err
	}
	out, err := run(ctx, "", "apt-get", "download", "--print-uris", name)
	if err != nil {
		return "", err
	}
	fields := strings.Fields(out) // 'http://…' file size SHA256:…
	if len(fields) < 3 || filepath.Base(fields[1]) != fields[1] {
		return "", errUnknown
	}
	target := filepath.Join(cache, fields[1])
	if _, err := os.Stat(target); err == nil {
		return target, nil
	}
	log.Info("downloading", "package", fields[1], "bytes", fields[2])
	part, err := os.MkdirTemp(cache, "download-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(part)
	if _, err := run(ctx, part, "apt-get", "download", "-q", "-o", "APT::Sandbox::User=", name); err != nil {
		return "", err
	}
	if err := os.Rename(filepath.Join(part, fields[1]), target); err != nil {
		return "", fmt.Errorf("keep package: %w", err)
	}
	return target, nil
}

// newestName asks apt for the package names that match.
func newestName(ctx context.Context, pattern string) (string, error) {
	prefix := pattern
	if i := strings.IndexAny(pattern, "*?["); i >= 0 {
		prefix = pattern[:i]
	}
	out, err := run(ctx, "", "apt-cache", "pkgnames", prefix)
	if err != nil {
		return "", err
	}
	var names []string
	for _, name := range strings.Fields(out) {
		if ok, _ := filepath.Match(pattern, name); ok {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return "", errUnknown
	}
	return slices.MaxFunc(names, compareVersions), nil
}

func newestCached(pattern, cache string) (string, bool) {
	files, _ := filepath.Glob(filepath.Join(cache, "*.deb"))
	files = slices.DeleteFunc(files, func(f string) bool {
		name, _, _ := strings.Cut(filepath.Base(f), "_")
		ok, _ := filepath.Match(pattern, name)
		return !ok
	})
	if len(files) == 0 {
		return "", false
	}
	return slices.MaxFunc(files, compareVersions), true
}

// compareVersions orders names with runs of digits as numbers: 6.12.9 before 6.12.117.
func compareVersions(a, b string) int {
	for a != "" && b != "" {
		x, y := digits(a), digits(b)
		if x > 0 && y > 0 {
			m, n := strings.TrimLeft(a[:x], "0"), strings.TrimLeft(b[:y], "0")
			if len(m) != len(n) {
				return len(m) - len(n)
			}
			if c := strings.Compare(m, n); c != 0 {
				return c
			}
			a, b = a[x:], b[y:]
			continue
		}
		if a[0] != b[0] {
			return int(a[0]) - int(b[0])
		}
		a, b = a[1:], b[1:]
	}
	return len(a) - len(b)
}

// digits counts the digits that s begins with.
func digits(s string) int {
	return len(s) - len(strings.TrimLeft(s, "0123456789"))
}

func run(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Run(); err != nil {
		text := strings.TrimSpace(problems.String())
		last := text[strings.LastIndexByte(text, '\n')+1:]
		return "", fmt.Errorf("%s: %w: %s", name, err, last)
	}
	return out.String(), nil
}
