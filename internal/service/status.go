package service

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/auth"
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

	ReasonPermissionDenied = "PERMISSION_DENIED"
)

// How much a status says. It travels as a header, of which gRPC's C core, and so Python and Ruby, takes 8 KiB: the text up to
// three times as long as it is, as what is not ASCII is escaped, and again with the details, a third longer than they are. What
// callers send may be in all of them.
const (
	violationsMax = 6    // and charges of a reservation
	faultsMax     = 12   // fields
	listBytesMax  = 3500 // of all violations, or of all faults, that are listed; the first always is
	textBytesMax  = 800
	faultBytesMax = 400 // of what is said about one field
	fieldBytesMax = 100

	refusedBytesMax   = 2500 // of the names of buckets that a caller may not touch; the first is always there
	principalBytesMax = 300
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
		what := "request"
		if d.Field == "extend_id" {
			what = "extension"
		}
		return fail(codes.AlreadyExists, ReasonRequestIDReused,
			fmt.Sprintf("%s: %q was used before for something else; use a new id for a new %s", d.Field, d.Detail, what))
	case quota.UnknownBucket:
		return fail(codes.NotFound, ReasonUnknownBucket,
			fmt.Sprintf("bucket: %q is not declared, nor is a parent of it, and there is no default", d.Detail))
	case quota.TooManyNames:
		return fail(codes.FailedPrecondition, ReasonTooManyBuckets, tooManyText(d.Detail))
	case quota.DeclaredInFile:
		return fail(codes.FailedPrecondition, ReasonDeclaredInFile,
			fmt.Sprintf("name: %q is declared in the buckets file; change it there", d.Detail))
	case quota.UnknownReservation:
		return fail(codes.NotFound, ReasonUnknownReservation,
			fmt.Sprintf("request_id: you have no acquire under %q, or its receipt has left", d.Detail))
	case quota.NotReservation:
		return fail(codes.FailedPrecondition, ReasonNotReservation,
			fmt.Sprintf("request_id: %q was acquired without hold, so that its amounts were used at once; it can be released, and nothing else", d.Detail))
	case quota.AlreadySettled:
		return ended(d, ReasonAlreadySettled, "was settled before%s, with %s")
	case quota.AlreadyReleased:
		return ended(d, ReasonAlreadyReleased, "was released before%s; nothing of it is charged: use a new id to acquire again")
	case quota.AlreadyExpired:
		return ended(d, ReasonExpired, "has expired%s; it can be settled or released, and nothing else: use a new id to acquire again")
	case quota.NotAllowed: // told of by who asked, who knows whom it was asked of
	case quota.Behind: // a store expires what is due, and asks again
	}
	return newStatus(codes.Internal, fmt.Sprintf("the ledger answered with %v", d.Outcome)).Err()
}

// ended says when a reservation ended and how, in the text and as a detail. text has a place for the time, and that of a settlement
// one for its charges. Of many charges the first are listed: a status is a header.
func ended(d quota.Decision, reason, text string) error {
	which := fmt.Sprintf("request_id: %q ", d.Detail)
	if d.Reservation == nil {
		return fail(codes.FailedPrecondition, reason, which+fmt.Sprintf(text, ""))
	}
	how := reservation(*d.Reservation)
	end := d.Reservation.Ended
	if d.Outcome == quota.AlreadyExpired {
		end = d.Reservation.Expiry
	}
	at := []any{", at " + end.Format(time.RFC3339)}
	if d.Outcome == quota.AlreadySettled {
		at = append(at, chargesText(how.GetSettled(), how.GetBucket()))
	}
	text = which + fmt.Sprintf(text, at...)
	how.Charges, how.Settled = how.GetCharges()[:min(len(how.GetCharges()), violationsMax)], how.GetSettled()[:min(len(how.GetSettled()), violationsMax)]
	return withDetails(newStatus(codes.FailedPrecondition, text), info(reason), protoadapt.MessageV1Of(how))
}

