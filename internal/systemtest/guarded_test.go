package systemtest_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/quotad/quotad/bedrock"
	quota "github.com/quotad/quotad/client"
	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/bedrocktest"
)

// paidMost is how many tokens a guarded call may make, and so what it holds. No answer of the fake Bedrock makes more, so that no
// settlement can pass a limit.
const paidMost = 60

// A payer makes guarded calls of a fake Bedrock while daemons come and go, and holds what Bedrock bills against what the daemon counts.
// Each call has a model of its own, and by it a bucket of its own: both sides name it.
type payer struct {
	*site
	findings
	fake   *bedrocktest.Server
	chance *rand.Rand
	gate   gate
	calls  int64 // the limit on calls of all
	tokens int64 // the limit on output tokens of every other call

	mu      sync.Mutex
	changed chan struct{} // closed when one of these has
	begun   map[string]bool
	sent    map[string]time.Time // when the first request of a call left the app
	told    map[string]error     // what the app was told in the end
	records map[string][]bedrock.Record
	ended   map[bedrock.Outcome]int // how many of them; of all under ""
	arrived int                     // streams that have come to the gate while it was shut
	deaf    bool                    // whether the daemon's grants are lost on their way to the app
	unheard int                     // and how many were
}

func newPayer(t *testing.T, calls, tokens int64) *payer {
	t.Helper()
	p := &payer{
		site: newSite(t), fake: bedrocktest.New(t), chance: seeded(t), calls: calls, tokens: tokens, changed: make(chan struct{}),
		begun: make(map[string]bool), sent: make(map[string]time.Time), told: make(map[string]error), records: make(map[string][]bedrock.Record),
		ended: make(map[bedrock.Outcome]int),
	}
	t.Cleanup(p.gate.open)
	return p
}

// declare sets the limits in windows that no midnight ends.
func (p *payer) declare(d *daemon) {
	p.t.Helper()
	c := d.dial(p.t)
	defer c.close()
	limit := func(unit string, most int64) *quotadv1.Limit {
		return &quotadv1.Limit{Unit: unit, Window: quotadv1.Window_WINDOW_EVER, Max: most}
	}
	for _, b := range []*quotadv1.Bucket{
		{Name: "paid", Limits: []*quotadv1.Limit{limit("calls", p.calls), limit("input_tokens", 1e12), limit("output_tokens", 1e12)}},
		{Name: "paid/odd", Limits: []*quotadv1.Limit{limit("output_tokens", p.tokens)}},
	} {
		if _, err := c.SetBucket(p.t.Context(), &quotadv1.SetBucketRequest{Bucket: b}); err != nil {
			p.t.Fatalf("declaring %s: %v", b.GetName(), err)
		}
	}
}

// note changes what is known, and wakes up who waits for it.
func (p *payer) note(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
	close(p.changed)
	p.changed = make(chan struct{})
}

// until waits for what some change makes true.
func (p *payer) until(what string, is func() bool) {
	p.t.Helper()
	late := time.After(patience)
	for {
		p.mu.Lock()
		ok, changed := is(), p.changed
		p.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-late:
			p.t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// end notes how a call has ended. mu is held.
func (p *payer) end(r bedrock.Record) {
	p.records[r.Call.Model] = append(p.records[r.Call.Model], r)
	p.ended[r.Outcome]++
	p.ended[""]++
}

// A gate stops streams before their first frame while it is shut. The zero gate is open.
type gate struct {
	mu   sync.Mutex
	shut chan struct{} // closed when it opens; nil while it is open
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = make(chan struct{})
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut != nil {
		close(g.shut)
		g.shut = nil
	}
}

// pass is the Pace of every answer.
func (p *payer) pass(frame int) {
	p.gate.mu.Lock()
	shut := p.gate.shut
	p.gate.mu.Unlock()
	if frame == 0 && shut != nil {
		p.note(func() { p.arrived++ })
		<-shut
	}
}

// fine is an answer that says what it used.
func (p *payer) fine() bedrocktest.Answer {
	families := []string{"claude", "nova", "llama"}
	return bedrocktest.Answer{
		Usage:  bedrocktest.Usage{Input: 1 + p.chance.Int64N(400), Output: 1 + p.chance.Int64N(paidMost)},
		Family: families[p.chance.IntN(len(families))], NoHeaders: p.chance.IntN(4) == 0, Frames: 1 + p.chance.IntN(4), Pace: p.pass,
	}
}

// script lays out n answers. One in eight is a refusal that costs nothing, most of which the SDK sends again.
func (p *payer) script(n int) {
	p.t.Helper()
	refusals := []int{http.StatusTooManyRequests, http.StatusTooManyRequests, http.StatusServiceUnavailable, http.StatusBadRequest}
	answers := make([]bedrocktest.Answer, n)
	for i := range answers {
		if answers[i] = p.fine(); p.chance.IntN(8) == 0 {
			answers[i] = bedrocktest.Answer{Status: refusals[p.chance.IntN(len(refusals))]}
		}
	}
	p.fake.Script(append(answers, p.fine())...)
}

// paidBucket is where a call is charged: in a bucket of its own, below one of two, below one.
func paidBucket(_ context.Context, c bedrock.Call) (string, error) {
	half := "even"
	if n := c.Model[len(c.Model)-1]; n%2 == 1 {
		half = "odd"
	}
	return "paid/" + half + "/" + c.Model, nil
}

// ask opens a client of the daemon, at its defaults but for the options.
func (p *payer) ask(opts ...quota.Option) *quota.Client {
	p.t.Helper()
	opts = append(opts, quota.WithDialOptions(grpc.WithUnaryInterceptor(p.hear)))
	q, err := quota.Dial("unix://"+p.socket, opts...)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = q.Close() })
	return q
}

