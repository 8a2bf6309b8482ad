package server

import (
	"bytes"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
)

func day(text string) time.Time {
	t, err := time.Parse(time.DateOnly, text)
	if err != nil {
		panic(err)
	}
	return t
}

// leafAt gives the server's certificate as it would be served at a time.
func leafAt(t *testing.T, dir string, list authorities, now time.Time) *x509.Certificate {
	t.Helper()
	addresses := []netip.Addr{netip.MustParseAddr("10.0.0.1")}
	l := &leaf{authorities: list, directory: dir, addresses: func() ([]netip.Addr, error) { return addresses, nil },
		now: func() time.Time { return now }}
	c, err := l.get(nil)
	if err != nil {
		t.Fatal(err)
	}
	return c.Leaf
}

// trusted tells whether an appliance with these authorities built in trusts a certificate at a time.
func trusted(pem []byte, c *x509.Certificate, now time.Time) error {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return errors.New("no certificate in PEM")
	}
	_, err := c.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now})
	return err
}

// The first start while the clock is wrong, and what comes when it is set: PCs trust the server all the same.
func TestFirstStartWithWrongClock(t *testing.T) {
	for _, wrong := range []string{"1970-01-02", "2000-01-01", "2026-12-02", "2040-06-01"} {
		dir, right := t.TempDir(), day("2027-03-04")
		var said bytes.Buffer
		list, err := openAuthorities(dir, day(wrong), slog.New(slog.NewTextHandler(&said, nil)))
		if err != nil {
			t.Fatal(err)
		}
		leafAt(t, dir, list, day(wrong))
		if warned := strings.Contains(said.String(), "clock is wrong"); warned != day(wrong).Before(earliest) {
			t.Errorf("%s: the log says %q", wrong, &said)
		}
		again, err := openAuthorities(dir, right, quiet())
		if err != nil {
			t.Errorf("made at %s, opened at %v: %v", wrong, right, err)
			continue
		}
		if !bytes.Equal(again.pem()[:len(list.pem())], list.pem()) {
			t.Errorf("made at %s: another authority, appliances must be built again", wrong)
		}
		c := leafAt(t, dir, again, right)
		if err := trusted(list.pem(), c, right); err != nil {
			t.Errorf("made at %s, clock set right: %v", wrong, err)
		}
		// A PC whose clock is wrong judges at the begin of the certificate (agent's certClock).
		if err := trusted(list.pem(), c, c.NotBefore.Add(time.Minute)); err != nil {
			t.Errorf("made at %s, at the certificate's begin: %v", wrong, err)
		}
	}
}

// An authority that is not valid is found at the start, with the way out; the way leads out.
func TestAuthorityNotValid(t *testing.T) {
	dir := t.TempDir()
	old, err := createAuthority(dir, 2, day("2030-01-01")) // a successor is not valid before it was made
	if err != nil {
		t.Fatal(err)
	}
	crt, key := authorityFiles(dir, 2)
	first, firstKey := authorityFiles(dir, 1)
	for from, to := range map[string]string{crt: first, key: firstKey} {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	for now, want := range map[string]string{"2028-01-01": "not yet valid", "2045-01-01": "no longer valid"} {
		_, err := openAuthorities(dir, day(now), quiet())
		var p *Problem
		if !errors.As(err, &p) || !strings.Contains(err.Error(), want) ||
			!strings.Contains(p.Hint(), "clonecast ca renew --data "+dir) {
			t.Fatalf("at %s: %v", now, err)
		}
	}
	made, err := RenewAuthority(dir, day("2045-01-01"))
	if err != nil || made.State != "signs" {
		t.Fatalf("renewed: %+v, %v", made, err)
	}
	list, err := openAuthorities(dir, day("2045-01-02"), quiet())
	if err != nil || len(list) != 1 || list[0].certificate.Equal(old.certificate) {
		t.Errorf("after the renewal: %d authorities, %v", len(list), err)
	}
	if err := trusted(list.pem(), leafAt(t, dir, list, day("2045-01-02")), day("2045-01-02")); err != nil {
		t.Error(err)
	}
	if _, err := RenewAuthority(dir, day("2001-01-01")); err == nil {
		t.Error("renewed though the clock is wrong")
	}
}

// An authority lives its life: years before its end appliances know two, and whenever one of them was built since,
// it trusts the server.
func TestAuthorityIsRenewed(t *testing.T) {
	dir := t.TempDir()
	built := map[time.Time][]byte{} // what appliances trust, by when they were built
	signers := map[string]bool{}
	for now := day("2027-01-01"); now.Before(day("2060-01-01")); now = now.AddDate(0, 2, 0) {
		list, err := openAuthorities(dir, now, quiet())
		if err != nil {
			t.Fatalf("%v: %v", now, err)
		}
		if len(list) > 2 {
			t.Fatalf("%v: %d authorities", now, len(list))
		}
		built[now] = list.pem()
		c := leafAt(t, dir, list, now)
		signers[string(c.AuthorityKeyId)] = true
		if c.NotAfter.After(list.signer(now).certificate.NotAfter) {
			t.Errorf("%v: the certificate outlives its authority", now)
		}
		for when, pem := range built {
			if now.Sub(when) < authorityRenewal-authoritySwitch {
				if err := trusted(pem, c, now); err != nil {
					t.Errorf("an appliance of %v does not trust the server at %v: %v", when, now, err)
				}
			}
		}
	}
	if len(signers) < 4 {
		t.Errorf("%d authorities signed in 33 years", len(signers))
	}
}

// A certificate that was made while the clock was ahead is made anew when it is set back.
func TestLeafOfTheFuture(t *testing.T) {
	dir := t.TempDir()
	list, err := openAuthorities(dir, day("2027-01-01"), quiet())
	if err != nil {
		t.Fatal(err)
	}
	leafAt(t, dir, list, day("2029-01-01"))
	if c := leafAt(t, dir, list, day("2027-01-02")); trusted(list.pem(), c, day("2027-01-02")) != nil {
		t.Errorf("the certificate begins %v", c.NotBefore)
	}
}
