package main

import (
	"fmt"

	"clonecast/internal/blockdev"
	"clonecast/internal/clone"
	"clonecast/internal/clone/deploy"
	"clonecast/internal/diskrule"
	"clonecast/internal/image"
)

// keepPartitions makes the manifest one that leaves partitions as they are.
func keepPartitions(m *image.Manifest, list []string) error {
	policies, err := parsePolicies(list, len(m.Disks))
	if err != nil {
		return err
	}
	for i := range m.Disks {
		if m.Disks[i], err = deploy.Keep(m.Disks[i], policies[i]); err != nil {
			return diskError(err)
		}
	}
	return nil
}

// pathsByRules gives this computer's disks that the rules name for the disks of m.
func pathsByRules(texts []string, m *image.Manifest) ([]string, error) {
	facts, err := blockdev.List()
	if err != nil {
		return nil, fmt.Errorf("list disks: %w", err)
	}
	var rules []diskrule.Rule
	for _, text := range texts {
		rule, err := diskrule.Parse(text)
		if err != nil {
			return nil, withCode(exitUsage, err, "'clonecast disk list --help' explains rules")
		}
		rules = append(rules, rule)
	}
	chosen, err := diskrule.Assign(rules, blockdev.Rules(facts), deploy.Wants(m))
	if err != nil {
		return nil, diskError(err)
	}
	var paths []string
	for _, i := range chosen {
		paths = append(paths, facts[i].Path)
	}
	return paths, nil
}

// openTargets opens the disks that will hold those of m.
func openTargets(m *image.Manifest, paths []string, dryRun bool) (devices []*blockdev.Device, err error) {
	if len(paths) != len(m.Disks) {
		return nil, withCode(exitRefused,
			fmt.Errorf("%s@%d holds %d disks, targets are given for %d", m.Image, m.Sequence, len(m.Disks), len(paths)),
			"name a target for each disk of the image, in its order; `clonecast image show` lists them")
	}
	if err := differentDisks(paths); err != nil {
		return nil, err
	}
	open := blockdev.OpenExclusive
	if dryRun {
		open = blockdev.Open
	}
	for i, path := range paths {
		dev, err := openDisk(path, open)
		if err != nil {
			closeAll(devices)
			return nil, absent(err, path, clone.Geometry{Size: m.Disks[i].Size})
		}
		if !dev.Block { // a file has no sectors of its own
			dev.LogicalSector = m.Disks[i].LogicalSector
		}
		devices = append(devices, dev)
	}
	return devices, nil
}

func closeAll(devices []*blockdev.Device) {
	for _, dev := range devices {
		dev.Close()
	}
}