// hear loses grants while it is deaf: the last that a daemon made when it died.
func (p *payer) hear(ctx context.Context, method string, request, answer any, conn *grpc.ClientConn, call grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	err := call(ctx, method, request, answer, conn, opts...)
	if err != nil || method != quotadv1.QuotaService_Acquire_FullMethodName {
		return err
	}
	p.mu.Lock()
	deaf := p.deaf
	p.mu.Unlock()
	if !deaf {
		return nil
	}
	p.note(func() { p.unheard++ })
	return status.Error(codes.Unavailable, "the connection has ended")
}

// sdk returns what makes clients of Bedrock, guarded unless q is nil. Each caller has one of its own: streams of the same client share a
// decoder, which the race detector minds (smithy-go's issue 714).
func (p *payer) sdk(q *quota.Client, opts ...bedrock.Option) func() *bedrockruntime.Client {
	cfg := p.fake.Config()
	cfg.HTTPClient = &stamp{p, cfg.HTTPClient}
	if q == nil {
		return func() *bedrockruntime.Client { return bedrockruntime.NewFromConfig(cfg) }
	}
	opts = append([]bedrock.Option{bedrock.BucketBy(paidBucket), bedrock.Observe(func(r bedrock.Record) {
		p.note(func() { p.end(r) })
	})}, opts...)
	guard := bedrock.Guard(q, opts...)
	return func() *bedrockruntime.Client { return bedrockruntime.NewFromConfig(cfg, guard) }
}

// A stamp notes when the requests of a call begin to leave.
type stamp struct {
	p    *payer
	next aws.HTTPClient
}

// Do sends a request.
func (s *stamp) Do(r *http.Request) (*http.Response, error) {
	model := strings.Split(r.URL.Path, "/")[2]
	s.p.mu.Lock()
	if _, again := s.p.sent[model]; !again {
		s.p.sent[model] = time.Now()
	}
	s.p.mu.Unlock()
	// A model takes its time, and the daemon is to die at any moment of it.
	time.Sleep(rand.N(3 * time.Millisecond))
	return s.next.Do(r)
}

// pay has 16 callers make the calls numbered from up to to, of these kinds by turns, and returns what waits for them.
func (p *payer) pay(sdk func() *bedrockruntime.Client, from, to int, kinds ...string) (wait func()) {
	var next atomic.Int64
	next.Store(int64(from))
	var wg sync.WaitGroup
	for range min(16, to-from) {
		c := sdk()
		wg.Go(func() {
			for n := int(next.Add(1)) - 1; n < to; n = int(next.Add(1)) - 1 {
				model := fmt.Sprintf("call-%06d", n)
				p.note(func() { p.begun[model] = true })
				err := makePaid(p.t.Context(), c, model, kinds[n%len(kinds)])
				p.note(func() { p.told[model] = err })
			}
		})
	}
	return wg.Wait
}

