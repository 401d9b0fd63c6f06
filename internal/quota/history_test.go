package quota_test

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/window"
)

// The histories leave much behind that is soon forgotten: with more room for it they take two thirds of the time.
func TestMain(m *testing.M) {
	debug.SetGCPercent(400)
	m.Run()
}

// long tells whether the tests that take minutes are asked for.
func long() bool { return os.Getenv("QUOTAD_LONG") != "" }

// pick chooses a number from 0 to n-1. It is all the chance that a history has: rapid's, which it can shrink, or a seed's.
type pick func(n int, label string) int

func seeded(seed uint64) pick {
	r := rand.New(rand.NewPCG(seed, 0))
	return func(n int, _ string) int { return r.IntN(n) }
}

func drawn(t *rapid.T) pick {
	return func(n int, label string) int { return rapid.IntRange(0, n-1).Draw(t, label) }
}

func oneOf[T any](p pick, label string, of []T) T { return of[p(len(of), label)] }

// The world of the histories is small, so that everything meets everything.
var (
	worldNames      = []quota.Bucket{"a", "a", "a/b", "a/b", "a", "a/b/c", "a/c", "d", "d/e", "f", "f/g/h"}
	worldPatterns   = []string{"a", "a", "a/b", "a/b/c", "d", "d/e", "f/g", "*", "a/*", "*/b", "*/*", "a/*/*", "*/b/*"}
	worldUnits      = []quota.Unit{quota.Calls, quota.Calls, quota.Calls, "tokens", "usd_micros"}
	worldSpans      = append(window.Spans(), window.Day, window.Day, window.Day)
	worldZones      = []string{"", "UTC", "America/Havana", "Europe/Berlin", "Australia/Lord_Howe", "Pacific/Apia", "Asia/Kolkata"}
	worldLimits     = []int64{5, 3, 8, 12, 20, 5, 6, 8, 1, 2, 0, quota.CountMax, quota.CountMax - 5, quota.AmountMax, quota.AmountMax + 1}
	worldAmounts    = []int64{1, 1, 1, 1, 1, 1, 2, 2, 2, 3, 3, 4, 5, 8, 13, quota.AmountMax, quota.AmountMax - 1}
	worldHolds      = []time.Duration{0, 0, time.Minute, 30 * time.Second, time.Millisecond, time.Hour, 24 * time.Hour}
	worldThresholds = []quota.Thresholds{nil, nil, {80, 100}, {}, {50}, {1, 34, 50, 99, 100, 101, 150, 1000}}
	worldStarts     = []time.Time{
		time.Date(2026, 11, 22, 16, 5, 0, 0, time.UTC),
		time.Date(2026, 11, 1, 3, 58, 30, 0, time.UTC),  // before the day of 25 hours in Havana
		time.Date(2026, 3, 8, 4, 58, 30, 0, time.UTC),   // before the day without a midnight there
		time.Date(2026, 10, 24, 23, 59, 0, 0, time.UTC), // before the hour that Berlin repeats
		time.Date(2026, 4, 4, 14, 30, 0, 0, time.UTC),   // before the half hour that Lord Howe repeats
		time.Date(2011, 12, 30, 9, 30, 0, 0, time.UTC),  // before the day that Apia skipped
		time.Date(2026, 12, 31, 23, 59, 50, 0, time.UTC),
		time.Date(2028, 2, 28, 18, 29, 59, 0, time.UTC), // before a leap day in Kolkata
	}
)

// world makes up ops that suit what came before.
type world struct {
	*checker
	pick     pick
	names    []quota.Bucket
	patterns []string
	limits   int                // of one bucket, at most
	before   []quota.Op         // of callers
	ids      []quota.ReceiptKey // of acquires, whether they were granted or not
	ahead    []quota.Charge     // what a limit refuses, and an override of the next window does not
}

func newWorld(p pick) (*world, error) {
	w := &world{pick: p, names: worldNames, patterns: worldPatterns, limits: 4}
	if p(2, "size") > 0 { // so few that more than two things happen to each
		w.names, w.patterns, w.limits = worldNames[2:5], worldPatterns[1:3], 2
	}
	declared := make(map[string]quota.Settings)
	for range p(5, "declared") + len(worldNames)/len(w.names)/3 { // one at least where there are few
		s := someSettings(w.pick, w.limits)
		s.Source = quota.Source(p(2, "source")) // the file's, too
		declared[oneOf(p, "name", w.patterns)] = s
	}
	var err error
	w.checker, err = newChecker(oneOf(p, "start", worldStarts), someDefaults(p), declared)
	return w, err
}

