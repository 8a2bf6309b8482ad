package console

import "golang.org/x/sys/unix"

const noctty = unix.O_NOCTTY
