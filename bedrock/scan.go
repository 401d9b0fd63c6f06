package bedrock

import "bytes"

// jsonScan reads JSON in place, without memory of its own: the bodies it reads can be megabytes of images, of which a few numbers are
// wanted. It checks no more than it needs to find its way; it must not go wrong on any input, only say that it is lost.
type jsonScan struct {
	src []byte
	at  int
}

// next skips white space and returns the byte that follows; 0 at the end.
func (s *jsonScan) next() byte {
	for s.at < len(s.src) {
		switch c := s.src[s.at]; c {
		case ' ', '\t', '\r', '\n':
			s.at++
		default:
			return c
		}
	}
	return 0
}

// take skips white space and the byte c, and tells whether it was there.
func (s *jsonScan) take(c byte) bool {
	if s.next() != c {
		return false
	}
	s.at++
	return true
}

// text returns a string without its quotes. What is escaped in it stays so.
func (s *jsonScan) text() ([]byte, bool) {
	if !s.take('"') {
		return nil, false
	}
	start := s.at
	for {
		i := bytes.IndexByte(s.src[s.at:], '"')
		if i < 0 {
			return nil, false
		}
		end := s.at + i
		s.at = end + 1
		escapes := end
		for escapes > start && s.src[escapes-1] == '\\' {
			escapes--
		}
		if (end-escapes)%2 == 0 {
			return s.src[start:end], true
		}
	}
}

// literal returns a number, true, false or null as it stands.
func (s *jsonScan) literal() ([]byte, bool) {
	s.next()
	start := s.at
	for s.at < len(s.src) {
		switch s.src[s.at] {
		case ' ', '\t', '\r', '\n', ',', ':', '"', '{', '}', '[', ']':
			return s.src[start:s.at], s.at > start
		}
		s.at++
	}
	return s.src[start:], s.at > start
}

// skip passes over one value of any kind.
func (s *jsonScan) skip() bool {
	switch s.next() {
	case '"':
		_, ok := s.text()
		return ok
	case '{', '[':
		return s.skipNested()
	}
	_, ok := s.literal()
	return ok
}

func (s *jsonScan) skipNested() bool {
	depth := 0
	for s.at < len(s.src) {
		switch s.src[s.at] {
		case '"':
			if _, ok := s.text(); !ok {
				return false
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		}
		s.at++
		if depth == 0 {
			return true
		}
	}
	return false
}

// whole tells whether nothing follows any more.
func (s *jsonScan) whole() bool { return s.next() == 0 && s.at == len(s.src) }

// number returns a count: digits alone, up to countMax. A sign, a fraction, an exponent or a leading zero make it something else.
func number(literal []byte) (int64, bool) {
	if len(literal) == 0 || len(literal) > 1 && literal[0] == '0' {
		return 0, false
	}
	var n int64
	for _, c := range literal {
		if c < '0' || c > '9' {
			return 0, false
		}
		if n = n*10 + int64(c-'0'); n > countMax {
			return 0, false
		}
	}
	return n, true
}
