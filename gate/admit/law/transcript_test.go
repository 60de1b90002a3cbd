package law

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/seakeep/seakeep/internal/testkit"
)

var update = flag.Bool("update", false, "write what was decided into the transcripts")

// TestTranscripts plays the transcripts of testdata and compares what was decided with what stands there:
//
//	limit MIN MAX INITIAL
//	server NAME [cpu=USED/HAS] [memory=HELD/MAY] [etcd=LATENCY] [noleader] [rejects=N]   from now on
//	server NAME silent|out|in|restarts|removed
//	run DURATION [used=SEATS|limit] [waiting=SEATS] [finished=N] [slow=TIMES] [timedout=N] [errors=N] [toomany=N] [bytes=BYTES]
//	jump DURATION
//
// A run ticks four times a second; each server is read once a second. What requests tell is for each tick. Below it stands,
// with its time, every decision that differs from the one before in more than its words.
func TestTranscripts(t *testing.T) { testkit.Transcripts(t, *update, play) }

type stage struct {
	t       *testing.T
	law     *Law
	limit   float64
	now     time.Time
	ticks   int
	started map[string]time.Time
	out     map[string]bool
	says    map[string]*Reading
	latest  map[string]*Reading
	shown   bytes.Buffer
}

func play(t *testing.T, script []byte) []byte {
	t.Helper()
	s := &stage{
		t: t, now: epoch, started: map[string]time.Time{}, out: map[string]bool{}, says: map[string]*Reading{}, latest: map[string]*Reading{},
	}
	lines := bufio.NewScanner(bytes.NewReader(script))
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, "\t") {
			continue
		}
		fmt.Fprintln(&s.shown, line)
		if line != "" && !strings.HasPrefix(line, "#") {
			s.command(strings.Fields(line))
		}
	}
	return s.shown.Bytes()
}

func (s *stage) number(text string) float64 {
	q, err := resource.ParseQuantity(text)
	if err != nil {
		s.t.Fatalf("%q is no number: %v", text, err)
	}
	return q.AsApproximateFloat64()
}

func (s *stage) command(words []string) {
	switch words[0] {
	case "limit":
		s.limit = s.number(words[3])
		s.law = New(Config{Min: s.number(words[1]), Max: s.number(words[2]), Initial: s.limit})
	case "server":
		s.server(words[1], words[2:])
	case "jump":
		s.now = s.now.Add(s.duration(words[1]))
	case "run":
		s.run(s.duration(words[1]), words[2:])
	default:
		s.t.Fatalf("%q is no command", words)
	}
}

func (s *stage) duration(text string) time.Duration {
	d, err := time.ParseDuration(text)
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

func (s *stage) server(name string, words []string) {
	if s.started[name].IsZero() {
		s.started[name] = epoch.Add(-time.Hour)
	}
	r := Reading{}
	for _, word := range words {
		key, value, _ := strings.Cut(word, "=")
		used, bound, _ := strings.Cut(value, "/")
		switch key {
		case "silent":
			delete(s.says, name)
			return
		case "out", "in":
			s.out[name] = key == "out"
			return
		case "removed":
			delete(s.started, name)
			delete(s.says, name)
			delete(s.latest, name)
			return
		case "restarts":
			s.started[name] = s.now
			return
		case "cpu":
			r.CPU, r.CPUBound = s.number(used), s.number(bound)
		case "memory":
			r.Resident = s.number(used)
			if bound != "" {
				r.MemoryBound = s.number(bound)
			}
		case "etcd":
			r.EtcdLatency, r.EtcdRequests = s.duration(value), 50
		case "noleader":
			r.NoLeader = true
		case "rejects":
			r.Rejected = s.number(value)
		default:
			s.t.Fatalf("%q: a server says no such thing", word)
		}
	}
	s.says[name] = &r
}

func (s *stage) run(d time.Duration, words []string) {
	var p Passive
	full := false
	for _, word := range words {
		key, value, _ := strings.Cut(word, "=")
		if word == "used=limit" {
			full = true
			continue
		}
		into := map[string]*float64{
			"used": &p.SeatsInUse, "waiting": &p.SeatsWaiting, "finished": &p.Finished, "slow": &p.Slowness,
			"timedout": &p.TimedOut, "errors": &p.Errors, "toomany": &p.TooMany, "bytes": &p.ListBytes,
		}[key]
		if into == nil {
			s.t.Fatalf("%q: requests tell no such thing", word)
		}
		*into = s.number(value)
	}
	last := ""
	for range int(d / (250 * time.Millisecond)) {
		s.now = s.now.Add(250 * time.Millisecond)
		if s.ticks++; s.ticks%4 == 1 {
			for name, says := range s.says {
				r := *says
				r.At, r.Over, r.Started = s.now, time.Second, s.started[name]
				s.latest[name] = &r
			}
		}
		e := Evidence{Passive: p}
		if full {
			e.Passive.SeatsInUse = s.limit
		}
		for _, name := range slices.Sorted(maps.Keys(s.started)) {
			e.Servers = append(e.Servers, Server{Name: name, Serving: !s.out[name], Reading: s.latest[name]})
		}
		decision := s.law.Tick(s.now, e)
		s.limit = decision.Limit
		if line := say(&decision); line != last {
			fmt.Fprintf(&s.shown, "\t%-8s %s: %s\n", strconv.FormatFloat(s.now.Sub(epoch).Seconds(), 'f', -1, 64)+"s", line, decision.Reason)
			last = line
		}
	}
}

func say(d *Decision) string {
	states := []string{}
	if d.Congested {
		states = append(states, "congested")
	}
	switch {
	case d.Busy:
		states = append(states, "busy")
	case !d.Healthy:
		states = append(states, "not healthy")
	}
	if len(states) == 0 {
		states = []string{"well"}
	}
	return fmt.Sprintf("%.0f seats, %.0f MiB of LISTs; %s; %s", d.Limit, d.ListBytes/(1<<20), strings.Join(states, ", "), d.Signal)
}
