package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"clonecast/internal/vfs"
)

// Lifetimes. A PC whose clock is some days off still accepts the certificate.
const (
	leafLife    = 365 * 24 * time.Hour
	leafRenewal = 60 * 24 * time.Hour // before the end
	backdate    = 48 * time.Hour
	lookAgain   = time.Minute // at the addresses
)

func writeKey(path string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return vfs.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

// leaf is the server's certificate. It is made anew when an address is not in it, its end comes near, or the
// clock was set back before its begin.
type leaf struct {
	authorities authorities
	directory   string
	addresses   func() ([]netip.Addr, error)
	now         func() time.Time

	mu      sync.Mutex
	current *tls.Certificate
	checked time.Time
}

func (l *leaf) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if l.current != nil && now.Sub(l.checked) < lookAgain {
		return l.current, nil
	}
	l.checked = now
	addresses, err := l.addresses()
	if err != nil && l.current != nil {
		return l.current, nil // the interface went away for a moment
	}
	if err != nil {
		return nil, err
	}
	crt, key := filepath.Join(l.directory, "server.crt"), filepath.Join(l.directory, "server.key")
	if l.current == nil {
		if pair, err := tls.LoadX509KeyPair(crt, key); err == nil {
			l.current = &pair
		}
	}
	if l.current != nil && l.fits(l.current.Leaf, addresses, now) {
		return l.current, nil
	}
	if err := l.issue(crt, key, addresses, now); err != nil {
		return nil, fmt.Errorf("make the server's certificate: %w", err)
	}
	pair, err := tls.LoadX509KeyPair(crt, key)
	if err != nil {
		return nil, fmt.Errorf("read the server's certificate: %w", err)
	}
	l.current = &pair
	return l.current, nil
}

// recheck has the addresses looked at again with the next connection.
func (l *leaf) recheck() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.checked = time.Time{}
}

func (l *leaf) fits(c *x509.Certificate, addresses []netip.Addr, now time.Time) bool {
	for _, a := range addresses {
		if !slices.ContainsFunc(c.IPAddresses, func(ip net.IP) bool { return ip.Equal(a.AsSlice()) }) {
			return false
		}
	}
	return c.CheckSignatureFrom(l.authorities.signer(now).certificate) == nil &&
		!now.Before(c.NotBefore) && now.Add(leafRenewal).Before(c.NotAfter)
}

func (l *leaf) issue(crt, key string, addresses []netip.Addr, now time.Time) error {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	signer := l.authorities.signer(now)
	from := now.Add(-backdate)
	if begin := signer.certificate.NotBefore; from.Before(begin) {
		from = begin // a PC whose clock is wrong judges both at the begin of this one
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "clonecast server"},
		NotBefore: from, NotAfter: now.Add(leafLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
	}
	for _, a := range addresses {
		template.IPAddresses = append(template.IPAddresses, a.AsSlice())
	}
	if name, err := os.Hostname(); err == nil && name != "" {
		template.DNSNames = append(template.DNSNames, name)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signer.certificate, &private.PublicKey, signer.key)
	if err != nil {
		return err
	}
	if err := writeKey(key, private); err != nil {
		return err
	}
	return vfs.WriteFile(crt, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}
