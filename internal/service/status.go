package service

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/quota"
	"github.com/quotad/quotad/internal/store"
)

// Domain is the domain of every ErrorInfo that quotad sends. A denial is known by it and by its reason, never by the code
// alone: gRPC itself answers RESOURCE_EXHAUSTED for other things.
const Domain = "quotad"

// The reasons of an ErrorInfo; the header of quota.proto says what each means for a caller.
const (
	ReasonLimitExceeded   = "LIMIT_EXCEEDED"
	ReasonInvalid         = "INVALID"
	ReasonRequestIDReused = "REQUEST_ID_REUSED"
	ReasonUnknownBucket   = "UNKNOWN_BUCKET"
	ReasonTooManyBuckets  = "TOO_MANY_BUCKETS"
	ReasonDeclaredInFile  = "DECLARED_IN_FILE"
	ReasonRecordCorrupt   = "RECORD_CORRUPT"
	ReasonOverloaded      = "OVERLOADED"
	ReasonShuttingDown    = "SHUTTING_DOWN"
	ReasonStorageFull     = "STORAGE_FULL"
	ReasonOutcomeUnknown  = "OUTCOME_UNKNOWN"
	ReasonBackupRunning   = "BACKUP_RUNNING"
	ReasonBackupNoRoom    = "BACKUP_NO_ROOM"

	ReasonUnknownReservation = "UNKNOWN_RESERVATION"
	ReasonNotReservation     = "NOT_A_RESERVATION"
	ReasonAlreadySettled     = "ALREADY_SETTLED"
	ReasonAlreadyReleased    = "ALREADY_RELEASED"
	ReasonExpired            = "RESERVATION_EXPIRED"
)

// How many violations and faults the details of a status list. A status travels as a header, of which gRPC's C core, and so
// Python and Ruby, takes 8 KiB.
const (
	violationsMax = 6
	faultsMax     = 12
)

// stopRetries tells gRPC's own retries that sending the call again is no use.
var stopRetries = metadata.Pairs("grpc-retry-pushback-ms", "-1")

// refusal turns the outcome of an op into a status; nil if it was done.
func refusal(ctx context.Context, d quota.Decision) error {
	switch d.Outcome {
	case quota.Done:
		return nil
	case quota.Denied:
		return denied(ctx, d)
	case quota.Invalid:
		return invalid(d.Problems)
	case quota.IDReused:
		return fail(codes.AlreadyExists, ReasonRequestIDReused,
			fmt.Sprintf("request_id: %q was used before for something else; use a new id for a new request", d.Detail))
	case quota.UnknownBucket:
		return fail(codes.NotFound, ReasonUnknownBucket,
			fmt.Sprintf("bucket: %q is not declared, nor is a parent of it, and there is no default", d.Detail))
	case quota.TooManyNames:
		return fail(codes.FailedPrecondition, ReasonTooManyBuckets, tooManyText(d.Detail))
	case quota.DeclaredInFile:
		return fail(codes.FailedPrecondition, ReasonDeclaredInFile,
			fmt.Sprintf("name: %q is declared in the buckets file; change it there", d.Detail))
	default:
		return reservationRefusal(d)
	}
}

// reservationRefusal turns the refusal of a settle, a release or an extension into a status.
func reservationRefusal(d quota.Decision) error {
	switch d.Outcome {
	case quota.UnknownReservation:
		return fail(codes.NotFound, ReasonUnknownReservation,
			fmt.Sprintf("request_id: you have no acquire under %q, or its receipt has left", d.Detail))
	case quota.NotReservation:
		return fail(codes.FailedPrecondition, ReasonNotReservation,
			fmt.Sprintf("request_id: %q was acquired without hold, so that its amounts were used at once; it can be released, and nothing else", d.Detail))
	case quota.AlreadySettled:
		return ended(d, ReasonAlreadySettled, fmt.Sprintf("request_id: %q was settled before", d.Detail))
	case quota.AlreadyReleased:
		return ended(d, ReasonAlreadyReleased, fmt.Sprintf("request_id: %q was released before; nothing of it is charged", d.Detail))
	case quota.AlreadyExpired:
		return ended(d, ReasonExpired, fmt.Sprintf("request_id: %q has expired; it can be settled or released, but not extended", d.Detail))
	default:
		return status.Errorf(codes.Internal, "the ledger answered with %v", d.Outcome)
	}
}

// ended says how a reservation ended, in the text and as a detail. Of many charges the first are listed: a status is a header.
func ended(d quota.Decision, reason, text string) error {
	if d.Reservation == nil {
		return fail(codes.FailedPrecondition, reason, text)
	}
	how := reservation(*d.Reservation)
	if d.Outcome == quota.AlreadySettled {
		text += ", with " + chargesText(how.GetSettled())
	}
	if end := d.Reservation.Ended; !end.IsZero() {
		text += ", at " + end.Format(time.RFC3339)
	}
	how.Charges, how.Settled = how.GetCharges()[:min(len(how.GetCharges()), violationsMax)], how.GetSettled()[:min(len(how.GetSettled()), violationsMax)]
	return withDetails(status.New(codes.FailedPrecondition, text), info(reason), protoadapt.MessageV1Of(how))
}

// chargesText lists charges for people, such as "1 calls and 812 input_tokens".
func chargesText(charges []*quotadv1.Charge) string {
	parts := make([]string, 0, len(charges))
	for i, c := range charges {
		if i == violationsMax {
			parts = append(parts, fmt.Sprintf("%d more", len(charges)-i))
			break
		}
		parts = append(parts, fmt.Sprintf("%d %s", c.GetAmount(), c.GetUnit()))
	}
	return strings.Join(parts, ", ")
}

