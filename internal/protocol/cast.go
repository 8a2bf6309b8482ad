package protocol

// Calls of a cast: a capture that other machines follow (docs/multicast.md).
const (
	// PathOutline takes an outline (image.Outline; the server sets nonce, task, comment, origin and
	// creator) and answers OutlineResponse. A second one begins the cast anew.
	PathOutline = "/machine/v1/capture/outline"
	// PathPart takes the next chunks of the version: the cast (32 bytes), the place of the first
	// chunk (8 bytes, little-endian), chunk ids (at most image.MaxPart), all of them in the store. It
	// answers {}. not_found: the server does not know the cast (any more), send the outline again.
	PathPart = "/machine/v1/capture/part"

	// PathFollow takes what a follower knows (Followed) and answers what there is once that is
	// more, or after some seconds. When the capture has failed it is a Problem.
	PathFollow = "/machine/v1/follow"
	// PathFollowOutline (GET) gives the signed envelope of the outline; the cast follows, 64 hex
	// digits. not_found: there is another cast now.
	PathFollowOutline = "/machine/v1/follow/outline/"
	// PathFollowPart (GET) gives the signed envelope of a part; cast and number follow. Its chunks
	// come by PathChunks.
	PathFollowPart = "/machine/v1/follow/part/"
)

// OutlineResponse names the cast that an outline has begun.
type OutlineResponse struct {
	Cast string `json:"cast"` // 64 hex digits
}

// Followed is how far a cast is, or how much of it a follower knows.
type Followed struct {
	Cast    string `json:"cast,omitempty"` // empty: no outline yet
	Parts   uint64 `json:"parts"`
	Version string `json:"version,omitempty"` // once the capture is published; deploy it when no parts are left
}
