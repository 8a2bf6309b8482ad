// Measure is what bench/run.sh cannot do with the tools of a shell.
//
//	measure run COMMAND ...         runs a shell command; prints its seconds, its peak memory in KiB and
//	                                its seconds of all cores
//	measure bound IMAGE             reads and hashes what is allocated, on all cores, and does nothing else;
//	                                prints seconds
//	measure delta STORE REF TARGET  deploys a version to a disk that holds the one before, from a server over HTTP;
//	                                prints seconds, bytes fetched and KiB of the client
//	measure serve STORE SOCKET      is that server
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"clonecast/internal/blockdev"
	"clonecast/internal/chunk"
	"clonecast/internal/chunkstore"
	"clonecast/internal/chunkstore/local"
	"clonecast/internal/clone"
	"clonecast/internal/clone/deploy"
	"clonecast/internal/clone/layout"
	"clonecast/internal/image"
	"clonecast/internal/quantity"

	"golang.org/x/sync/errgroup"
)

func main() {
	if err := measure(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "measure:", err)
		os.Exit(1)
	}
}

func measure(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "run":
		return run(args[1])
	case len(args) == 2 && args[0] == "bound":
		return bound(args[1])
	case len(args) == 4 && args[0] == "delta":
		return delta(args[1], args[2], args[3])
	case len(args) == 3 && args[0] == "serve":
		return serve(args[1], args[2])
	}
	return errors.New("usage: see bench/measure/main.go")
}

// run measures a command. The peak is that of its largest process.
func run(command string) error {
	started := time.Now()
	cmd := exec.Command("bash", "-o", "pipefail", "-c", command)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", command, err, out)
	}
	took := time.Since(started)
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_CHILDREN, &usage); err != nil {
		return err
	}
	cores := time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	fmt.Printf("%.2f %d %.2f\n", took.Seconds(), usage.Maxrss, cores.Seconds())
	return nil
}

// bound is the least that a deploy to a disk that needs nothing has to do: all cores read
// the allocated bytes in blocks of 256 KiB and hash each.
func bound(path string) error {
	dev, err := blockdev.Open(path)
	if err != nil {
		return err
	}
	defer dev.Close()
	l, err := layout.Inspect(dev, geometry(dev))
	if err != nil {
		return err
	}
	var blocks []quantity.Extent
	for _, p := range l.Partitions {
		for _, e := range p.Extents {
			for at := e.Start; at < e.End(); at += chunk.Size {
				blocks = append(blocks, quantity.Extent{Start: p.Start + at, Length: min(chunk.Size, e.End()-at)})
			}
		}
	}
	started := time.Now()
	var next atomic.Int64
	var g errgroup.Group
	for range runtime.GOMAXPROCS(0) {
		g.Go(func() error {
			buf := make([]byte, chunk.Size)
			for i := next.Add(1) - 1; i < int64(len(blocks)); i = next.Add(1) - 1 {
				b := buf[:blocks[i].Length]
				if _, err := dev.ReadAt(b, int64(blocks[i].Start)); err != nil {
					return err
				}
				chunk.Sum(b)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	fmt.Printf("%.2f\n", time.Since(started).Seconds())
	return nil
}

func geometry(dev *blockdev.Device) clone.Geometry {
	return clone.Geometry{Size: dev.Size, LogicalSector: dev.LogicalSector, PhysicalSector: dev.PhysicalSector}
}

// delta deploys a version to a disk that holds the one before.
func delta(directory, ref, target string) error {
	ctx := context.Background()
	store, err := local.Open(directory, local.Options{ReadOnly: true})
	if err != nil {
		return err
	}
	defer store.Close()
	name, sequence, err := image.ParseReference(ref)
	if err != nil {
		return err
	}
	m, err := manifest(ctx, store, name, sequence)
	if err != nil {
		return err
	}
	parent, err := manifest(ctx, store, name, m.Sequence-1)
	if err != nil {
		return err
	}
	source, stop, err := startServer(directory)
	if err != nil {
		return err
	}
	defer stop()
	started := time.Now()
	dev, err := blockdev.OpenExclusive(target)
	if err != nil {
		return err
	}
	defer dev.Close()
	disks := []deploy.Disk{{Image: &m.Disks[0], Target: dev, Geometry: geometry(dev)}}
	results, err := deploy.Run(ctx, disks, deploy.Options{},
		deploy.Means{Source: deploy.Source{Name: "a server", Frames: source.Frames, Deltas: source.Deltas}, Parent: parent})
	if err != nil {
		return err
	}
	r := results[0]
	raw, err := m.MarshalBinary()
	if err != nil {
		return err
	}
	took := time.Since(started)
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return err
	}
	fmt.Printf("%.2f %d %d\n", took.Seconds(), int(r.Fetched)+len(raw), usage.Maxrss)
	return nil
}

func manifest(ctx context.Context, store chunkstore.Reader, name string, sequence uint64) (*image.Manifest, error) {
	envelope, err := store.Manifest(ctx, name, sequence)
	if err != nil {
		return nil, err
	}
	m, _, err := image.Open(envelope, store.TrustedKeys())
	return m, err
}
