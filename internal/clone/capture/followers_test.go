package capture

import (
	"testing"

	"clonecast/internal/chunk"
)

// Few new chunks in a long stretch of known ones do not keep followers waiting.
func TestUnannounced(t *testing.T) {
	u := unannounced{wanted: true}
	for range manyUnannounced / framePieces {
		u.add(make([]chunk.ID, framePieces))
	}
	if u.many() {
		t.Error("the limit is reached before it is passed")
	}
	u.add(make([]chunk.ID, 1))
	rest := &batch{entries: make([]chunk.Entry, 1)}
	if !u.many() || len(u.storedWith(rest)) != manyUnannounced || len(u.all()) != 1 || u.any() {
		t.Error("what is left of the last batch is told, or the rest is not")
	}
}
