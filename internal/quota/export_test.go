package quota

// Sum returns the fingerprint that Validate worked out.
func Sum(a Acquire) Fingerprint { return a.sum }

// SumExtend returns the fingerprint that Validate worked out.
func SumExtend(x Extend) Fingerprint { return x.sum }

// WorthShowing is worthShowing.
func WorthShowing(bs []Balance) []Balance { return worthShowing(bs) }
