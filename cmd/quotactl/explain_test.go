package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/timestamppb"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/service"
)

func refused(t *testing.T, code codes.Code, reason, domain, text string, more ...protoadapt.MessageV1) error {
	t.Helper()
	details := append([]protoadapt.MessageV1{protoadapt.MessageV1Of(&errdetails.ErrorInfo{Reason: reason, Domain: domain})}, more...)
	st, err := status.New(code, text).WithDetails(details...)
	if err != nil {
		t.Fatal(err)
	}
	return st.Err()
}

// explainedAt is the time at which explanations are given.
var explainedAt = time.Date(2026, 11, 22, 20, 47, 30, 0, time.UTC)

// explanation is what an error should be in words: its lines, and after a bar its hints.
type explanation struct {
	err  error
	code int
	want string
}

func explained(t *testing.T, tests []explanation) {
	t.Helper()
	a := &app{env: env{now: func() time.Time { return explainedAt }}, server: "there:1", timeout: 5 * time.Second}
	for _, test := range tests {
		r := a.explain(test.err)
		got := strings.Join(r.lines, " / ")
		if len(r.hints) > 0 {
			got += " | " + strings.Join(r.hints, " | ")
		}
		if got != test.want || r.code != test.code {
			t.Errorf("explain(%v) = exit %d, %q; want exit %d, %q", test.err, r.code, got, test.code, test.want)
		}
	}
}

// TestExplain has what no script can bring about: each answer of a daemon in trouble, in words.
func TestExplain(t *testing.T) {
	t.Parallel()
	explained(t, []explanation{
		{refused(t, codes.Unavailable, "OVERLOADED", "quotad", "too many calls"), 1, "too many calls | nothing was changed; try again in a moment"},
		{refused(t, codes.Unavailable, "SHUTTING_DOWN", "quotad", "going"), 1, "going | nothing was changed; try again when quotad is back"},
		{refused(t, codes.Unavailable, "STORAGE_FULL", "quotad", "no room"), 1, "no room | nothing was changed; make room on the disk, or raise the size limit of quotad's file"},
		{refused(t, codes.Unavailable, "OUTCOME_UNKNOWN", "quotad", "the disk failed"), 1, "the disk failed | quotad's disk failed and it stops; look at the machine's log before you start it again"},
		{refused(t, codes.DataLoss, "RECORD_CORRUPT", "quotad", "damaged"), 1, "damaged | stop quotad, see what quotactl verify finds in its data directory, and restore a backup"},
		{refused(t, codes.Unavailable, "OVERLOADED", "elsewhere", "busy"), 1, "no answer from quotad at there:1: busy"},
		{status.Error(codes.Unimplemented, "no such method"), 1, "no such method | this version of quotad does not have that yet; quotactl version shows both versions"},
		{status.Error(codes.PermissionDenied, "not you"), 1, "not you | quotactl auth whoami tells whom quotad takes this caller for, and what that one may do"},
		{status.Error(codes.Internal, "nil map"), 1, "nil map | a defect in quotad: please report it, with what its log says"},
		{status.Error(codes.DeadlineExceeded, "context deadline exceeded"), 1, "no answer from quotad at there:1 within 5s | --timeout waits longer"},
		{fmt.Errorf("asking: %w", context.Canceled), 1, "interrupted"},
		{status.Error(codes.Canceled, "context canceled"), 1, "interrupted"},
		{status.Error(codes.ResourceExhausted, "message too large"), 1, "message too large"},
		{status.Error(codes.Internal, "grpc: error while marshaling: string field contains invalid UTF-8"), 1, "a text in the request is not UTF-8, so that it was not sent"},
		{&hinted{err: faults{"two", "lines"}, hint: "so"}, 1, "two / lines | so"},
	})
}