func someLimits(p pick, most int) []quota.Limit {
	var limits []quota.Limit
	for range p(most+1, "limits") {
		l := quota.Limit{Unit: oneOf(p, "unit", worldUnits), Span: oneOf(p, "span", worldSpans), Max: oneOf(p, "max", worldLimits)}
		if !containsLimit(limits, l) {
			limits = append(limits, l)
		}
	}
	return lowered(limits)
}

// holds tells which windows are parts of which.
var holds = map[window.Span][]window.Span{
	window.Hour:  {window.Minute},
	window.Day:   {window.Minute, window.Hour},
	window.Week:  {window.Minute, window.Hour, window.Day},
	window.Month: {window.Minute, window.Hour, window.Day},
	window.Year:  {window.Minute, window.Hour, window.Day, window.Month},
	window.Ever:  {window.Minute, window.Hour, window.Day, window.Week, window.Month, window.Year},
}

// lowered returns the limits with those lowered that could never apply.
func lowered(limits []quota.Limit) []quota.Limit {
	for i := range limits {
		for _, l := range limits {
			if l.Unit == limits[i].Unit && slices.Contains(holds[l.Span], limits[i].Span) {
				limits[i].Max = min(limits[i].Max, l.Max)
			}
		}
	}
	return limits
}

func containsLimit(limits []quota.Limit, l quota.Limit) bool {
	for _, m := range limits {
		if m.Unit == l.Unit && m.Span == l.Span {
			return true
		}
	}
	return false
}

func someSettings(p pick, limits int) quota.Settings {
	s := quota.Settings{
		Limits: someLimits(p, limits), Zone: oneOf(p, "zone", worldZones),
		OnExpiry: quota.OnExpiry(p(2, "on expiry")), Description: oneOf(p, "description", []string{"", "dear"}),
		Thresholds: oneOf(p, "thresholds", worldThresholds),
	}
	if p(2, "reservations") > 0 {
		return s
	}
	s.MaxHold = oneOf(p, "max hold", []int{0, 50, 100, 34, 1})
	s.MaxInFlight = oneOf(p, "max in flight", []int64{0, 1, 0, 2})
	s.Hold = oneOf(p, "hold", worldHolds)
	for _, unit := range []quota.Unit{quota.Calls, "tokens", "usd_micros"}[:p(4, "estimates")] {
		e := quota.Estimate{Unit: unit, Amount: oneOf(p, "estimate", []int64{2, 1, 3, 4, quota.AmountMax})}
		with := s
		with.Estimates = append(slices.Clone(s.Estimates), e)
		if with.Check() == nil { // else nothing could be granted with it
			s = with
		}
	}
	return s
}

func someDefaults(p pick) quota.Defaults {
	return quota.Defaults{
		Limits: someLimits(p, 3), Zone: oneOf(p, "zone", worldZones[:4]), UndeclaredLive: oneOf(p, "undeclared", []int64{9, 9, 9, 2, 1, 0}),
		Thresholds: oneOf(p, "thresholds", worldThresholds),
	}
}

// step lets time go on and makes one op.
func (w *world) step() error {
	w.passTime()
	n := w.pick(100, "op")
	if n < 62 && len(w.model.grants) == 0 { // there is nothing to settle
		n = 0
	}
	switch {
	case n < 34:
		return w.do(w.said(w.acquire()))
	case n < 47:
		return w.do(w.said(w.settle()))
	case n < 53:
		return w.do(w.said(w.release()))
	case n < 62:
		return w.do(w.said(w.extend()))
	case n < 64:
		return w.do(quota.Expire{Max: oneOf(w.pick, "at most", []int{512, 1, 0, 2})})
	case n < 72 && len(w.before) > 0:
		return w.do(w.said(w.again()))
	case n < 77:
		return w.do(quota.Reset{
			Principal: "p", Bucket: oneOf(w.pick, "bucket", w.names), Unit: oneOf(w.pick, "unit", []quota.Unit{"", "", quota.Calls}),
			Span: window.Span(max(0, w.pick(14, "span")-6)), ValidateOnly: w.pick(4, "only") == 0,
		})
	case n < 84:
		return w.do(w.override())
	default:
		return w.administer(n)
	}
}

// administer makes an op that is not for callers, or brings about what takes years.
func (w *world) administer(n int) error {
	switch {
	case n < 88:
		return w.do(quota.SetBucket{Principal: "p", Name: oneOf(w.pick, "name", w.patterns), Settings: someSettings(w.pick, w.limits)})
	case n < 90:
		return w.do(quota.DeleteBucket{Principal: "p", Name: oneOf(w.pick, "name", w.patterns)})
	case n < 92:
		return w.do(w.applySet())
	case n < 94:
		return w.do(quota.Configure{Principal: "p", Defaults: someDefaults(w.pick)})
	case n < 95:
		return w.do(quota.Exhaust{Principal: "p"})
	case n < 96:
		return w.do(quota.Adopt{Principal: "p"})
	case n < 97:
		w.crowd()
		return nil
	default:
		w.spend()
		return nil
	}
}