// makePaid makes one call: Converse, InvokeModel, or ConverseStream to its end.
func makePaid(ctx context.Context, sdk *bedrockruntime.Client, model, kind string) error {
	messages := []types.Message{{Role: types.ConversationRoleUser, Content: []types.ContentBlock{&types.ContentBlockMemberText{Value: "Say something short."}}}}
	most := &types.InferenceConfiguration{MaxTokens: aws.Int32(paidMost)}
	switch kind {
	case bedrocktest.Converse:
		_, err := sdk.Converse(ctx, &bedrockruntime.ConverseInput{ModelId: &model, Messages: messages, InferenceConfig: most})
		return err
	case bedrocktest.InvokeModel:
		body := fmt.Appendf(nil, `{"max_tokens":%d,"messages":[{"role":"user","content":"Say something short."}]}`, paidMost)
		_, err := sdk.InvokeModel(ctx, &bedrockruntime.InvokeModelInput{ModelId: &model, Body: body})
		return err
	}
	out, err := sdk.ConverseStream(ctx, &bedrockruntime.ConverseStreamInput{ModelId: &model, Messages: messages, InferenceConfig: most})
	if err != nil {
		return err
	}
	for range out.GetStream().Events() {
	}
	return errors.Join(out.GetStream().Err(), out.GetStream().Close())
}

// killWhile kills the daemon whenever another part of the calls up to to have ended, and starts the next: after some of its grants were
// not heard and a call has found no daemon, and the last time at once.
func (p *payer) killWhile(d *daemon, kills, from, to int) *daemon {
	p.t.Helper()
	for i := range kills {
		p.until("calls go on", func() bool { return p.ended[""] >= from+(to-from)*(i+1)/(kills+1) })
		if i < kills-1 {
			p.silence(d, to)
		}
		d.kill()
		d = p.start()
		p.bounded(p.accounts(d))
	}
	return d
}

// silence kills a daemon of which some grants were not heard, and waits until a call has found none; but no longer than there are calls.
func (p *payer) silence(d *daemon, to int) {
	p.t.Helper()
	var unheard, refused int
	p.note(func() { p.deaf, unheard, refused = true, p.unheard, p.ended[bedrock.OutcomeRefused] })
	p.until("grants are not heard, or there are none any more", func() bool { return p.unheard > unheard+2 || p.ended[""] >= to })
	d.kill()
	p.note(func() { p.deaf = false })
	p.until("a call finds no daemon", func() bool { return p.ended[bedrock.OutcomeRefused] > refused || p.ended[""] >= to })
}

// strand has streams under way when the daemon dies, so that what they used cannot be told to anybody.
func (p *payer) strand(d *daemon, q *quota.Client, from, to int) {
	p.t.Helper()
	var answers []bedrocktest.Answer
	for range to - from {
		answers = append(answers, p.fine())
	}
	p.fake.Script(answers...)
	p.reach(q)
	p.gate.close()
	p.mu.Lock()
	p.arrived = 0
	p.mu.Unlock()
	wait := p.pay(p.sdk(q), from, to, bedrocktest.ConverseStream)
	p.until("the streams begin", func() bool { return p.arrived == to-from })
	d.kill()
	p.gate.open()
	wait()
}

// reach waits until the client has a connection again: after it found no daemon for a while it does not look for one at once.
func (p *payer) reach(q *quota.Client) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	for {
		_, err := q.Check(ctx, "paid")
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			p.t.Fatalf("the daemon is back, and the client does not find it: %v", err)
		}
	}
}

