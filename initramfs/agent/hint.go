package agent

import (
	"crypto/tls"
	"errors"

	"clonecast/internal/blockdev"
	"clonecast/internal/clone"
	"clonecast/internal/image"
	"clonecast/internal/protocol"
)

// hintOf knows what to do about an error: what it says itself, or what its kind calls for.
func hintOf(err error) string {
	var refused *clone.RefusedError
	var problem *protocol.Problem
	var hinted interface{ Hint() string }
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.As(err, &refused):
		return refused.Remedy
	case errors.As(err, &problem):
		return problem.Hint
	case errors.As(err, &certificate):
		return "this appliance was built for another server, or somebody pretends to be the server; " +
			"let the server build its appliance again, then boot again"
	case errors.Is(err, image.ErrUntrusted):
		return "the image was not made by this server or was altered; on the server: clonecast store check --read-data"
	case errors.Is(err, blockdev.ErrBusy):
		return "restart the machine; if it happens again, RAID or LVM on the disk is active"
	case errors.As(err, &hinted):
		return hinted.Hint()
	}
	return ""
}
