package rescue

import (
	"errors"
	"testing"

	"clonecast/internal/quantity"
)

// deadDisk gives nothing any more.
type deadDisk struct{}

func (deadDisk) ReadAt([]byte, int64) (int, error) { return 0, errors.New("medium error") }

// A disk that gives nothing any more ends a capture early, unless it is to be filled.
func TestGivesUp(t *testing.T) {
	r := Reader{Disk: deadDisk{}, Limit: 8 * quantity.MiB}
	var bad *UnreadableError
	if err := r.read(make([]byte, 16<<20), 0, steps); !errors.As(err, &bad) || len(bad.Extents) != 1 {
		t.Errorf("read = %v, want an UnreadableError", err)
	}
}
