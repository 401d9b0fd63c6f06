package config

import "github.com/quotad/quotad/internal/strictyaml"

// orList returns what to write instead of an unknown word: the nearest of the candidates if one is near, else all of them.
func orList(word string, candidates []string, show func(string) string) string {
	return strictyaml.Instead(word, candidates, show)
}

// didYouMean returns "; did you mean X?" for the candidate nearest to word, in the form that show gives it; "" if none is near.
func didYouMean(word string, candidates []string, show func(string) string) string {
	return strictyaml.DidYouMean(word, candidates, show)
}
