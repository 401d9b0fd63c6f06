package boltengine
import "testing"
func TestDbg(t *testing.T) {
	path := specimen(t)
	lines, err := child(t, nil, "mutations", path, t.TempDir(), "signed meta", "795768076745737449", "40")
	for _, l := range lines { t.Log(l) }
	t.Log(err)
}
