package bedrock

import (
	"fmt"
	"strings"
)

// Bounds of quotad on the name of a bucket, as its contract has them.
const (
	nameBytesMax = 200
	segmentsMax  = 8
)

// Segment returns a text as one segment of a bucket's name. Letters, digits and ._:@+- stand for themselves; every other byte is written
// as =XX, the equals sign too, so that no two texts have the same segment and none can name a parent or a neighbour.
func Segment(text string) string {
	if text == "." || text == ".." {
		return strings.ReplaceAll(text, ".", "=2E")
	}
	var b strings.Builder
	for i := range len(text) {
		if c := text[i]; c != '=' && isNameByte(c) {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "=%02X", c)
		}
	}
	return b.String()
}

func isNameByte(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	return strings.IndexByte("._:@=+-", c) >= 0
}

// checkBucket tells what is wrong with a bucket's name before any call is made; quotad itself checks it again.
func checkBucket(name string) error {
	const right = "; a name is 1 to 200 bytes, up to 8 segments of letters, digits and ._:@=+- parted by /, such as acme/bedrock"
	if name == "" || len(name) > nameBytesMax {
		return fmt.Errorf("the bucket's name has %d bytes%s", len(name), right)
	}
	segments := strings.Split(name, "/")
	if len(segments) > segmentsMax {
		return fmt.Errorf("the bucket %q has %d segments%s", name, len(segments), right)
	}
	for _, s := range segments {
		if s == "" || s == "." || s == ".." {
			return fmt.Errorf("the bucket %q has a segment %q%s", name, s, right)
		}
		for i := range len(s) {
			if !isNameByte(s[i]) {
				return fmt.Errorf("the bucket %q has a %q in it%s", name, s[i], right)
			}
		}
	}
	return nil
}
