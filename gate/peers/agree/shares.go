package agree

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Whole is the whole of every budget, in the parts that shares are counted in. Parts are divided rounding down, so that
// shares never add up to more.
const Whole = 1 << 20

// MaxGates bounds how many gates share; each word holds a number for each of them.
const MaxGates = 64

// Word is what a gate says of its share. Of two words of one gate the one with the higher Seq counts.
type Word struct {
	Name string `json:"name"`
	Seq  uint64 `json:"seq"`
	// View is what it divides by: who shares, and what those it cannot reach may still be using. ViewSeq counts its views.
	View    string `json:"view"`
	ViewSeq uint64 `json:"viewSeq"`
	// Share is what it uses, of Whole.
	Share int `json:"share"`
	// Bounds are what each gate may be using at most, as far as it knows.
	Bounds map[string]int `json:"bounds,omitempty"`
	// Heard is the ViewSeq of every other gate's newest word that it has heard.
	Heard map[string]uint64 `json:"heard,omitempty"`
	// Met is true once it had a part.
	Met bool `json:"met,omitempty"`
	// Left says that the gate has stopped and uses nothing.
	Left bool `json:"left,omitempty"`
	// Age is how long ago, in seconds, whoever passes the word on last knew the gate to be there.
	Age float64 `json:"age,omitempty"`
}

// Shares is one gate's part in dividing every budget. It is not safe for concurrent use.
//
// A gate divides by a view: the gates it reaches, and an upper bound for each that it does not. When its view changes it
// first lowers its own share to what the new view gives it, and says so. It raises its share only when every gate it
// reaches has said the same view, after it had heard this one say it. So whoever raises has everybody's word that they
// have lowered; and whoever cannot be reached keeps what it may have, in the others' bounds, until it is forgotten.
type Shares struct {
	self    string
	forget  time.Duration
	stopped bool

	others  map[string]*other
	view    string
	seq     uint64
	told    uint64
	viewSeq uint64
	share   int
	target  int
	// agreed is the division last agreed on, proposed the highest of what was proposed since.
	agreed, proposed map[string]int
	latest           map[string]int
	// met is true once there was an agreement; before, the gate goes by whatever others say may be in use.
	met bool
	// strangers is true while none of those that can be reached ever had a part, and some cannot be reached.
	strangers bool
}

// other is another gate.
type other struct {
	word      *Word // nil: nothing was heard of it yet
	reachable bool
	there     time.Time // when it was last known to be there
}

func (o *other) left() bool { return o.word != nil && o.word.Left }

// NewShares returns the shares of a gate that uses nothing yet. A gate that cannot be reached is forgotten after the time
// given: its part is divided among the others then, whether it is gone or on the other side of a partition.
func NewShares(self string, forget time.Duration, now time.Time) *Shares {
	// Numbers begin with the time, so that a gate's words after a restart are newer than those before.
	begin := uint64(max(1, now.UnixNano()))
	return &Shares{self: self, forget: forget, others: map[string]*other{}, seq: begin, viewSeq: begin,
		agreed: map[string]int{}, proposed: map[string]int{}, latest: map[string]int{}}
}

// Memory is what a gate should know again after a restart, at least as it was when its words last changed.
type Memory struct {
	// Bounds are what each gate may be using, There when it was last known to be there.
	Bounds map[string]int       `json:"bounds"`
	There  map[string]time.Time `json:"there"`
	// Met is true once the gate had a part of its own.
	Met bool `json:"met"`
}

// Remember restores what a gate knew before a restart.
func (s *Shares) Remember(m Memory) {
	for name, at := range m.There {
		if name != s.self && len(s.others) < MaxGates-1 {
			s.others[name] = &other{there: at}
			s.agreed[name] = min(max(m.Bounds[name], 0), Whole)
			s.met = m.Met
		}
	}
}

// Memory is what Remember takes.
func (s *Shares) Memory() Memory {
	m := Memory{Bounds: s.bounds(), There: map[string]time.Time{}, Met: s.met && !s.stopped}
	for name, o := range s.others {
		m.There[name] = o.there
	}
	return m
}

// Reach says who can be reached now, this gate aside.
func (s *Shares) Reach(names []string, now time.Time) {
	for name, o := range s.others {
		o.reachable = slices.Contains(names, name)
		if o.reachable {
			o.there = now
		}
	}
	for _, name := range names {
		if name != s.self && s.others[name] == nil && len(s.others) < MaxGates-1 {
			s.others[name] = &other{reachable: true, there: now}
		}
	}
}

// Hear takes words in.
func (s *Shares) Hear(words []Word, now time.Time) {
	for i := range words {
		w := &words[i]
		if w.Name == s.self {
			if w.Seq > s.seq { // said before a restart, by a clock that was ahead
				s.seq, s.viewSeq = w.Seq+1, max(s.viewSeq, w.ViewSeq)+1
				s.view = ""
			}
			continue
		}
		there := now.Add(-time.Duration(max(0, w.Age) * float64(time.Second)))
		o := s.others[w.Name]
		if o == nil {
			if len(s.others) >= MaxGates-1 || now.Sub(there) > s.forget {
				continue
			}
			o = &other{}
			s.others[w.Name] = o
		}
		if there.After(o.there) {
			o.there = there
		}
		if !s.met {
			for name, part := range w.Bounds {
				s.agreed[name] = max(s.agreed[name], part)
			}
		}
		if w.Seq > 0 && (o.word == nil || w.Seq > o.word.Seq) {
			said := *w
			if o.word == nil || o.word.ViewSeq != said.ViewSeq {
				s.seq++ // Heard changes
			}
			o.word = &said
		}
	}
}

