package service_test

import (
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/auth"
	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/service"
	"github.com/quotad/quotad/internal/store"
)

// seedOf returns the seed of a test, which QUOTAD_SEED sets.
func seedOf(t *testing.T) *rand.Rand {
	t.Helper()
	seed, err := strconv.ParseUint(cmp.Or(os.Getenv("QUOTAD_SEED"), strconv.FormatUint(rand.Uint64(), 10)), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("QUOTAD_SEED=%d", seed)
		}
	})
	return rand.New(rand.NewPCG(seed, 0))
}

// lists are the five ways to look at many buckets, each as all its pages together.
var lists = []struct {
	name string
	all  func(ctx context.Context, d *doors, prefix string, size int32) ([]proto.Message, []string, error)
}{
	{"buckets", func(ctx context.Context, d *doors, prefix string, size int32) ([]proto.Message, []string, error) {
		return pagesOf(func(token string) ([]*quotadv1.BucketView, string, error) {
			r, err := d.ListBuckets(ctx, &quotadv1.ListBucketsRequest{Prefix: prefix, PageSize: size, PageToken: token})
			return r.GetBuckets(), r.GetNextPageToken(), err
		}, size)
	}},
	{"usage", func(ctx context.Context, d *doors, prefix string, size int32) ([]proto.Message, []string, error) {
		return pagesOf(func(token string) ([]*quotadv1.Balance, string, error) {
			r, err := d.ListUsage(ctx, &quotadv1.ListUsageRequest{Prefix: prefix, PageSize: size, PageToken: token})
			return r.GetUsage(), r.GetNextPageToken(), err
		}, size)
	}},
	{"reservations", func(ctx context.Context, d *doors, prefix string, size int32) ([]proto.Message, []string, error) {
		return pagesOf(func(token string) ([]*quotadv1.Reservation, string, error) {
			r, err := d.ListReservations(ctx, &quotadv1.ListReservationsRequest{Prefix: prefix, PageSize: size, PageToken: token})
			return r.GetReservations(), r.GetNextPageToken(), err
		}, size)
	}},
	{"open reservations", func(ctx context.Context, d *doors, prefix string, size int32) ([]proto.Message, []string, error) {
		return pagesOf(func(token string) ([]*quotadv1.Reservation, string, error) {
			r, err := d.ListReservations(ctx, &quotadv1.ListReservationsRequest{
				Prefix: prefix, PageSize: size, PageToken: token, State: quotadv1.ReservationState_RESERVATION_STATE_OPEN,
			})
			return r.GetReservations(), r.GetNextPageToken(), err
		}, size)
	}},
	{"audit", func(ctx context.Context, d *doors, prefix string, size int32) ([]proto.Message, []string, error) {
		return pagesOf(func(token string) ([]*quotadv1.AuditRecord, string, error) {
			r, err := d.ListAudit(ctx, &quotadv1.ListAuditRequest{Prefix: prefix, PageSize: size, PageToken: token})
			return r.GetRecords(), r.GetNextPageToken(), err
		}, size)
	}},
	{"watch", func(ctx context.Context, d *doors, prefix string, _ int32) ([]proto.Message, []string, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		w, err := d.WatchUsage(ctx, &quotadv1.WatchUsageRequest{Prefix: prefix})
		if err != nil {
			return nil, nil, err
		}
		resp, err := w.Recv()
		var out []proto.Message
		for _, b := range resp.GetBalances() {
			out = append(out, b)
		}
		return out, nil, err
	}},
}

// pagesOf turns page after page, and returns what is on them, and the tokens between them.
func pagesOf[M proto.Message](page func(token string) ([]M, string, error), size int32) (all []proto.Message, tokens []string, err error) {
	for token := ""; ; {
		found, next, err := page(token)
		if err != nil {
			return nil, nil, err
		}
		if len(found) > int(size) {
			return nil, nil, fmt.Errorf("a page of %d, %d asked", len(found), size)
		}
		for _, m := range found {
			all = append(all, m)
		}
		if next == "" {
			return all, tokens, nil
		}
		if tokens = append(tokens, next); len(tokens) > 5_000 {
			return nil, nil, fmt.Errorf("no end after %d pages", len(tokens))
		}
		token = next
	}
}

