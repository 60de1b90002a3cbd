package survive

import (
	"crypto/sha256"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/seakeep/seakeep/gate/flow"
)

// mostGrants bounds the grants kept; the oldest go first. 5,000 nodes with four each fit.
const mostGrants = 32768

// subject is who a grant is for: everything the API server's authorizer was told of the user.
type subject struct {
	User   string              `json:"user"`
	UID    string              `json:"uid,omitempty"`
	Groups []string            `json:"groups,omitempty"`
	Extra  map[string][]string `json:"extra,omitempty"`
}

// grant is a right the API server said somebody has.
type grant struct {
	subject
	right
	Granted time.Time `json:"granted"`
	// Seen is when somebody last used it, or something like it: a grant that nobody uses is not asked for again.
	Seen time.Time `json:"seen"`
}

// right is what may be read. An empty Namespace is all, an empty Name all, empty selectors all.
type right struct {
	Verb      string `json:"verb"`
	Group     string `json:"group,omitempty"`
	Version   string `json:"version"`
	Resource  string `json:"resource"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	Fields    string `json:"fields,omitempty"`
	Labels    string `json:"labels,omitempty"`
}

type grantKey [sha256.Size]byte

// grants are what the API server granted, by subject and right.
type grants struct {
	ttl    time.Duration
	extras bool // what stands in a single token counts

	mu    sync.Mutex
	all   map[grantKey]*grant
	dirty bool
	saved time.Time
}

func newGrants(ttl time.Duration, perTokenExtras bool) *grants {
	return &grants{ttl: ttl, extras: perTokenExtras, all: map[grantKey]*grant{}}
}

var perTokenExtras = []string{
	serviceaccount.PodNameKey, serviceaccount.PodUIDKey, serviceaccount.NodeNameKey, serviceaccount.NodeUIDKey, user.CredentialIDKey,
}

// subject brings a user to one form, however it was found out who it is: offline or by the API server.
func (g *grants) subject(name, uid string, groups []string, extra map[string][]string) subject {
	groups = slices.Clone(groups)
	if !slices.Contains(groups, user.AllAuthenticated) {
		groups = append(groups, user.AllAuthenticated)
	}
	slices.Sort(groups)
	extra = maps.Clone(extra)
	if !g.extras {
		for _, key := range perTokenExtras {
			delete(extra, key)
		}
	}
	if len(extra) == 0 {
		extra = nil
	}
	return subject{User: name, UID: uid, Groups: slices.Compact(groups), Extra: extra}
}

func (g *grants) caller(c *flow.Caller) subject { return g.subject(c.User, c.UID, c.Groups, c.Extra) }

func rightOf(f *flow.Request) right {
	return right{
		Verb: f.Verb, Group: f.APIGroup, Version: f.APIVersion, Resource: f.Resource,
		Namespace: f.Namespace, Name: f.Name, Fields: f.FieldSelector, Labels: f.LabelSelector,
	}
}

func keyOf(s *subject, r *right) grantKey {
	b := make([]byte, 0, 512)
	add := func(parts ...string) {
		for _, part := range parts {
			b = strconv.AppendInt(b, int64(len(part)), 10)
			b = append(append(b, ':'), part...)
		}
		b = append(b, '|')
	}
	add(s.User, s.UID)
	add(s.Groups...)
	for _, key := range slices.Sorted(maps.Keys(s.Extra)) {
		add(key)
		add(s.Extra[key]...)
	}
	add()
	add(r.Verb, r.Group, r.Version, r.Resource, r.Namespace, r.Name, r.Fields, r.Labels)
	return sha256.Sum256(b)
}

// wider yields the rights that include r: all namespaces include one, all names one, and no selector any. Of "get" a name
// stands in the path and is what was granted; of "list" and "watch" it comes from a field selector.
func wider(r right) []right {
	all := []right{r}
	if r.Namespace != "" {
		for _, x := range all {
			x.Namespace = ""
			all = append(all, x)
		}
	}
	if r.Fields != "" || r.Labels != "" {
		for _, x := range all {
			x.Fields, x.Labels = "", ""
			if x.Verb != "get" {
				x.Name = ""
			}
			all = append(all, x)
		}
	}
	return all
}

// granted notes what the API server granted to somebody who asked.
func (g *grants) granted(s subject, r right, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.grant(s, r, now, now)
}

// renewed notes that the API server still grants what nobody asked for just now.
func (g *grants) renewed(s subject, r right, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	seen := now
	if old := g.all[keyOf(&s, &r)]; old != nil {
		seen = old.Seen
	}
	g.grant(s, r, now, seen)
}

func (g *grants) grant(s subject, r right, now, seen time.Time) {
	key := keyOf(&s, &r)
	old := g.all[key]
	if old != nil && now.Sub(old.Granted) < time.Second && old.Seen.Equal(seen) {
		return // as it is
	}
	if old == nil && len(g.all) >= mostGrants {
		g.forgetOldest()
	}
	g.all[key] = &grant{subject: s, right: r, Granted: now, Seen: seen}
	g.dirty = true
}

// forgetOldest makes room for a hundredth more.
func (g *grants) forgetOldest() {
	type aged struct {
		key grantKey
		at  time.Time
	}
	oldest := make([]aged, 0, len(g.all))
	for key, x := range g.all {
		oldest = append(oldest, aged{key, x.Granted})
	}
	slices.SortFunc(oldest, func(a, b aged) int { return a.at.Compare(b.at) })
	for _, x := range oldest[:len(oldest)/100+1] {
		delete(g.all, x.key)
	}
}

// denied forgets what the API server denies, and everything that would include it.
func (g *grants) denied(s subject, r right) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, x := range wider(r) {
		key := keyOf(&s, &x)
		if g.all[key] != nil {
			delete(g.all, key)
			g.dirty = true
		}
	}
}

// has says whether the API server granted the right, or one that includes it, within the time it is believed.
func (g *grants) has(s subject, r right, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, x := range wider(r) {
		if found := g.all[keyOf(&s, &x)]; found != nil && g.good(found, now) {
			return true
		}
	}
	return false
}

// good is false for what is too old, and for what comes from a clock that ran ahead.
func (g *grants) good(x *grant, now time.Time) bool {
	age := now.Sub(x.Granted)
	return age <= g.ttl && age > -time.Minute
}

// seen notes that the subject still reads what it was granted; so its grants are asked for again before they are too old.
func (g *grants) seen(s subject, r right, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, verb := range []string{"get", "list", "watch"} {
		r.Verb = verb
		if found := g.all[keyOf(&s, &r)]; found != nil {
			found.Seen = now
		}
	}
}

// aging returns up to n grants, the oldest first, that are used and older than a quarter of the time they are believed;
// and forgets those that are not good any more.
func (g *grants) aging(n int, now time.Time) []grant {
	g.mu.Lock()
	defer g.mu.Unlock()
	var due []grant
	for key, x := range g.all {
		switch age := now.Sub(x.Granted); {
		case !g.good(x, now):
			delete(g.all, key)
			g.dirty = true
		case age > g.ttl/4 && now.Sub(x.Seen) < g.ttl:
			due = append(due, *x)
		}
	}
	slices.SortFunc(due, func(a, b grant) int { return a.Granted.Compare(b.Granted) })
	return due[:min(n, len(due))]
}

// siblings are the rights a client needs besides: who lists also watches, and starts again with a list.
func (g *grants) siblings(s subject, r right, now time.Time) []right {
	var missing []right
	other := map[string]string{"list": "watch", "watch": "list"}[r.Verb]
	if other == "" {
		return nil
	}
	r.Verb = other
	g.mu.Lock()
	defer g.mu.Unlock()
	if found := g.all[keyOf(&s, &r)]; found == nil || now.Sub(found.Granted) > g.ttl/4 {
		missing = append(missing, r)
	}
	return missing
}

func (g *grants) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.all)
}

func (g *grants) clear() {
	g.mu.Lock()
	defer g.mu.Unlock()
	clear(g.all)
	g.dirty = true
}

func (g *grants) due(every time.Duration) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.dirty && time.Since(g.saved) >= every
}
