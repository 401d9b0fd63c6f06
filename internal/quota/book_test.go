package quota_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/window"
)

// declare makes settings of limits by name.
func declare(limitsByName map[string]string) map[string]quota.Settings {
	declared := make(map[string]quota.Settings)
	for name, s := range limitsByName {
		declared[name] = quota.Settings{Limits: limits(s)}
	}
	return declared
}

func TestRulesOf(t *testing.T) {
	t.Parallel()
	book, err := quota.NewBook(quota.Defaults{Limits: limits("50"), Zone: "Asia/Kolkata"}, declare(map[string]string{
		"acme": "1", "acme/alice": "2", "acme/*": "3", "*/alice": "4", "*/*/x": "5", "acme/*/*": "6", "*/bob/*": "7", "*/*/*": "8",
		"deep/a/b/c": "9", "default": "10",
	}))
	if err != nil {
		t.Fatal(err)
	}
	for bucket, want := range map[quota.Bucket]string{
		"acme":         "acme",       // its own
		"acme/alice":   "acme/alice", // its own before any pattern
		"acme/bob":     "acme/*",
		"evil/alice":   "*/alice",
		"evil/bob":     "default", // neither it nor a parent is declared
		"evil":         "default",
		"acme/a/b":     "acme/*/*", // the leftmost plain segment decides
		"acme/a/x":     "acme/*/*",
		"acme/bob/x":   "acme/*/*",
		"evil/bob/x":   "*/bob/*",
		"evil/eve/x":   "*/*/x",
		"evil/eve/y":   "*/*/*",
		"acme/a/b/c":   "",        // a child of what a pattern declares is only counted
		"acme/a/b/c/d": "",        // and its children
		"deep/a/b":     "*/*/*",   // a pattern matches a parent of something declared
		"deep/a":       "default", // and without one it is undeclared: only its child is declared
		"deep/a/b/c":   "deep/a/b/c",
		"deep/a/b/c/d": "",
		"ACME":         "default", // case-sensitive
		"acmeX":        "default", // not a child
		"acmeX/alice":  "*/alice",
	} {
		rules := book.Rules(bucket)
		if rules == nil || rules.Name != want {
			t.Errorf("%s goes by %+v, want %q", bucket, rules, want)
		}
	}
	if got := book.Rules("default"); got == nil || quota.FormatLimits(got.Settings.Limits) != "10 calls/day" {
		t.Errorf("a bucket called default goes by %+v, want its own", got)
	}
	if got := book.Rules("acme/a/b/c").Settings; len(got.Limits) != 0 || got.Zone != "Asia/Kolkata" {
		t.Errorf("a bucket that is only counted goes by %v", got)
	}
}

func TestRulesWithTheDefaultOff(t *testing.T) {
	t.Parallel()
	book, err := quota.NewBook(quota.Defaults{}, declare(map[string]string{"a": "1", "b/*": "2"}))
	if err != nil {
		t.Fatal(err)
	}
	for bucket, known := range map[quota.Bucket]bool{"a": true, "a/b": true, "b": false, "b/c": true, "b/c/d": true, "c": false, "c/a": false} {
		if got := book.Rules(bucket); (got != nil) != known {
			t.Errorf("%s goes by %+v, want it known: %v", bucket, got, known)
		}
	}
}

func TestRulesZone(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ own, daemon, want string }{
		{"", "", "UTC"},
		{"", "Europe/Berlin", "Europe/Berlin"},
		{"Asia/Kolkata", "Europe/Berlin", "Asia/Kolkata"},
		{"UTC", "Europe/Berlin", "UTC"},
	} {
		book, err := quota.NewBook(quota.Defaults{Zone: c.daemon}, map[string]quota.Settings{"a": {Zone: c.own}})
		if err != nil {
			t.Fatal(err)
		}
		if r := book.Rules("a"); r.Zone().String() != c.want || r.Settings.Zone != c.want {
			t.Errorf("zone %q where the daemon has %q: %v, %s, want %s", c.own, c.daemon, r.Zone(), r.Settings.Zone, c.want)
		}
		if s, ok := book.Settings("a"); !ok || s.Zone != c.own {
			t.Errorf("declared with zone %q, and told as %q", c.own, s.Zone)
		}
	}
}

func TestNewBookErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		d    quota.Defaults
		s    map[string]quota.Settings
		want string
	}{
		{quota.Defaults{Zone: "Mars"}, nil, `zone: unknown time zone "Mars"`},
		{quota.Defaults{}, map[string]quota.Settings{"a//b": {}}, `bucket "a//b": an empty segment`},
		{quota.Defaults{}, map[string]quota.Settings{"a/b": {Zone: "Mars"}}, `bucket a/b: zone: unknown time zone "Mars"`},
	} {
		if _, err := quota.NewBook(c.d, c.s); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%+v, %+v: %v, want %s", c.d, c.s, err, c.want)
		}
	}
}

