package local

import "clonecast/internal/chunk"

// Layout tells how Frames hands out chunks while no copy is found damaged: the frames in their
// order, and for each id which of them holds it. Nothing is read.
func (s *Store) Layout(ids []chunk.ID) (frames []chunk.FrameSize, of []int, err error) {
	given := map[location]int{}
	for _, id := range ids {
		copies, err := s.locate(id)
		if err != nil {
			return nil, nil, err
		}
		at := -1
		for _, c := range copies {
			if n, ok := given[c.location]; ok {
				at = n
				break
			}
		}
		if at < 0 {
			at = len(frames)
			given[copies[0].location] = at
			frames = append(frames, chunk.FrameSize{Bytes: int(copies[0].size), Chunks: int(copies[0].chunks)})
		}
		of = append(of, at)
	}
	return frames, of, nil
}
