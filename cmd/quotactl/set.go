package main

import (
	"cmp"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/config"
	"github.com/quotad/quotad/internal/quota"
)

func (a *app) setCommand() *cobra.Command {
	var limits []string
	var onExpiry string
	var terms termFlags
	bucket := &quotadv1.Bucket{}
	req := &quotadv1.SetBucketRequest{Bucket: bucket}
	cmd := &cobra.Command{
		Use:   "set NAME LIMIT... [flags]",
		Short: "declare a bucket or a pattern, in place of what was declared under that name",
		Long: `Declares a bucket, or a pattern such as acme/* for each bucket that it matches, in place of all that was declared under that
name. Counts are not touched: a limit below what is used denies until the window ends.

A LIMIT is a number, a unit and a window, as in "50 calls/day" or "2_000_000 tokens/month"; the unit may be left out for calls,
the window for the day. Windows are minute, hour, day, week, month, year and ever. "off" counts without a limit.

--max-hold, --max-in-flight, --hold, --on-expiry and --estimate say what holds for reservations. The last is also what an acquire
takes of a unit for which it does not say how many. --thresholds says at which shares of each limit an event tells of it.`,
		Example: `  quotactl set portfolio "50 calls/day"
  quotactl set 'acme/*' "20 calls/day" "100_000 tokens/month" --zone Europe/Berlin
  quotactl set bedrock "500 calls/day" "2_000_000 tokens/day" --max-hold 25% --max-in-flight 40 --estimate "4096 tokens"
  quotactl set experiments off --description "counted only"`,
		Args:              atLeast("NAME"),
		ValidArgsFunction: a.completeBucket,
	}
	cmd.Flags().StringArrayVar(&limits, "limit", nil, "a `LIMIT`; may be repeated, and stands for an operand")
	cmd.Flags().StringVar(&bucket.Zone, "zone", "", "the IANA `ZONE` of its windows, such as Europe/Berlin (default the daemon's)")
	terms.register(cmd)
	cmd.Flags().StringVar(&onExpiry, "on-expiry", "charge", "`WHAT` becomes of a reservation that nobody settles: charge or release")
	cmd.Flags().StringVar(&bucket.Description, "description", "", "a `TEXT` for people")
	a.reasonFlag(cmd, &req.Reason)
	a.completeFlag(cmd, "on-expiry", cobra.FixedCompletions([]string{"charge", "release"}, cobra.ShellCompDirectiveNoFileComp))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		bucket.Name = args[0]
		var err error
		if bucket.Limits, err = parseLimits(cmd, append(args[1:], limits...)); err != nil {
			return err
		}
		switch onExpiry {
		case "charge":
			bucket.OnExpiry = quotadv1.OnExpiry_ON_EXPIRY_CHARGE
		case "release":
			bucket.OnExpiry = quotadv1.OnExpiry_ON_EXPIRY_RELEASE
		default:
			return usagef(cmd, "--on-expiry %q is unknown; want charge or release", onExpiry)
		}
		if err := terms.set(cmd, bucket); err != nil {
			return err
		}
		ctx, cancel := a.within(cmd.Context())
		defer cancel()
		resp, err := a.admin().SetBucket(ctx, req)
		if err != nil {
			return err
		}
		return a.emit(resp, func(w io.Writer) {
			a.showChange(w, &quotadv1.BucketChange{Name: bucket.GetName(), Before: resp.GetPrevious(), After: resp.GetBucket()})
		})
	}
	return cmd
}

func (a *app) reasonFlag(cmd *cobra.Command, reason *string) {
	cmd.Flags().StringVar(reason, "reason", "", "the `TEXT` that tells the audit trail why")
}

// parseLimits reads limits as they are declared. None at all is not taken for "off": who changes the zone alone would lose them.
func parseLimits(cmd *cobra.Command, texts []string) ([]*quotadv1.Limit, error) {
	if len(texts) == 0 {
		return nil, usagef(cmd, `no limit is given; want one such as "50 calls/day", or off to count without a limit`)
	}
	var list []quota.Limit
	for _, text := range texts {
		if text == "off" && len(texts) > 1 {
			return nil, usagef(cmd, "off is given together with a limit; give one or the other")
		}
		some, err := quota.ParseLimits(text)
		if err != nil {
			return nil, usagef(cmd, "%w", err)
		}
		list = append(list, some...)
	}
	if err := quota.CheckLimits(list); err != nil {
		return nil, usagef(cmd, "%w", err)
	}
	return limitsProto(list), nil
}

