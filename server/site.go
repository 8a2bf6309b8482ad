package server

import (
	"fmt"
	"path/filepath"

	"clonecast/server/dhcp"
	"clonecast/server/sitedhcp"
)

// siteDirectory is where the lines for the site's own DHCP server are kept, in the data directory.
const siteDirectory = "dhcp"

func (s *Server) siteFacts() sitedhcp.Facts {
	return sitedhcp.Facts{Server: s.ip(), HTTP: "http://" + s.hostPort(s.opts.HTTPPort)}
}

// writeSiteLines keeps the lines for the site's own DHCP server right, where that one answers alone.
func (s *Server) writeSiteLines() error {
	if s.opts.DHCP != dhcp.Off {
		return nil
	}
	return sitedhcp.Write(filepath.Join(s.data.Directory, siteDirectory), s.siteFacts())
}

func (s *Server) siteSummary() string {
	text, err := sitedhcp.Summary(s.siteFacts(), filepath.Join(s.data.Directory, siteDirectory))
	if err != nil {
		return err.Error()
	}
	return text
}

// rangeSummary says who gets addresses in mode full.
func (s *Server) rangeSummary() string {
	config, err := dhcpConfig(s.opts, s.address())
	if err != nil {
		return err.Error()
	}
	text := "DHCP (ports 67 and 4011) hands out:"
	for _, n := range config.Subnets {
		if n.First.IsValid() {
			text += fmt.Sprintf("\n    %s to %s in %s", n.First, n.Last, n.Prefix)
		} else {
			text += fmt.Sprintf("\n    reserved addresses only in %s", n.Prefix)
		}
	}
	return text
}
