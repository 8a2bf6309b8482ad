package agent

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"sync/atomic"
	"time"
)

// certClock is the time at which certificates are judged. A PC's clock may stand
// anywhere, so it decides nothing: a certificate that is not valid by that clock is judged
// again at a moment inside its own validity. It must still come from the pinned
// CA, for the right name, and the CA must have been valid then. The price is that an
// expired certificate of the same CA is accepted, as on any machine whose clock is wrong.
type certClock struct{ offset atomic.Int64 }

func (c *certClock) now() time.Time { return time.Now().Add(time.Duration(c.offset.Load())) }

// adjust moves the clock into the validity of the certificate that err complains about.
func (c *certClock) adjust(err error) bool {
	var verification *tls.CertificateVerificationError
	var invalid x509.CertificateInvalidError
	if !errors.As(err, &verification) || !errors.As(err, &invalid) || invalid.Reason != x509.Expired ||
		len(verification.UnverifiedCertificates) == 0 {
		return false
	}
	leaf := verification.UnverifiedCertificates[0]
	at := leaf.NotBefore.Add(time.Minute)
	if at.After(leaf.NotAfter) {
		return false
	}
	c.offset.Store(int64(time.Until(at)))
	return true
}

// clockedTransport repeats a request once after the clock was adjusted.
type clockedTransport struct {
	http.RoundTripper
	clock *certClock
}

func (t *clockedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := t.RoundTripper.RoundTrip(r)
	if err == nil || !t.clock.adjust(err) {
		return response, err
	}
	again := r.Clone(r.Context())
	if r.GetBody != nil {
		body, bodyErr := r.GetBody()
		if bodyErr != nil {
			return nil, err
		}
		again.Body = body
	}
	return t.RoundTripper.RoundTrip(again)
}