// tooManyText tells which bound on what nobody declared was reached: that on names, or that on the units of one bucket.
func tooManyText(detail string) string {
	if bucket, unit, ok := strings.Cut(detail, ": unit "); ok { // the name of a bucket has no space
		return fmt.Sprintf("unit: %s is not limited by %q, which has counts of %d units today already; no more may begin", unit, bucket, quota.UnitsMax)
	}
	return fmt.Sprintf("bucket: %q is not declared, and as many undeclared names as are allowed have been counted today", detail)
}

// denied is a status rather than an answer, because code that looks only at the error must fail closed.
func denied(ctx context.Context, d quota.Decision) error {
	first := d.Violations[0]
	details := []protoadapt.MessageV1{
		protoadapt.MessageV1Of(&errdetails.ErrorInfo{Reason: ReasonLimitExceeded, Domain: Domain, Metadata: map[string]string{
			"bucket": string(first.Balance.Bucket), "unit": string(first.Balance.Unit), "window": first.Balance.Window.Span.String(),
			"limit": strconv.FormatInt(first.Cap, 10), "used": strconv.FormatInt(first.Balance.Used, 10),
		}}),
	}
	failures := &errdetails.QuotaFailure{}
	for _, v := range d.Violations[:min(len(d.Violations), violationsMax)] {
		failures.Violations = append(failures.Violations, &errdetails.QuotaFailure_Violation{
			Subject: "bucket:" + string(v.Balance.Bucket), Description: v.String(),
		})
	}
	details = append(details, protoadapt.MessageV1Of(failures))
	if !d.RetryAt.IsZero() {
		wait := max(d.RetryAt.Sub(d.Time), time.Millisecond)
		details = append(details, protoadapt.MessageV1Of(&errdetails.RetryInfo{RetryDelay: durationpb.New(wait)}))
	}
	full := denial(d)
	if more := len(full.GetViolations()) - violationsMax; more > 0 {
		full.Violations, full.Omitted = full.GetViolations()[:violationsMax], int32(more) //nolint:gosec // at most a few thousand
	}
	details = append(details, protoadapt.MessageV1Of(full))
	if err := grpc.SetTrailer(ctx, stopRetries); err != nil {
		return status.Errorf(codes.Internal, "denied, but the trailer cannot be set: %v", err)
	}
	return withDetails(status.New(codes.ResourceExhausted, denialText(d)), details...)
}

// invalid names every field that is at fault.
func invalid(ps quota.Problems) error {
	bad := &errdetails.BadRequest{}
	for i, p := range ps {
		if i == faultsMax {
			bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{
				Field: p.Field, Description: fmt.Sprintf("%s (and %d more faults, not listed)", p.Text, len(ps)-i-1),
			})
			break
		}
		bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: p.Field, Description: p.Text})
	}
	text := ps[0].String()
	if more := len(ps) - 1; more > 0 {
		text += fmt.Sprintf(" (and %d more)", more)
	}
	return withDetails(status.New(codes.InvalidArgument, text), info(ReasonInvalid), protoadapt.MessageV1Of(bad))
}

// failure turns an error of the store into a status. Those that say so mean that nothing was charged; the others mean perhaps.
func failure(err error) error {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, "the deadline passed before the ledger took the call; nothing was charged")
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, "the caller went away before the ledger took the call; nothing was charged")
	case errors.Is(err, store.ErrOverloaded):
		return fail(codes.Unavailable, ReasonOverloaded, "too many calls are waiting; nothing was charged")
	case errors.Is(err, store.ErrClosed):
		return fail(codes.Unavailable, ReasonShuttingDown, "quotad is shutting down; nothing was charged")
	case errors.Is(err, store.ErrFull):
		return fail(codes.Unavailable, ReasonStorageFull, "there is no room to write; nothing was charged")
	case errors.Is(err, store.ErrUnknown):
		return fail(codes.Unavailable, ReasonOutcomeUnknown, "the disk failed, and whether this was written is unknown; send the same request_id again")
	case errors.Is(err, store.ErrCorrupt):
		return fail(codes.DataLoss, ReasonRecordCorrupt, err.Error())
	case errors.Is(err, store.ErrPageToken):
		return invalid(quota.Problems{{Field: "page_token", Text: err.Error()}})
	default:
		return status.Error(codes.Internal, err.Error())
	}
}

// backupFailure turns what went wrong with a backup into a status. That there is no room for the copy says nothing about the
// ledger, which may still have room.
func backupFailure(err error) error {
	if errors.Is(err, syscall.ENOSPC) && !errors.Is(err, store.ErrUnknown) {
		return fail(codes.Unavailable, ReasonBackupNoRoom, err.Error())
	}
	return failure(err)
}

func backupRunning() error {
	return fail(codes.Unavailable, ReasonBackupRunning, "another backup is being made or sent; try again when it has ended")
}

func unauthenticated() error {
	return status.Error(codes.Unauthenticated, "the server does not know who is calling")
}

// stopping ends a stream when the daemon stops.
func stopping() error { return fail(codes.Unavailable, ReasonShuttingDown, "quotad is shutting down") }

// streamEnded turns the end of a stream's context into a status.
func streamEnded(ctx context.Context) error { return status.FromContextError(ctx.Err()).Err() }

func fail(code codes.Code, reason, text string) error {
	return withDetails(status.New(code, text), info(reason))
}

func info(reason string) protoadapt.MessageV1 {
	return protoadapt.MessageV1Of(&errdetails.ErrorInfo{Reason: reason, Domain: Domain})
}

func withDetails(s *status.Status, details ...protoadapt.MessageV1) error {
	detailed, err := s.WithDetails(details...)
	if err != nil { // only for a status of OK, which is never made here, or a message that cannot be marshalled
		return s.Err()
	}
	return detailed.Err()
}