// shown is what the tests' own reading of a policy lets somebody see of one result; nil for nothing.
func (g grants) shown(who string, m proto.Message) proto.Message {
	name := ""
	switch m := m.(type) {
	case *quotadv1.BucketView:
		name = m.GetName()
	case *quotadv1.Balance:
		name = m.GetBucket()
	case *quotadv1.AuditRecord:
		if name = m.GetBucket(); name == "" {
			name = "**"
		}
		if !g.all(who, "inspect") && name != "**" && g.may(who, "inspect", name) { // without what covers the records between
			part := proto.CloneOf(m)
			part.Hash = nil
			return part
		}
	case *quotadv1.Reservation:
		switch {
		case m.GetPrincipal() == who || g.all(who, "admin"):
			return m
		case !g.may(who, "admin", m.GetBucket()):
			return nil
		}
		part := proto.CloneOf(m)
		hidden := func(c *quotadv1.Charge) bool { return !g.may(who, "admin", c.GetBucket()) }
		part.Charges, part.Settled = slices.DeleteFunc(part.Charges, hidden), slices.DeleteFunc(part.Settled, hidden)
		return part
	}
	if g.all(who, "inspect") || name != "**" && g.may(who, "inspect", name) {
		return m
	}
	return nil
}

// randomName draws a bucket of few segments, so that tenants' names begin like each other's.
func randomName(rng *rand.Rand) string {
	name := pick(rng, "a", "a", "b", "ab", "a-b")
	for range rng.IntN(3) {
		name += "/" + pick(rng, "a", "b", "ab")
	}
	return name
}

// randomGrants draws a policy in which root may do everything.
func randomGrants(rng *rand.Rand) grants {
	g := grants{"root": tenants["root"], "nobody": {}}
	pattern := func() string {
		switch p := randomName(rng); rng.IntN(5) {
		case 0:
			return p + "/**"
		case 1:
			return p + "/*"
		case 2:
			return "*/" + p
		case 3:
			return pick(rng, "*", "**", p)
		default:
			return p
		}
	}
	for _, who := range []string{"one", "two", "three", "four"} {
		g[who] = map[string][]string{"acquire": {"**"}, "settle": {"**"}, "inspect": {pattern()}}
		for range rng.IntN(3) {
			g[who]["inspect"] = append(g[who]["inspect"], pattern())
		}
		for range rng.IntN(3) {
			g[who]["admin"] = append(g[who]["admin"], pattern())
		}
		for verb, patterns := range g[who] {
			slices.Sort(patterns)
			g[who][verb] = slices.Compact(patterns)
		}
	}
	return g
}

// fill makes counts, reservations of everybody's and a trail.
func (d *doors) fill(ctx context.Context, rng *rand.Rand) error {
	people := []string{"root", "one", "two", "three", "four"}
	for i := range 60 {
		who, name := as(ctx, people[rng.IntN(len(people))]), randomName(rng)
		id := fmt.Sprint("id", i)
		var err error
		switch rng.IntN(6) {
		case 0, 1:
			_, err = d.Acquire(who, &quotadv1.AcquireRequest{Bucket: name, Charges: []*quotadv1.Charge{{}, {Bucket: randomName(rng), Unit: "tokens"}}})
		case 2, 3:
			_, err = d.Acquire(who, &quotadv1.AcquireRequest{
				Bucket: name, RequestId: id, Hold: durationpb.New(time.Duration(1+rng.IntN(60)) * time.Minute),
				Charges: []*quotadv1.Charge{{}, {Bucket: randomName(rng), Unit: "tokens"}},
			})
			if err == nil && rng.IntN(3) == 0 {
				_, err = d.Settle(who, &quotadv1.SettleRequest{RequestId: id})
			}
		case 4:
			if rng.IntN(2) == 0 {
				name = pick(rng, "*", "a/*", "*/a", "*/b/*")
			}
			_, err = d.SetBucket(as(ctx, "root"), &quotadv1.SetBucketRequest{Bucket: &quotadv1.Bucket{Name: name}})
		default:
			_, err = d.ResetUsage(as(ctx, "root"), &quotadv1.ResetUsageRequest{Bucket: name})
			if status.Code(err) == codes.NotFound {
				err = nil
			}
		}
		if c := status.Code(err); err != nil && c != codes.ResourceExhausted && c != codes.FailedPrecondition {
			return err
		}
	}
	_, err := d.store.Apply(ctx, quota.Note{Principal: "quotad", Action: "access", After: "2 principals"})
	return err
}

