package tokens

import (
	"crypto/sha256"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// failureLife is how long a failure is remembered: long enough that a client retrying a bad token costs no signature
// check, short enough that a token not yet valid is soon tried again.
const failureLife = 10 * time.Second

// cache keeps results by the token's hash, never the token. Failures have a cache of their own: anyone can make up bad
// tokens without end, and they must not push out the good ones.
type cache struct {
	good *lru.Cache[[sha256.Size]byte, result]
	bad  *lru.Cache[[sha256.Size]byte, result]
}

type result struct {
	identity Identity
	verified bool
	// keys are those the result was found with; another ring makes it stale.
	keys *keyring
	// until is the end of the result's life; zero: none.
	until time.Time
}

func newCache(size int) *cache {
	good, err := lru.New[[sha256.Size]byte, result](size)
	if err != nil {
		panic("BUG: cache size must be positive: " + err.Error())
	}
	bad, err := lru.New[[sha256.Size]byte, result](max(1, size/4))
	if err != nil {
		panic("BUG: cache size must be positive: " + err.Error())
	}
	return &cache{good: good, bad: bad}
}

func (c *cache) get(sum [sha256.Size]byte, keys *keyring, now time.Time) (result, bool) {
	for _, side := range []*lru.Cache[[sha256.Size]byte, result]{c.good, c.bad} {
		hit, ok := side.Get(sum)
		if !ok {
			continue
		}
		if hit.keys == keys && (hit.until.IsZero() || now.Before(hit.until)) {
			return hit, true
		}
		side.Remove(sum)
	}
	return result{}, false
}

func (c *cache) put(sum [sha256.Size]byte, r result, now time.Time) {
	if !r.until.IsZero() && !now.Before(r.until) {
		return
	}
	if r.verified {
		c.good.Add(sum, r)
		return
	}
	c.bad.Add(sum, r)
}