func (w *world) passTime() {
	switch n := w.pick(11, "time"); n {
	case 0:
		w.now = w.now.Add(time.Duration(w.pick(120, "seconds")) * time.Second)
	case 1, 2: // to the very end of a window, or just before it
		zone, err := window.LoadZone(oneOf(w.pick, "zone", worldZones))
		if err != nil {
			panic(err)
		}
		spans := []window.Span{window.Day, window.Minute, window.Hour, window.Week, window.Month, window.Year}
		end := oneOf(w.pick, "span", spans).At(w.now, zone).End
		w.until(end.Add(-time.Duration(w.pick(2, "just before"))))
	case 3: // to the time of a reservation, or just before it
		if open := w.granted((*grant).open); len(open) > 0 {
			at := w.model.grants[oneOf(w.pick, "which", open)].expiry
			w.until(at.Add(-time.Duration(w.pick(2, "just before"))))
		}
	}
}

func (w *world) until(t time.Time) {
	if t.After(w.now) {
		w.now = t
	}
}

// said remembers what a caller asked.
func (w *world) said(op quota.Op) quota.Op {
	w.before = append(w.before, op)
	if a, ok := op.(quota.Acquire); ok && a.RequestID != "" {
		w.ids = append(w.ids, subject(op))
	}
	return op
}

func (w *world) acquire() quota.Acquire {
	op := quota.Acquire{
		Principal: oneOf(w.pick, "principal", []string{"p", "p", "q"}),
		Bucket:    oneOf(w.pick, "bucket", w.names),
		RequestID: oneOf(w.pick, "id", []string{"", "", "", "", "1", "2", "3"}),
	}
	if w.pick(2, "reserve") == 0 {
		op.Reserve, op.Hold = true, oneOf(w.pick, "hold", worldHolds)
		if w.pick(8, "old id") > 0 || op.RequestID == "" {
			op.RequestID = fmt.Sprint("r", len(w.before))
		}
	}
	op.Charges = w.charges([]int{1, 1, 1, 0, 2, 2, 3, 4}[w.pick(8, "charges")])
	if len(w.ahead) > 0 && w.pick(4, "ahead") == 0 {
		op.Charges = []quota.Charge{oneOf(w.pick, "which", w.ahead)}
	}
	return op
}

// charges returns so many charges, but for those of the same unit and bucket.
func (w *world) charges(n int) []quota.Charge {
	var all []quota.Charge
	for range n {
		c := w.charge()
		if !slices.ContainsFunc(all, func(d quota.Charge) bool { return d.Bucket == c.Bucket && d.Unit == c.Unit }) {
			all = append(all, c)
		}
	}
	return all
}

func (w *world) charge() quota.Charge {
	c := quota.Charge{
		Bucket: oneOf(w.pick, "bucket", w.names), Unit: oneOf(w.pick, "unit", worldUnits),
		Amount: oneOf(w.pick, "amount", worldAmounts),
	}
	if w.pick(8, "left out") == 0 {
		c.Amount, c.Default = 1, true
	}
	if w.pick(4, "ceiling") == 0 {
		c.Ceiling = quota.AtMost(oneOf(w.pick, "at most", []int64{4, 2, 1, 0, 10, quota.CountMax - 4, math.MaxInt64}))
		c.CeilingSpan = []window.Span{0, 0, 0, window.Day, window.Month, window.Hour}[w.pick(6, "ceiling span")]
	}
	return c
}

func (w *world) override() quota.SetOverride {
	op := quota.SetOverride{
		Principal: "p", Bucket: oneOf(w.pick, "bucket", w.names), Unit: oneOf(w.pick, "unit", append([]quota.Unit{""}, worldUnits...)),
		Span: oneOf(w.pick, "span", append([]window.Span{0}, worldSpans...)),
	}
	if n := w.pick(8, "limit"); n > 0 {
		op.Limit = quota.AtMost([]int64{10, 30, 3, 1, 0, quota.CountMax, quota.CountMax - 7}[n-1])
	}
	if w.pick(2, "label") == 0 || op.Span == window.Ever {
		return op
	}
	span := op.Span
	if span == 0 {
		span = window.Day
	}
	zone := w.model.zone(w.model.inForce(op.Bucket))
	win := span.At(w.now, zone)
	if limits := w.model.inForce(op.Bucket).Limits; len(limits) > 0 && w.pick(2, "ahead") == 0 {
		l := oneOf(w.pick, "which", limits)
		if l.Max < 30 && l.Span != window.Ever { // a later window grants what this one does not
			op.Unit, op.Span, op.Limit = l.Unit, l.Span, quota.AtMost(30)
			op.Label = l.Span.At(l.Span.At(w.now, zone).End, zone).Label
			w.ahead = append(w.ahead, quota.Charge{Bucket: op.Bucket, Unit: l.Unit, Amount: l.Max + 1})
			return op
		}
	}
	switch w.pick(5, "which window") {
	case 0:
		op.Label = win.Label
	case 1:
		op.Label = span.At(win.Start.Add(-1), zone).Label // has ended
	case 2:
		op.Label = span.At(span.At(win.End, zone).End, zone).Label // the next but one
	default:
		op.Label = span.At(win.End, zone).Label
	}
	return op
}

