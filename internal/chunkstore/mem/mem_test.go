package mem_test

import (
	"testing"

	"clonecast/internal/chunkstore"
	"clonecast/internal/chunkstore/mem"
	"clonecast/internal/chunkstore/storetest"
)

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) chunkstore.Store {
		s, err := mem.New()
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}
