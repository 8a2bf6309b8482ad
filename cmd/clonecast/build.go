package main

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"clonecast/builder"
	"clonecast/configs"

	"github.com/spf13/cobra"
)

// buildOptions are the command line of "clonecast build".
type buildOptions struct {
	class         string
	output        string
	kernelPackage string
	init          string
	ca            string
	manifestKeys  []string
	server        string
	cache         string
	json          bool
}

func newBuildCmd() *cobra.Command {
	var o buildOptions
	cmd := &cobra.Command{
		Use:   "build CLASS|FILE.yaml --output DIR",
		Short: "Build the appliance of a hardware class",
		Long: "Build the appliance that the machines of a hardware class boot: DIR/vmlinuz, DIR/initramfs,\n" +
			"the network boot programs, and DIR/build.json, which describes them.\n\n" +
			"Classes that come with clonecast: " + strings.Join(configs.ClassNames(), ", ") + ".\n\n" + exitHelp,
		Args: words("CLASS"),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return configs.ClassNames(), cobra.ShellCompDirectiveDefault
		},
		RunE: func(cmd *cobra.Command, a []string) error {
			o.class = a[0]
			return runBuild(cmd.Context(), o, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.output, "output", "", "`DIR` for the files")
	f.StringVar(&o.kernelPackage, "kernel-package", "",
		"Debian kernel package `FILE` (default: the newest that apt has for the class)")
	f.StringVar(&o.init, "init", "",
		"clonecast-init program `FILE` (default: beside clonecast, then /usr/lib/clonecast, then PATH)")
	f.StringVar(&o.ca, "ca", "", "certificate authority of the server, PEM `FILE`")
	f.StringArrayVar(&o.manifestKeys, "manifest-key", nil,
		"`FILE` with Ed25519 public keys, hex or base64, one a line; may be given again")
	f.StringVar(&o.server, "server", "", "`URL` of the server for appliances that do not boot from the network")
	f.StringVar(&o.cache, "cache", "", "`DIR` for packages from apt (default: $XDG_CACHE_HOME/clonecast)")
	f.BoolVar(&o.json, "json", false, jsonUsage)
	require(cmd, "output")
	return cmd
}

func runBuild(ctx context.Context, o buildOptions, stdout, stderr io.Writer) error {
	options, err := o.builderOptions()
	if err != nil {
		return err
	}
	options.Log = newProgressLog(stderr)
	result, err := builder.Build(ctx, options)
	if err != nil {
		return err
	}
	if o.json {
		return printJSON(stdout, result)
	}
	return printBuild(stdout, o.output, result)
}

// builderOptions reads the files that the command line names.
func (o buildOptions) builderOptions() (builder.Options, error) {
	for _, file := range []string{o.class, o.kernelPackage, o.init} {
		if err := notPipe(file); err != nil {
			return builder.Options{}, err
		}
	}
	class, err := configs.LoadClass(o.class)
	if errors.Is(err, configs.ErrNotFound) {
		return builder.Options{}, withCode(exitNotFound, err,
			"built in are "+strings.Join(configs.ClassNames(), " and ")+
				"; a class of your own is named by its path, which ends in .yaml")
	}
	if err != nil {
		return builder.Options{}, err
	}
	options := builder.Options{
		Class: class, Output: o.output, KernelPackage: o.kernelPackage, Init: o.init, Server: o.server, Cache: o.cache,
	}
	if o.ca != "" {
		if options.CA, err = readInput(o.ca, 16<<20); err != nil {
			return builder.Options{}, fmt.Errorf("read CA: %w", err)
		}
	}
	for _, file := range o.manifestKeys {
		keys, err := readKeys(file)
		if err != nil {
			return builder.Options{}, fmt.Errorf("read manifest key: %w", err)
		}
		options.ManifestKeys = append(options.ManifestKeys, keys...)
	}
	if options.Cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return builder.Options{}, withCode(exitFailed, fmt.Errorf("find package cache: %w", err),
				"name a directory with --cache")
		}
		options.Cache = filepath.Join(dir, "clonecast")
	}
	return options, nil
}

// readKeys reads public keys, one a line, hex or base64; "#" begins a comment.
func readKeys(file string) ([]ed25519.PublicKey, error) {
	f, err := openInput(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var keys []ed25519.PublicKey
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		text, _, _ := strings.Cut(lines.Text(), "#")
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		key, err := hex.DecodeString(text)
		if err != nil {
			key, err = base64.StdEncoding.DecodeString(text)
		}
		if err != nil || len(key) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("%s: a line is not an Ed25519 public key in hex or base64", file)
		}
		keys = append(keys, key)
	}
	return keys, lines.Err()
}

// printBuild shows people what was made and what takes the room.
func printBuild(w io.Writer, dir string, r builder.Result) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	row := func(name string, files int, bytes int) {
		fmt.Fprintf(t, "%d\t%s\t  %s\n", files, megabytes(bytes), name)
	}
	fmt.Fprintf(w, "appliance %s, kernel %s, build %s\n\nin the initramfs, unpacked:\n", r.Class, r.Kernel, r.Build)
	fmt.Fprint(t, "files\tMB\t  part\n")
	files := 0
	for _, c := range r.Components {
		row(c.Name, c.Files, c.Bytes)
		files += c.Files
	}
	row("archive", files, r.Archive)
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nin %s:\n%8s MB  %s\n%8s MB  %s, compressed with %s by %s\n", dir,
		megabytes(r.Files[builder.KernelFile].Bytes), builder.KernelFile,
		megabytes(r.Files[builder.InitramfsFile].Bytes), builder.InitramfsFile, r.Compression, r.Tool)
	for _, name := range builder.BootPrograms() {
		fmt.Fprintf(w, "%8s MB  %s\n", megabytes(r.Files[name].Bytes), name)
	}
	if len(r.Missing) > 0 {
		fmt.Fprintf(w, "\nfirmware that modules name and that is not in it (%d): %s\n", len(r.Missing), shorten(r.Missing, 8))
		fmt.Fprintln(w, "cards that need it may not work; "+
			"it is in Debian's non-free-firmware: add that to apt's sources and build again")
	}
	return nil
}

func megabytes(n int) string { return fmt.Sprintf("%.2f", float64(n)/1e6) }

// shorten lists the first n names; build.json has them all.
func shorten(names []string, n int) string {
	if len(names) <= n {
		return strings.Join(names, ", ")
	}
	return strings.Join(names[:n], ", ") + ", … (all in " + builder.ResultFile + ")"
}
