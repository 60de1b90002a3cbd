package frame

import (
	"bytes"
	"strconv"
)

// parseJSON reads {"type":…,"object":{…,"metadata":{…}}} in any order of keys.
func parseJSON(f *Frame) error {
	c := cursor{b: f.Bytes[:len(f.Bytes)-1]}
	var event struct{ typ, object []byte }
	if c.enter() != whole {
		return errNoFrame
	}
	for {
		key, s := c.key()
		if s == end {
			break
		}
		if s != whole {
			return errNoFrame
		}
		from := c.i
		switch {
		case string(key) == "type" && event.typ == nil:
			event.typ, s = c.text()
		default:
			s = c.skip()
			if string(key) == "object" && event.object == nil {
				event.object = c.b[from:c.i]
			}
		}
		if s != whole {
			return errNoFrame
		}
	}
	var known bool
	if f.Type, known = typeOf(event.typ); !known || !c.atEnd() || event.object == nil {
		return errNoFrame
	}
	if f.Type == Error {
		return parseJSONStatus(f, event.object)
	}
	o := cursor{b: event.object}
	if s := o.find("metadata"); s != whole {
		return errVersion
	}
	return parseJSONMeta(f, &o)
}

func parseJSONMeta(f *Frame, c *cursor) error {
	if c.enter() != whole {
		return errVersion
	}
	for {
		key, s := c.key()
		if s != whole {
			break
		}
		switch {
		case string(key) == "resourceVersion" && f.Version == 0:
			var text []byte
			text, s = c.text()
			f.Version, _ = parseVersion(text)
		case string(key) == "annotations" && f.Type == Bookmark:
			from := c.i
			s = c.skip()
			f.InitialEventsEnd = endsInitialEvents(c.b[from:c.i])
		default:
			s = c.skip()
		}
		if s != whole {
			return errVersion
		}
		if f.Version != 0 && f.Type != Bookmark {
			break // nothing else is looked for
		}
	}
	if f.Version == 0 {
		return errVersion
	}
	return nil
}

func endsInitialEvents(annotations []byte) bool {
	c := cursor{b: annotations}
	if c.find(string(initialEventsEnd)) != whole {
		return false
	}
	value, s := c.text()
	return s == whole && string(value) == "true"
}

func parseJSONStatus(f *Frame, object []byte) error {
	c := cursor{b: object}
	if s := c.find("code"); s == whole {
		c.space()
		from := c.i
		if c.skip() == whole {
			f.Code, _ = strconv.Atoi(string(c.b[from:c.i]))
		}
	}
	return nil
}

// jsonListVersion reads the version of a list that names it before its items.
func jsonListVersion(head []byte) (version uint64, s state) {
	c := cursor{b: head}
	if s := c.enter(); s != whole {
		return 0, s
	}
	for {
		key, s := c.key()
		if s != whole {
			return 0, s
		}
		switch string(key) {
		case "items", "rows", "columnDefinitions":
			return 0, end // a custom resource's list: its keys are in the order of the alphabet
		case "metadata":
			if s = c.enter(); s != whole {
				return 0, s
			}
			if s = c.findHere("resourceVersion"); s != whole {
				return 0, s
			}
			text, s := c.text()
			if s != whole {
				return 0, s
			}
			if version, ok := parseVersion(text); ok {
				return version, whole
			}
			return 0, bad
		default:
			if s = c.skip(); s != whole {
				return 0, s
			}
		}
	}
}

// state is what became of a step.
type state byte

const (
	whole state = iota // done
	short              // there may be more bytes
	end                // there is no such thing in what was looked through
	bad                // not JSON, or not what was expected here
)

// cursor walks JSON without building anything. It takes keys as they are written: the API server escapes none of those
// looked for here.
type cursor struct {
	b []byte
	i int
}

func (c *cursor) space() {
	for c.i < len(c.b) {
		switch c.b[c.i] {
		case ' ', '\t', '\r', '\n':
			c.i++
		default:
			return
		}
	}
}

func (c *cursor) atEnd() bool {
	c.space()
	return c.i == len(c.b)
}

func (c *cursor) take(want byte) state {
	c.space()
	switch {
	case c.i == len(c.b):
		return short
	case c.b[c.i] != want:
		return bad
	}
	c.i++
	return whole
}

func (c *cursor) enter() state { return c.take('{') }

// key goes to the value of the next member and returns its name; end when the object has no other.
func (c *cursor) key() ([]byte, state) {
	c.space()
	if c.i == len(c.b) {
		return nil, short
	}
	switch c.b[c.i] {
	case '}':
		c.i++
		return nil, end
	case ',':
		c.i++
	}
	key, s := c.text()
	if s != whole {
		return nil, s
	}
	if s := c.take(':'); s != whole {
		return nil, s
	}
	return key, whole
}

// find enters the object and goes to the value of the member.
func (c *cursor) find(name string) state {
	if s := c.enter(); s != whole {
		return s
	}
	return c.findHere(name)
}

func (c *cursor) findHere(name string) state {
	for {
		key, s := c.key()
		if s != whole || string(key) == name {
			return s
		}
		if s := c.skip(); s != whole {
			return s
		}
	}
}

// text reads a string, escapes left as they are.
func (c *cursor) text() ([]byte, state) {
	if s := c.take('"'); s != whole {
		return nil, s
	}
	from := c.i
	for {
		n := bytes.IndexByte(c.b[c.i:], '"')
		if n < 0 {
			c.i = len(c.b)
			return nil, short
		}
		c.i += n + 1
		quote, escapes := c.i-1, 0
		for quote-escapes > from && c.b[quote-escapes-1] == '\\' {
			escapes++
		}
		if escapes%2 == 0 {
			return c.b[from:quote], whole
		}
	}
}

// skip goes behind a value.
func (c *cursor) skip() state {
	c.space()
	depth := 0
	for c.i < len(c.b) {
		switch b := c.b[c.i]; b {
		case '"':
			if _, s := c.text(); s != whole {
				return s
			}
		case '{', '[':
			depth++
			c.i++
			continue
		case '}', ']':
			if depth == 0 {
				return bad
			}
			depth--
			c.i++
		case ',', ':', ' ', '\t', '\r', '\n':
			if depth == 0 {
				return bad
			}
			c.i++
			continue
		default:
			c.scalar()
			if c.i == len(c.b) {
				return short // a number may go on
			}
		}
		if depth == 0 {
			return whole
		}
	}
	return short
}

func (c *cursor) scalar() {
	for c.i < len(c.b) {
		switch c.b[c.i] {
		case ',', ':', '}', ']', '{', '[', '"', ' ', '\t', '\r', '\n':
			return
		}
		c.i++
	}
}
