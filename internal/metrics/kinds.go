package metrics

import "github.com/quotad/quotad/internal/quota"

// The kinds of ops, as the label names them.
const (
	kindOther = iota // an op that this package has not heard of; a test keeps it at none
	kindAcquire
	kindSetBucket
	kindDeleteBucket
	kindApplySet
	kindSetOverride
	kindReset
	kindExhaust
	kindConfigure
	kindNote
	kindAdopt
	kindSettle
	kindRelease
	kindExtend
	kindExpire
	kinds
)

// outcomes is one more than the highest outcome; 0 stands for an op that failed.
const outcomes = int(quota.Behind) + 1

var kindNames = [kinds]string{
	"other", "acquire", "set_bucket", "delete_bucket", "apply", "set_override", "reset", "exhaust", "configure", "note", "adopt",
	"settle", "release", "extend", "expire",
}

func kindOf(op quota.Op) int {
	switch op.(type) {
	case quota.Acquire:
		return kindAcquire
	case quota.Settle:
		return kindSettle
	case quota.Release:
		return kindRelease
	case quota.Extend:
		return kindExtend
	case quota.Expire:
		return kindExpire
	case quota.Adopt:
		return kindAdopt
	case quota.SetBucket:
		return kindSetBucket
	case quota.DeleteBucket:
		return kindDeleteBucket
	case quota.ApplySet:
		return kindApplySet
	case quota.SetOverride:
		return kindSetOverride
	case quota.Reset:
		return kindReset
	case quota.Exhaust:
		return kindExhaust
	case quota.Configure:
		return kindConfigure
	case quota.Note:
		return kindNote
	default:
		return kindOther
	}
}