// look compares every list of everybody with what the tests' own reading of the policy leaves of root's, and returns what is wrong.
func (d *doors) look(ctx context.Context, g grants, rng *rand.Rand) (wrong []string) {
	prefix := pick(rng, "", "", "a", randomName(rng))
	for _, l := range lists {
		whole, _, err := l.all(as(ctx, "root"), d, prefix, 1000)
		if err != nil {
			return append(wrong, fmt.Sprintf("%s: %v", l.name, err))
		}
		for who := range g {
			if !g.some(who, "inspect") {
				continue
			}
			size := pick[int32](rng, 1, 2, 7, 100)
			got, tokens, err := l.all(as(ctx, who), d, prefix, size)
			if err != nil {
				wrong = append(wrong, fmt.Sprintf("%s for %s: %v", l.name, who, err))
				continue
			}
			var want []proto.Message
			for _, m := range whole {
				if m := g.shown(who, m); m != nil {
					want = append(want, m)
				}
			}
			if !slices.EqualFunc(got, want, func(a, b proto.Message) bool { return proto.Equal(a, b) }) {
				wrong = append(wrong, fmt.Sprintf("%s under %q for %s %v, pages of %d:\n got %v\nwant %v", l.name, prefix, who, g[who], size, got, want))
			}
			hidden := !g.all(who, "inspect") && l.name != "audit"
			if strings.HasSuffix(l.name, "reservations") {
				hidden = !g.all(who, "admin")
			}
			for _, token := range tokens {
				if raw, err := base64.RawURLEncoding.DecodeString(token); hidden && (err != nil || len(raw) < 512) {
					wrong = append(wrong, fmt.Sprintf("%s for %s: the page token %q is not sealed", l.name, who, token))
				}
			}
		}
	}
	return wrong
}

// What a list shows is what an unfiltered one shows, without what the caller may not see: over all its pages, in the same order.
func TestListsAreFiltered(t *testing.T) {
	t.Parallel()
	rng, rounds := seedOf(t), 12
	if os.Getenv("QUOTAD_LONG") != "" {
		rounds = 1000
	}
	for range rounds {
		t.Run("", func(t *testing.T) { // each has its own ledger, that is closed at its end
			g := randomGrants(rng)
			d := open(t, g)
			if err := d.fill(t.Context(), rng); err != nil {
				t.Fatal(err)
			}
			for _, complaint := range d.look(t.Context(), g, rng) {
				t.Error(complaint)
			}
		})
	}
}

// Control: a service that forgets the filter of a list, or filters by the bytes of a name, is seen.
func TestListsControl(t *testing.T) {
	t.Parallel()
	rng := seedOf(t)
	lenient := func(g grants) grants {
		out := grants{}
		for who, verbs := range g {
			out[who] = map[string][]string{}
			for verb, patterns := range verbs {
				for _, p := range patterns {
					out[who][verb] = append(out[who][verb], p)
					if below := p + "/**"; !strings.Contains(p, "**") && len(p) < 10 {
						out[who][verb] = append(out[who][verb], below)
					}
				}
			}
		}
		return out
	}
	for what, broken := range map[string]func(grants) (grants, meddle){
		"forgets the filter": func(g grants) (grants, meddle) {
			return g, func(who auth.Principal, method string, _ any) auth.Principal {
				if who.Name != "" && strings.Contains(method, "/List") {
					all := auth.Local()
					all.Name = who.Name
					return all
				}
				return who
			}
		},
		"takes a bucket for all below it": func(g grants) (grants, meddle) { return lenient(g), nil },
	} {
		seen := false
		for range 20 {
			g := randomGrants(rng)
			served, wrong := broken(g)
			d := open(t, served, wrong)
			if err := d.fill(t.Context(), rng); err != nil {
				t.Fatal(err)
			}
			if seen = len(d.look(t.Context(), g, rng)) > 0; seen {
				break
			}
		}
		if !seen {
			t.Errorf("a service that %s is not seen", what)
		}
	}
}

