package forecast

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/seakeep/seakeep/internal/testkit"
)

var update = flag.Bool("update", false, "write what was forecast into the transcripts")

// TestTranscripts plays the transcripts of testdata and compares what was forecast with what stands there:
//
//	options [period=2m] [...]
//	cluster NAME NODES [objects=N]
//	step NAME EXPOSED [window=1m] [started=N] [censored=itself|others] KIND=V,V,V … [server.KIND=V,V,V …]
//	capacity KIND=CAPACITY[-USED][?] …       a question mark makes it advisory
//	predict NAME NODES [exposed=N] [objects=N] [starts=RATE]
//
// A step is as many windows as it has values. Below predict stand each kind's mean and interval, what it rests on, and the
// verdict.
func TestTranscripts(t *testing.T) { testkit.Transcripts(t, *update, play) }

type stage struct {
	t        *testing.T
	options  Options
	samples  []Sample
	clusters map[string][2]int
	capacity Capacity
	now      time.Time
	out      bytes.Buffer
}

func play(t *testing.T, script []byte) []byte {
	t.Helper()
	s := &stage{t: t, clusters: map[string][2]int{}, now: epoch}
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

func (s *stage) number(text string) float64 {
	v, err := strconv.ParseFloat(text, 64)
	if err != nil {
		s.t.Fatalf("%q is no number", text)
	}
	return v
}

func (s *stage) duration(text string) time.Duration {
	d, err := time.ParseDuration(text)
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

func (s *stage) command(words []string) {
	switch words[0] {
	case "options":
		for _, word := range words[1:] {
			key, value, _ := strings.Cut(word, "=")
			switch key {
			case "period":
				s.options.Period = s.duration(value)
			default:
				s.t.Fatalf("%q is no option", key)
			}
		}
	case "cluster":
		c := [2]int{int(s.number(words[2])), 0}
		if len(words) > 3 {
			c[1] = int(s.number(strings.TrimPrefix(words[3], "objects=")))
		}
		s.clusters[words[1]] = c
	case "step":
		s.step(words[1], int(s.number(words[2])), words[3:])
	case "capacity":
		s.capacity = Capacity{Kinds: map[Kind]Room{}}
		for _, word := range words[1:] {
			key, value, _ := strings.Cut(word, "=")
			value, advisory := strings.CutSuffix(value, "?")
			has, used, _ := strings.Cut(value, "-")
			room := Room{Capacity: s.number(has), Advisory: advisory}
			if used != "" {
				room.Used = s.number(used)
			}
			s.capacity.Kinds[Kind(key)] = room
		}
	case "predict":
		s.predict(words[1], int(s.number(words[2])), words[3:])
	default:
		s.t.Fatalf("%q is no command", words)
	}
}

func (s *stage) step(name string, exposed int, words []string) {
	c := s.clusters[name]
	proto := Sample{Cluster: name, Nodes: c[0], Objects: c[1], Exposed: exposed}
	window := time.Minute
	costs := map[string][]string{}
	count := 0
	for _, word := range words {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "window":
			window = s.duration(value)
		case "started":
			proto.Startup, proto.Started = true, int(s.number(value))
		case "censored":
			proto.Censored = Censoring(value)
		default:
			costs[key] = strings.Split(value, ",")
			count = len(costs[key])
		}
	}
	for i := range count {
		sample := proto
		sample.Cost, sample.Server = map[Kind]float64{}, map[Kind]float64{}
		sample.From, sample.To = s.now, s.now.Add(window)
		s.now = sample.To
		for key, values := range costs {
			into := sample.Cost
			if kind, server := strings.CutPrefix(key, "server."); server {
				key, into = kind, sample.Server
			}
			into[Kind(key)] = s.number(values[i])
		}
		s.samples = append(s.samples, sample)
	}
}

func (s *stage) predict(name string, nodes int, words []string) {
	at := At{Cluster: name, Nodes: nodes}
	for _, word := range words {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "exposed":
			at.Exposed = int(s.number(value))
		case "objects":
			at.Objects = int(s.number(value))
		case "starts":
			at.StartRate = s.number(value)
		default:
			s.t.Fatalf("%q is nothing to predict at", key)
		}
	}
	m, err := Fit(s.samples, s.options)
	if err != nil {
		fmt.Fprintf(&s.out, "\terror: %v\n", err)
		return
	}
	p := m.Predict(at)
	line := func(kind Kind, what string, i Interval) {
		upper := Number(i.Upper)
		if i.Unbounded {
			upper = "?"
		}
		fmt.Fprintf(&s.out, "\t%s%s %s (%s–%s)", kind, what, Number(i.Mean), Number(i.Lower), upper)
		for _, more := range []string{i.From, i.Unknown} {
			if more != "" {
				fmt.Fprintf(&s.out, "; %s", more)
			}
		}
		fmt.Fprintln(&s.out)
	}
	for _, kind := range Kinds() {
		if i, ok := p.Kinds[kind]; ok {
			line(kind, "", i)
		}
		if i, ok := p.Startup[kind]; ok {
			line(kind, " a start", i)
		}
	}
	if s.capacity.Kinds != nil {
		j := Judge(p, s.capacity)
		fmt.Fprintf(&s.out, "\t%s: %s\n", j.Outcome, j.Reason)
	} else if p.Unknown != "" {
		fmt.Fprintf(&s.out, "\tunknown: %s\n", p.Unknown)
	}
}