func limitsProto(list []quota.Limit) []*quotadv1.Limit {
	out := make([]*quotadv1.Limit, len(list))
	for i, l := range list {
		out[i] = &quotadv1.Limit{Unit: string(l.Unit), Window: quotadv1.Window(l.Span), Max: l.Max}
	}
	return out
}

// showChange prints one difference between two declared sets: +, - or ~, the name, and what changed.
func (a *app) showChange(w io.Writer, c *quotadv1.BucketChange) {
	switch before, after := facets(c.GetBefore()), facets(c.GetAfter()); {
	case c.GetBefore() == nil && c.GetAfter() == nil:
		fmt.Fprintf(w, "= %s: not declared\n", c.GetName())
	case c.GetBefore() == nil:
		fmt.Fprintln(w, a.paint(1, green, "+ "+c.GetName()+": "+after.line()))
	case c.GetAfter() == nil:
		fmt.Fprintln(w, a.paint(1, red, "- "+c.GetName()+": "+before.line()))
	case before == after:
		fmt.Fprintf(w, "= %s: %s\n", c.GetName(), after.line())
	default:
		fmt.Fprintln(w, a.paint(1, yellow, "~ "+c.GetName()+": "+before.to(after)))
	}
}

// declared is a declaration as people compare it.
type declared struct{ limits, zone, expiry, maxHold, inFlight, hold, estimates, told, about string }

func facets(b *quotadv1.Bucket) declared {
	d := declared{
		limits: formatLimits(b.GetLimits()), zone: b.GetZone(), expiry: onExpiryWord(b.GetOnExpiry()), about: b.GetDescription(),
		estimates: formatEstimates(b.GetEstimates()), told: formatThresholds(b.GetThresholds()),
	}
	if n := b.GetMaxHoldPercent(); n != 0 {
		d.maxHold = fmt.Sprintf("%d%%", n)
	}
	if n := b.GetMaxInFlight(); n != 0 {
		d.inFlight = fmt.Sprint(n)
	}
	if b.GetHold() != nil {
		d.hold = config.FormatDuration(b.GetHold().AsDuration())
	}
	return d
}

// line tells all of a declaration that is not the default.
func (d declared) line() string {
	s := d.limits
	add := func(name, value string) {
		if value != "" {
			s += "; " + name + value
		}
	}
	add("zone ", d.zone)
	if d.expiry != "charge" {
		add("on expiry ", d.expiry)
	}
	add("max hold ", d.maxHold)
	add("max in flight ", d.inFlight)
	add("hold ", d.hold)
	add("estimates ", d.estimates)
	add("thresholds ", d.told)
	if d.about != "" {
		s += fmt.Sprintf("; %q", d.about)
	}
	return s
}

// to tells what has to change for one declaration to become the other.
func (d declared) to(e declared) string {
	s := ""
	differ := func(name, before, after string) {
		if before == after {
			return
		}
		if s != "" {
			s += "; "
		}
		s += fmt.Sprintf("%s%s -> %s", name, before, after)
	}
	differ("", d.limits, e.limits)
	differ("zone ", cmp.Or(d.zone, "the daemon's"), cmp.Or(e.zone, "the daemon's"))
	differ("on expiry ", d.expiry, e.expiry)
	differ("max hold ", cmp.Or(d.maxHold, "the whole"), cmp.Or(e.maxHold, "the whole"))
	differ("max in flight ", cmp.Or(d.inFlight, "any number"), cmp.Or(e.inFlight, "any number"))
	differ("hold ", cmp.Or(d.hold, config.FormatDuration(quota.HoldDefault)), cmp.Or(e.hold, config.FormatDuration(quota.HoldDefault)))
	differ("estimates ", cmp.Or(d.estimates, "none"), cmp.Or(e.estimates, "none"))
	differ("thresholds ", cmp.Or(d.told, "the daemon's"), cmp.Or(e.told, "the daemon's"))
	differ("description ", fmt.Sprintf("%q", d.about), fmt.Sprintf("%q", e.about))
	return s
}