// A page token is of use for its own list of its own caller alone, tells nothing, and is never the end of a list that goes on.
func TestPageTokensAreSealed(t *testing.T) {
	t.Parallel()
	g := grants{"root": tenants["root"], "two": {"inspect": {"a/x", "z/x"}}, "three": {"inspect": {"a/x", "z/x"}}}
	d := open(t, g)
	ctx := t.Context()
	for i := range 300 {
		if _, err := d.Acquire(as(ctx, "root"), &quotadv1.AcquireRequest{Bucket: fmt.Sprintf("secret%03d", i)}); err != nil {
			t.Fatal(err)
		}
	}
	two := as(ctx, "two")
	page, err := d.ListBuckets(two, &quotadv1.ListBucketsRequest{PageSize: 5})
	if err != nil || len(page.GetBuckets()) != 0 || page.GetNextPageToken() == "" {
		t.Fatalf("%v, %v; want an empty page that is not the last", page, err)
	}
	token := page.GetNextPageToken()
	for what, err := range map[string]error{
		"of another caller": errOf(d.ListBuckets, &quotadv1.ListBucketsRequest{PageToken: token})(as(ctx, "three")),
		"of another list":   errOf(d.ListUsage, &quotadv1.ListUsageRequest{PageToken: token})(two),
		"of everybody's":    errOf(d.ListBuckets, &quotadv1.ListBucketsRequest{PageToken: "secret100"})(two),
		"that is changed":   errOf(d.ListBuckets, &quotadv1.ListBucketsRequest{PageToken: token[:40] + "A" + token[41:]})(two),
		"that is cut":       errOf(d.ListBuckets, &quotadv1.ListBucketsRequest{PageToken: token[:len(token)-8]})(two),
	} {
		if status.Code(err) != codes.InvalidArgument || !slices.Equal(fields(err), []string{"page_token"}) || strings.Contains(err.Error(), "secret") {
			t.Errorf("a token %s: %v", what, err)
		}
	}
	if err := errOf(d.ListBuckets, &quotadv1.ListBucketsRequest{PageToken: token, PageSize: 5})(two); err != nil {
		t.Errorf("one's own: %v", err)
	}
	other := strings.Repeat("x", 100) // names of other lengths have tokens of the same
	if _, err := d.Acquire(as(ctx, "root"), &quotadv1.AcquireRequest{Bucket: "secret" + other}); err != nil {
		t.Fatal(err)
	}
	if again, err := d.ListBuckets(two, &quotadv1.ListBucketsRequest{PageSize: 7}); err != nil || len(again.GetNextPageToken()) != len(token) {
		t.Errorf("%d bytes, then %d, %v", len(token), len(again.GetNextPageToken()), err)
	}
}

// One request reads a bounded number of times, however much of what it reads is hidden.
func TestFilteredWorkIsBounded(t *testing.T) {
	t.Parallel()
	g := grants{"two": {"inspect": {"a/x", "z/x"}}}
	endless := &foreign{}
	d := open(t, g, func(l service.Ledger) service.Ledger {
		endless.Ledger = l
		return endless
	})
	two := as(t.Context(), "two")
	for what, ask := range map[string]func() (string, error){
		"buckets": func() (string, error) {
			r, err := d.ListBuckets(two, &quotadv1.ListBucketsRequest{})
			return r.GetNextPageToken(), err
		},
		"usage": func() (string, error) {
			r, err := d.ListUsage(two, &quotadv1.ListUsageRequest{})
			return r.GetNextPageToken(), err
		},
		"reservations": func() (string, error) {
			r, err := d.ListReservations(two, &quotadv1.ListReservationsRequest{})
			return r.GetNextPageToken(), err
		},
		"audit": func() (string, error) {
			r, err := d.ListAudit(two, &quotadv1.ListAuditRequest{})
			return r.GetNextPageToken(), err
		},
	} {
		endless.reads = 0
		if token, err := ask(); err != nil || token == "" || endless.reads > 20 {
			t.Errorf("%s: %d reads, %q, %v", what, endless.reads, token, err)
		}
	}
}

// foreign is a ledger of nothing but somebody else's, without an end.
type foreign struct {
	service.Ledger
	reads int
}

func (f *foreign) Buckets(_ context.Context, q store.BucketQuery) (views []quota.View, next string, err error) {
	f.reads++
	return slices.Repeat([]quota.View{{Name: "secret"}}, q.Max), "secret", nil
}

func (f *foreign) Usage(_ context.Context, q store.UsageQuery) (found []quota.Balance, next string, err error) {
	f.reads++
	return slices.Repeat([]quota.Balance{{Bucket: "secret"}}, q.Max), "secret", nil
}

func (f *foreign) Reservations(_ context.Context, q store.ReservationQuery) (found []quota.Reservation, next string, err error) {
	f.reads++
	return slices.Repeat([]quota.Reservation{{Principal: "root", Hold: quota.Hold{Bucket: "secret"}}}, q.Max), "secret", nil
}

func (f *foreign) Audit(_ context.Context, q store.AuditQuery) (store.AuditPage, error) {
	f.reads++
	return store.AuditPage{Records: slices.Repeat([]quota.AuditRecord{{Sequence: 9, Bucket: "secret"}}, q.Max), Next: 9}, nil
}
