package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
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
	authorityLife = 10 * 365 * 24 * time.Hour
	leafLife      = 365 * 24 * time.Hour
	leafRenewal   = 60 * 24 * time.Hour // before the end
	backdate      = 48 * time.Hour
	lookAgain     = time.Minute // at the addresses
)

// authority signs the server's certificate. It is made once for a data directory.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         []byte
}

func openAuthority(dir string) (*authority, error) {
	crt, key := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key")
	if _, err := os.Stat(crt); errors.Is(err, fs.ErrNotExist) {
		if err := createAuthority(crt, key); err != nil {
			return nil, fmt.Errorf("create certificate authority: %w", err)
		}
	}
	pair, err := tls.LoadX509KeyPair(crt, key)
	if err != nil {
		return nil, fmt.Errorf("open certificate authority in %s: %w", dir, err)
	}
	private, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("open certificate authority in %s: its key is no ECDSA key", dir)
	}
	a := &authority{certificate: pair.Leaf, key: private}
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Leaf.Raw})
	return a, nil
}

func createAuthority(crt, key string) error {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "clonecast authority " + now.UTC().Format("2006-01-02")},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(authorityLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		return err
	}
	if err := writeKey(key, private); err != nil {
		return err
	}
	// Last: a directory with ca.crt has everything.
	return vfs.WriteFile(crt, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}

func serial() *big.Int {
	n, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)) // crypto/rand never fails
	return n
}

func writeKey(path string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return vfs.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

// leaf is the server's certificate. It is made anew when an address is not in it or its
// end comes near.
type leaf struct {
	authority *authority
	directory string
	addresses func() ([]netip.Addr, error)

	mu      sync.Mutex
	current *tls.Certificate
	checked time.Time
}

func (l *leaf) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
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
	return c.CheckSignatureFrom(l.authority.certificate) == nil && now.Add(leafRenewal).Before(c.NotAfter)
}

func (l *leaf) issue(crt, key string, addresses []netip.Addr, now time.Time) error {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "clonecast server"},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(leafLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
	}
	for _, a := range addresses {
		template.IPAddresses = append(template.IPAddresses, a.AsSlice())
	}
	if name, err := os.Hostname(); err == nil && name != "" {
		template.DNSNames = append(template.DNSNames, name)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, l.authority.certificate, &private.PublicKey, l.authority.key)
	if err != nil {
		return err
	}
	if err := writeKey(key, private); err != nil {
		return err
	}
	return vfs.WriteFile(crt, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}
