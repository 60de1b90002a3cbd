package ledger

import (
	"strings"
	"sync"
)

// maxAgent bounds a normalised user agent.
const maxAgent = 128

// NormaliseAgent makes one line of what is one program: the parts of a User-Agent that differ from build to build or pod
// to pod (commit hashes, UUIDs, hexadecimal suffixes) become *, and so does what is unprintable or too long. The result is
// a glob that matches the header it came from, so that it can be pasted into a limit rule as it stands.
func NormaliseAgent(agent string) string {
	var b strings.Builder
	star := func() {
		if s := b.String(); s == "" || s[len(s)-1] != '*' {
			b.WriteByte('*')
		}
	}
	for i := 0; i < len(agent); {
		if b.Len() >= maxAgent-1 {
			star()
			break
		}
		c := agent[i]
		if !isWord(c) {
			if c < ' ' || c > '~' {
				star()
			} else {
				b.WriteByte(c)
			}
			i++
			continue
		}
		end := i
		for end < len(agent) && isWord(agent[end]) {
			end++
		}
		word := agent[i:end]
		switch room := maxAgent - 1 - b.Len(); {
		case isIdentifier(word):
			star()
		case len(word) > room:
			if cut := word[:room]; !isIdentifier(cut) { // what is left of a longer word may look like a hash
				b.WriteString(cut)
			}
			star()
			return b.String()
		default:
			b.WriteString(word)
		}
		i = end
	}
	return b.String()
}

func isWord(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// isIdentifier is true for a hash or a part of a UUID: 7 (a short commit) or more hexadecimal characters with a digit
// among them. Versions and dates have dots or dashes in them and stay.
func isIdentifier(word string) bool {
	if len(word) < 7 {
		return false
	}
	digits := false
	for i := range len(word) {
		c := word[i]
		switch {
		case c >= '0' && c <= '9':
			digits = true
		case c >= 'a' && c <= 'f', c >= 'A' && c <= 'F':
		default:
			return false
		}
	}
	return digits
}

// agentCache spares the hot path the work: a cluster has some dozens of user agents.
type agentCache struct {
	mu    sync.RWMutex
	known map[string]string
}

const maxCachedAgents = 1024

func newAgentCache() *agentCache { return &agentCache{known: map[string]string{}} }

func (c *agentCache) normalise(agent string) string {
	c.mu.RLock()
	normal, ok := c.known[agent]
	c.mu.RUnlock()
	if ok {
		return normal
	}
	normal = NormaliseAgent(agent)
	if len(agent) > 4*maxAgent {
		return normal
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.known) >= maxCachedAgents {
		clear(c.known) // somebody makes them up; start over rather than keep his
	}
	c.known[strings.Clone(agent)] = normal
	return normal
}
