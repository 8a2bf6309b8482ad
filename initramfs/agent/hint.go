package agent

import (
	"crypto/tls"
	"errors"

	"clonecast/internal/blockdev"
	"clonecast/internal/clone"
	"clonecast/internal/image"
	"clonecast/internal/protocol"
)

// hintOf knows what to do about errors of packages that do not say it themselves.
func hintOf(err error) string {
	var refused *clone.RefusedError
	var problem *protocol.Problem
	var medium *clone.MediumError
	var read *clone.ReadError
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.As(err, &refused):
		return refused.Remedy
	case errors.As(err, &problem):
		return problem.Hint
	case errors.As(err, &certificate):
		return "this appliance was built for another server, or somebody pretends to be the server; let the server build its appliance again, then boot again"
	case errors.Is(err, image.ErrUntrusted):
		return "the image was not made by this server or was altered; on the server: clonecast store check --read-data"
	case errors.Is(err, blockdev.ErrBusy):
		return "restart the machine; if it happens again, RAID or LVM on the disk is active"
	case errors.As(err, &medium), errors.As(err, &read):
		return "the disk is probably failing; test it (SMART) and replace it"
	}
	return ""
}