// TestExplainDenials has each kind of limit that refuses.
func TestExplainDenials(t *testing.T) {
	t.Parallel()
	now := explainedAt
	held := &quotadv1.Denial{RetryAt: timestamppb.New(now.Add(90 * time.Second)), Violations: []*quotadv1.Violation{{
		Balance: &quotadv1.Balance{
			Bucket: "b", Unit: "calls", Window: quotadv1.Window_WINDOW_MINUTE, Used: 3, Held: 2, Overridden: true,
			End: timestamppb.New(now.Add(90 * time.Second)),
		}, Requested: 2, Cap: 6,
	}}}
	prepaid := &quotadv1.Denial{Violations: []*quotadv1.Violation{{
		Balance: &quotadv1.Balance{Bucket: "b", Unit: "calls", Window: quotadv1.Window_WINDOW_EVER, Used: 3}, Requested: 1, Cap: 3, Never: true,
	}}}
	share := &quotadv1.Violation{
		Balance:   &quotadv1.Balance{Bucket: "b", Unit: "tokens", Window: quotadv1.Window_WINDOW_DAY, Limit: new(int64(100)), Held: 20},
		Requested: 30, Cap: 25, MaxHold: true,
	}
	never := proto.CloneOf(share)
	never.Never = true
	crowd := &quotadv1.Violation{
		Balance:   &quotadv1.Balance{Bucket: "a/b", Unit: "reservations", Window: quotadv1.Window_WINDOW_EVER, Limit: new(int64(3)), Held: 3},
		Requested: 1, Cap: 3, MaxInFlight: true,
	}
	shareText, crowdText := "b: one reservation may hold 25 of the limit of 100 tokens/day; 30 asked", "a/b: 3 of 3 reservations in flight"
	explained(t, []explanation{
		{refused(t, codes.ResourceExhausted, "LIMIT_EXCEEDED", "quotad", "denied, no details"), 3, "denied, no details"},
		{
			refused(t, codes.ResourceExhausted, "LIMIT_EXCEEDED", "quotad", "denied", protoadapt.MessageV1Of(held)), 3,
			"b: 3 of 6 calls used and 2 held this minute, by an override; 1 left, 2 asked; resets in 1m30s | " +
				"this could pass in 1m30s, at 2026-11-22T20:49:00Z, if nothing else is taken",
		},
		{&denied{prepaid}, 3, "b: 3 of 3 calls used; 0 left, 1 asked; never resets | no wait can help: ask for less, or have the limit raised"},
		{
			refused(t, codes.ResourceExhausted, "LIMIT_EXCEEDED", "quotad", "denied", protoadapt.MessageV1Of(&quotadv1.Denial{
				Violations: []*quotadv1.Violation{crowd}, Omitted: 2,
			})), 3,
			crowdText + " / and 2 more limits | this could pass when a reservation has ended: quotactl reservations a/b lists those that are open",
		},
		{&denied{&quotadv1.Denial{Violations: []*quotadv1.Violation{never, crowd}}}, 3, shareText + " / " + crowdText + " | no wait can help: ask for less, or have the limit raised"},
		{
			&denied{&quotadv1.Denial{Violations: []*quotadv1.Violation{share}, RetryAt: held.GetRetryAt()}}, 3,
			shareText + " | this could pass in 1m30s, at 2026-11-22T20:49:00Z, if nothing else is taken",
		},
	})
}

// TestEveryReasonHasAHint keeps up with the reasons that the daemon gives. The fields of a bad request speak for themselves, and a
// denial has its own words.
func TestEveryReasonHasAHint(t *testing.T) {
	t.Parallel()
	own := []string{service.ReasonInvalid, service.ReasonLimitExceeded}
	for _, reason := range []string{
		service.ReasonLimitExceeded, service.ReasonInvalid, service.ReasonRequestIDReused, service.ReasonUnknownBucket,
		service.ReasonTooManyBuckets, service.ReasonDeclaredInFile, service.ReasonRecordCorrupt, service.ReasonOverloaded,
		service.ReasonShuttingDown, service.ReasonStorageFull, service.ReasonOutcomeUnknown, service.ReasonBackupRunning,
		service.ReasonBackupNoRoom, service.ReasonUnknownReservation, service.ReasonNotReservation, service.ReasonAlreadySettled,
		service.ReasonAlreadyReleased, service.ReasonExpired,
	} {
		if (reasonHints[reason] == "") != slices.Contains(own, reason) {
			t.Errorf("reason %s: hint %q", reason, reasonHints[reason])
		}
	}
}

// TestCommandsHaveHintsOfTheirOwn has what is another thing to do about where another command asked.
func TestCommandsHaveHintsOfTheirOwn(t *testing.T) {
	t.Parallel()
	for command, hints := range map[string]map[string]string{"acquire": acquireHints, "extend": extendHints} {
		for reason, own := range hints {
			if everywhere := reasonHints[reason]; everywhere == "" || everywhere == own {
				t.Errorf("%s, %s: hint %q, elsewhere %q", command, reason, own, everywhere)
			}
			err := fmt.Errorf("asking: %w", refused(t, codes.FailedPrecondition, reason, "quotad", "no"))
			explained(t, []explanation{{hint(err, hints), 1, "no | " + own}})
		}
	}
	elsewhere := refused(t, codes.FailedPrecondition, "ALREADY_RELEASED", "elsewhere", "no")
	explained(t, []explanation{
		{hint(elsewhere, acquireHints), 1, "no"},
		{hint(refused(t, codes.Unavailable, "SHUTTING_DOWN", "quotad", "going"), acquireHints), 1, "going | nothing was changed; try again when quotad is back"},
		{hint(errors.New("torn"), acquireHints), 1, "torn"},
	})
}

func TestOutcomeUnknown(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		err  error
		want bool
	}{
		{status.Error(codes.DeadlineExceeded, "late"), true},
		{status.Error(codes.Unavailable, "error reading from server: EOF"), true},
		{status.Error(codes.Unavailable, `connection error: desc = "transport: Error while dialing: dial tcp: connect: connection refused"`), false},
		{refused(t, codes.Unavailable, "OVERLOADED", "quotad", ""), false},
		{refused(t, codes.Unavailable, "OUTCOME_UNKNOWN", "quotad", ""), true},
		{status.Error(codes.InvalidArgument, "no"), false},
		{status.Error(codes.Internal, "nil map"), true},
		{status.Error(codes.Internal, "grpc: error while marshaling: string field contains invalid UTF-8"), false},
	} {
		if got := outcomeUnknown(test.err); got != test.want {
			t.Errorf("outcomeUnknown(%v) = %v", test.err, got)
		}
	}
}
