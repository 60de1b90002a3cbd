package verdict

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/internal/testkit"
)

var update = flag.Bool("update", false, "write what was decided into the transcripts")

// TestTranscripts plays the transcripts of testdata and compares what was decided with what stands there. A line is a command;
// what came of it stands below, indented:
//
//	looks N                                   a new horizon that needs N looks in a row
//	TIME look CHECK=Pass|Fail|Fail!|Unknown[@TIME] …  ! is critical, @ when its data was measured
//	metric [success=EXPR] [failure=EXPR] [LIMIT=N …]   a new metric; _ is a space
//	TIME measure VALUE|[VALUES]|none|error
//	TIME judge                                what is known without a new measurement
//	level NAME UNIT [bound=B] [growth=G] [own=R] [usage=1] before=V,… now=V,… [controls=V,…/V,…]
//	trend NAME UNIT bound=B every=D ahead=D [before=V,…] now=V,… [controls=/V,…] [beforeAt=MIN,…] [nowAt=MIN,…] [controlsAt=MIN,…]
//	TIME pods within=D [update=POD,…] [stable=POD,…]   a look at pods; the first forgets those before it
//
// A POD is NAME:AGE:ready|not:RESTARTS, its age that at the time of the first look.
// A value "5*0.2" is 0.2 five times, "0..9" the numbers from 0 to 9.
func TestTranscripts(t *testing.T) { testkit.Transcripts(t, *update, play) }

type stage struct {
	t           *testing.T
	horizon     Horizon
	consecutive int
	metric      v1alpha1.RolloutMetric
	conditions  Conditions
	taken       []Measurement
	pods        *Workload
	out         bytes.Buffer
}

var epoch = time.Unix(1.7e9, 0)

func play(t *testing.T, script []byte) []byte {
	t.Helper()
	s := &stage{t: t, consecutive: 1}
	lines := bufio.NewScanner(bytes.NewReader(script))
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, "\t") {
			continue
		}
		fmt.Fprintln(&s.out, line)
		if line != "" && !strings.HasPrefix(line, "#") {
			s.command(strings.Fields(line))
		}
	}
	return s.out.Bytes()
}

func (s *stage) say(format string, args ...any) { fmt.Fprintf(&s.out, "\t"+format+"\n", args...) }

func (s *stage) command(words []string) {
	s.t.Helper()
	at := epoch
	if d, err := time.ParseDuration(words[0]); err == nil {
		at, words = epoch.Add(d), words[1:]
	}
	options := map[string]string{}
	for _, w := range words[1:] {
		name, value, _ := strings.Cut(w, "=")
		options[name] = strings.ReplaceAll(value, "_", " ")
	}
	switch words[0] {
	case "looks":
		s.horizon, s.consecutive = Horizon{}, int(s.number(words[1]))
	case "look":
		var findings []Finding
		for _, w := range words[1:] {
			check, v, _ := strings.Cut(w, "=")
			v, measured, old := strings.Cut(v, "@")
			critical := strings.HasSuffix(v, "!")
			f := Finding{Check: check, Verdict: Verdict(strings.TrimSuffix(v, "!")), Critical: critical, Reason: "so it is", Fresh: true, At: at}
			if d, err := time.ParseDuration(measured); old && err == nil {
				f.At = epoch.Add(d)
			}
			findings = append(findings, f)
		}
		look := s.horizon.Next(Of(at, findings...), s.consecutive)
		s.say("%s: %s", look.Verdict, look.Why())
	case "metric":
		s.newMetric(options)
	case "measure":
		m := s.measure(at, words[1])
		s.taken = append(s.taken, m)
		f := Judge(&s.metric, s.taken, at, 3*time.Minute)
		s.say("%s %s → %s: %s", m.Phase, m.Value, f.Verdict, f.Reason)
	case "judge":
		f := Judge(&s.metric, s.taken, at, 3*time.Minute)
		s.say("%s: %s", f.Verdict, f.Reason)
	case "pods":
		s.countPods(at, options)
	case "level", "trend":
		s.level(words, options)
	default:
		s.t.Fatalf("%q is no command", words)
	}
}

