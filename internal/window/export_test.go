package window

// CacheLen returns how many pairs of span and zone c remembers.
func CacheLen(c *Cache) int { return len(c.seen) }
