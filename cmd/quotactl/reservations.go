package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
)

// stateNames are the states of reservations as --state has them.
var stateNames = []string{"open", "settled", "released", "expired", "all"}

// states are the states of reservations by their names.
var states = map[string]quotadv1.ReservationState{
	"open":     quotadv1.ReservationState_RESERVATION_STATE_OPEN,
	"settled":  quotadv1.ReservationState_RESERVATION_STATE_SETTLED,
	"released": quotadv1.ReservationState_RESERVATION_STATE_RELEASED,
	"expired":  quotadv1.ReservationState_RESERVATION_STATE_EXPIRED,
	"all":      quotadv1.ReservationState_RESERVATION_STATE_UNSPECIFIED,
}

func (a *app) reservationsCommand() *cobra.Command {
	var state string
	var older length
	var most int32
	cmd := &cobra.Command{
		Use:   "reservations [PREFIX] [flags]",
		Short: "show what is held and by whom, and what became of it",
		Long: `Shows the open reservations, those that expire first before the others; with PREFIX those of that bucket and those below it. With
--state also those that have ended, while their receipts live: for a day and more after their last change.

HELD and SETTLED are as settle takes them, UNIT=AMOUNT; one of another bucket than the reservation's has BUCKET: before it. NOTES
says late where it was settled or released after it had expired, and of one that is open or has expired what the bucket has
declared for that: on-expiry-charge or on-expiry-release.`,
		Example: `  quotactl reservations
  quotactl reservations acme --older-than 10m
  quotactl reservations --state all --limit 1000 -o json`,
		Args:              operands("[PREFIX]"),
		ValidArgsFunction: a.completeBucket,
	}
	cmd.Flags().StringVar(&state, "state", "open", "only those in `STATE`: open, settled, released, expired or all")
	cmd.Flags().Var(&older, "older-than", "only those that were made at least a `DURATION` ago (default all)")
	cmd.Flags().Int32Var(&most, "limit", 100, "show `N` reservations at most")
	a.completeFlag(cmd, "state", cobra.FixedCompletions(stateNames, cobra.ShellCompDirectiveNoFileComp))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		wanted, known := states[state]
		switch {
		case !known:
			return usagef(cmd, "--state %q is unknown; want %s", state, either(stateNames))
		case most < 1:
			return usagef(cmd, "--limit %d is out of range; want 1 or more", most)
		}
		req := &quotadv1.ListReservationsRequest{State: wanted}
		if len(args) > 0 {
			req.Prefix = args[0]
		}
		if older.Duration > 0 {
			req.MinAge = durationpb.New(older.Duration)
		}
		resp, err := a.listReservations(cmd.Context(), req, most)
		if err != nil {
			return err
		}
		return a.emit(resp, func(w io.Writer) { a.showReservations(w, resp, state, req.GetPrefix()) })
	}
	return cmd
}

// listReservations asks for pages until it has most reservations or there are no more. A page may be empty and not the last.
func (a *app) listReservations(ctx context.Context, req *quotadv1.ListReservationsRequest, most int32) (*quotadv1.ListReservationsResponse, error) {
	sum := &quotadv1.ListReservationsResponse{}
	for {
		req.PageSize = min(most, 1000)
		resp, err := a.reservationsPage(ctx, req)
		if err != nil {
			return nil, err
		}
		sum.Reservations = append(sum.Reservations, resp.GetReservations()...)
		sum.NextPageToken = resp.GetNextPageToken()
		most -= int32(min(len(resp.GetReservations()), 1000))
		if most <= 0 || sum.GetNextPageToken() == "" {
			return sum, nil
		}
		req.PageToken = sum.GetNextPageToken()
	}
}

func (a *app) reservationsPage(ctx context.Context, req *quotadv1.ListReservationsRequest) (*quotadv1.ListReservationsResponse, error) {
	ctx, cancel := a.within(ctx)
	defer cancel()
	return a.inspect().ListReservations(ctx, req)
}

func (a *app) showReservations(w io.Writer, resp *quotadv1.ListReservationsResponse, state, prefix string) {
	if len(resp.GetReservations()) == 0 {
		if state == "all" {
			state = "known"
		}
		fmt.Fprintf(a.stderr, "quotactl: no such reservation is %s%s\n", state, under(prefix))
	}
	t := a.newTable("ID", "BUCKET", "STATE", "MADE", "EXPIRES", "ENDED", "HELD", "SETTLED", "WHO", "NOTES")
	for _, r := range resp.GetReservations() {
		t.add(words(r.GetRequestId()), words(r.GetBucket()), cell{text: stateOf(r.GetState()), style: stateStyle(r)}, words(when(r.GetCreateTime())),
			words(when(r.GetExpireTime())), words(when(r.GetEndTime())), words(amounts(r, r.GetCharges())), words(amounts(r, r.GetSettled())),
			words(r.GetPrincipal()), words(reservationNotes(r)))
	}
	t.write(w)
	if resp.GetNextPageToken() != "" {
		fmt.Fprintln(a.stderr, "quotactl: there may be more: a larger --limit shows them")
	}
}

// stateOf names a state of a reservation.
func stateOf(state quotadv1.ReservationState) string {
	for name, s := range states {
		if s == state && name != "all" {
			return name
		}
	}
	return "unknown"
}

func stateStyle(r *quotadv1.Reservation) style {
	switch stateOf(r.GetState()) {
	case "open":
		return green
	case "expired":
		return yellow
	}
	return plain
}

// when writes an instant that may be absent.
func when(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return stamp(t.AsTime())
}

// amounts writes charges of a reservation in one word.
func amounts(r *quotadv1.Reservation, charges []*quotadv1.Charge) string {
	parts := make([]string, len(charges))
	for i, c := range charges {
		parts[i] = fmt.Sprintf("%s=%d", c.GetUnit(), c.GetAmount())
		if c.GetBucket() != r.GetBucket() {
			parts[i] = c.GetBucket() + ":" + parts[i]
		}
	}
	return strings.Join(parts, ",")
}

// reservationNotes says what is special about a reservation, in words joined by commas and without blanks.
func reservationNotes(r *quotadv1.Reservation) string {
	var notes []string
	if r.GetLate() {
		notes = append(notes, "late")
	}
	if s := stateOf(r.GetState()); s == "open" || s == "expired" {
		notes = append(notes, "on-expiry-"+onExpiryWord(r.GetOnExpiry()))
	}
	return strings.Join(notes, ",")
}

// onExpiryWord names what becomes of a reservation that nobody settles.
func onExpiryWord(e quotadv1.OnExpiry) string {
	if e == quotadv1.OnExpiry_ON_EXPIRY_RELEASE {
		return "release"
	}
	return "charge"
}
