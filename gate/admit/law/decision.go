package law

import (
	"fmt"
	"slices"
	"time"
)

// Decision is what the control plane can take now.
type Decision struct {
	// Limit is in seats, of all API servers together; Min ≤ Limit ≤ Max.
	Limit float64
	// ListBytes bounds the predicted bytes of the LISTs in flight, at all API servers together. A LIST that is larger than
	// this by itself may go when no other is in flight.
	ListBytes float64
	// Congested is true while what requests take must not be learned from.
	Congested bool
	// Healthy is true while the control plane takes more than it is given; a recovery may go on.
	Healthy bool
	// Busy is true while processors are all that is short, or requests take long and nothing says why: caches that fill, and
	// LISTs that wait for their cache to be fresh. A recovery that went back then would leave the processors idle.
	Busy bool
	// Signal is what binds now, and Reason says so in words.
	Signal Signal
	Reason string
	// Pressures are by signal how close each is to making the limit fall: at 1 it falls. Signals that are not known are
	// not in it.
	Pressures map[Signal]float64
	// Servers are the parts of each API server, in the order of the evidence; one that takes no requests has its own, which
	// is no part of the sums.
	Servers []Part
}

// Part is one API server's.
type Part struct {
	Name             string
	Seats, ListBytes float64
	// Fresh is whether it says how it is.
	Fresh bool
}

func (l *Law) decide(now time.Time, e *Evidence, servers []*server, serving int, used float64) Decision {
	d := Decision{Pressures: map[Signal]float64{}}
	floor, ceiling := l.config.Min/float64(max(1, serving)), l.config.Max/float64(max(1, serving))
	fresh, missing := 0, ""
	for _, s := range servers {
		s.seats = min(max(s.seats, floor), ceiling)
		d.Servers = append(d.Servers, Part{Name: s.name, Seats: s.seats, ListBytes: s.memory.bytes, Fresh: s.fresh})
		if !s.serving {
			continue
		}
		d.Limit += s.seats
		d.ListBytes += s.memory.bytes
		if !s.fresh {
			missing = s.name
			continue
		}
		fresh++
		for signal, p := range s.pressures {
			d.Pressures[signal] = max(d.Pressures[signal], p)
		}
	}
	if len(servers) == 0 {
		d.Limit, d.ListBytes = l.limit, l.config.ListBytesFloor
	}
	someone := slices.ContainsFunc(e.Servers, func(s Server) bool { return s.Serving })
	if !someone {
		d.Limit = min(d.Limit, l.limit)
	}
	d.Limit = min(max(d.Limit, l.config.Min), l.config.Max)
	l.limit = d.Limit
	l.passivePressures(d.Pressures)

	known := l.boundKnown(servers)
	_, etcdSlow := d.Pressures[Leader]
	etcdSlow = etcdSlow || d.Pressures[Etcd] > 0.5
	d.Congested = d.Pressures[CPU]*fallCPU(&l.config) > quietCPU || d.Pressures[Memory] > 1 || etcdSlow ||
		!l.fell.IsZero() && now.Sub(l.fell) < 10*time.Second || (!known || fresh < serving) && used > 0.5
	most := 0.0
	for _, signal := range Signals {
		if p := d.Pressures[signal]; p > most {
			most, d.Signal = p, signal
		}
	}
	// A fall is given the time to show, unless what made it is plainly over: an API server that has just started is busy for a
	// second with itself, and who comes back would wait three more before an idle one.
	d.Healthy = someone && most < 1 && l.window.errors() < errorsOver && (l.fell.IsZero() || now.Sub(l.fell) >= passiveReaction || fresh > 0 && fresh == serving && most < plainlyWell)
	d.Busy = !d.Healthy && someone && fresh > 0 && l.busy(d.Pressures)
	l.explain(&d, e, servers, most, used, missing)
	if !someone {
		d.Signal, d.Reason = Gone, "no API server takes requests: it stays"
	}
	return d
}

// busy is true when processors are short, or requests slow, and nothing else is bad.
func (l *Law) busy(pressures map[Signal]float64) bool {
	for signal, p := range pressures {
		if p >= 0.9 && signal != CPU && signal != Latency { // memory that is over its target, and free, stays below 1
			return false
		}
	}
	return l.window.errors() < errorsOver
}

// explain says what binds.
func (l *Law) explain(d *Decision, e *Evidence, servers []*server, most, used float64, missing string) {
	held := Free
	for _, s := range servers {
		if s.serving && s.held != "" && slices.Index(Signals, s.held) < slices.Index(Signals, held) {
			held = s.held
		}
	}
	switch {
	case most >= 1:
		d.Reason = l.words(d.Signal, servers, most)
	case missing != "":
		d.Signal, d.Reason = Gone, fmt.Sprintf("%s does not say how it is: the limit may fall and does not rise", missing)
	case e.Passive.ListBytes > usedRatio*d.ListBytes:
		d.Signal, d.Reason = Memory, "LISTs wait for memory: "+l.words(Memory, servers, d.Pressures[Memory])
	case used < usedRatio:
		d.Signal, d.Reason = Unused, fmt.Sprintf("%.0f%% of it is used: it stays", 100*used)
	case d.Limit >= l.config.Max:
		d.Signal, d.Reason = Bounded, "it is at its configured maximum"
	case held != Free:
		d.Signal, d.Reason = held, "it stays: "+l.words(held, servers, d.Pressures[held])
	default:
		d.Signal, d.Reason = Free, "it is used, and nothing is short: it rises"
	}
}

func (l *Law) boundKnown(servers []*server) bool {
	return !slices.ContainsFunc(servers, func(s *server) bool { _, known := s.pressures[CPU]; return s.serving && !known })
}

func (l *Law) passivePressures(p map[Signal]float64) {
	if !l.window.enough() {
		return
	}
	if slow, known := l.window.slowness(); known {
		p[Latency] = slow / slowOver
	}
	p[TimedOut] = l.window.timedOut() / timedOutOver
	p[Rejections] = max(p[Rejections], l.window.tooMany()/tooManyOver)
}

// words says what a signal's pressure means.
func (l *Law) words(signal Signal, servers []*server, pressure float64) string {
	who, most := "", -1.0
	for _, s := range servers {
		if p, known := s.pressures[signal]; known && s.serving && s.fresh && p > most {
			who, most = s.name, p
		}
	}
	switch signal {
	case CPU:
		return fmt.Sprintf("%s uses %.0f%% of its processors", who, 100*pressure*fallCPU(&l.config))
	case Memory:
		if s := l.servers[who]; s != nil && s.memory.target > 0 {
			return fmt.Sprintf("%s holds %.0f MiB, and is to hold %.0f", who, s.memory.resident/(1<<20), s.memory.target/(1<<20))
		}
		return "nobody says how much is held"
	case Etcd:
		s := l.servers[who]
		return fmt.Sprintf("etcd takes %s for %s, %s on a quiet control plane", round3(s.etcd), who, round3(s.etcdBase))
	case Leader:
		return fmt.Sprintf("%s sees no leader in etcd", who)
	case Latency:
		return fmt.Sprintf("requests take %.1f times as long as on a quiet control plane", pressure*slowOver)
	case TimedOut:
		return fmt.Sprintf("%.0f%% of requests get no answer in time", 100*pressure*timedOutOver)
	case Rejections:
		return fmt.Sprintf("API servers answer 429 to %.0f%% of requests, or to what does not come through the gate", 100*l.window.tooMany())
	}
	return string(signal)
}

func round3(seconds float64) time.Duration {
	return time.Duration(seconds * float64(time.Second)).Round(100 * time.Microsecond)
}
