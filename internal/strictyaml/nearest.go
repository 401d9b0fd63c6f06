package strictyaml

import "strings"

// Instead returns what to write in place of an unknown word, to be put behind what says so: "; did you mean X?" if one of the
// candidates is near, else "; want one of" and all of them. show gives the nearest the form in which it is to be seen.
func Instead(word string, candidates []string, show func(string) string) string {
	if hint := DidYouMean(word, candidates, show); hint != "" {
		return hint
	}
	return "; want one of " + strings.Join(candidates, ", ")
}

// DidYouMean returns "; did you mean X?" for the candidate that is nearest to word, in the form that show gives it; "" if none is
// near.
func DidYouMean(word string, candidates []string, show func(string) string) string {
	best, distance := "", max(2, len(word)/3)+1
	for _, c := range candidates {
		if d := editDistance(word, c); d < distance {
			best, distance = c, d
		}
	}
	if best == "" || distance >= len(best) {
		return ""
	}
	return "; did you mean " + show(best) + "?"
}

// editDistance returns how many insertions, deletions, changes and swaps of neighbours make b out of a.
func editDistance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64 // no key is that long
	}
	var before, last []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before, last = last, row
		row = make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(last[j+1]+1, row[j]+1, last[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
	}
	return row[len(b)]
}
