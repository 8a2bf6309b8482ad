package chunk

import "unsafe"

// IDs gives the ids that b is made of: len(b)/32 of them, in the memory of b. A version of 1 TB
// has 4 million, which should not be there twice.
func IDs(b []byte) []ID {
	return unsafe.Slice((*ID)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/len(ID{}))
}

// Bytes gives the ids one after the other, in their own memory.
func Bytes(ids []ID) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(ids))), len(ids)*len(ID{}))
}
