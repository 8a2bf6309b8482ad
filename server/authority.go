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
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"clonecast/internal/vfs"
)

// Lifetimes of an authority. Its successor is made years before its end, so that every appliance that is
// built meanwhile knows both, and signs once the old one has not much longer to live than a server's certificate.
const (
	authorityLife    = 10 * 365 * 24 * time.Hour
	authorityRenewal = 3 * 365 * 24 * time.Hour // before the end: the successor is made
	authoritySwitch  = leafLife + leafRenewal   // before the end: the successor signs
)

// earliest is before every clonecast was built: a clock that shows less is wrong.
var earliest = time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)

// maxAuthorities bounds the successors of one another.
const maxAuthorities = 100

// authority signs certificates of the server.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// authorities are those of a data directory that are valid, the oldest first. The first one is in ca.crt and
// ca.key, its successors are in ca-2.crt, ca-2.key and so on. One whose end has come stays there and counts no more.
type authorities []*authority

// openAuthorities opens the authorities, and makes the first one, or a successor when it is time.
func openAuthorities(dir string, now time.Time, log *slog.Logger) (authorities, error) {
	if now.Before(earliest) {
		log.Warn("this computer's clock is wrong: certificates, tasks and versions will bear its time; set it",
			"clock", now.UTC().Format(time.DateTime))
	}
	known, err := readAuthorities(dir)
	if err != nil {
		return nil, err
	}
	if len(known) == 0 {
		a, err := createAuthority(dir, 1, now)
		return authorities{a}, err
	}
	valid := known.valid(now)
	switch {
	case len(valid) == 0:
		return nil, notValid(dir, known[len(known)-1].certificate, now)
	case now.Add(authorityRenewal).Before(valid[len(valid)-1].certificate.NotAfter):
		return valid, nil
	}
	next, err := createAuthority(dir, len(known)+1, now)
	if err != nil {
		return nil, err
	}
	log.Info("the certificate authority has a successor, appliances that are built from now on trust both",
		"ends", valid[len(valid)-1].certificate.NotAfter.Format(time.DateOnly))
	return append(valid, next), nil
}

// notValid explains why no PC could trust the server.
func notValid(dir string, c *x509.Certificate, now time.Time) error {
	day := func(t time.Time) string { return t.UTC().Format(time.DateOnly) }
	state := "not yet valid: it begins " + day(c.NotBefore)
	if now.After(c.NotAfter) {
		state = "no longer valid: it ended " + day(c.NotAfter)
	}
	return &Problem{
		fmt.Errorf("the certificate authority in %s is %s, and this computer's clock says %s", dir, state, day(now)),
		"if the clock is wrong, set it and start again; if it is right: clonecast ca renew --data " + dir +
			" (PCs that boot from the network then get an appliance that knows the new one; build those on sticks anew)",
	}
}

// RenewAuthority makes another authority for a data directory that no server uses.
func RenewAuthority(dir string, now time.Time) (CertificateAuthority, error) {
	if now.Before(earliest) {
		return CertificateAuthority{}, &Problem{
			fmt.Errorf("this computer's clock says %s, which is wrong", now.UTC().Format(time.DateOnly)), "set the clock first"}
	}
	held, err := lock(filepath.Join(dir, "lock"))
	if err != nil {
		return CertificateAuthority{}, err
	}
	defer held.Close()
	known, err := readAuthorities(dir)
	if err != nil {
		return CertificateAuthority{}, err
	}
	a, err := createAuthority(dir, len(known)+1, now)
	if err != nil {
		return CertificateAuthority{}, err
	}
	return a.describe(len(known)+1, append(known, a).valid(now), now), nil
}

// CertificateAuthority is what people see of an authority.
type CertificateAuthority struct {
	File  string    `json:"path"`
	Name  string    `json:"name"`
	From  time.Time `json:"from"`
	Until time.Time `json:"until"`
	State string    `json:"state"` // signs, waits, not valid
}

