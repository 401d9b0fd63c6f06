// Package tidy holds the house rules of the repository as tests: who imports
// whom, where the clock is read, how long a function may be, what must have a
// doc.
//
// Nothing imports it. Its tests read every Go file of the module, so that a rule
// is kept by failing rather than by being remembered. Each rule has a control, a
// few lines that break it and must be caught. An exception is a line in a list
// next to the rule, with its reason; one that is no longer needed fails as well.
package tidy
