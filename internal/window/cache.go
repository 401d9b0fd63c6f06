package window

import "time"

// maxCached is how many pairs of span and zone a Cache remembers. There are
// about 600 zones, most programs use a few.
const maxCached = 4096

// Cache answers like Span.At, faster, by remembering for each span and zone the
// two windows that it worked out last: the current one, and its neighbour
// around the end of a window. The zero value is ready for use. A Cache is not
// for concurrent use. It remembers 4096 pairs of span and zone and then starts
// afresh; zones are told apart by pointer, so use those of LoadZone.
type Cache struct {
	seen map[cacheKey]*cacheEntry
}

type cacheKey struct {
	zone *time.Location
	span Span
}

type cacheEntry struct {
	last, before Window
}

// At returns what s.At(t, zone) does.
func (c *Cache) At(s Span, t time.Time, zone *time.Location) Window {
	if zone == nil {
		zone = time.UTC
	}
	key := cacheKey{zone: zone, span: s}
	entry := c.seen[key]
	if entry != nil {
		if entry.last.Contains(t) {
			return entry.last
		}
		if entry.before.Contains(t) {
			return entry.before
		}
	}
	w := s.At(t, zone)
	if entry == nil {
		if c.seen == nil || len(c.seen) >= maxCached {
			c.seen = make(map[cacheKey]*cacheEntry)
		}
		entry = new(cacheEntry)
		c.seen[key] = entry
	}
	entry.last, entry.before = w, entry.last
	return w
}