// Whatever is declared, a name goes by the declaration that the model finds for it.
func TestRulesEqualTheModel(t *testing.T) {
	t.Parallel()
	segments := []string{"a", "b", "*"}
	rapid.Check(t, func(t *rapid.T) {
		path := func(most int) string {
			return strings.Join(rapid.SliceOfN(rapid.SampledFrom(segments[:most]), 1, 4).Draw(t, "path"), "/")
		}
		declared := make(map[string]quota.Settings)
		for i := range rapid.IntRange(0, 12).Draw(t, "declared") {
			declared[path(3)] = quota.Settings{Limits: []quota.Limit{{Unit: quota.Calls, Span: window.Day, Max: int64(i)}}}
		}
		defaults := quota.Defaults{Limits: rapid.SampledFrom([][]quota.Limit{nil, limits("50")}).Draw(t, "default")}
		book, err := quota.NewBook(defaults, declared)
		if err != nil {
			t.Fatal(err)
		}
		m := newModel(defaults, declared)
		for range 10 {
			name := quota.Bucket(path(2))
			want, _, known := m.settingsFor(name)
			got := book.Rules(name)
			if (got != nil) != known || known && !slices.Equal(got.Settings.Limits, want.Limits) {
				t.Fatalf("%s goes by %+v, want %+v, known %v", name, got, want, known)
			}
		}
	})
}

// Parents that a pattern declares are charged too; those that nobody declares are not.
func TestWhichParentsAreCharged(t *testing.T) {
	t.Parallel()
	s := newState(t, quota.Defaults{Limits: limits("50"), UndeclaredLive: 9}, declare(map[string]string{"*/team": "20", "acme/team/x/y": ""}))
	d := s.apply(t, noon, quota.Acquire{Bucket: "acme/team/x/y"})
	var charged []string
	for _, b := range d.Balances {
		charged = append(charged, fmt.Sprint(b.Bucket, " ", b.Limit.Max))
	}
	if want := []string{"acme/team/x/y 0", "acme/team 20"}; !slices.Equal(charged, want) {
		t.Errorf("charged %v, want %v", charged, want)
	}
	for _, name := range []quota.Bucket{"acme", "acme/team/x"} {
		if v, err := quota.Look(s, noon, string(name)); err != nil || slices.ContainsFunc(v.Balances, func(b quota.Balance) bool { return b.Used != 0 }) {
			t.Errorf("%s was charged: %+v, %v", name, v.Balances, err)
		}
	}
}

// noon is when most tests happen.
var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func TestWorthShowing(t *testing.T) {
	t.Parallel()
	b := func(text string) quota.Balance { // bucket unit window limit
		f := strings.Fields(text)
		span, err := window.ParseSpan(f[2])
		if err != nil {
			t.Fatal(err)
		}
		return quota.Balance{Bucket: quota.Bucket(f[0]), Unit: quota.Unit(f[1]), Window: window.Window{Span: span}, Limit: quota.Cap{Set: f[3] == "limited"}}
	}
	for _, c := range []struct{ in, want []string }{
		{nil, nil},
		{[]string{"a calls day free"}, []string{"a calls day free"}},
		{[]string{"a calls day limited"}, []string{"a calls day limited"}},
		{[]string{"a calls day free", "a calls month limited"}, []string{"a calls month limited"}},
		{[]string{"a calls hour limited", "a calls day free", "a calls month limited"}, []string{"a calls hour limited", "a calls month limited"}},
		{[]string{"a calls day free", "a tokens day limited"}, []string{"a calls day free", "a tokens day limited"}},
		{[]string{"a calls day free", "a calls month limited", "b calls day free"}, []string{"a calls month limited", "b calls day free"}},
		{[]string{"a calls hour free", "a calls day free"}, []string{"a calls hour free", "a calls day free"}},
		{[]string{"a calls day free", "a calls month limited", "b calls day free", "a calls day free"}, []string{"a calls month limited", "b calls day free"}},
		{[]string{"a calls day free", "b calls day limited", "a calls month limited"}, []string{"b calls day limited", "a calls month limited"}},
	} {
		var in, want []quota.Balance
		for _, text := range c.in {
			in = append(in, b(text))
		}
		for _, text := range c.want {
			want = append(want, b(text))
		}
		if got := quota.WorthShowing(in); !slices.Equal(got, want) {
			t.Errorf("of %v, %v are shown, want %v", c.in, got, c.want)
		}
	}
}
