package main

import (
	"encoding/json"
	"fmt"
	"os"

	"clonecast/internal/bootparam"
	"clonecast/internal/quantity"

	"golang.org/x/sys/unix"
)

// memoryError says that the appliance did not fit into the PC's memory.
type memoryError struct {
	have, need quantity.Bytes // need is 0 when it is not known
}

func (e *memoryError) Error() string {
	text := fmt.Sprintf("this PC has too little memory: the appliance did not fit, and a part of it is missing "+
		"(the kernel has %v", e.have)
	if e.need > 0 {
		text += fmt.Sprintf(", the appliance needs at least %v", e.need)
	}
	return text + ")"
}

// Hint says what to do.
func (e *memoryError) Hint() string {
	return "give the PC more memory, or build an appliance of a smaller hardware class: docs/performance.md"
}

// checkMemory finds out whether the kernel unpacked the whole appliance below root.
func checkMemory(root string) error {
	if _, err := os.Stat(root + bootparam.WholeFile); err == nil {
		return nil
	}
	e := &memoryError{}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		e.have = quantity.Bytes(info.Totalram) * quantity.Bytes(info.Unit)
	}
	var a bootparam.Archive
	if b, err := os.ReadFile(root + bootparam.SizeFile); err == nil && json.Unmarshal(b, &a) == nil {
		e.need = quantity.Bytes(a.MemoryNeeded())
	}
	return e
}