func (s *stage) newMetric(options map[string]string) {
	s.taken, s.conditions = nil, Conditions{}
	m := v1alpha1.RolloutMetric{Name: "m", ConsecutiveErrorLimit: new(4)}
	for name, value := range options {
		var err error
		switch name {
		case "success":
			s.conditions.Success, err = ParseCondition(value)
		case "failure":
			s.conditions.Failure, err = ParseCondition(value)
		case "count":
			m.Count = int(s.number(value))
		case "failureLimit":
			m.FailureLimit = int(s.number(value))
		case "inconclusiveLimit":
			m.InconclusiveLimit = int(s.number(value))
		case "consecutiveErrorLimit":
			m.ConsecutiveErrorLimit = new(int(s.number(value)))
		case "consecutiveSuccessLimit":
			m.ConsecutiveSuccessLimit = int(s.number(value))
		default:
			s.t.Fatalf("%q is no limit", name)
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
	s.metric = m
}

func (s *stage) measure(at time.Time, word string) Measurement {
	switch {
	case word == "none":
		return s.conditions.Measure(at, []float64{}, nil)
	case word == "error":
		return s.conditions.Measure(at, nil, fmt.Errorf("connection refused"))
	case strings.HasPrefix(word, "["):
		return s.conditions.Measure(at, s.numbers(strings.Trim(word, "[]")), nil)
	}
	return s.conditions.Measure(at, s.number(word), nil)
}

func (s *stage) level(words []string, options map[string]string) {
	l := Level{Check: "c", Name: words[1], Unit: words[2], Own: math.NaN(), At: epoch, Before: s.numbers(options["before"]), Now: s.numbers(options["now"])}
	if l.Unit == "-" {
		l.Unit = ""
	}
	growth := 0.5
	var trend Trend
	for name, value := range options {
		switch name {
		case "bound":
			l.Bound = s.number(value)
		case "growth":
			growth = s.number(value)
		case "usage":
			l.Usage = true
		case "own":
			l.Own = s.number(value)
		case "controls":
			before, now, _ := strings.Cut(value, "/")
			l.ControlBefore, l.ControlNow = s.numbers(before), s.numbers(now)
		case "every":
			trend.Every, _ = time.ParseDuration(value)
		case "beforeAt":
			trend.BeforeTimes = s.times(value)
		case "nowAt":
			trend.NowTimes = s.times(value)
		case "controlsAt":
			trend.ControlTimes = s.times(value)
		case "ahead":
			trend.Ahead, _ = time.ParseDuration(value)
		}
	}
	f := l.Judge(growth)
	if words[0] == "trend" {
		trend.Level = l
		f = trend.Judge()
	}
	attributed := ""
	if f.Attributed {
		attributed = ", the change's"
	}
	s.say("%s%s: %s", f.Verdict, attributed, f.Reason)
}

// times are minutes, written as values are.
func (s *stage) times(text string) []time.Time {
	var all []time.Time
	for _, minutes := range s.numbers(text) {
		all = append(all, epoch.Add(time.Duration(minutes*float64(time.Minute))))
	}
	return all
}

func (s *stage) countPods(at time.Time, options map[string]string) {
	w := Workload{At: at, Update: s.podsOf(options["update"]), Stable: s.podsOf(options["stable"])}
	within, err := time.ParseDuration(options["within"])
	if err != nil {
		s.t.Fatal(err)
	}
	if s.pods != nil && !at.After(s.pods.At) {
		s.pods = nil
	}
	n := w.Count(s.pods, within)
	s.pods = &w
	for _, of := range []struct {
		name string
		n    PodCount
	}{{"update", n.Update}, {"stable", n.Stable}} {
		s.say("%s: %d pods, %d late, %d restarts in %s pod-hours", of.name, of.n.Pods, of.n.Late, of.n.Restarts, short(of.n.PodHours))
	}
}

func (s *stage) podsOf(text string) []Pod {
	var pods []Pod
	for word := range strings.SplitSeq(text, ",") {
		if word == "" {
			continue
		}
		parts := strings.Split(word, ":")
		age, err := time.ParseDuration(parts[1])
		if err != nil || len(parts) != 4 {
			s.t.Fatalf("%q is no pod", word)
		}
		pods = append(pods, Pod{Name: parts[0], Created: epoch.Add(-age), Ready: parts[2] == "ready", Restarts: int(s.number(parts[3]))})
	}
	return pods
}

func (s *stage) number(text string) float64 {
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		s.t.Fatalf("%q is no number", text)
	}
	return f
}

func (s *stage) numbers(text string) []float64 {
	var all []float64
	for word := range strings.SplitSeq(text, ",") {
		times, value, many := strings.Cut(word, "*")
		from, to, span := strings.Cut(word, "..")
		switch {
		case word == "":
		case span:
			for v := s.number(from); v <= s.number(to); v++ {
				all = append(all, v)
			}
		case many:
			for range int(s.number(times)) {
				all = append(all, s.number(value))
			}
		default:
			all = append(all, s.number(word))
		}
	}
	return all
}