// However often the daemon dies, no call of Bedrock is made without its leave, and in the end it counts what Bedrock has billed: also
// when the app was closed in between with settlements that it could not deliver.
func TestGuardedCrash(t *testing.T) {
	t.Parallel()
	const stranded = 16
	calls := portion(1000, 500, 8000) // the daemon counts up to 10,000 names that nobody has declared
	half, kills := calls/2, portion(3, 3, 24)
	p := newPayer(t, int64(calls)*70/100, int64(calls)*10)
	d := p.start()
	p.declare(d)
	journal := filepath.Join(t.TempDir(), "journal")
	every := []string{bedrocktest.Converse, bedrocktest.InvokeModel, bedrocktest.ConverseStream}

	q := p.ask(quota.WithJournal(journal))
	p.script(half)
	wait := p.pay(p.sdk(q), 0, half, every...)
	d = p.killWhile(d, kills, 0, half)
	wait()
	p.strand(d, q, half, half+stranded)
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	left := q.Stats().Pending
	if left < stranded {
		t.Errorf("%d settlements could not be delivered, want at least %d", left, stranded)
	}
	first := q.Stats()

	q = p.ask(quota.WithJournal(journal)) // the app starts again, before its daemon does
	if found := q.Stats().Pending; found != left {
		t.Errorf("%d settlements are in the journal, want %d", found, left)
	}
	d = p.start()
	p.script(half)
	wait = p.pay(p.sdk(q), half+stranded, calls, every...)
	d = p.killWhile(d, kills, half+stranded, calls)
	wait()
	p.flush(q)
	a := p.judge(d)
	d.stop()
	p.verify(&p.findings)
	if faults := p.found(); len(faults) > 0 {
		t.Fatal(strings.Join(faults, "\n"))
	}
	if lost := first.Lost + q.Stats().Lost; lost != 0 {
		t.Errorf("%d settlements are lost", lost)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	outcomes := make(map[bedrock.Outcome]int)
	for _, o := range []bedrock.Outcome{bedrock.OutcomeSettled, bedrock.OutcomeReleased, bedrock.OutcomeDenied, bedrock.OutcomeRefused} {
		if outcomes[o] = p.ended[o]; outcomes[o] == 0 {
			t.Errorf("no call was %s: the load is too small", o)
		}
	}
	unheard := 0
	for model := range p.begun {
		if p.records[model][0].Outcome == bedrock.OutcomeRefused {
			unheard += len(a.reserved[model])
		}
	}
	if unheard == 0 {
		t.Error("no call was refused that had been granted unheard")
	}
	t.Logf("%d kills, %d calls: %v; %d had been granted unheard; %d settlements waited for the app to come back; billed %+v",
		2*kills+1, len(p.begun), outcomes, unheard, left, a.bill)
}

// flush delivers what there is.
func (p *payer) flush(q *quota.Client) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	if err := q.Flush(ctx); err != nil {
		p.t.Fatalf("delivering: %v; %+v", err, q.Stats())
	}
}

// Control: guards that are broken in one way or another are caught.
func TestGuardedCrashCatches(t *testing.T) {
	t.Parallel()
	const few = 4
	for name, c := range map[string]struct {
		broken func(*payer, *daemon) *daemon
		want   []string // how faults begin that are to be found
	}{
		"calls that wait for nobody": {
			func(p *payer, d *daemon) *daemon {
				q := p.ask(quota.WithFailOpen(quota.FailOpen{PerMinute: 1e6}), quota.WithTries(1, time.Millisecond))
				d.kill()
				p.pay(p.sdk(q), 0, few, bedrocktest.Converse)()
				d = p.start()
				p.flush(q)
				return d
			},
			[]string{"unguarded: call-000000 was sent at", "unguarded: call-000003 was sent at"},
		},
		"calls that nobody guards": {
			func(p *payer, d *daemon) *daemon {
				p.pay(p.sdk(nil), 0, few, bedrocktest.Converse)()
				return d
			},
			[]string{"unguarded: call-000000 was sent 1 times, and has 0", "sum: 0 calls are used and 0 held; Bedrock has billed 4", "sum: 0 input_tokens", "sum: 0 output_tokens"},
		},
		"settlements without a journal": {
			func(p *payer, d *daemon) *daemon {
				q := p.ask()
				p.strand(d, q, 0, few)
				_ = q.Close()
				return p.start()
			},
			[]string{"sum: 0 calls are used and 4 held; Bedrock has billed 4", "sum: 0 input_tokens", "sum: 0 output_tokens are used and 240 held", "sum: 4 reservations are open", "call-000000 is settled by reservation"},
		},
		"tokens that are not counted": {
			func(p *payer, d *daemon) *daemon {
				q := p.ask()
				p.pay(p.sdk(q, bedrock.Units(bedrock.Calls)), 0, few, bedrocktest.Converse)()
				p.flush(q)
				return d
			},
			[]string{"sum: 0 input_tokens", "sum: 0 output_tokens", "call-000000 used"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPayer(t, 1e12, 1e12)
			d := p.start()
			p.declare(d)
			p.judge(c.broken(p, d))
			for _, want := range c.want {
				if !slices.ContainsFunc(p.found(), func(fault string) bool { return strings.HasPrefix(fault, want) }) {
					t.Errorf("not caught: %q in\n%s", want, strings.Join(p.found(), "\n"))
				}
			}
		})
	}
}