func (w *world) applySet() quota.ApplySet {
	op := quota.ApplySet{
		Principal: "p", Source: quota.Source(w.pick(2, "source")), Buckets: make(map[string]quota.Settings),
		ValidateOnly: w.pick(3, "only") == 0,
	}
	if w.pick(2, "keep") == 0 { // what is there already stays
		for name, s := range w.model.declared {
			if s.Source == op.Source {
				op.Buckets[name] = s
			}
		}
	}
	for range w.pick(4, "set") {
		op.Buckets[oneOf(w.pick, "name", w.patterns)] = someSettings(w.pick, w.limits)
	}
	return op
}

// spent is what spend did.
type spent struct {
	key quota.AccountKey
	is  quota.Account
}

// spend brings a count near the largest there may be, as years of acquires would.
func (w *world) spend() {
	name, unit := oneOf(w.pick, "bucket", w.names), oneOf(w.pick, "unit", worldUnits)
	s := w.model.inForce(name)
	spans := countedIn(s, unit)
	win := oneOf(w.pick, "span", spans).At(w.now, w.model.zone(s))
	key := quota.AccountKey{Bucket: name, Unit: unit, Span: win.Span, Label: win.Label}
	near := []int64{quota.CountMax - 3, quota.CountMax, quota.CountMax - quota.AmountMax, quota.CountMax - 2*quota.AmountMax - 1}
	count := w.model.account(key)
	more := oneOf(w.pick, "used", near) - count.Used
	if more <= 0 {
		return
	}
	w.model.n++
	w.model.mark(ask{key: key, win: win, declared: limitIn(s, unit, win.Span)})
	w.model.add(&grant{n: w.model.n}, take{amount: more}, []quota.AccountKey{key})
	count = w.model.account(key)
	w.state.accounts[key] = count
	w.done = append(w.done, event{w.now, spent{key, count}, quota.Done})
}

// crowd gives a bucket counts of nearly as many units as it may have on a day.
func (w *world) crowd() {
	name := oneOf(w.pick, "bucket", w.names)
	day := window.Day.At(w.now, w.model.zone(w.model.inForce(name)))
	for i := range 62 + w.pick(3, "units") {
		key := quota.AccountKey{Bucket: name, Unit: quota.Unit(fmt.Sprint("u", i)), Span: window.Day, Label: day.Label}
		count := quota.Account{Start: day.Start, End: day.End}
		if _, kept := w.model.marks[key]; !kept {
			w.model.marks[key], w.state.accounts[key] = count, count
		}
	}
	w.done = append(w.done, event{w.now, "a crowd of units in " + name, quota.Done})
}

// history plays one history of 30 steps. The broken view and decision of a control come in by spoil.
func history(p pick, spoil func(*checker)) error {
	w, err := newWorld(p)
	if err != nil {
		return err
	}
	if spoil != nil {
		spoil(w.checker)
	}
	w.done = append(w.done, event{w.now, w.model.defaults, 0}, event{w.now, maps.Clone(w.model.declared), 0})
	for range 30 {
		if err := w.step(); err != nil {
			return fmt.Errorf("%s%w", w.story(), err)
		}
	}
	if err := w.whole(); err != nil {
		return fmt.Errorf("%sat the end: %w", w.story(), err)
	}
	return nil
}

// Whatever is asked in whatever order, the code does what the model does, and keeps the promises.
func TestHistories(t *testing.T) {
	t.Parallel()
	rounds := 50 // of 100 histories each
	switch {
	case long():
		rounds = 5_000
	case raced:
		rounds = 10
	}
	for _, half := range []string{"first", "second"} {
		t.Run(half, func(t *testing.T) {
			t.Parallel()
			for range rounds {
				rapid.Check(t, func(t *rapid.T) {
					if err := history(drawn(t), nil); err != nil {
						t.Fatal(err)
					}
				})
			}
		})
	}
}