// Authorities lists those of a data directory.
func Authorities(dir string, now time.Time) ([]CertificateAuthority, error) {
	known, err := readAuthorities(dir)
	if err != nil {
		return nil, err
	}
	list := []CertificateAuthority{}
	for i, a := range known {
		one := a.describe(i+1, known.valid(now), now)
		one.File = filepath.Join(dir, one.File)
		list = append(list, one)
	}
	return list, nil
}

func (a *authority) describe(number int, valid authorities, now time.Time) CertificateAuthority {
	state := "waits"
	switch {
	case !a.validAt(now):
		state = "not valid"
	case a == valid.signer(now):
		state = "signs"
	}
	crt, _ := authorityFiles("", number)
	c := a.certificate
	return CertificateAuthority{crt, c.Subject.CommonName, c.NotBefore, c.NotAfter, state}
}

func (a *authority) validAt(now time.Time) bool {
	return !now.Before(a.certificate.NotBefore) && !now.After(a.certificate.NotAfter)
}

// valid gives those that are valid at a time.
func (list authorities) valid(now time.Time) authorities {
	var valid authorities
	for _, a := range list {
		if a.validAt(now) {
			valid = append(valid, a)
		}
	}
	return valid
}

// signer gives the authority that signs: the oldest one, which most appliances know, until its end comes near.
func (list authorities) signer(now time.Time) *authority {
	for _, a := range list {
		if a.validAt(now) && now.Add(authoritySwitch).Before(a.certificate.NotAfter) {
			return a
		}
	}
	return list[len(list)-1]
}

// pem gives all certificates, for appliances to trust.
func (list authorities) pem() []byte {
	var b []byte
	for _, a := range list {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw})...)
	}
	return b
}

// authorityFiles gives the files of an authority, which count from 1.
func authorityFiles(dir string, number int) (crt, key string) {
	name := "ca"
	if number > 1 {
		name = fmt.Sprintf("ca-%d", number)
	}
	return filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
}

// readAuthorities reads all there are, valid or not.
func readAuthorities(dir string) (authorities, error) {
	var list authorities
	for number := 1; number <= maxAuthorities; number++ {
		crt, key := authorityFiles(dir, number)
		if _, err := os.Stat(crt); errors.Is(err, fs.ErrNotExist) {
			break
		}
		pair, err := tls.LoadX509KeyPair(crt, key)
		if err != nil {
			return nil, fmt.Errorf("open certificate authority %s: %w", crt, err)
		}
		private, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
		if !ok {
			return nil, fmt.Errorf("open certificate authority %s: its key is no ECDSA key", crt)
		}
		list = append(list, &authority{pair.Leaf, private})
	}
	return list, nil
}

// createAuthority makes an authority. It is valid now and in the years to come, also when the clock is wrong
// now and set later: a computer without a battery believes in the year 2000 until it has heard of the time.
func createAuthority(dir string, number int, now time.Time) (*authority, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("create certificate authority: %w", err)
	}
	from, until := now, now
	if from.After(earliest) && number == 1 {
		from = earliest
	}
	if until.Before(earliest) {
		until = earliest
	}
	name := fmt.Sprintf("clonecast authority %s", now.UTC().Format("2006-01-02"))
	if number > 1 {
		name += fmt.Sprintf(" (%d)", number)
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: name},
		NotBefore: from.Add(-backdate), NotAfter: until.Add(authorityLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		return nil, fmt.Errorf("create certificate authority: %w", err)
	}
	crt, key := authorityFiles(dir, number)
	if err := writeKey(key, private); err != nil {
		return nil, fmt.Errorf("create certificate authority: %w", err)
	}
	// Last: what has a certificate has everything.
	if err := vfs.WriteFile(crt, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		return nil, fmt.Errorf("create certificate authority: %w", err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("create certificate authority: %w", err)
	}
	return &authority{parsed, private}, nil
}

func serial() *big.Int {
	n, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)) // crypto/rand never fails
	return n
}
