package systemtest_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/quotad/quotad/bedrock"
	quota "github.com/quotad/quotad/client"
	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/bedrocktest"
)

// accounts are what the daemon and the fake Bedrock have on their books at one time, when nothing is under way.
type accounts struct {
	reached    map[string]int // whole requests at Bedrock, by model
	bill       bedrocktest.Bill
	reserved   map[string][]*quotadv1.Reservation // by model
	used, held map[string]int64                   // of all, by unit
	inFlight   int64
	over       []string // the counts above their limit
}

// accounts reads both books.
func (p *payer) accounts(d *daemon) accounts {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	c := d.dial(p.t)
	defer c.close()
	a := accounts{
		reached: make(map[string]int), bill: p.fake.Billed(), reserved: make(map[string][]*quotadv1.Reservation),
		used: make(map[string]int64), held: make(map[string]int64),
	}
	for _, r := range p.fake.Requests() {
		if json.Valid(r.Body) { // half a request, of an app that died over it, runs no model
			a.reached[r.ModelID]++
		}
	}
	for _, name := range []string{"paid", "paid/odd"} {
		b, err := c.GetBucket(ctx, &quotadv1.GetBucketRequest{Name: name})
		if err != nil {
			p.t.Fatalf("reading %s: %v", name, err)
		}
		for _, b := range b.GetBucket().GetBalances() {
			if name == "paid" {
				a.used[b.GetUnit()], a.held[b.GetUnit()] = b.GetUsed(), b.GetHeld()
			}
			if b.Limit != nil && b.GetUsed()+b.GetHeld() > b.GetLimit() {
				a.over = append(a.over, fmt.Sprintf("over: %d %s of %s are used and %d held, above the limit of %d", b.GetUsed(), b.GetUnit(), name, b.GetHeld(), b.GetLimit()))
			}
		}
		if name == "paid" {
			a.inFlight = b.GetBucket().GetInFlight()
		}
	}
	request := &quotadv1.ListReservationsRequest{Prefix: "paid", PageSize: 1000}
	for {
		page, err := c.ListReservations(ctx, request)
		if err != nil {
			p.t.Fatalf("listing reservations: %v", err)
		}
		for _, r := range page.GetReservations() {
			model := r.GetBucket()[strings.LastIndexByte(r.GetBucket(), '/')+1:]
			a.reserved[model] = append(a.reserved[model], r)
		}
		if request.PageToken = page.GetNextPageToken(); request.PageToken == "" {
			return a
		}
	}
}

// bounded wants every limit kept.
func (p *payer) bounded(a accounts) {
	for _, fault := range a.over {
		p.faults("%s", fault)
	}
}

// judge holds the books against each other, and against what the app was told, when everything is delivered.
func (p *payer) judge(d *daemon) accounts {
	p.t.Helper()
	a := p.accounts(d)
	p.bounded(a)
	p.sums(a)
	p.mu.Lock()
	defer p.mu.Unlock()
	for model := range a.reached {
		p.granted(a, model)
	}
	for model := range p.begun {
		p.one(a, model)
	}
	return a
}

// sums wants used what was billed, and nothing held.
func (p *payer) sums(a accounts) {
	for _, sum := range []struct {
		unit   string
		billed int64
	}{
		{"calls", a.bill.Calls}, {"input_tokens", a.bill.Tokens.Input}, {"output_tokens", a.bill.Tokens.Output},
	} {
		if a.used[sum.unit] != sum.billed || a.held[sum.unit] != 0 {
			p.faults("sum: %d %s are used and %d held; Bedrock has billed %d", a.used[sum.unit], sum.unit, a.held[sum.unit], sum.billed)
		}
	}
	if a.inFlight != 0 {
		p.faults("sum: %d reservations are open", a.inFlight)
	}
}

// granted wants a call that reached Bedrock to have had a reservation before.
func (p *payer) granted(a accounts, model string) {
	reserved := a.reserved[model]
	if len(reserved) != 1 {
		p.faults("unguarded: %s was sent %d times, and has %d reservations", model, a.reached[model], len(reserved))
		return
	}
	// The daemon and this test read the same clock; the daemon's times end at the millisecond.
	if sent, made := p.sent[model], reserved[0].GetCreateTime().AsTime(); !sent.IsZero() && made.After(sent.Add(time.Millisecond)) {
		p.faults("unguarded: %s was sent at %s, and reserved at %s", model, sent, made)
	}
}

// one holds the end of a call against its reservation. mu is held.
func (p *payer) one(a accounts, model string) {
	if len(p.records[model]) != 1 {
		p.faults("%s has ended %d times: %v", model, len(p.records[model]), p.records[model])
		return
	}
	r, err := p.records[model][0], p.told[model]
	if r.Attempts != a.reached[model] {
		p.faults("%s was sent %d times, and came to Bedrock %d times", model, r.Attempts, a.reached[model])
	}
	var denial *bedrock.DeniedError
	var away *quota.UnreachableError
	want := quotadv1.ReservationState_RESERVATION_STATE_UNSPECIFIED
	var fits bool
	switch r.Outcome {
	case bedrock.OutcomeDenied:
		fits = errors.As(err, &denial) && r.Attempts == 0
	case bedrock.OutcomeRefused:
		fits = errors.As(err, &away) && r.Attempts == 0
		if len(a.reserved[model]) > 0 { // granted without an answer, and so given back
			want = quotadv1.ReservationState_RESERVATION_STATE_RELEASED
		}
	case bedrock.OutcomeSettled:
		fits, want = err == nil && r.Attempts > 0, quotadv1.ReservationState_RESERVATION_STATE_SETTLED
	case bedrock.OutcomeReleased:
		fits, want = err != nil && r.Attempts > 0, quotadv1.ReservationState_RESERVATION_STATE_RELEASED
	}
	if !fits {
		p.faults("%s is %s after %d attempts, and the app was told %v", model, r.Outcome, r.Attempts, err)
	}
	p.stands(a, r, want)
}

// stands wants the one reservation of a call in a state; UNSPECIFIED wants none.
func (p *payer) stands(a accounts, r bedrock.Record, want quotadv1.ReservationState) {
	model, reserved := r.Call.Model, a.reserved[r.Call.Model]
	if want == quotadv1.ReservationState_RESERVATION_STATE_UNSPECIFIED && len(reserved) == 0 {
		return
	}
	if len(reserved) != 1 || reserved[0].GetState() != want || r.RequestID != "" && reserved[0].GetRequestId() != r.RequestID {
		p.faults("%s is %s by reservation %s, and has %v; want %s", model, r.Outcome, r.RequestID, reserved, want)
		return
	}
	if want != quotadv1.ReservationState_RESERVATION_STATE_SETTLED {
		return
	}
	settled := unitsOf(reserved[0].GetSettled())
	if settled["calls"] != 1 || settled["input_tokens"] != r.Usage.InputTokens || settled["output_tokens"] != r.Usage.OutputTokens {
		p.faults("%s used %+v, and is settled with %v", model, r.Usage, settled)
	}
}

// unitsOf returns charges of one bucket by unit.
func unitsOf(charges []*quotadv1.Charge) map[string]int64 {
	units := make(map[string]int64)
	for _, c := range charges {
		units[cmp.Or(c.GetUnit(), "calls")] += c.GetAmount()
	}
	return units
}
