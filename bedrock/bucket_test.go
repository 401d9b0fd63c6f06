package bedrock

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/quotad/quotad/internal/quota"
)

// TestBucketNames has the guard's check of a name agree with quotad's own. The guard has one of its own so that apps do not link the
// ledger's rules; the rule is one.
func TestBucketNames(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[a-zA-Z0-9._:@=+/* -]{0,12}|(a/){6,9}a|[a-z]{195,205}|\.{1,3}(/\.{1,2}|/a)?|ü/a`).Draw(t, "name")
		if ours, theirs := checkBucket(name), quota.Bucket(name).Check(); (ours == nil) != (theirs == nil) {
			t.Fatalf("%q: the guard says %v, quotad %v", name, ours, theirs)
		}
	})
}

// TestSegment makes of any text one segment that quotad takes, and of no two texts the same.
func TestSegment(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text, other := rapid.StringN(1, 12, 40).Draw(t, "text"), rapid.StringN(1, 12, 40).Draw(t, "other")
		s := Segment(text)
		if b := quota.Bucket(s); b.Check() != nil || b.Parent() != "" {
			t.Fatalf("%q becomes %q: %v", text, s, b.Check())
		}
		if text != other && s == Segment(other) {
			t.Fatalf("%q and %q both become %q", text, other, s)
		}
	})
}
