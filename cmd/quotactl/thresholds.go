package main

import (
	quotadv1 "github.com/quotad/quotad/gen/quotad/v1"
	"github.com/quotad/quotad/internal/quota"
)

// thresholds is a flag that takes shares in percent, "off" for none, or "default" for the daemon's, which is nil.
type thresholds quota.Thresholds

// ofDaemon is what stands for thresholds that are the daemon's.
const ofDaemon = "default"

// String returns what Set reads; "" for the daemon's, so that the help shows no default.
func (t *thresholds) String() string {
	if *t == nil {
		return ""
	}
	return quota.Thresholds(*t).String()
}

// Set reads shares, "off" or "default".
func (t *thresholds) Set(s string) error {
	if s == ofDaemon {
		*t = nil
		return nil
	}
	read, err := quota.ParseThresholds(s)
	*t = thresholds(read)
	return err
}

// Type returns what help calls the value.
func (t *thresholds) Type() string { return "shares" }

func thresholdsProto(t quota.Thresholds) *quotadv1.Thresholds {
	if t == nil {
		return nil
	}
	out := &quotadv1.Thresholds{}
	for _, percent := range t {
		out.Percent = append(out.Percent, int32(percent)) //nolint:gosec // at most quota.ThresholdMax
	}
	return out
}

// thresholdsOf reads thresholds from the wire; nil where they are the daemon's.
func thresholdsOf(p *quotadv1.Thresholds) quota.Thresholds {
	if p == nil {
		return nil
	}
	t := quota.Thresholds{}
	for _, percent := range p.GetPercent() {
		t = append(t, int(percent))
	}
	return t
}

// formatThresholds writes thresholds as quotactl set reads them; "" where they are the daemon's.
func formatThresholds(p *quotadv1.Thresholds) string {
	if p == nil {
		return ""
	}
	return thresholdsOf(p).String()
}