// Step draws the conclusions, and says whether there is something new to be told.
func (s *Shares) Step(now time.Time) (news bool) {
	if s.stopped {
		return false
	}
	for name, o := range s.others {
		if !o.reachable && now.Sub(o.there) > s.forget {
			s.drop(name)
		}
	}
	s.divide()
	if s.share != s.target && s.everyoneAgrees() {
		s.share = s.target
		s.seq++
	}
	if s.everyoneAgrees() && !s.strangers {
		before := s.bounds()
		s.agreed, s.proposed, s.met = s.latest, map[string]int{}, true
		if !maps.Equal(before, s.bounds()) {
			s.seq++ // the others hold back what any of them believes another may be using
		}
	}
	news = s.seq != s.told // what was heard is news as well: others wait to be told that it was
	s.told = s.seq
	return news
}

// Leave gives everything back: the gate stops.
func (s *Shares) Leave() {
	s.share, s.stopped = 0, true
	s.seq++
}

func (s *Shares) drop(name string) {
	delete(s.others, name)
	for _, m := range []map[string]int{s.agreed, s.proposed} {
		delete(m, name)
	}
	if _, ok := s.latest[name]; ok {
		s.latest = maps.Clone(s.latest)
		delete(s.latest, name)
	}
}

// divide works out what the present view gives, and lowers the own share to it.
func (s *Shares) divide() {
	sharing := []string{s.self}
	away, gone := map[string]int{}, []string{}
	met := s.met
	for name, o := range s.others {
		switch {
		case o.left():
			gone = append(gone, name)
		case o.reachable:
			sharing = append(sharing, name)
			met = met || o.word != nil && o.word.Met
		default:
			away[name] = 0
		}
	}
	slices.Sort(sharing)
	left := Whole
	s.strangers = len(away) > 0 && !met
	if len(away) > 0 {
		// Who cannot be reached may hear of a stop too, and must not divide the same part once more.
		for _, name := range gone {
			away[name] = 0
		}
		if s.strangers {
			left = 0
		}
	}
	own := s.bounds()
	for name := range away {
		bound := own[name]
		for _, o := range s.others {
			if o.reachable && o.word != nil && !o.left() {
				bound = max(bound, o.word.Bounds[name])
			}
		}
		away[name] = min(bound, Whole)
		left -= away[name]
	}
	left = max(0, left)
	view := viewOf(sharing, away, left)
	if view == s.view {
		return
	}
	s.view, s.target = view, left/len(sharing)
	s.share = min(s.share, s.target)
	s.seq++
	s.viewSeq++
	s.latest = maps.Clone(away)
	for _, name := range sharing {
		s.latest[name] = (left + len(sharing) - 1) / len(sharing) // a bound is rounded up
	}
	for name, part := range s.latest {
		s.proposed[name] = max(s.proposed[name], part)
	}
}

func viewOf(sharing []string, away map[string]int, left int) string {
	var b strings.Builder
	b.WriteString(strings.Join(sharing, ",") + "=" + strconv.Itoa(left))
	for _, name := range slices.Sorted(maps.Keys(away)) {
		b.WriteString(";" + name + "=" + strconv.Itoa(away[name]))
	}
	return b.String()
}

func (s *Shares) everyoneAgrees() bool {
	for _, o := range s.others {
		if o.reachable && !o.left() && (o.word == nil || o.word.View != s.view || o.word.Heard[s.self] < s.viewSeq) {
			return false
		}
	}
	return true
}

func (s *Shares) bounds() map[string]int {
	bounds := maps.Clone(s.agreed)
	for name, part := range s.proposed {
		bounds[name] = max(bounds[name], part)
	}
	return bounds
}

// Share is the part this gate may hand out, of Whole.
func (s *Shares) Share() int { return s.share }

// Agreed is true when every gate that can be reached divides as this one does.
func (s *Shares) Agreed() bool { return s.view != "" && s.everyoneAgrees() }

// Words are what to tell the others: the own word, and the newest of everyone else's, so that two gates that cannot speak
// to each other hear of one another by a third.
func (s *Shares) Words(now time.Time) []Word {
	own := Word{Name: s.self, Seq: s.seq, View: s.view, ViewSeq: s.viewSeq, Share: s.share, Bounds: s.bounds(), Heard: map[string]uint64{}, Met: s.met, Left: s.stopped}
	words := []Word{own}
	for name, o := range s.others {
		w := Word{Name: name} // nothing was heard of it since the restart; but it may be there, and use its part
		if o.word != nil {
			w = *o.word
			own.Heard[name] = w.ViewSeq
		}
		w.Age = 0
		if !o.reachable {
			w.Age = max(0, now.Sub(o.there).Seconds())
		}
		words = append(words, w)
	}
	slices.SortFunc(words[1:], func(a, b Word) int { return cmp.Compare(a.Name, b.Name) })
	return words
}

// Gate is another gate, for people.
type Gate struct {
	Name      string    `json:"name"`
	Reachable bool      `json:"reachable"`
	There     time.Time `json:"there"`
	// Share is what it said last, of one; nil: nothing yet.
	Share *float64 `json:"share,omitempty"`
}

// Others are all gates that are not forgotten, by name.
func (s *Shares) Others() []Gate {
	var all []Gate
	for name, o := range s.others {
		if o.left() {
			continue
		}
		g := Gate{Name: name, Reachable: o.reachable, There: o.there}
		if o.word != nil {
			part := float64(o.word.Share) / Whole
			g.Share = &part
		}
		all = append(all, g)
	}
	slices.SortFunc(all, func(a, b Gate) int { return cmp.Compare(a.Name, b.Name) })
	return all
}
