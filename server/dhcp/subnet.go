package dhcp

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// ParseRange reads the addresses that are handed out, "10.98.0.100-10.98.0.200".
func ParseRange(text string) (first, last netip.Addr, err error) {
	a, b, _ := strings.Cut(text, "-")
	first, err1 := netip.ParseAddr(strings.TrimSpace(a))
	last, err2 := netip.ParseAddr(strings.TrimSpace(b))
	if err1 != nil || err2 != nil || !first.Is4() || !last.Is4() {
		return netip.Addr{}, netip.Addr{}, fmt.Errorf("%q is not of the form 10.99.0.100-10.99.0.200", text)
	}
	return first, last, nil
}

// ParseSubnet reads a network as an admin writes it:
//
//	10.98.0.0/24,range=10.98.0.100-10.98.0.200,router=10.98.0.1,dns=10.98.0.53,dns=10.98.0.54,domain=lab.example,lease=8h
//
// Everything behind the network may be left out.
func ParseSubnet(text string) (Subnet, error) {
	words := strings.Split(text, ",")
	prefix, err := netip.ParsePrefix(strings.TrimSpace(words[0]))
	if err != nil || !prefix.Addr().Is4() {
		return Subnet{}, fmt.Errorf("%q is no IPv4 network: write it as 10.98.0.0/24", words[0])
	}
	if prefix != prefix.Masked() {
		return Subnet{}, fmt.Errorf("%s is an address within %s: write the network", prefix, prefix.Masked())
	}
	s := Subnet{Prefix: prefix}
	for _, word := range words[1:] {
		key, value, _ := strings.Cut(strings.TrimSpace(word), "=")
		if err := s.set(key, value); err != nil {
			return Subnet{}, fmt.Errorf("network %s: %w", prefix, err)
		}
	}
	if err := s.validate(); err != nil {
		return Subnet{}, fmt.Errorf("network %s: %w", prefix, err)
	}
	return s, nil
}

func (s *Subnet) set(key, value string) (err error) {
	switch key {
	case "range":
		s.First, s.Last, err = ParseRange(value)
	case "router":
		err = addAddress(&s.Routers, value)
	case "dns":
		err = addAddress(&s.DNS, value)
	case "ntp":
		err = addAddress(&s.NTP, value)
	case "domain":
		s.Domain, err = value, checkDomain(value)
	case "lease":
		s.LeaseTime, err = time.ParseDuration(value)
		if err != nil || s.LeaseTime <= 0 {
			return fmt.Errorf("lease %q is no time: write it as 30m or 12h", value)
		}
	default:
		return fmt.Errorf("%q is none of range, router, dns, ntp, domain, lease", key)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return nil
}

func addAddress(list *[]netip.Addr, value string) error {
	ip, err := netip.ParseAddr(value)
	if err != nil || !ip.Is4() {
		return fmt.Errorf("%q is no IPv4 address", value)
	}
	*list = append(*list, ip)
	return nil
}

func checkDomain(value string) error {
	for label := range strings.SplitSeq(value, ".") {
		for _, r := range label {
			if r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') {
				return errors.New("letters, digits, hyphens and dots only")
			}
		}
		if label == "" || len(label) > 63 {
			return fmt.Errorf("%q is no domain name", value)
		}
	}
	return nil
}