// chargesText lists what a reservation of a bucket was charged for people, such as "1 calls, 812 input_tokens, 5 calls of other".
func chargesText(charges []*quotadv1.Charge, own string) string {
	parts := make([]string, 0, len(charges))
	for i, c := range charges {
		if i == violationsMax {
			parts = append(parts, fmt.Sprintf("%d more", len(charges)-i))
			break
		}
		part := fmt.Sprintf("%d %s", c.GetAmount(), c.GetUnit())
		if c.GetBucket() != own {
			part += " of " + c.GetBucket()
		}
		parts = append(parts, part)
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
	failures, full := listed(d)
	details = append(details, protoadapt.MessageV1Of(failures))
	if !d.RetryAt.IsZero() {
		wait := max(d.RetryAt.Sub(d.Time), time.Millisecond)
		details = append(details, protoadapt.MessageV1Of(&errdetails.RetryInfo{RetryDelay: durationpb.New(wait)}))
	}
	details = append(details, protoadapt.MessageV1Of(full))
	if err := grpc.SetTrailer(ctx, stopRetries); err != nil {
		return status.Errorf(codes.Internal, "denied, but the trailer cannot be set: %v", err)
	}
	return withDetails(newStatus(codes.ResourceExhausted, denialText(d)), details...)
}

// listed returns the details of a denial that have the violations in them, as many as a status may carry.
func listed(d quota.Decision) (*errdetails.QuotaFailure, *quotadv1.Denial) {
	failures, full := &errdetails.QuotaFailure{}, denial(d)
	bytes := 0
	for i, v := range d.Violations[:min(len(d.Violations), violationsMax)] {
		failure := &errdetails.QuotaFailure_Violation{Subject: "bucket:" + string(v.Balance.Bucket), Description: v.String()}
		if bytes += proto.Size(failure) + proto.Size(full.GetViolations()[i]); i > 0 && bytes > listBytesMax {
			break
		}
		failures.Violations = append(failures.Violations, failure)
	}
	n := len(failures.GetViolations())
	full.Violations, full.Omitted = full.GetViolations()[:n], int32(len(d.Violations)-n) //nolint:gosec // at most a few thousand
	return failures, full
}

// invalid names every field that is at fault, as many as a status may carry.
func invalid(ps quota.Problems) error {
	bad := &errdetails.BadRequest{}
	bytes := 0
	for i, p := range ps[:min(len(ps), faultsMax)] {
		fault := &errdetails.BadRequest_FieldViolation{Field: short(p.Field, fieldBytesMax), Description: short(p.Text, faultBytesMax)}
		if bytes += proto.Size(fault); i > 0 && bytes > listBytesMax {
			break
		}
		bad.FieldViolations = append(bad.FieldViolations, fault)
	}
	if n := len(bad.GetFieldViolations()); n < len(ps) {
		bad.FieldViolations[n-1].Description += fmt.Sprintf(" (and %d more faults, not listed)", len(ps)-n)
	}
	text := bad.GetFieldViolations()[0].GetField() + ": " + short(ps[0].Text, faultBytesMax)
	if more := len(ps) - 1; more > 0 {
		text += fmt.Sprintf(" (and %d more)", more)
	}
	return withDetails(newStatus(codes.InvalidArgument, text), info(ReasonInvalid), protoadapt.MessageV1Of(bad))
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
		return newStatus(codes.Internal, err.Error()).Err()
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

// notAllowed names who may not do what, and with which buckets: all of them, as many as a status may carry.
func notAllowed(who auth.Principal, v auth.Verb, names []string) error {
	listed, bytes := 0, 0
	for i, name := range names {
		if bytes += len(name) + 1; i > 0 && bytes > refusedBytesMax {
			break
		}
		listed++
	}
	subject := short(who.String(), principalBytesMax)
	why := &errdetails.ErrorInfo{Reason: ReasonPermissionDenied, Domain: Domain, Metadata: map[string]string{
		"principal": subject, "verb": v.String(),
	}}
	text := fmt.Sprintf("the policy does not let %s %s ", subject, v)
	switch {
	case len(names) == 0:
		text += "anything"
	case slices.Equal(names, []string{everyBucket}):
		text += "every bucket (" + everyBucket + ")"
	default:
		text += strings.Join(names[:listed], ", ")
	}
	if len(names) > 0 {
		why.Metadata["bucket"] = short(strings.Join(names[:listed], ","), refusedBytesMax)
	}
	if more := len(names) - listed; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
		why.Metadata["omitted"] = strconv.Itoa(more)
	}
	return withDetails(newStatus(codes.PermissionDenied, text), protoadapt.MessageV1Of(why))
}

// accessChanged ends a stream whose caller may have been allowed less meanwhile, or is nobody any more.
func accessChanged() error {
	return status.Error(codes.Unavailable, "who may do what has changed; watch again")
}

// hiddenFailure is failure for a caller from whom something is hidden: what is wrong may be a record of somebody else's.
func hiddenFailure(err error) error {
	switch status.Code(failure(err)) {
	case codes.DataLoss:
		return fail(codes.DataLoss, ReasonRecordCorrupt, "a record fails its checksum; who may inspect every bucket is told which")
	case codes.Internal:
		return status.Error(codes.Internal, "the ledger failed; who may inspect every bucket is told why")
	}
	return failure(err)
}

// isDefect tells a failure that should not be.
func isDefect(err error) bool { return status.Code(err) == codes.Internal }

func unauthenticated() error {
	return status.Error(codes.Unauthenticated, "the server does not know who is calling")
}

// stopping ends a stream when the daemon stops.
func stopping() error { return fail(codes.Unavailable, ReasonShuttingDown, "quotad is shutting down") }

// streamEnded turns the end of a stream's context into a status.
func streamEnded(ctx context.Context) error { return status.FromContextError(ctx.Err()).Err() }

func fail(code codes.Code, reason, text string) error {
	return withDetails(newStatus(code, text), info(reason))
}

// newStatus returns a status whose text is no longer than may be. Errors of the engine, and names that callers chose, are in it.
func newStatus(code codes.Code, text string) *status.Status {
	return status.New(code, short(text, textBytesMax))
}

// short returns a text of which the end is left out if it is longer than so many bytes.
func short(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + " ..."
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
