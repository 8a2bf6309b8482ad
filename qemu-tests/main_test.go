// Package qemutests holds the end-to-end tests: virtual PCs, a network of their own, and the built programs
// bin/clonecast and bin/clonecast-init. They take minutes and run by `make qemu` (and `make test`); a plain
// `go test ./...` says so and leaves them out.
package qemutests

import (
	"fmt"
	"os"
	"testing"

	"clonecast/qemu-tests/lab"
)

func TestMain(m *testing.M) {
	if os.Getenv("CLONECAST_QEMU") == "" {
		fmt.Println("qemu-tests run by `make qemu`")
		return
	}
	if err := lab.EnterUserNamespace(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}
