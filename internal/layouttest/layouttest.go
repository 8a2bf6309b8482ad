// Package layouttest checks in tests that Go structs match the on-disk
// structures they stand for.
//
// Every field carries its offset as the format's specification prints it:
//
//	Magic uint16 `offset:"0x38"`
//
// Check compares each tag with the place encoding/binary gives the field (packed,
// in declaration order, blank fields included) and the sum with the structure's
// size. What it cannot see is a field of the right size under the wrong name.
package layouttest

import (
	"encoding/binary"
	"fmt"
	"reflect"
	"strconv"
	"testing"
)

// Check fails the test when a field of T stands at another offset than its tag
// says, has no tag, or when T does not take size bytes.
func Check[T any](t testing.TB, size int) {
	t.Helper()
	for _, problem := range problems(reflect.TypeFor[T](), size) {
		t.Error(problem)
	}
}

func problems(typ reflect.Type, size int) []string {
	if typ.Kind() != reflect.Struct {
		return []string{fmt.Sprintf("%s is not a struct", typ)}
	}
	var out []string
	offset := 0
	for i := range typ.NumField() {
		f := typ.Field(i)
		n := binary.Size(reflect.Zero(f.Type).Interface())
		if n < 0 {
			return append(out, fmt.Sprintf("%s.%s has type %s, which has no fixed size", typ, f.Name, f.Type))
		}
		if problem := checkTag(f, offset); problem != "" {
			out = append(out, fmt.Sprintf("%s.%s %s", typ, f.Name, problem))
		}
		offset += n
	}
	if offset != size {
		out = append(out, fmt.Sprintf("%s takes %d bytes, want %d", typ, offset, size))
	}
	return out
}

func checkTag(f reflect.StructField, offset int) string {
	tag, ok := f.Tag.Lookup("offset")
	if !ok {
		return "has no offset tag"
	}
	want, err := strconv.ParseInt(tag, 0, 64)
	if err != nil {
		return fmt.Sprintf("has the offset tag %q, which is no number", tag)
	}
	if want != int64(offset) {
		return fmt.Sprintf("stands at %#x, its tag says %#x", offset, want)
	}
	return ""
}
